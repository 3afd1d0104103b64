// The one-file container of an index: a safetensors file, that is named arrays and a map of strings, with a checksum
// per array and one for the header. Any safetensors reader opens what is written here; what another writer makes of
// such a file opens here, and still verifies when the metadata was passed through.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace nearfield {
namespace storage {
class ReadAhead;
}

// The file is not what it should be: truncated, damaged, hostile, of another kind or of a newer version. The message
// names the file and the field. What the operating system refuses is a std::filesystem::filesystem_error instead,
// which carries the error code and the path.
struct FileFormatError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum class TensorType { u8, i8, u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64, boolean };

size_t element_bytes(TensorType type);
std::string_view type_name(TensorType type);  // as in the file: "U8", ..., "BF16", "F32", "BOOL"

// Every tensor begins at a multiple of this, in a file that we write and in memory after opening any file.
inline constexpr size_t kTensorAlignment = 64;

using Metadata = std::map<std::string, std::string, std::less<>>;

// ---------------------------------------------------------------------------------------------------------------------
// Writing
// ---------------------------------------------------------------------------------------------------------------------

// An array of a file that is going to be written.
struct TensorPlan {
    std::string name;
    TensorType type;
    std::vector<uint64_t> shape;
};

// The same with its bytes, as pieces that follow one another.
struct TensorSource {
    std::string name;
    TensorType type;
    std::vector<uint64_t> shape;
    std::vector<std::span<const std::byte>> pieces;
};

// Writes a container in place of the file at `path`, which is the old or the new one at any moment. If this throws it
// is the old one, unless all that failed was to make the new one's directory entry durable. A symbolic link is
// followed. The names "checksum", "checksum:*" (metadata), "__metadata__", "_pad0", "_pad1", ... (tensors) are taken; a
// wrong argument is a std::invalid_argument.
void write_container(const std::filesystem::path& path, const std::vector<TensorSource>& tensors,
                     const Metadata& metadata);

// Writes the same bytes to a function, in order.
using Sink = std::function<void(const std::byte* data, size_t bytes)>;
void write_container(const Sink& sink, const std::vector<TensorSource>& tensors, const Metadata& metadata);

// ---------------------------------------------------------------------------------------------------------------------
// Reading
// ---------------------------------------------------------------------------------------------------------------------

struct Tensor {
    std::string name;
    TensorType type;
    std::vector<uint64_t> shape;
    const std::byte* data;  // aligned to kTensorAlignment, never null
    uint64_t bytes;
    bool read;  // whether all of it has been read, not only mapped
};

// An open file and its tensors, which live as long as this object. Nothing here changes after opening, so threads may
// share it.
class Container {
  public:
    // Reads the file into memory and verifies all of it; or maps it, and verifies the header and the tensors of up to
    // 64 KiB, and with `verify_all` the others too. Nobody may shorten or rewrite a mapped file in place; replacing it
    // with write_container is safe (on Windows it is refused). With `map_only` that tensor alone stays in the mapped
    // file, and the others are read and verified.
    static std::shared_ptr<const Container> open(const std::filesystem::path& path, bool map, bool verify_all,
                                                 std::string_view map_only = {});

    // The same from memory, all verified: the tensors lie within `bytes`, which `owner` keeps alive and unchanged, or
    // in a copy when there is no owner.
    static std::shared_ptr<const Container> from_bytes(std::span<const std::byte> bytes,
                                                       std::shared_ptr<const void> owner = nullptr);

    // The file's name for error messages.
    const std::string& name() const { return name_; }

    // The writer's metadata, without the checksums.
    const Metadata& metadata() const { return metadata_; }
    // One entry; FileFormatError if it is absent.
    const std::string& metadata(std::string_view key) const;

    // Sorted by name, without padding.
    const std::vector<Tensor>& tensors() const { return tensors_; }
    // One tensor; FileFormatError if it is absent.
    const Tensor& tensor(std::string_view name) const;
    // One tensor, or null.
    const Tensor* find(std::string_view name) const;

    // Advice to the system about a mapped file, never an error. It has no effect on what is not in the mapped file.
    // Of this tensor a touch says nothing about what is read next: each reads its page alone.
    void advise_random(std::string_view tensor) const;
    // All of these bytes are needed soon: reading them begins. Cheap if they were asked for in the last seconds.
    void advise_needed(const std::byte* data, size_t bytes) const;

  private:
    struct Source;

    explicit Container(std::string name) : name_(std::move(name)) {}
    static std::shared_ptr<const Container> load(std::string name, const Source& source, bool verify_all);

    std::string name_;
    Metadata metadata_;
    std::vector<Tensor> tensors_;
    std::shared_ptr<const void> bytes_;               // the mapped file or the caller's bytes, if tensors lie there
    std::shared_ptr<const void> copies_;              // the tensors that were read or had to be aligned
    std::shared_ptr<storage::ReadAhead> read_ahead_;  // null if the file is not mapped
};

// The metadata entry "format_version", which must be from 1 to `supported`.
uint64_t check_format_version(const Container& container, uint64_t supported);

}  // namespace nearfield
