#include "storage/container_builder.hpp"

#include <algorithm>
#include <stdexcept>

#include "storage/checksum.hpp"
#include "storage/json.hpp"

namespace nearfield {

ContainerBuilder::ContainerBuilder(const std::filesystem::path& path, const std::vector<TensorPlan>& tensors,
                                   const Metadata& metadata)
    : header_(storage::plan_header(tensors, metadata)),
      data_start_(storage::print_header(header_).size()),
      file_(path) {
    file_.reserve(data_start_ + (header_.entries.empty() ? 0 : header_.entries.back().end));
}

uint64_t ContainerBuilder::locate(std::string_view tensor, uint64_t offset, size_t bytes) const {
    const auto entry = std::find_if(header_.entries.begin(), header_.entries.end(),
                                    [&](const storage::HeaderEntry& planned) { return planned.name == tensor; });
    if (entry == header_.entries.end() || storage::is_padding(tensor)) {
        throw std::invalid_argument("tensor " + storage::in_quotes(tensor) + " is not planned");
    }
    const uint64_t size = entry->end - entry->begin;
    if (offset > size || bytes > size - offset) {
        throw std::invalid_argument("tensor " + storage::in_quotes(tensor) + " takes " + std::to_string(size) +
                                    " bytes, not " + std::to_string(bytes) + " from " + std::to_string(offset));
    }
    return data_start_ + entry->begin + offset;
}

void ContainerBuilder::write(std::string_view tensor, uint64_t offset, const std::byte* data, size_t bytes) {
    file_.write(locate(tensor, offset, bytes), data, bytes);
}

void ContainerBuilder::read(std::string_view tensor, uint64_t offset, std::byte* to, size_t bytes) const {
    file_.read(locate(tensor, offset, bytes), to, bytes);
}

void ContainerBuilder::commit(const std::function<void()>& checkpoint) {
    std::vector<std::byte> slice(storage::kSlice);
    for (const storage::HeaderEntry& entry : header_.entries) {
        storage::Checksum sum;
        for (uint64_t at = entry.begin; at < entry.end;) {
            if (checkpoint) checkpoint();
            const auto bytes = static_cast<size_t>(std::min<uint64_t>(slice.size(), entry.end - at));
            file_.read(data_start_ + at, slice.data(), bytes);
            sum.update({slice.data(), bytes});
            at += bytes;
        }
        header_.metadata[storage::checksum_key(entry.name)] = storage::checksum_text(sum.digest());
    }
    storage::complete_header(header_);
    const std::string text = storage::print_header(header_);  // as long as it was planned
    file_.write(0, std::as_bytes(std::span(text)).data(), text.size());
    file_.commit();
}

}  // namespace nearfield
