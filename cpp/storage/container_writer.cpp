#include <algorithm>
#include <array>
#include <stdexcept>

#include "storage/checksum.hpp"
#include "storage/container_header.hpp"
#include "storage/file.hpp"
#include "storage/json.hpp"

namespace nearfield {
namespace {

using storage::Header;

constexpr std::array<std::byte, kTensorAlignment> kZeros{};

// The header of the file, and a check that the tensors bring the bytes that it promises.
Header plan(const std::vector<TensorSource>& tensors, const Metadata& metadata) {
    std::vector<TensorPlan> plans;
    plans.reserve(tensors.size());
    for (const TensorSource& tensor : tensors) plans.push_back({tensor.name, tensor.type, tensor.shape});
    Header header = storage::plan_header(plans, metadata);
    for (const TensorSource& tensor : tensors) {
        uint64_t bytes = 0, given = 0;
        storage::tensor_bytes(tensor.type, tensor.shape, bytes);
        for (const auto& piece : tensor.pieces) given += piece.size();
        if (bytes != given) {
            throw std::invalid_argument("tensor " + storage::in_quotes(tensor.name) + " takes " +
                                        std::to_string(bytes) + " bytes, but its pieces hold " + std::to_string(given));
        }
    }
    return header;
}

// Calls use(piece) for the bytes of an entry in order, padding included.
template <class Use>
void for_pieces(const std::vector<TensorSource>& tensors, const storage::HeaderEntry& entry, Use use) {
    if (storage::is_padding(entry.name)) return use(std::span(kZeros).first(entry.end - entry.begin));
    const auto tensor = std::find_if(tensors.begin(), tensors.end(),
                                     [&](const TensorSource& source) { return source.name == entry.name; });
    for (const std::span<const std::byte> piece : tensor->pieces) use(piece);
}

// Calls use(slice) for the bytes of all tensors in order, and completes the header with their checksums.
template <class Use>
void stream(const std::vector<TensorSource>& tensors, Header& header, Use use) {
    for (const storage::HeaderEntry& entry : header.entries) {
        storage::Checksum sum;
        for_pieces(tensors, entry, [&](std::span<const std::byte> piece) {
            for (; !piece.empty(); piece = piece.subspan(std::min(piece.size(), storage::kSlice))) {
                const auto slice = piece.first(std::min(piece.size(), storage::kSlice));
                sum.update(slice);
                use(slice);
            }
        });
        header.metadata[storage::checksum_key(entry.name)] = storage::checksum_text(sum.digest());
    }
    storage::complete_header(header);
}

std::span<const std::byte> bytes_of(const std::string& text) { return std::as_bytes(std::span(text)); }

}  // namespace

void write_container(const std::filesystem::path& path, const std::vector<TensorSource>& tensors,
                     const Metadata& metadata) {
    Header header = plan(tensors, metadata);
    storage::ReplacementFile file(path);
    uint64_t end = 0;
    const auto append = [&](std::span<const std::byte> bytes) {
        file.write(end, bytes.data(), bytes.size());
        end += bytes.size();
    };
    append(bytes_of(storage::print_header(header)));
    stream(tensors, header, append);
    const std::string complete = storage::print_header(header);  // as long as the one before
    file.write(0, bytes_of(complete).data(), complete.size());
    file.commit();
}

void write_container(const Sink& sink, const std::vector<TensorSource>& tensors, const Metadata& metadata) {
    Header header = plan(tensors, metadata);
    stream(tensors, header, [](auto) {});
    const std::string text = storage::print_header(header);
    sink(bytes_of(text).data(), text.size());
    for (const storage::HeaderEntry& entry : header.entries) {
        for_pieces(tensors, entry, [&](std::span<const std::byte> piece) {
            if (!piece.empty()) sink(piece.data(), piece.size());
        });
    }
}

}  // namespace nearfield
