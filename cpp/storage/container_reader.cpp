#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "storage/checksum.hpp"
#include "storage/container_header.hpp"
#include "storage/file.hpp"
#include "storage/json.hpp"
#include "storage/read_ahead.hpp"

namespace nearfield {
namespace {

using storage::fail_format;
using storage::in_quotes;

// Tensors up to this size are verified whenever a file is opened.
constexpr uint64_t kSmallTensor = 64 << 10;

size_t aligned(size_t bytes) { return (bytes + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment; }

bool is_aligned(const std::byte* at) { return reinterpret_cast<uintptr_t>(at) % kTensorAlignment == 0; }

std::shared_ptr<std::byte> allocate_aligned(size_t bytes) {
    constexpr size_t huge_page = size_t{2} << 20;
    const std::align_val_t alignment{bytes < huge_page ? kTensorAlignment : huge_page};
    auto* const memory = static_cast<std::byte*>(operator new(bytes, alignment));
#ifdef __linux__
    // Reading a large file waits for page faults otherwise, and scanning it for the page tables. It is only advice.
    if (bytes >= huge_page) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
    return {memory, [alignment](std::byte* start) { operator delete(start, alignment); }};
}

// Compares a checksum with the metadata entry that holds the one written.
void check_checksum(const storage::Header& header, const std::string& key, uint64_t found, const std::string& file) {
    const auto written = header.metadata.find(key);
    if (written == header.metadata.end()) fail_format(file, "metadata " + in_quotes(key), "the checksum is missing");
    if (written->second != storage::checksum_text(found)) {
        fail_format(file, "metadata " + in_quotes(key), "the checksum does not match: the file is damaged");
    }
}

// True if the file has checksums, the one of the header being right.
bool check_header_checksum(const storage::Header& header, const std::string& file) {
    const bool any = std::any_of(header.metadata.begin(), header.metadata.end(),
                                 [](const auto& entry) { return storage::is_checksum_key(entry.first); });
    if (any) check_checksum(header, std::string(storage::kChecksum), storage::header_checksum(header), file);
    return any;
}

uint64_t header_length(const std::array<std::byte, 8>& field) {
    uint64_t length = 0;
    for (size_t i = 0; i < field.size(); ++i) length |= std::to_integer<uint64_t>(field[i]) << 8 * i;
    return length;
}

}  // namespace

// Where the bytes of a file come from.
struct Container::Source {
    uint64_t size;
    std::function<void(uint64_t offset, std::byte* to, size_t bytes)> read;
    std::shared_ptr<const std::byte> in_place;                 // the whole file in memory, or null if it is to be read
    std::string_view stays = {};                               // the only tensor that is used in place; "": all
    std::shared_ptr<storage::ReadAhead> read_ahead = nullptr;  // of a mapped file
};

std::shared_ptr<const Container> Container::load(std::string name, const Source& source, bool verify_all) {
    const auto container = std::shared_ptr<Container>(new Container(std::move(name)));
    container->read_ahead_ = source.read_ahead;
    const std::string& file = container->name_;

    std::array<std::byte, 8> length_field;
    if (source.size < length_field.size()) {
        fail_format(file, "header", "its length takes 8 bytes, but the file holds " + std::to_string(source.size));
    }
    source.read(0, length_field.data(), length_field.size());
    const uint64_t length = header_length(length_field), after_field = source.size - length_field.size();
    if (length > after_field || length > storage::kLongestHeader) {
        fail_format(file, "header",
                    "it claims " + std::to_string(length) + " bytes, but " +
                        std::to_string(std::min(after_field, storage::kLongestHeader)) +
                        " are possible: the file is truncated, or not a safetensors file");
    }
    std::string text(length, '\0');
    source.read(length_field.size(), reinterpret_cast<std::byte*>(text.data()), text.size());
    const uint64_t data_start = length_field.size() + length;
    storage::Header header = storage::parse_header(text, source.size - data_start, file);
    const bool has_checksums = check_header_checksum(header, file);

    // Tensors stay where they are if they are in memory and aligned; the others are read to one allocation.
    const auto place = [&](const storage::HeaderEntry& entry) -> const std::byte* {
        if (!source.in_place || (!source.stays.empty() && source.stays != entry.name)) return nullptr;
        const std::byte* const at = source.in_place.get() + data_start + entry.begin;
        return is_aligned(at) ? at : nullptr;
    };
    size_t copied = 0;
    for (const auto& entry : header.entries) {
        if (place(entry) == nullptr) copied += aligned(entry.end - entry.begin);
    }
    const auto copies = allocate_aligned(copied);
    std::byte* next_copy = copies.get();
    container->tensors_.reserve(header.entries.size());
    for (auto& entry : header.entries) {
        const uint64_t bytes = entry.end - entry.begin;
        const std::byte* data = place(entry);
        const bool read = data == nullptr;
        if (read) {
            source.read(data_start + entry.begin, next_copy, bytes);
            data = next_copy;
            next_copy += aligned(bytes);
        }
        const bool whole = verify_all || bytes <= kSmallTensor || (read && !source.stays.empty());
        if (has_checksums && whole) {
            // Without this, the first touch of a small tensor reads megabytes around it.
            if (bytes <= kSmallTensor) container->advise_needed(data, bytes);
            check_checksum(header, storage::checksum_key(entry.name), storage::checksum({data, bytes}), file);
        }
        if (storage::is_padding(entry.name)) continue;
        container->tensors_.push_back({std::move(entry.name), entry.type, std::move(entry.shape), data, bytes, whole});
    }
    std::sort(container->tensors_.begin(), container->tensors_.end(),
              [](const Tensor& a, const Tensor& b) { return a.name < b.name; });
    std::erase_if(header.metadata, [](const auto& entry) { return storage::is_checksum_key(entry.first); });
    container->metadata_ = std::move(header.metadata);
    container->bytes_ = source.in_place;
    container->copies_ = copies;
    return container;
}

std::shared_ptr<const Container> Container::open(const std::filesystem::path& path, bool map, bool verify_all,
                                                 std::string_view map_only) {
    const storage::InputFile file(path);
    Source source;
    source.size = file.size();
    source.read = [&file](uint64_t offset, std::byte* to, size_t bytes) { file.read(offset, to, bytes); };
    if (map && source.size > 0) {
        source.in_place = file.map();
        source.read_ahead = std::make_shared<storage::ReadAhead>(source.in_place.get(), source.size);
    }
    source.stays = map_only;
    return load(storage::display_name(path), source, verify_all || !map);
}

std::shared_ptr<const Container> Container::from_bytes(std::span<const std::byte> bytes,
                                                       std::shared_ptr<const void> owner) {
    Source source;
    source.size = bytes.size();
    source.read = [bytes](uint64_t offset, std::byte* to, size_t n) {
        if (n > 0) std::memcpy(to, bytes.data() + offset, n);
    };
    if (owner) source.in_place = std::shared_ptr<const std::byte>(std::move(owner), bytes.data());
    return load("<bytes>", source, true);
}

const std::string& Container::metadata(std::string_view key) const {
    const auto entry = metadata_.find(key);
    if (entry == metadata_.end()) fail_format(name_, "metadata " + in_quotes(key), "it is missing");
    return entry->second;
}

const Tensor* Container::find(std::string_view name) const {
    const auto at = std::lower_bound(tensors_.begin(), tensors_.end(), name,
                                     [](const Tensor& tensor, std::string_view other) { return tensor.name < other; });
    return at != tensors_.end() && at->name == name ? &*at : nullptr;
}

const Tensor& Container::tensor(std::string_view name) const {
    const Tensor* const found = find(name);
    if (found == nullptr) fail_format(name_, "tensor " + in_quotes(name), "it is missing");
    return *found;
}

void Container::advise_random(std::string_view tensor) const {
    const Tensor* const found = find(tensor);
    if (read_ahead_ && found != nullptr) read_ahead_->expect_random(found->data, found->bytes);
}

void Container::advise_needed(const std::byte* data, size_t bytes) const {
    if (read_ahead_) read_ahead_->expect_all(data, bytes);
}

uint64_t check_format_version(const Container& container, uint64_t supported) {
    const std::string& text = container.metadata("format_version");
    uint64_t version = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), version);
    if (error != std::errc{} || end != text.data() + text.size() || version == 0) {
        fail_format(container.name(), "metadata 'format_version'",
                    "expected a positive integer, found " + in_quotes(text));
    }
    if (version > supported) {
        const auto writer = container.metadata().find("library_version");
        const std::string by = writer == container.metadata().end() ? "?" : storage::printable(writer->second);
        fail_format(container.name(), "metadata 'format_version'",
                    "written by nearfield " + by + " (format " + std::to_string(version) +
                        "); this library reads up to " + std::to_string(supported));
    }
    return version;
}

}  // namespace nearfield
