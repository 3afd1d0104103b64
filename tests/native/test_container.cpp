// The one-file container: round trips, files of other writers, hostile and damaged files, and saves that fail or are
// killed at each of their system calls. `test_container N` runs N rounds of the fuzz test instead of the usual few.
#include "storage/container.hpp"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <new>
#include <random>
#include <thread>

#include "storage/checksum.hpp"
#include "storage/container_builder.hpp"
#include "storage/fault.hpp"
#include "temporary_directory.hpp"

#ifndef _WIN32
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace fs = std::filesystem;
using nearfield::Container;
using nearfield::ContainerBuilder;
using nearfield::FileFormatError;
using nearfield::Metadata;
using nearfield::Tensor;
using nearfield::TensorPlan;
using nearfield::TensorSource;
using nearfield::TensorType;
namespace storage = nearfield::storage;

#define CHECK(condition)                                                                  \
    do {                                                                                  \
        if (!(condition)) {                                                               \
            std::fprintf(stderr, "%s:%d: %s is false\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                                 \
        }                                                                                 \
    } while (false)

// ---------------------------------------------------------------------------------------------------------------------
// The largest allocation since it was last set to 0: opening a file must not allocate what its header merely claims.
// ---------------------------------------------------------------------------------------------------------------------
#ifndef _WIN32
static std::atomic<size_t> largest_allocation{0};

static void* allocate(size_t bytes, size_t alignment) {
    if (bytes > largest_allocation) largest_allocation = bytes;  // threads may miss one
    void* memory = nullptr;
    if (posix_memalign(&memory, std::max(alignment, sizeof(void*)), std::max(bytes, size_t{1})) != 0) {
        throw std::bad_alloc();
    }
    return memory;
}

void* operator new(size_t bytes) { return allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__); }
void* operator new(size_t bytes, std::align_val_t alignment) { return allocate(bytes, static_cast<size_t>(alignment)); }
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
    try {
        return operator new(bytes);
    } catch (const std::bad_alloc&) {
        return nullptr;
    }
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept { std::free(memory); }
#endif

namespace {

using Bytes = std::vector<std::byte>;

template <class Call>
std::string format_error_of(Call call) {
    try {
        call();
    } catch (const FileFormatError& error) {
        return error.what();
    }
    return "";
}

template <class Call>
bool rejects(Call call) {
    try {
        call();
    } catch (const std::invalid_argument&) {
        return true;
    }
    return false;
}

// The error code of a file system error, 0 if there was none.
template <class Call>
int system_error_of(Call call, const fs::path& path) {
    try {
        call();
    } catch (const fs::filesystem_error& error) {
        CHECK(error.path1() == path);
        return error.code().value();
    }
    return 0;
}

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

Bytes read_file(const fs::path& path) {
    std::ifstream in(path, std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    Bytes bytes(text.size());
    std::transform(text.begin(), text.end(), bytes.begin(), [](char c) { return static_cast<std::byte>(c); });
    return bytes;
}

void write_file(const fs::path& path, std::span<const std::byte> bytes) {
    std::ofstream out(path, std::ios::binary);
    out.write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    CHECK(out.good());
}

// A file of another writer: the header as given, then zeros.
Bytes file_of(const std::string& header, size_t data_bytes, uint64_t claimed_length) {
    Bytes bytes;
    for (int i = 0; i < 8; ++i) bytes.push_back(static_cast<std::byte>(claimed_length >> 8 * i));
    for (char c : header) bytes.push_back(static_cast<std::byte>(c));
    bytes.resize(bytes.size() + data_bytes);
    return bytes;
}
Bytes file_of(const std::string& header, size_t data_bytes) { return file_of(header, data_bytes, header.size()); }

// Tensors of assorted types and sizes over the numbers seed, seed + 1, ...
struct Sample {
    Bytes memory = Bytes(200'000);
    Metadata metadata{
        {"kind", "flat"},
        {"format_version", "1"},
        {"library_version", "0.1.0"},
        {"text", "quote \" backslash \\ line \n tab \t control \x01 gr\xC3\xBC\xC3\x9F \xF0\x9F\x98\x80"}};
    std::vector<TensorSource> tensors;

    explicit Sample(unsigned seed, uint64_t large_rows = 0) {
        for (size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::byte>((i + seed) * 2654435761u >> 13);
        const std::span<const std::byte> all(memory);
        tensors = {{"ids", TensorType::i64, {3}, {all.subspan(5, 24)}},
                   {"rows", TensorType::f32, {3, 5}, {all.subspan(1, 20), {}, all.subspan(100, 40)}},
                   {"codes", TensorType::u8, {2, 64}, {all.subspan(7, 128)}},
                   {"empty", TensorType::bf16, {0, 7}, {}},
                   {"scalar \"\\\n", TensorType::boolean, {}, {all.subspan(9, 1)}},
                   {"large", TensorType::u16, {large_rows, 50}, {all.subspan(0, large_rows * 100)}}};
    }

    Bytes bytes() const {
        Bytes out;
        nearfield::write_container([&out](const std::byte* data, size_t n) { out.insert(out.end(), data, data + n); },
                                   tensors, metadata);
        return out;
    }
};

bool holds(const Container& container, const Sample& sample) {
    if (container.metadata() != sample.metadata || container.tensors().size() != sample.tensors.size()) return false;
    return std::all_of(sample.tensors.begin(), sample.tensors.end(), [&](const TensorSource& source) {
        const Tensor& tensor = container.tensor(source.name);
        Bytes expected;
        for (auto piece : source.pieces) expected.insert(expected.end(), piece.begin(), piece.end());
        return tensor.type == source.type && tensor.shape == source.shape && tensor.bytes == expected.size() &&
               reinterpret_cast<uintptr_t>(tensor.data) % nearfield::kTensorAlignment == 0 &&
               std::equal(expected.begin(), expected.end(), tensor.data);
    });
}

// ---------------------------------------------------------------------------------------------------------------------

// The published values of XXH64, and the same from pieces of any length.
void test_checksum() {
    const auto checksum_of = [](std::string_view text) { return storage::checksum(std::as_bytes(std::span(text))); };
    CHECK(checksum_of("") == 0xEF46DB3751D8E999);
    CHECK(checksum_of("a") == 0xD24EC4F1A98C6E5B);
    CHECK(checksum_of("abc") == 0x44BC2CF5AD770999);
    CHECK(checksum_of("The quick brown fox jumps over the lazy dog") == 0x0B242D361FDA71BC);

    const Sample sample(1);
    const auto bytes = std::span<const std::byte>(sample.memory).first(300);
    for (size_t piece = 1; piece < 100; ++piece) {
        storage::Checksum sum;
        for (size_t at = 0; at < bytes.size(); at += piece) sum.update(bytes.subspan(at, std::min(piece, 300 - at)));
        CHECK(sum.digest() == storage::checksum(bytes));
    }
}

void test_round_trip() {
    const TemporaryDirectory directory;
    const fs::path path = directory.path / u8"gr\u00FC\u00DF.nearfield";
    for (uint64_t large_rows : {0u, 1u, 1999u}) {
        const Sample sample(3, large_rows);
        nearfield::write_container(path, sample.tensors, sample.metadata);
        CHECK(directory.files() == 1);
        const Bytes bytes = read_file(path);
        CHECK(bytes == sample.bytes());
        for (bool map : {false, true}) {
            for (bool verify_all : {false, true}) CHECK(holds(*Container::open(path, map, verify_all), sample));
        }
        CHECK(holds(*Container::from_bytes(bytes), sample));
        // In place in memory of any alignment.
        for (size_t shift : {0u, 1u, 8u}) {
            const auto shifted = std::make_shared<Bytes>(shift);
            shifted->insert(shifted->end(), bytes.begin(), bytes.end());
            CHECK(holds(*Container::from_bytes(std::span(*shifted).subspan(shift), shifted), sample));
        }
    }
    const Sample old_sample(4);
    nearfield::write_container(path, old_sample.tensors, old_sample.metadata);
    const auto mapped = Container::open(path, true, false);
#ifndef _WIN32
    // A mapped file lives on when it is replaced.
    const Sample new_sample(5);
    nearfield::write_container(path, new_sample.tensors, new_sample.metadata);
    CHECK(holds(*mapped, old_sample) && holds(*Container::open(path, true, false), new_sample));
#else
    CHECK(system_error_of([&] { nearfield::write_container(path, {}, {}); }, path) != 0);
    CHECK(holds(*mapped, old_sample) && holds(*Container::open(path, true, false), old_sample));
#endif
    CHECK(mapped->find("absent") == nullptr && mapped->find("_pad0") == nullptr);
    CHECK(contains(format_error_of([&] { mapped->tensor("absent"); }), "tensor 'absent': it is missing"));
    CHECK(contains(format_error_of([&] { mapped->metadata("absent"); }), "metadata 'absent': it is missing"));
}

// The tensors of the file follow one another at multiples of 64 bytes, as its header says.
void test_alignment() {
    const Sample sample(6, 3);
    const Bytes bytes = sample.bytes();
    uint64_t length = 0;
    for (size_t i = 0; i < 8; ++i) length |= std::to_integer<uint64_t>(bytes[i]) << 8 * i;
    CHECK((8 + length) % 64 == 0);
    const auto owner = std::make_shared<int>();
    void* memory = operator new(bytes.size(), std::align_val_t(64));
    std::memcpy(memory, bytes.data(), bytes.size());
    {
        const auto* start = static_cast<const std::byte*>(memory);
        const auto container = Container::from_bytes({start, bytes.size()}, owner);
        for (const Tensor& tensor : container->tensors()) {
            CHECK(tensor.data >= start + 8 + length && tensor.data + tensor.bytes <= start + bytes.size());
        }
    }
    operator delete(memory, std::align_val_t(64));
}

void test_other_writers() {
    const std::string header =
        "{ \"b\\u00fc\" : {\"shape\":[2], \"dtype\" : \"F32\",\n\"data_offsets\":[3,11]},\t\"_pad_mask\":"
        "{\"data_offsets\":[0,3],\"dtype\":\"BOOL\",\"shape\":[1,3]},\"__metadata__\":{\"kind\":\"\\ud83d\\ude00\"}}";
    Bytes bytes = file_of(header, 11);
    bytes.back() = std::byte{0x40};
    const auto container = Container::from_bytes(bytes);
    CHECK(container->metadata("kind") == "\xF0\x9F\x98\x80");
    CHECK(container->tensor("_pad_mask").shape == (std::vector<uint64_t>{1, 3}));
    float values[2];
    std::memcpy(values, container->tensor("b\xC3\xBC").data, 8);
    CHECK(values[0] == 0 && values[1] == 2);
    CHECK(Container::from_bytes(file_of("{}", 0))->tensors().empty());
}

void test_wrong_arguments() {
    const std::byte byte{};
    const TensorSource tensor{"t", TensorType::u8, {1}, {{&byte, 1}}};
    const auto rejected = [](const std::vector<TensorSource>& tensors, const Metadata& metadata) {
        return rejects([&] { nearfield::write_container([](const std::byte*, size_t) {}, tensors, metadata); });
    };
    const auto with = [&tensor](auto change) {
        TensorSource changed = tensor;
        change(changed);
        return std::vector{changed};
    };
    CHECK(!rejected({tensor}, {}));
    CHECK(rejected({tensor, tensor}, {}));
    CHECK(rejected(with([](auto& t) { t.name = "__metadata__"; }), {}));
    CHECK(rejected(with([](auto& t) { t.name = "_pad12"; }), {}));
    CHECK(rejected(with([](auto& t) { t.name = "\xFF"; }), {}));
    CHECK(rejected(with([](auto& t) { t.shape = {2}; }), {}));
    CHECK(rejected(with([](auto& t) { t.shape = {1ull << 62, 1ull << 62, 0}; }), {}));
    CHECK(rejected({tensor}, {{"checksum", ""}}));
    CHECK(rejected({tensor}, {{"checksum:t", ""}}));
    CHECK(rejected({tensor}, {{"key", "\xC0\x80"}}));
    CHECK(!rejected({tensor}, {{"checksums", ""}}));
}

void test_format_version() {
    const auto check = [](const std::string& metadata) {
        const auto file = Container::from_bytes(file_of("{\"__metadata__\":{" + metadata + "}}", 0));
        return format_error_of([&] { CHECK(nearfield::check_format_version(*file, 2) == 2); });
    };
    CHECK(check("\"format_version\":\"2\"").empty());
    CHECK(contains(check("\"format_version\":\"3\",\"library_version\":\"1.2\\u001b\""),
                   "written by nearfield 1.2\\x1b (format 3); this library reads up to 2"));
    CHECK(contains(check("\"format_version\":\"3\""), "written by nearfield ?"));
    for (const char* bad : {"", "0", "-1", "1x", "99999999999999999999"}) {
        CHECK(contains(check("\"format_version\":\"" + std::string(bad) + "\""), "expected a positive integer"));
    }
    CHECK(contains(check(""), "it is missing"));
}

// ---------------------------------------------------------------------------------------------------------------------

struct BadHeader {
    std::string header;
    size_t data_bytes;
    std::string message;
};

std::string entry(const std::string& name, const std::string& type, const std::string& shape,
                  const std::string& offsets) {
    return "\"" + name + "\":{\"dtype\":\"" + type + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets + "}";
}

std::vector<BadHeader> bad_headers() {
    const auto one = [](const std::string& type, const std::string& shape, const std::string& offsets) {
        return "{" + entry("t", type, shape, offsets) + "}";
    };
    const auto metadata = [](const std::string& text) { return "{\"__metadata__\":" + text + "}"; };
    std::string deep_object = "{\"t\":";
    for (int i = 0; i < 50'000; ++i) deep_object += "{\"a\":";
    std::string many_dimensions = "[1";
    for (int i = 0; i < 64; ++i) many_dimensions += ",1";
    return {
        {"", 0, "expected '{'"},
        {" {}", 0, "expected '{'"},
        {"[]", 0, "expected '{'"},
        {"{", 0, "expected a string, found the end"},
        {"{}}", 0, "nothing but spaces"},
        {"{}\n", 0, "nothing but spaces"},
        {std::string("{}\0", 3), 0, "nothing but spaces"},
        {"{\"t\"}", 0, "expected ':'"},
        {"{t:1}", 0, "expected a string"},
        {"{\"t\":" + std::string(100'000, '['), 0, "tensor 't': expected '{'"},
        {one("U8", std::string(100'000, '['), "[0,1]"), 1, "field 'shape': expected an unsigned integer"},
        {deep_object, 0, "expected dtype, shape or data_offsets"},
        {one("U8", "[18446744073709551616]", "[0,1]"), 1, "does not fit 64 bits"},
        {one("U8", "[1" + std::string(10'000, '0') + "]", "[0,1]"), 1, "does not fit 64 bits"},
        {one("U8", "[-1]", "[0,1]"), 1, "expected an unsigned integer"},
        {one("U8", "[1.0]", "[0,1]"), 1, "expected ']'"},
        {one("U8", "[1e0]", "[0,1]"), 1, "expected ']'"},
        {one("U8", "[01]", "[0,1]"), 1, "must not start with 0"},
        {one("U8", "[1,]", "[0,1]"), 1, "expected an unsigned integer"},
        {one("U8", "[\"1\"]", "[0,1]"), 1, "expected an unsigned integer"},
        {one("U8", "1", "[0,1]"), 1, "field 'shape': expected '['"},
        {one("U8", "null", "[0,1]"), 1, "field 'shape': expected '['"},
        {one("U8", many_dimensions + "]", "[0,1]"), 1, "at most 64"},
        {one("U8", "[4294967296,4294967296]", "[0,1]"), 1, "is too large"},
        {one("U64", "[2305843009213693952]", "[0,0]"), 0, "is too large"},
        {one("F32", "[9223372036854775807,9223372036854775807,0]", "[0,0]"), 0, "is too large"},
        {one("F32", "[1]", "[0,3]"), 3, "takes 4 bytes, but data_offsets [0,3] hold 3"},
        {one("F32", "[]", "[0,0]"), 0, "takes 4 bytes"},
        {one("U8", "[3]", "[3,0]"), 3, "are reversed"},
        {one("U8", "[3]", "[0,3]"), 2, "reach beyond the file"},
        {one("U8", "[3]", "[18446744073709551613,18446744073709551615]"), 3, "reach beyond the file"},
        {one("U8", "[3]", "[1,4]"), 4, "leave a gap"},
        {one("U8", "[0]", "[1,1]"), 1, "leave a gap"},
        {one("U8", "[3]", "[0,3]"), 4, "the tensors take 3 bytes, but the file holds 4"},
        {one("U8", "[3]", "[0]"), 3, "must hold two integers"},
        {one("U8", "[3]", "[0,3,3]"), 3, "at most 2"},
        {one("u8", "[3]", "[0,3]"), 3, "the type 'u8' is not known"},
        {one("F8_E4M3", "[3]", "[0,3]"), 3, "the type 'F8_E4M3' is not known"},
        {"{" + entry("t", "U8", "[1]", "[0,1]") + "," + entry("t", "U8", "[1]", "[1,2]") + "}", 2, "name occurs twice"},
        {"{" + entry("t", "U8", "[1]", "[0,1]") + "," + entry("\\u0074", "U8", "[1]", "[1,2]") + "}", 2, "twice"},
        {"{" + entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[2]", "[1,3]") + "}", 3, "'b': data_offsets"},
        {"{" + entry("a", "U8", "[2]", "[0,2]") + "," + entry("b", "U8", "[2]", "[0,2]") + "}", 2, "overlap"},
        {"{\"t\":{\"dtype\":\"U8\",\"shape\":[]}}", 0, "must hold two integers"},
        {"{\"t\":{\"dtype\":\"U8\",\"data_offsets\":[0,0]}}", 0, "'shape' is missing"},
        {"{\"t\":{\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "'dtype' is missing"},
        {"{\"t\":{\"shape\":[0],\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "field occurs twice"},
        {"{\"t\":{\"dtype\":\"U8\",\"dtype\":\"U8\"}}", 0, "field occurs twice"},
        {"{\"t\":{}}", 0, "'dtype' is missing"},
        {metadata("[]"), 0, "metadata: expected '{'"},
        {metadata("{\"a\":1}"), 0, "metadata 'a': expected a string"},
        {metadata("{\"a\":null}"), 0, "metadata 'a': expected a string"},
        {metadata("{\"a\":{\"b\":\"c\"}}"), 0, "metadata 'a': expected a string"},
        {metadata("{\"a\":\"1\",\"a\":\"2\"}"), 0, "metadata 'a': the key occurs twice"},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "occurs twice"},
        {metadata("{\"a\":\"\xFF\"}"), 0, "not UTF-8"},
        {metadata("{\"a\":\"\xC0\x80\"}"), 0, "not UTF-8"},
        {metadata("{\"a\":\"\xED\xA0\x80\"}"), 0, "not UTF-8"},
        {metadata("{\"a\":\"\xF4\x90\x80\x80\"}"), 0, "not UTF-8"},
        {metadata("{\"a\":\"\xE2\x82\"}"), 0, "not UTF-8"},
        {metadata("{\"a\":\"\n\"}"), 0, "control character"},
        {metadata("{\"a\":\"\\x\"}"), 0, "expected an escape"},
        {metadata("{\"a\":\"\\u12g4\"}"), 0, "four hexadecimal digits"},
        {metadata("{\"a\":\"\\ud800\"}"), 0, "lacks its other half"},
        {metadata("{\"a\":\"\\ud800\\u0041\"}"), 0, "lacks its other half"},
        {metadata("{\"a\":\"\\udc00\"}"), 0, "lacks its other half"},
        {"{\"a", 0, "the string does not end"},
        {"{\"a\\", 0, "expected an escape"},
        {"{\"\x1b[2J\xC2\x9B\xFF\":1}", 0, "control character"},
        {"{\"\\u001b[2J\\u009b\":1}", 0, "tensor '\\x1b[2J\\xc2\\x9b': expected '{'"},
        {metadata("{\"checksum\":\"0000000000000000\"}"), 0, "metadata 'checksum': the checksum does not match"},
        {metadata("{\"checksum\":\"\"}"), 0, "metadata 'checksum': the checksum does not match"},
        {metadata("{\"checksum:t\":\"0000000000000000\"}"), 0, "metadata 'checksum': the checksum is missing"},
    };
}

// Between these two a file of this size was opened.
void reset_largest_allocation() {
#ifndef _WIN32
    largest_allocation = 0;
#endif
}
void check_largest_allocation([[maybe_unused]] size_t file_bytes) {
#ifndef _WIN32
    CHECK(largest_allocation <= 4 * file_bytes + 4096);
#endif
}

void test_hostile_headers() {
    const TemporaryDirectory directory;
    const fs::path path = directory.path / "hostile";
    for (const BadHeader& bad : bad_headers()) {
        const Bytes bytes = file_of(bad.header, bad.data_bytes);
        write_file(path, bytes);
        for (bool map : {false, true}) {
            reset_largest_allocation();
            const std::string message = format_error_of([&] { Container::open(path, map, false); });
            check_largest_allocation(bytes.size());
            CHECK(message.starts_with(path.string() + ": "));
            CHECK(message.size() < path.string().size() + 400);
            if (contains(message, bad.message)) continue;
            std::fprintf(stderr, "expected: %s\nmessage:  %s\n", bad.message.c_str(), message.c_str());
            std::exit(1);
        }
    }
    for (uint64_t claimed : {3ull, 1ull << 40, 1ull << 63, ~0ull, ~0ull - 7}) {
        const Bytes bytes = file_of("{}", 0, claimed);
        write_file(path, bytes);
        for (bool map : {false, true}) {
            reset_largest_allocation();
            CHECK(contains(format_error_of([&] { Container::open(path, map, false); }), "header: it claims"));
            check_largest_allocation(bytes.size());
        }
    }
    // A real file of a terabyte of nothing, where files may have holes.
    std::error_code error;
    fs::resize_file(path, uint64_t{1} << 40, error);
    if (!error) {
        write_file(path, file_of("", 0, uint64_t{1} << 39));
        fs::resize_file(path, uint64_t{1} << 40);
        reset_largest_allocation();
        CHECK(contains(format_error_of([&] { Container::open(path, false, false); }), "header: it claims"));
        check_largest_allocation(0);
    }
}

void test_truncation() {
    const TemporaryDirectory directory;
    const fs::path path = directory.path / "truncated";
    const Bytes bytes = Sample(7).bytes();
    for (size_t length = 0; length < bytes.size(); ++length) {
        const auto part = std::span(bytes).first(length);
        CHECK(!format_error_of([&] { Container::from_bytes(part); }).empty());
        write_file(path, part);
        for (bool map : {false, true}) CHECK(!format_error_of([&] { Container::open(path, map, false); }).empty());
    }
    Bytes longer = bytes;
    longer.push_back(std::byte{0});
    CHECK(!format_error_of([&] { Container::from_bytes(longer); }).empty());
}

void test_flipped_bytes() {
    Bytes bytes = Sample(8).bytes();
    for (std::byte& byte : bytes) {
        const std::byte right = byte;
        for (unsigned mask : {1u, 2u, 4u, 8u, 16u, 32u, 64u, 128u, 255u}) {
            byte = right ^ std::byte(mask);
            CHECK(!format_error_of([&] { Container::from_bytes(bytes); }).empty());
        }
        byte = right;
    }
    CHECK(holds(*Container::from_bytes(bytes), Sample(8)));

    // A large tensor of a mapped file is verified on demand.
    const TemporaryDirectory directory;
    const fs::path path = directory.path / "flipped";
    bytes = Sample(8, 1000).bytes();
    const Bytes& large = Sample(8).memory;
    const auto start = std::search(bytes.begin(), bytes.end(), large.begin(), large.begin() + 100);
    CHECK(start != bytes.end());
    start[50'000] ^= std::byte{1};
    write_file(path, bytes);
    CHECK(!holds(*Container::open(path, true, false), Sample(8, 1000)));
    for (bool map : {false, true}) {
        const std::string message = format_error_of([&] { Container::open(path, map, true); });
        CHECK(contains(message, "metadata 'checksum:large': the checksum does not match: the file is damaged"));
    }
}

void fuzz_headers(size_t rounds) {
    std::mt19937 random(1);
    const auto below = [&random](size_t n) { return n == 0 ? 0 : random() % n; };
    const std::string tokens[] = {"{",
                                  "}",
                                  "[",
                                  "]",
                                  ",",
                                  ":",
                                  "\"",
                                  "0",
                                  "1",
                                  "[]",
                                  "{}",
                                  "null",
                                  "\\u",
                                  "\\ud800",
                                  " ",
                                  "18446744073709551615",
                                  "9223372036854775807",
                                  "-1",
                                  "\"shape\":",
                                  "\"__metadata__\":",
                                  "\"dtype\":\"F64\"",
                                  "\xC3",
                                  "\xF0\x9F\x98\x80",
                                  "4294967296,4294967296",
                                  "\"a\":\"b\""};
    const std::string plain = "{\"__metadata__\":{\"k\":\"v\",\"\\u00fc\":\"\"}," +
                              entry("a", "F32", "[2,3]", "[0,24]") + "," + entry("b", "U8", "[7]", "[24,31]") + "," +
                              entry("c", "I64", "[0]", "[31,31]") + "}";
    const Bytes ours = Sample(9).bytes();
    const size_t our_header = std::to_integer<size_t>(ours[0]) | std::to_integer<size_t>(ours[1]) << 8;
    const std::string with_checksums(reinterpret_cast<const char*>(ours.data()) + 8, our_header);
    size_t opened = 0;
    for (size_t round = 0; round < rounds; ++round) {
        const bool checksums = round % 4 == 0;
        std::string header = checksums ? with_checksums : plain;
        size_t data_bytes = checksums ? ours.size() - 8 - our_header : 31;
        for (size_t edits = below(4); edits > 0; --edits) {
            const size_t at = below(header.size()), length = below(std::min<size_t>(header.size() - at, 20));
            switch (below(6)) {
                case 0:
                    header[at] = static_cast<char>(header[at] ^ 1 << below(8));
                    break;
                case 1:
                    header.erase(at, length);
                    break;
                case 2:
                    header.insert(at, tokens[below(std::size(tokens))]);
                    break;
                case 3:
                    header.replace(at, length, tokens[below(std::size(tokens))]);
                    break;
                case 4:
                    header.insert(below(header.size()), header.substr(at, length));
                    break;
                default:
                    header.replace(at, header[at] >= '0' && header[at] <= '9', std::to_string(random() % 64));
            }
            if (header.empty()) header = "{";
        }
        if (below(10) == 0) data_bytes = below(64);
        const Bytes bytes = file_of(header, data_bytes, below(10) == 0 ? random() % 512 : header.size());
        try {
            reset_largest_allocation();
            const auto container =
                below(2) ? Container::from_bytes(bytes) : Container::from_bytes(bytes, std::make_shared<int>());
            check_largest_allocation(bytes.size());
            uint64_t total = 0;
            for (const Tensor& tensor : container->tensors()) {
                total += tensor.bytes;
                CHECK(std::count(tensor.data, tensor.data + tensor.bytes, std::byte{0xAA}) == 0);
            }
            CHECK(total <= bytes.size());
            ++opened;
        } catch (const FileFormatError&) {
            check_largest_allocation(bytes.size());
        }
    }
    std::printf("fuzz: %zu of %zu files opened\n", opened, rounds);
}

// ---------------------------------------------------------------------------------------------------------------------

void test_system_errors() {
    const TemporaryDirectory directory;
    const fs::path missing = directory.path / "missing" / "file";
    const auto write = [](const fs::path& path) { nearfield::write_container(path, {}, {}); };
    const auto open = [](const fs::path& path) { Container::open(path, true, false); };
    CHECK(system_error_of([&] { open(missing); }, missing) == ENOENT);
    CHECK(system_error_of([&] { write(missing); }, missing) == ENOENT);
    CHECK(system_error_of([&] { write(""); }, "") == ENOENT);
    CHECK(system_error_of([&] { write(directory.path); }, directory.path) == EISDIR);
#ifndef _WIN32
    CHECK(system_error_of([&] { open(directory.path); }, directory.path) == EISDIR);
    const fs::path pipe = directory.path / "pipe";
    CHECK(mkfifo(pipe.c_str(), 0600) == 0);
    CHECK(contains(format_error_of([&] { open(pipe); }), "not a regular file"));
    CHECK(system_error_of([&] { write(pipe); }, pipe) == EINVAL);
    CHECK(fs::is_fifo(pipe) && directory.files() == 1);
    if (geteuid() != 0) {
        const fs::path inside = directory.path / "file";
        fs::permissions(directory.path, fs::perms::owner_read | fs::perms::owner_exec);
        CHECK(system_error_of([&] { write(inside); }, inside) == EACCES);
        fs::permissions(directory.path, fs::perms::owner_all);
    }
#endif
}

#ifndef _WIN32
void test_links_and_mode() {
    const TemporaryDirectory directory;
    const fs::path real = directory.path / "real", folder = directory.path / "folder";
    fs::create_directory(folder);
    fs::create_symlink("../real", folder / "link");
    fs::create_symlink(folder / "link", directory.path / "link to link");
    const Sample sample(10);
    for (mode_t mask : {0022u, 0077u}) {
        umask(mask);
        nearfield::write_container(directory.path / "link to link", sample.tensors, sample.metadata);
        CHECK(fs::is_regular_file(fs::symlink_status(real)) && fs::is_symlink(folder / "link"));
        CHECK(holds(*Container::open(folder / "link", true, false), sample));
        struct stat status;
        CHECK(stat(real.c_str(), &status) == 0 && (status.st_mode & 0777) == (0666 & ~mask));
        fs::remove(real);  // and now through a link to nothing
    }
    fs::create_symlink("loop", directory.path / "loop");
    const fs::path loop = directory.path / "loop";
    CHECK(system_error_of([&] { nearfield::write_container(loop, {}, {}); }, loop) == ELOOP);
}
#endif

// ---------------------------------------------------------------------------------------------------------------------

std::vector<TensorPlan> plans_of(const Sample& sample) {
    std::vector<TensorPlan> plans;
    for (const TensorSource& tensor : sample.tensors) plans.push_back({tensor.name, tensor.type, tensor.shape});
    return plans;
}

Bytes joined(const TensorSource& tensor) {
    Bytes bytes;
    for (const auto& piece : tensor.pieces) bytes.insert(bytes.end(), piece.begin(), piece.end());
    return bytes;
}

// Writes all tensors in pieces of up to 30,000 bytes, in an order of its own.
void build(ContainerBuilder& builder, const Sample& sample, unsigned seed) {
    struct Piece {
        const TensorSource* tensor;
        size_t offset, bytes;
    };
    std::mt19937 random(seed);
    std::vector<Piece> pieces;
    for (const TensorSource& tensor : sample.tensors) {
        const size_t bytes = joined(tensor).size();
        for (size_t offset = 0; offset < bytes;) {
            pieces.push_back({&tensor, offset, std::min<size_t>(1 + random() % 30000, bytes - offset)});
            offset += pieces.back().bytes;
        }
    }
    std::shuffle(pieces.begin(), pieces.end(), random);
    for (const Piece& piece : pieces) {
        builder.write(piece.tensor->name, piece.offset, joined(*piece.tensor).data() + piece.offset, piece.bytes);
    }
}

// The file is the one of write_container, whatever the order of the pieces.
void test_builder() {
    const TemporaryDirectory directory;
    const fs::path path = directory.path / "built";
    for (uint64_t large_rows : {0u, 1u, 1999u}) {
        const Sample sample(13, large_rows);
        for (unsigned seed = 0; seed < 5; ++seed) {
            ContainerBuilder builder(path, plans_of(sample), sample.metadata);
            build(builder, sample, seed);
            for (const TensorSource& tensor : sample.tensors) {
                const Bytes expected = joined(tensor);
                Bytes read(expected.size());
                builder.read(tensor.name, 0, read.data(), read.size());
                CHECK(read == expected);
                if (expected.size() < 5) continue;
                builder.read(tensor.name, 3, read.data(), 2);
                CHECK(std::equal(read.begin(), read.begin() + 2, expected.begin() + 3));
            }
            builder.commit();
            CHECK(read_file(path) == sample.bytes() && directory.files() == 1);
        }
    }
    {
        ContainerBuilder builder(path, {}, {{"nothing", "else"}});
        builder.commit();
        CHECK(Container::open(path, true, true)->metadata("nothing") == "else");
    }
    // Tensors longer than what is hashed at a time, written by several threads; what is not written is zero.
    const size_t bytes = (size_t{5} << 20) + 100, thread_bytes = bytes / 4;
    Bytes memory(bytes);
    for (size_t i = 0; i < 4 * thread_bytes; ++i) memory[i] = static_cast<std::byte>(i * 2654435761u >> 13);
    const Bytes zeros(70'000);
    ContainerBuilder builder(path, {{"a", TensorType::u8, {bytes}}, {"zeros", TensorType::i8, {zeros.size()}}}, {});
    std::vector<std::thread> threads;
    for (size_t t = 0; t < 4; ++t) {
        threads.emplace_back([&, t] {
            Bytes read(10'000);
            for (size_t at = t * thread_bytes; at < (t + 1) * thread_bytes; at += read.size()) {
                const size_t n = std::min(read.size(), (t + 1) * thread_bytes - at);
                builder.write("a", at, memory.data() + at, n);
                builder.read("a", at, read.data(), n);
                CHECK(std::equal(read.begin(), read.begin() + static_cast<ptrdiff_t>(n), memory.data() + at));
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    size_t checkpoints = 0;
    builder.commit([&] { ++checkpoints; });
    CHECK(checkpoints >= 6);
    const Bytes built = read_file(path);
    nearfield::write_container(
        path, {{"a", TensorType::u8, {bytes}, {memory}}, {"zeros", TensorType::i8, {zeros.size()}, {zeros}}}, {});
    CHECK(built == read_file(path));
}

void test_builder_arguments() {
    const TemporaryDirectory directory;
    const fs::path path = directory.path / "built";
    const auto plan = [&](const std::vector<TensorPlan>& tensors, const Metadata& metadata) {
        return rejects([&] { const ContainerBuilder builder(path, tensors, metadata); });
    };
    const TensorPlan tensor{"t", TensorType::u16, {3}};
    CHECK(!plan({tensor}, {}));
    CHECK(plan({tensor, tensor}, {}));
    CHECK(plan({{"_pad0", TensorType::u8, {1}}}, {}));
    CHECK(plan({{"t", TensorType::u8, {1ull << 62, 4}}}, {}));
    CHECK(plan({tensor}, {{"checksum", ""}}));

    ContainerBuilder builder(path, {tensor, {"padded", TensorType::u8, {100}}, {"last", TensorType::u8, {1}}}, {});
    std::byte bytes[8] = {};
    const auto wrong = [&](std::string_view name, uint64_t offset, size_t n) {
        const bool to_write = rejects([&] { builder.write(name, offset, bytes, n); });
        CHECK(rejects([&] { builder.read(name, offset, bytes, n); }) == to_write);
        return to_write;
    };
    CHECK(!wrong("t", 6, 0) && !wrong("t", 0, 6) && !wrong("last", 0, 1));
    CHECK(wrong("t", 0, 7) && wrong("t", 7, 0) && wrong("t", 5, 2) && wrong("t", ~0ull, 2) && wrong("last", 1, 1));
    CHECK(wrong("u", 0, 1) && wrong("_pad0", 0, 1) && wrong("", 0, 0));
    const fs::path missing = directory.path / "missing" / "file";
    CHECK(system_error_of([&] { const ContainerBuilder other(missing, {}, {}); }, missing) == ENOENT);
    CHECK(system_error_of([&] { const ContainerBuilder other(directory.path, {}, {}); }, directory.path) == EISDIR);
}

// Nothing stays of a file that was not finished, and the old one stays as it was.
void test_builder_without_commit() {
    const TemporaryDirectory directory;
    const fs::path path = directory.path / "built";
    const Sample old_sample(14), sample(15, 1999);
    for (bool exists : {false, true}) {
        if (exists) nearfield::write_container(path, old_sample.tensors, old_sample.metadata);
        {
            ContainerBuilder builder(path, plans_of(sample), sample.metadata);
            build(builder, sample, 1);
            CHECK(directory.files() == (exists ? 2 : 1));
        }
        CHECK(directory.files() == (exists ? 1 : 0));
        for (int call : {1, 2}) {
            ContainerBuilder builder(path, plans_of(sample), sample.metadata);
            build(builder, sample, 2);
            bool caught = false;
            int calls = 0;
            try {
                builder.commit([&] {
                    if (++calls == call) throw 1;
                });
            } catch (int) {
                caught = true;
            }
            CHECK(caught && fs::exists(path) == exists);
        }
        CHECK(directory.files() == (exists ? 1 : 0));
        if (exists) CHECK(holds(*Container::open(path, false, true), old_sample));
    }
    // A commit that was interrupted can be made again.
    ContainerBuilder builder(path, plans_of(sample), sample.metadata);
    build(builder, sample, 3);
    bool caught = false;
    try {
        builder.commit([] { throw 1; });
    } catch (int) {
        caught = true;
    }
    builder.commit();
    CHECK(caught && read_file(path) == sample.bytes());
}

// Whether the last call of a save syncs the directory, when the new file is in place.
#ifdef _WIN32
constexpr bool kSyncsDirectory = false;
#else
constexpr bool kSyncsDirectory = true;
#endif

// Every way to put the sample into a new file at `path` or in place of an old one.
void save_at_once(const fs::path& path, const Sample& sample) {
    nearfield::write_container(path, sample.tensors, sample.metadata);
}
void save_in_pieces(const fs::path& path, const Sample& sample) {
    ContainerBuilder builder(path, plans_of(sample), sample.metadata);
    build(builder, sample, 7);
    builder.commit();
}

void test_failing_saves(void (*save_sample)(const fs::path& path, const Sample& sample)) {
    const TemporaryDirectory directory;
    const fs::path path = directory.path / "index";
    const Sample old_sample(11), new_sample(12, 1500);
    const auto save = [&](const Sample& sample) { save_sample(path, sample); };

    storage::set_fault(storage::Fault::fail);
    save(new_sample);
    const uint64_t calls = storage::fault_calls();
    CHECK(calls > 5);
    for (uint64_t call = 1; call <= calls; ++call) {
        for (bool exists : {false, true}) {
            storage::set_fault(storage::Fault::off);
            fs::remove(path);
            if (exists) save(old_sample);
            storage::set_fault(storage::Fault::fail, call, ENOSPC);
            CHECK(system_error_of([&] { save(new_sample); }, path) == ENOSPC);
            CHECK(storage::fault_calls() == call);
            storage::set_fault(storage::Fault::off);
            const bool replaced = kSyncsDirectory && call == calls;
            CHECK(directory.files() == (exists || replaced ? 1 : 0));
            if (exists || replaced)
                CHECK(holds(*Container::open(path, false, true), replaced ? new_sample : old_sample));
        }
    }
#ifndef _WIN32
    for (uint64_t call = 1; call <= calls + 1; ++call) {
        save(old_sample);
        const pid_t child = fork();
        if (child == 0) {
            storage::set_fault(storage::Fault::kill, call);
            save(new_sample);
            _exit(0);
        }
        int status = 0;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
        CHECK(WEXITSTATUS(status) == (call <= calls ? storage::kKilled : 0));
        CHECK(holds(*Container::open(path, false, true), call < calls ? old_sample : new_sample));
    }
#endif
}

void test_throwing_sink() {
    const Sample sample(12);
    bool caught = false;
    try {
        nearfield::write_container([](const std::byte*, size_t) { throw 1; }, sample.tensors, sample.metadata);
    } catch (int) {
        caught = true;
    }
    CHECK(caught);
}

}  // namespace

int main(int argc, char** argv) {
    const size_t fuzz_rounds = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 5000;
    test_checksum();
    test_round_trip();
    test_alignment();
    test_other_writers();
    test_wrong_arguments();
    test_format_version();
    test_hostile_headers();
    test_truncation();
    test_flipped_bytes();
    fuzz_headers(fuzz_rounds);
    test_system_errors();
#ifndef _WIN32
    test_links_and_mode();
#endif
    test_builder();
    test_builder_arguments();
    test_builder_without_commit();
    test_failing_saves(save_at_once);
    test_failing_saves(save_in_pieces);
    test_throwing_sink();
    return 0;
}
