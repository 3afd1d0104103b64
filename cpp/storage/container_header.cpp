#include "storage/container_header.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <set>
#include <stdexcept>

#include "storage/checksum.hpp"
#include "storage/json.hpp"

namespace nearfield {
namespace {

struct TypeInfo {
    std::string_view name;
    size_t bytes;
};

// In the order of TensorType.
constexpr std::array<TypeInfo, 13> kTypes{{{"U8", 1},
                                           {"I8", 1},
                                           {"U16", 2},
                                           {"I16", 2},
                                           {"U32", 4},
                                           {"I32", 4},
                                           {"U64", 8},
                                           {"I64", 8},
                                           {"F16", 2},
                                           {"BF16", 2},
                                           {"F32", 4},
                                           {"F64", 8},
                                           {"BOOL", 1}}};

}  // namespace

size_t element_bytes(TensorType type) { return kTypes[static_cast<size_t>(type)].bytes; }
std::string_view type_name(TensorType type) { return kTypes[static_cast<size_t>(type)].name; }

namespace storage {
namespace {

constexpr std::string_view kMetadata = "__metadata__";
constexpr std::string_view kPadding = "_pad";
// More dimensions than any array library has; bounds the memory of a hostile header.
constexpr size_t kHighestRank = 64;

std::optional<TensorType> type_by_name(std::string_view name) {
    for (size_t i = 0; i < kTypes.size(); ++i) {
        if (kTypes[i].name == name) return static_cast<TensorType>(i);
    }
    return std::nullopt;
}

std::string shape_text(const std::vector<uint64_t>& shape) {
    std::string out = "[";
    for (uint64_t extent : shape) {
        if (out.size() > 1) out += ',';
        out += std::to_string(extent);
    }
    return out + "]";
}

std::string tensor_field(const HeaderEntry& entry) { return "tensor " + in_quotes(entry.name); }

std::vector<const HeaderEntry*> by_name(const Header& header) {
    std::vector<const HeaderEntry*> entries;
    entries.reserve(header.entries.size());
    for (const HeaderEntry& entry : header.entries) entries.push_back(&entry);
    std::sort(entries.begin(), entries.end(), [](auto* a, auto* b) { return a->name < b->name; });
    return entries;
}

Metadata parse_metadata(JsonReader& json) {
    Metadata metadata;
    json.enter("metadata");
    json.object([&](std::string key) {
        json.enter("metadata " + in_quotes(key));
        if (metadata.contains(key)) json.fail("the key occurs twice");
        std::string value = json.string();
        metadata.emplace(std::move(key), std::move(value));
    });
    return metadata;
}

HeaderEntry parse_entry(JsonReader& json, std::string name) {
    std::optional<TensorType> type;
    std::optional<std::vector<uint64_t>> shape, offsets;
    const std::string field = "tensor " + in_quotes(name);
    json.enter(field);

    const auto parse_integers = [&](std::optional<std::vector<uint64_t>>& integers, size_t most) {
        if (integers) json.fail("the field occurs twice");
        integers.emplace();
        json.array([&] {
            if (integers->size() == most) json.fail("expected at most " + std::to_string(most) + " integers");
            integers->push_back(json.unsigned_integer());
        });
    };
    json.object([&](const std::string& key) {
        json.enter(field + ", field " + in_quotes(key));
        if (key == "dtype") {
            if (type) json.fail("the field occurs twice");
            const std::string type_text = json.string();
            type = type_by_name(type_text);
            if (!type) json.fail("the type " + in_quotes(type_text) + " is not known");
        } else if (key == "shape") {
            parse_integers(shape, kHighestRank);
        } else if (key == "data_offsets") {
            parse_integers(offsets, 2);
        } else {
            json.fail("expected dtype, shape or data_offsets");
        }
    });
    json.enter(field);
    if (!type) json.fail("the field 'dtype' is missing");
    if (!shape) json.fail("the field 'shape' is missing");
    if (!offsets || offsets->size() != 2) json.fail("the field 'data_offsets' must hold two integers");
    return {std::move(name), *type, std::move(*shape), (*offsets)[0], (*offsets)[1]};
}

// Sorts the entries by offset and checks that they fill the data.
void check_entries(Header& header, uint64_t data_bytes, std::string_view file) {
    const auto names = by_name(header);
    for (size_t i = 1; i < names.size(); ++i) {
        if (names[i]->name == names[i - 1]->name) fail_format(file, tensor_field(*names[i]), "the name occurs twice");
    }
    std::sort(header.entries.begin(), header.entries.end(), [](const HeaderEntry& a, const HeaderEntry& b) {
        return a.begin != b.begin ? a.begin < b.begin : a.end < b.end;
    });
    uint64_t filled = 0;
    for (const HeaderEntry& entry : header.entries) {
        const auto fail = [&](const std::string& problem) { fail_format(file, tensor_field(entry), problem); };
        const auto offsets = [&] { return "data_offsets " + shape_text({entry.begin, entry.end}); };
        if (entry.begin > entry.end) fail(offsets() + " are reversed");
        if (entry.end > data_bytes) {
            fail(offsets() + " reach beyond the file, which holds " + std::to_string(data_bytes) + " bytes of data");
        }
        if (entry.begin != filled) {
            fail(offsets() + (entry.begin < filled ? " overlap the tensor before" : " leave a gap before the tensor"));
        }
        uint64_t bytes = 0;
        const auto shape = [&] {
            return "shape " + shape_text(entry.shape) + " of " + std::string(type_name(entry.type));
        };
        if (!tensor_bytes(entry.type, entry.shape, bytes)) fail(shape() + " is too large");
        if (bytes != entry.end - entry.begin) {
            fail(shape() + " takes " + std::to_string(bytes) + " bytes, but " + offsets() + " hold " +
                 std::to_string(entry.end - entry.begin));
        }
        filled = entry.end;
    }
    if (filled != data_bytes) {
        fail_format(file, "header",
                    "the tensors take " + std::to_string(filled) + " bytes, but the file holds " +
                        std::to_string(data_bytes) + " bytes of data");
    }
}

[[noreturn]] void reject(const std::string& problem) { throw std::invalid_argument(problem); }

void check_names(const std::vector<TensorPlan>& tensors, const Metadata& metadata) {
    std::set<std::string_view> names;
    for (const TensorPlan& tensor : tensors) {
        const std::string name = "tensor " + in_quotes(tensor.name);
        if (!is_utf8(tensor.name)) reject(name + ": the name is not UTF-8");
        if (!names.insert(tensor.name).second) reject(name + ": the name occurs twice");
        if (is_reserved(tensor.name)) reject(name + ": the name is taken by the container");
    }
    for (const auto& [key, value] : metadata) {
        const std::string name = "metadata " + in_quotes(key);
        if (!is_utf8(key) || !is_utf8(value)) reject(name + ": the text is not UTF-8");
        if (is_checksum_key(key)) reject(name + ": the key is taken by the container");
    }
}

uint64_t planned_bytes(const TensorPlan& tensor) {
    uint64_t bytes = 0;
    if (!tensor_bytes(tensor.type, tensor.shape, bytes)) reject("tensor " + in_quotes(tensor.name) + " is too large");
    return bytes;
}

// The number of a little-endian 64-bit field as a string of 8 bytes.
std::string little_endian(uint64_t value) {
    std::string bytes;
    for (int i = 0; i < 8; ++i) bytes += static_cast<char>(value >> 8 * i & 0xFF);
    return bytes;
}

}  // namespace

std::string checksum_key(std::string_view tensor) { return std::string(kChecksum) + ":" + std::string(tensor); }

bool is_checksum_key(std::string_view key) {
    return key.starts_with(kChecksum) && (key.size() == kChecksum.size() || key[kChecksum.size()] == ':');
}

std::string checksum_text(uint64_t checksum) {
    std::string text;
    for (int shift = 60; shift >= 0; shift -= 4) text += "0123456789abcdef"[checksum >> shift & 0xF];
    return text;
}

std::string padding_name(size_t number) { return std::string(kPadding) + std::to_string(number); }

bool is_padding(std::string_view tensor) {
    return tensor.starts_with(kPadding) && tensor.size() > kPadding.size() &&
           tensor.find_first_not_of("0123456789", kPadding.size()) == std::string_view::npos;
}

bool tensor_bytes(TensorType type, const std::vector<uint64_t>& shape, uint64_t& bytes) {
    constexpr uint64_t most = std::numeric_limits<int64_t>::max();
    // Zero extents count as one here, as they do for NumPy: [2^62, 2^62, 0] is not a shape.
    bytes = element_bytes(type);
    bool empty = false;
    for (uint64_t extent : shape) {
        if (extent == 0) {
            empty = true;
        } else if (extent > most / bytes) {
            return false;
        } else {
            bytes *= extent;
        }
    }
    if (empty) bytes = 0;
    return true;
}

bool is_reserved(std::string_view tensor) { return tensor == kMetadata || is_padding(tensor); }

Header plan_header(const std::vector<TensorPlan>& tensors, const Metadata& metadata) {
    check_names(tensors, metadata);
    Header header;
    header.metadata = metadata;
    header.metadata[std::string(kChecksum)] = checksum_text(0);
    uint64_t filled = 0;
    size_t paddings = 0;
    const auto append = [&](const TensorPlan& tensor, uint64_t bytes) {
        header.entries.push_back({tensor.name, tensor.type, tensor.shape, filled, filled + bytes});
        header.metadata[checksum_key(tensor.name)] = checksum_text(0);
        filled += bytes;
    };
    // Those that leave the next one aligned come first, and need no padding.
    std::vector<TensorPlan> ordered = tensors;
    std::stable_partition(ordered.begin(), ordered.end(),
                          [](const TensorPlan& tensor) { return planned_bytes(tensor) % kTensorAlignment == 0; });
    for (const TensorPlan& tensor : ordered) {
        if (const uint64_t unaligned = filled % kTensorAlignment; unaligned != 0) {
            const uint64_t rest = kTensorAlignment - unaligned;
            append({padding_name(paddings++), TensorType::u8, {rest}}, rest);
        }
        append(tensor, planned_bytes(tensor));
    }
    return header;
}

void complete_header(Header& header) {
    header.metadata[std::string(kChecksum)] = checksum_text(header_checksum(header));
}

std::string print_header(const Header& header) {
    std::string text = "{";
    append_json_string(text, kMetadata);
    text += ":{";
    const char* separator = "";
    for (const auto& [key, value] : header.metadata) {
        text += separator;
        append_json_string(text, key);
        text += ':';
        append_json_string(text, value);
        separator = ",";
    }
    text += '}';
    for (const HeaderEntry& entry : header.entries) {
        text += ',';
        append_json_string(text, entry.name);
        text += ":{\"dtype\":\"" + std::string(type_name(entry.type)) + "\",\"shape\":" + shape_text(entry.shape) +
                ",\"data_offsets\":" + shape_text({entry.begin, entry.end}) + "}";
    }
    text += '}';
    const size_t length_field = 8;
    const size_t unaligned = (length_field + text.size()) % kTensorAlignment;
    if (unaligned != 0) text.append(kTensorAlignment - unaligned, ' ');
    return little_endian(text.size()) + text;
}

Header parse_header(std::string_view text, uint64_t data_bytes, std::string_view file) {
    JsonReader json(text, file);
    if (!text.starts_with('{')) json.fail("expected '{' at its start: this is not a safetensors file");
    Header header;
    bool has_metadata = false;
    json.object([&](std::string key) {
        if (key == kMetadata) {
            if (has_metadata) json.fail("'__metadata__' occurs twice");
            has_metadata = true;
            header.metadata = parse_metadata(json);
        } else {
            header.entries.push_back(parse_entry(json, std::move(key)));
        }
        json.enter("header");
    });
    json.end();
    check_entries(header, data_bytes, file);
    return header;
}

uint64_t header_checksum(const Header& header) {
    Checksum sum;
    const auto put_bytes = [&sum](std::string_view bytes) { sum.update(std::as_bytes(std::span(bytes))); };
    const auto put_number = [&](uint64_t number) { put_bytes(little_endian(number)); };
    const auto put_string = [&](std::string_view string) {
        put_number(string.size());
        put_bytes(string);
    };
    put_number(header.metadata.size() - header.metadata.count(kChecksum));
    for (const auto& [key, value] : header.metadata) {
        if (key == kChecksum) continue;
        put_string(key);
        put_string(value);
    }
    put_number(header.entries.size());
    for (const HeaderEntry* entry : by_name(header)) {
        put_string(entry->name);
        put_string(type_name(entry->type));
        put_number(entry->shape.size());
        for (uint64_t extent : entry->shape) put_number(extent);
    }
    return sum.digest();
}

}  // namespace storage
}  // namespace nearfield
