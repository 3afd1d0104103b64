// A container that is written in any order, for an index that does not fit into memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "storage/container.hpp"
#include "storage/container_header.hpp"
#include "storage/file.hpp"

namespace nearfield {

// The file that write_container makes of the same tensors and metadata, byte for byte, and put in place in the same
// way: it takes the name `path` when commit() returns, and without commit() nothing of it stays. Types, shapes and
// metadata are fixed at the start, the bytes of the tensors come when they come; those never written are zero. Memory
// is used for the header only. What write_container throws is thrown here.
class ContainerBuilder {
  public:
    ContainerBuilder(const std::filesystem::path& path, const std::vector<TensorPlan>& tensors,
                     const Metadata& metadata);

    // Bytes [offset, offset + bytes) of a tensor. Threads may write to different ranges at the same time, and read what
    // nobody writes. A tensor that was not planned and a range that is not in it are std::invalid_argument.
    void write(std::string_view tensor, uint64_t offset, const std::byte* data, size_t bytes);
    void read(std::string_view tensor, uint64_t offset, std::byte* to, size_t bytes) const;

    // Reads the file once for its checksums, completes the header, makes the file durable and gives it its name.
    // Nothing may follow. `checkpoint` is called at least once per MiB until the file is made durable; what it throws
    // leaves the builder as it was.
    void commit(const std::function<void()>& checkpoint = {});

  private:
    // Where bytes [offset, offset + bytes) of a tensor are in the file.
    uint64_t locate(std::string_view tensor, uint64_t offset, size_t bytes) const;

    storage::Header header_;
    uint64_t data_start_;
    storage::ReplacementFile file_;
};

}  // namespace nearfield
