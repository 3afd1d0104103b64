// The header of a container: where its tensors lie, its text in the file, and its checksum.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "storage/container.hpp"

namespace nearfield::storage {

struct HeaderEntry {
    std::string name;
    TensorType type;
    std::vector<uint64_t> shape;
    uint64_t begin, end;  // bytes after the header
};

struct Header {
    Metadata metadata;                 // with the checksums
    std::vector<HeaderEntry> entries;  // in the order of their bytes
};

// Metadata keys: kChecksum for the header, kChecksum + ":" + name for a tensor.
inline constexpr std::string_view kChecksum = "checksum";
std::string checksum_key(std::string_view tensor);
bool is_checksum_key(std::string_view key);
std::string checksum_text(uint64_t checksum);  // 16 lower-case hexadecimal digits

// Tensors that only fill the space up to the next aligned one: "_pad0", "_pad1", ...
std::string padding_name(size_t number);
bool is_padding(std::string_view tensor);
bool is_reserved(std::string_view tensor);  // padding or "__metadata__"

// Bytes of a tensor, or nothing if they are too many for 63 bits.
bool tensor_bytes(TensorType type, const std::vector<uint64_t>& shape, uint64_t& bytes);

// The longest header text, the limit that other safetensors readers set.
inline constexpr uint64_t kLongestHeader = 100'000'000;

// The layout of a file of these tensors, with room for the checksums, which are zero until they are known. A wrong
// name, shape or text is a std::invalid_argument.
Header plan_header(const std::vector<TensorPlan>& tensors, const Metadata& metadata);

// Bytes of a tensor that are hashed at a time, so that what is done with them next finds them in the cache.
inline constexpr size_t kSlice = size_t{1} << 20;

// Puts in the checksum of the header, when those of the tensors are in.
void complete_header(Header& header);

// The length field and the text, padded so that the data begins aligned.
std::string print_header(const Header& header);

// Reads the text. The entries are checked to fill `data_bytes` without gap or overlap, each as its shape demands.
Header parse_header(std::string_view text, uint64_t data_bytes, std::string_view file);

// The checksum of what the header means. It is independent of order, offsets and layout of the text, so that it holds
// when another program has written the file anew: the number of metadata entries except kChecksum, key and value of
// each in order of keys, the number of tensors, and name, type, rank and shape of each in order of names. Numbers are
// 64 bits, little-endian; strings are preceded by their length.
uint64_t header_checksum(const Header& header);

}  // namespace nearfield::storage
