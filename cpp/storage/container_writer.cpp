#include <algorithm>
#include <array>
#include <set>

#include "storage/checksum.hpp"
#include "storage/container_header.hpp"
#include "storage/file.hpp"
#include "storage/json.hpp"

namespace nearfield {
namespace {

using storage::Header;

// Bytes that are hashed and then written while they are in the cache.
constexpr size_t kSlice = size_t{1} << 20;

constexpr std::array<std::byte, kTensorAlignment> kZeros{};

// What is going to be written: the tensors in their order in the file, padding included, and the header for them.
struct Plan {
    std::vector<TensorSource> tensors;
    Header header;
};

[[noreturn]] void reject(const std::string& problem) { throw std::invalid_argument(problem); }

uint64_t checked_bytes(const TensorSource& tensor) {
    const std::string name = "tensor " + storage::in_quotes(tensor.name);
    uint64_t bytes = 0, given = 0;
    if (!storage::tensor_bytes(tensor.type, tensor.shape, bytes)) reject(name + " is too large");
    for (const auto& piece : tensor.pieces) given += piece.size();
    if (bytes != given) {
        reject(name + " takes " + std::to_string(bytes) + " bytes, but its pieces hold " + std::to_string(given));
    }
    return bytes;
}

void check_names(const std::vector<TensorSource>& tensors, const Metadata& metadata) {
    std::set<std::string_view> names;
    for (const TensorSource& tensor : tensors) {
        const std::string name = "tensor " + storage::in_quotes(tensor.name);
        if (!storage::is_utf8(tensor.name)) reject(name + ": the name is not UTF-8");
        if (!names.insert(tensor.name).second) reject(name + ": the name occurs twice");
        if (storage::is_reserved(tensor.name)) reject(name + ": the name is taken by the container");
    }
    for (const auto& [key, value] : metadata) {
        const std::string name = "metadata " + storage::in_quotes(key);
        if (!storage::is_utf8(key) || !storage::is_utf8(value)) reject(name + ": the text is not UTF-8");
        if (storage::is_checksum_key(key)) reject(name + ": the key is taken by the container");
    }
}

// Checksums are zero until the data has been read.
Plan make_plan(const std::vector<TensorSource>& tensors, const Metadata& metadata) {
    check_names(tensors, metadata);
    Plan plan;
    plan.header.metadata = metadata;
    plan.header.metadata[std::string(storage::kChecksum)] = storage::checksum_text(0);
    uint64_t filled = 0;
    size_t paddings = 0;
    const auto append = [&](const TensorSource& tensor, uint64_t bytes) {
        plan.tensors.push_back(tensor);
        plan.header.entries.push_back({tensor.name, tensor.type, tensor.shape, filled, filled + bytes});
        plan.header.metadata[storage::checksum_key(tensor.name)] = storage::checksum_text(0);
        filled += bytes;
    };
    // Those that leave the next one aligned come first, and need no padding.
    std::vector<TensorSource> ordered = tensors;
    std::stable_partition(ordered.begin(), ordered.end(),
                          [](const TensorSource& tensor) { return checked_bytes(tensor) % kTensorAlignment == 0; });
    for (const TensorSource& tensor : ordered) {
        const uint64_t bytes = checked_bytes(tensor);
        if (const size_t unaligned = filled % kTensorAlignment; unaligned != 0) {
            const size_t rest = kTensorAlignment - unaligned;
            append({storage::padding_name(paddings++), TensorType::u8, {rest}, {std::span(kZeros).first(rest)}}, rest);
        }
        append(tensor, bytes);
    }
    return plan;
}

// Calls use(slice) for the bytes of a tensor in order, and puts their checksum into the header.
template <class Use>
void stream(const TensorSource& tensor, Header& header, Use use) {
    storage::Checksum sum;
    for (std::span<const std::byte> piece : tensor.pieces) {
        while (!piece.empty()) {
            const auto slice = piece.first(std::min(piece.size(), kSlice));
            sum.update(slice);
            use(slice);
            piece = piece.subspan(slice.size());
        }
    }
    header.metadata[storage::checksum_key(tensor.name)] = storage::checksum_text(sum.digest());
}

// The bytes at the start of the file, when the checksums of the tensors are known.
std::string finished_header(Header& header) {
    header.metadata[std::string(storage::kChecksum)] = storage::checksum_text(storage::header_checksum(header));
    return storage::print_header(header);
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

}  // namespace

void write_container(const std::filesystem::path& path, const std::vector<TensorSource>& tensors,
                     const Metadata& metadata) {
    Plan plan = make_plan(tensors, metadata);
    storage::ReplacementFile file(path);
    const auto write = [&file](std::span<const std::byte> bytes) { file.write(bytes.data(), bytes.size()); };
    write(bytes_of(storage::print_header(plan.header)));
    for (const TensorSource& tensor : plan.tensors) stream(tensor, plan.header, write);
    file.rewind();
    write(bytes_of(finished_header(plan.header)));  // as long as the one before
    file.commit();
}

void write_container(const Sink& sink, const std::vector<TensorSource>& tensors, const Metadata& metadata) {
    Plan plan = make_plan(tensors, metadata);
    for (const TensorSource& tensor : plan.tensors) stream(tensor, plan.header, [](auto) {});
    const std::string header = finished_header(plan.header);
    sink(bytes_of(header).data(), header.size());
    for (const TensorSource& tensor : plan.tensors) {
        for (const auto& piece : tensor.pieces) {
            if (!piece.empty()) sink(piece.data(), piece.size());
        }
    }
}

}  // namespace nearfield
