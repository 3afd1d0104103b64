// Every kernel of every level that this CPU offers, against float64 arithmetic written out here. Those of codes are in
// test_code_kernels.cpp.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "kernel_checks.hpp"

using namespace nearfield::kernels;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr size_t kDims[] = {1,  2,  3,  4,  5,  6,  7,  8,  9,  10, 11,  12,  13,  14,
                            15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 384, 768, 1536};
constexpr size_t kCounts[] = {0, 1, 2, 3, 4, 5, 7, 8, 9, 33};
constexpr size_t kRows = 33;

// ---------------------------------------------------------------------------------------------------------------------
// Element types
// ---------------------------------------------------------------------------------------------------------------------

// A 16-bit float, by the definition of its fields.
struct Format {
    int exponent_bits, mantissa_bits;

    int bias() const { return (1 << (exponent_bits - 1)) - 1; }
    int infinity() const { return ((1 << exponent_bits) - 1) << mantissa_bits; }
    double decode(uint16_t bits) const {
        const double sign = bits >> 15 ? -1.0 : 1.0;
        const int exponent = (bits & 0x7fff) >> mantissa_bits, mantissa = bits & ((1 << mantissa_bits) - 1);
        if ((bits & 0x7fff) > infinity()) return std::numeric_limits<double>::quiet_NaN();
        if ((bits & 0x7fff) == infinity()) return sign * std::numeric_limits<double>::infinity();
        const int implicit = exponent == 0 ? 0 : 1 << mantissa_bits;
        return sign * std::ldexp(implicit + mantissa, std::max(exponent, 1) - bias() - mantissa_bits);
    }
    // Nearest, ties to even. Counts of the last place run on from one binade to the next, and into infinity.
    uint16_t encode(double value) const {
        const double magnitude = std::abs(value);
        int bits = infinity();
        if (magnitude < std::ldexp(1.0, bias() + 1)) {
            const int smallest = 1 - bias(), exponent = magnitude == 0 ? smallest : std::ilogb(magnitude);
            const int binade = std::max(exponent, smallest);
            const double places = std::nearbyint(std::ldexp(magnitude, mantissa_bits - binade));
            bits = ((binade - smallest) << mantissa_bits) + static_cast<int>(places);
        }
        return static_cast<uint16_t>((std::signbit(value) ? 0x8000 : 0) | bits);
    }
};
constexpr Format kHalf{5, 10}, kBfloat{8, 7};

constexpr size_t kBytes[kElementTypes] = {4, 2, 2, 1, 1};

const Format& format(int type) { return type == kF16 ? kHalf : kBfloat; }

double decode(int type, const uint8_t* at) {
    if (type == kI8) return static_cast<int8_t>(*at);
    if (type == kU8) return *at;
    if (type == kF32) {
        float value;
        std::memcpy(&value, at, 4);
        return value;
    }
    uint16_t bits;
    std::memcpy(&bits, at, 2);
    return format(type).decode(bits);
}

// Random elements side by side. Integers are often at the ends of their range.
std::vector<uint8_t> random_elements(int type, size_t n) {
    std::vector<uint8_t> out(n * kBytes[type]);
    for (size_t i = 0; i < n; ++i) {
        uint8_t* at = out.data() + i * kBytes[type];
        const float value = normal();
        const uint16_t bits = format(type).encode(value);
        const auto any = static_cast<uint8_t>(random_bits());
        constexpr uint8_t kEnds[] = {0x80, 0x7f, 0xff, 0x00};
        if (type == kF32) {
            std::memcpy(at, &value, 4);
        } else if (type == kF16 || type == kBF16) {
            std::memcpy(at, &bits, 2);
        } else {
            *at = any % 3 == 0 ? any : kEnds[any % 4];
        }
    }
    return out;
}

// ---------------------------------------------------------------------------------------------------------------------
// Kernels on rows
// ---------------------------------------------------------------------------------------------------------------------

// What the kernels should find for one row, and the sums of magnitudes that rounding errors are proportional to.
struct Expected {
    double dot = 0, norm = 0, distance = 0, magnitude = 0;
    void add(double q, double x) {
        dot += q * x;
        norm += x * x;
        distance += (q - x) * (q - x);
        magnitude += std::abs(q * x);
    }
};

void check_scores(const KernelTable* table, int type, Guarded<float>& query, Guarded<int8_t>& integer_query,
                  const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
                  const std::vector<Expected>& expected) {
    const DenseKernels& kernel = table->dense[type];
    if (type == kI8 || type == kU8) {
        Guarded<int32_t> dot(n), dot_only(n);
        Guarded<uint32_t> squared(n);
        kernel.integer_dot(integer_query.data(), data, stride, rows, n, dim, dot.data(), squared.data());
        kernel.integer_dot(integer_query.data(), data, stride, rows, n, dim, dot_only.data(), nullptr);
        for (size_t i = 0; i < n; ++i) {
            check_that(dot[i] == expected[i].dot, table, "integer_dot", dim, i);
            check_that(dot_only[i] == expected[i].dot, table, "integer_dot without lengths", dim, i);
            check_that(squared[i] == expected[i].norm, table, "squared length", dim, i);
        }
        return;
    }
    Guarded<float> dot(n), dot_only(n), squared(n), distance(n);
    kernel.dot(query.data(), data, stride, rows, n, dim, dot.data(), squared.data());
    kernel.dot(query.data(), data, stride, rows, n, dim, dot_only.data(), nullptr);
    kernel.l2(query.data(), data, stride, rows, n, dim, distance.data());
    const double rounding = std::ldexp(static_cast<double>(dim + 4), -24);
    for (size_t i = 0; i < n; ++i) {
        const Expected& x = expected[i];
        // With bfloat16 instructions the query has 16 significant bits.
        const double tolerance = x.magnitude * (rounding + (type == kBF16 ? 0x1p-16 : 0));
        check_that(near(dot[i], x.dot, tolerance), table, "dot", dim, i);
        check_that(near(dot_only[i], x.dot, tolerance), table, "dot without lengths", dim, i);
        check_that(near(squared[i], x.norm, x.norm * rounding), table, "squared length", dim, i);
        check_that(near(distance[i], x.distance, x.distance * rounding), table, "l2", dim, i);
    }
}

void test_scores(int type) {
    for (const size_t dim : kDims) {
        const size_t row_bytes = dim * kBytes[type];
        const std::vector<uint8_t> elements = random_elements(type, kRows * dim);
        Guarded<float> query(dim);
        Guarded<int8_t> integer_query(dim);
        const std::vector<uint8_t> integers = random_elements(kI8, dim);
        std::vector<Expected> all(kRows);
        for (size_t d = 0; d < dim; ++d) {
            query[d] = normal();
            integer_query[d] = static_cast<int8_t>(integers[d]);
            const double q = type == kI8 || type == kU8 ? integer_query[d] : query[d];
            for (size_t i = 0; i < kRows; ++i) {
                all[i].add(q, decode(type, elements.data() + i * row_bytes + d * kBytes[type]));
            }
        }
        for (const size_t n : kCounts) {
            for (const size_t stride : {row_bytes, row_bytes + 5}) {
                for (const size_t shift : {0, 1}) {
                    Guarded<uint8_t> data(n == 0 ? 0 : (n - 1) * stride + row_bytes, shift);
                    for (size_t i = 0; i < n; ++i) {
                        std::memcpy(data.data() + i * stride, elements.data() + i * row_bytes, row_bytes);
                    }
                    Guarded<uint32_t> rows(n);
                    std::vector<Expected> listed(n);
                    for (size_t i = 0; i < n; ++i) {
                        rows[i] = static_cast<uint32_t>(random_bits() % n);
                        listed[i] = all[rows[i]];
                    }
                    for (const KernelTable* table : levels()) {
                        check_scores(table, type, query, integer_query, data.data(), stride, nullptr, n, dim, all);
                        check_scores(table, type, query, integer_query, data.data(), stride, rows.data(), n, dim,
                                     listed);
                    }
                }
            }
        }
    }
}

void test_one_row(int type) {
    for (const size_t dim : kDims) {
        const std::vector<uint8_t> elements = random_elements(type, dim);
        for (const size_t shift : {0, 1}) {
            Guarded<uint8_t> row(elements.size(), shift);
            std::copy(elements.begin(), elements.end(), row.data());
            Guarded<float> query(dim);
            const float scale = 0.3f;
            Expected expected;
            for (size_t d = 0; d < dim; ++d) {
                query[d] = normal();
                const auto element = static_cast<float>(decode(type, elements.data() + d * kBytes[type]));
                const float x = scale * element;
                expected.add(query[d], x);
            }
            const double rounding = std::ldexp(static_cast<double>(dim + 4), -53);
            for (const KernelTable* table : levels()) {
                Guarded<double> settled(3);
                table->dense[type].settle(query.data(), row.data(), scale, dim, settled.data());
                const bool right = near(settled[0], expected.dot, expected.magnitude * rounding) &&
                                   near(settled[1], expected.norm, expected.norm * rounding) &&
                                   near(settled[2], expected.distance, expected.distance * rounding);
                check_that(right, table, "settle", dim);
                Guarded<float> decoded(dim);
                table->dense[type].decode(row.data(), dim, decoded.data());
                for (size_t d = 0; d < dim; ++d) {
                    check_that(decoded[d] == decode(type, elements.data() + d * kBytes[type]), table, "decode", dim, d);
                }
                if (type == kI8 || type == kU8) continue;
                Guarded<uint8_t> encoded(elements.size(), shift);  // what was decoded is encoded as it was
                table->dense[type].encode(decoded.data(), dim, encoded.data());
                const bool same = std::memcmp(encoded.data(), elements.data(), elements.size()) == 0;
                check_that(same, table, "encode", dim);
            }
        }
    }
}

// All values of a 16-bit float, and what lies at, below and above the middle of each and the next.
void test_conversions(int type) {
    std::vector<uint16_t> all(1 << 16);
    std::vector<float> values;
    for (size_t bits = 0; bits < all.size(); ++bits) {
        all[bits] = static_cast<uint16_t>(bits);
        const double value = format(type).decode(all[bits]);
        values.push_back(static_cast<float>(value));
        if ((bits & 0x7fff) >= static_cast<size_t>(format(type).infinity())) continue;
        double next = format(type).decode(static_cast<uint16_t>(bits + 1));
        if (std::isinf(next))
            next = std::copysign(std::ldexp(1.0, format(type).bias() + 1), next);  // were there one more
        const auto middle = static_cast<float>((value + next) / 2);
        values.insert(values.end(), {middle, std::nextafter(middle, 0.0f), std::nextafter(middle, 2 * middle)});
    }
    constexpr float kLargest = std::numeric_limits<float>::max(), kSmallest = std::numeric_limits<float>::denorm_min();
    values.insert(values.end(), {kLargest, -kLargest, kSmallest, -kSmallest, kInfinity, -kInfinity});
    for (const KernelTable* table : levels()) {
        const DenseKernels& kernel = table->dense[type];
        std::vector<float> decoded(all.size());
        kernel.decode(reinterpret_cast<const uint8_t*>(all.data()), all.size(), decoded.data());
        for (size_t i = 0; i < all.size(); ++i) {
            const double wanted = format(type).decode(all[i]);
            const bool right = std::isnan(wanted)
                                   ? std::isnan(decoded[i])
                                   : decoded[i] == wanted && std::signbit(decoded[i]) == std::signbit(wanted);
            check_that(right, table, "decode of pattern", all.size(), i);
        }
        std::vector<uint16_t> encoded(values.size());
        kernel.encode(values.data(), values.size(), reinterpret_cast<uint8_t*>(encoded.data()));
        for (size_t i = 0; i < values.size(); ++i) {
            const bool right = std::isnan(values[i]) ? std::isnan(format(type).decode(encoded[i]))
                                                     : encoded[i] == format(type).encode(values[i]);
            check_that(right, table, "encode of value", values.size(), i);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// quantize
// ---------------------------------------------------------------------------------------------------------------------

void check_quantize(const std::vector<float>& values, int limit) {
    const size_t dim = values.size();
    Guarded<float> vector(values);
    float largest = 0;
    double length = 0;
    for (const float x : values) {
        largest = std::max(largest, std::abs(x));
        length += static_cast<double>(x) * x;
    }
    length = std::sqrt(length);
    for (const KernelTable* table : levels()) {
        Guarded<int8_t> code(dim);
        Guarded<float> out(3);
        table->quantize(vector.data(), dim, limit, code.data(), out.data());
        const double scale = out[0];
        check_that(out[0] == largest / static_cast<float>(limit), table, "scale of quantize", dim);
        double error = 0, norm = 0;
        for (size_t d = 0; d < dim; ++d) {
            check_that(std::abs(code[d]) <= limit, table, "limit of quantize", dim, d);
            if (out[0] >= std::numeric_limits<float>::min()) {
                check_that(near(values[d] / scale, code[d], 0.5001), table, "code of quantize", dim, d);
            } else {
                check_that(code[d] == 0, table, "code for a vanishing scale", dim, d);
            }
            const double value = scale * code[d];
            error += (values[d] - value) * (values[d] - value);
            norm += value * value;
        }
        error = std::sqrt(error);
        norm = std::sqrt(norm);
        check_that(out[1] >= error && out[2] >= norm, table, "bound of quantize", dim);
        if (length < 1e18) {  // from there on squares overflow, and the bounds may
            const double loose = length * 0x1p-22 + 1e-20;
            const double up = 1 + std::ldexp(static_cast<double>(dim + 16), -22);
            check_that(out[1] <= error * up + loose && out[2] <= norm * up + loose, table, "looseness of quantize",
                       dim);
        }
    }
}

void test_quantize() {
    for (const int limit : {127, 63}) {
        for (const size_t dim : kDims) {
            std::vector<float> values(dim);
            for (const float scale : {0.0f, 1.0f, 3e-5f, 1e-20f, 1e-30f, 1e-37f, 1e-41f, 1e10f, 1e19f, 1e36f}) {
                for (float& x : values) x = scale * normal();
                check_quantize(values, limit);
                for (float& x : values) x = scale * static_cast<float>(random_bits() % 255);  // on or near the codes
                check_quantize(values, limit);
                std::fill(values.begin(), values.end(), 0.0f);
                values[dim / 2] = -scale;
                check_quantize(values, limit);
                std::fill(values.begin(), values.end(), scale);
                check_quantize(values, limit);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Tiles
// ---------------------------------------------------------------------------------------------------------------------

struct TileCase {
    size_t dim, width;
    Guarded<float> factors, scale, slack, bound;
    Guarded<int32_t> bias;
    float norm_ratio = 0.01f;
    std::vector<double> dots, magnitudes;  // [width][kGroup]: less the bias, and what rounding is proportional to

    TileCase(size_t dim_, size_t width_)
        : dim(dim_),
          width(width_),
          factors(kGroupFactors),
          scale(width),
          slack(width),
          bound(width),
          bias(width),
          dots(width * kGroup),
          magnitudes(width * kGroup) {
        for (size_t i = 0; i < kGroupFactors; ++i) factors[i] = i < 2 * kGroup ? normal() : std::abs(normal());
        for (size_t q = 0; q < width; ++q) {
            scale[q] = normal();
            slack[q] = std::abs(normal());
            bias[q] = 0;
        }
    }

    double low(size_t q, size_t i, double* tolerance) {
        const double mul = factors[i], add = factors[kGroup + i], err = factors[2 * kGroup + i];
        const double norm = factors[3 * kGroup + i], extra = slack[q] * (err + norm_ratio * norm);
        *tolerance =
            std::abs(scale[q] * mul) * magnitudes[q * kGroup + i] * std::ldexp(static_cast<double>(dim + 8), -24) +
            0x1p-21 * (std::abs(add) + std::abs(scale[q] * mul * dots[q * kGroup + i]) + std::abs(extra));
        return add - scale[q] * (mul * dots[q * kGroup + i]) - extra;
    }

    // A bound for each query with about half of the documents on either side; all or none survive for some queries.
    void choose_bounds() {
        for (size_t q = 0; q < width; ++q) {
            std::vector<double> lows;
            double tolerance;
            for (size_t i = 0; i < kGroup; ++i) lows.push_back(low(q, i, &tolerance));
            std::sort(lows.begin(), lows.end());
            const double spread = std::abs(lows.front()) + std::abs(lows.back()) + 1;
            const double bounds[] = {lows[kGroup / 2], lows.front() - spread, lows.back() + spread, lows[2]};
            bound[q] = static_cast<float>(bounds[(q + dim) % 4]);
        }
    }

    template <class Kernel, class Codes>
    void check(const KernelTable* table, const char* what, Kernel kernel, const Codes* codes, const void* queries) {
        const Tile tile{width, queries, bias.data(), scale.data(), slack.data(), bound.data(), norm_ratio};
        Guarded<uint32_t> survivors(width);
        Guarded<float> lows(width * kGroup);
        const uint32_t hit = kernel(codes, factors.data(), dim, &tile, survivors.data(), lows.data());
        check_that(hit >> width == 0, table, what, dim, width);
        for (size_t q = 0; q < width; ++q) {
            const bool some = hit >> q & 1;
            if (some) check_that(survivors[q] != 0, table, what, dim, q);
            for (size_t i = 0; i < kGroup; ++i) {
                const bool survives = some && (survivors[q] >> i & 1);
                double tolerance;
                const double wanted = low(q, i, &tolerance);
                if (some) {
                    const float got = lows[q * kGroup + i];
                    check_that(std::isnan(wanted) ? std::isnan(got) : got == wanted || near(got, wanted, tolerance),
                               table, what, dim, q * kGroup + i);
                    check_that(survives == !(got > bound[q]), table, what, dim, q * kGroup + i);
                } else {
                    check_that(wanted > bound[q] - tolerance, table, what, dim, q * kGroup + i);
                }
            }
        }
    }
};

void test_tile_f32(size_t dim, size_t width) {
    TileCase tile(dim, width);
    Guarded<float> codes(dim * kGroup), queries(dim * width);
    for (size_t i = 0; i < dim * kGroup; ++i) codes[i] = normal();
    for (size_t i = 0; i < dim * width; ++i) queries[i] = normal();
    const auto multiply = [&] {
        for (size_t q = 0; q < width; ++q) {
            for (size_t i = 0; i < kGroup; ++i) {
                Expected expected;
                for (size_t d = 0; d < dim; ++d) expected.add(queries[d * width + q], codes[d * kGroup + i]);
                tile.dots[q * kGroup + i] = expected.dot;
                tile.magnitudes[q * kGroup + i] = expected.magnitude;
            }
        }
    };
    const auto check = [&] {
        for (const KernelTable* table : levels()) {
            tile.check(table, "tile_f32", table->tile.f32, codes.data(), queries.data());
        }
    };
    multiply();
    tile.choose_bounds();
    check();
    // A NaN anywhere survives, an infinite slack lets everything survive, and a bound of -infinity lets nothing.
    tile.bound[width - 1] = kNaN;
    tile.factors[kGroup + 7] = kNaN;
    codes[dim * kGroup - 1] = kNaN;
    multiply();
    check();
    queries[width - 1] = kNaN;
    tile.slack[0] = kInfinity;
    multiply();
    check();
    tile.bound[0] = -kInfinity;
    check();
}

void test_tile_u8(size_t dim, size_t width, bool extremes) {
    const size_t padded = (dim + 3) / 4 * 4;
    for (const size_t shift : {0, 1}) {
        TileCase tile(dim, width);
        for (const KernelTable* table : levels()) {
            const int limit = table->tile.query_limit;
            Guarded<uint8_t> codes(padded * kGroup, shift);
            Guarded<int8_t> queries(padded * width, shift);
            const auto code = [&](size_t d, size_t i) -> uint8_t& { return codes[(d / 4 * kGroup + i) * 4 + d % 4]; };
            const auto query = [&](size_t d, size_t q) -> int8_t& { return queries[(d / 4 * width + q) * 4 + d % 4]; };
            for (size_t q = 0; q < width; ++q) {
                const int sign = q % 2 ? -1 : 1;
                int sum = 0;
                for (size_t d = 0; d < padded; ++d) {
                    const int value =
                        extremes ? sign * limit : static_cast<int>(random_bits() % (2 * limit + 1)) - limit;
                    query(d, q) = static_cast<int8_t>(d < dim ? value : 0);
                    sum += query(d, q);
                }
                const int32_t biases[] = {128 * sum, 0, -77};  // signed codes, unsigned codes, any other
                tile.bias[q] = biases[(q + dim) % 3];
            }
            for (size_t i = 0; i < kGroup; ++i) {
                for (size_t d = 0; d < padded; ++d) {
                    const int value = extremes ? (i % 2 ? 255 : 0) : static_cast<int>(random_bits() % 256);
                    code(d, i) = static_cast<uint8_t>(d < dim ? value : 128);
                }
                for (size_t q = 0; q < width; ++q) {
                    double dot = -tile.bias[q];
                    for (size_t d = 0; d < padded; ++d) dot += query(d, q) * code(d, i);
                    tile.dots[q * kGroup + i] = dot;  // exact; only its conversion to float32 is rounded
                }
            }
            tile.choose_bounds();
            tile.check(table, "tile_u8", table->tile.u8, codes.data(), queries.data());
            tile.bound[width - 1] = kNaN;
            tile.check(table, "tile_u8 with a NaN bound", table->tile.u8, codes.data(), queries.data());
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Bits
// ---------------------------------------------------------------------------------------------------------------------

// Lengths of rows in bytes: all short ones, and some of which every level has its own loop.
std::vector<size_t> bit_lengths() {
    std::vector<size_t> out;
    for (size_t bytes = 1; bytes <= 140; ++bytes) out.push_back(bytes);
    out.insert(out.end(), {191, 192, 200, 256, 257, 320, 384, 511, 512, 1000, 1250, 4099, 12500});
    return out;
}

// Random bytes, a few of which are all ones.
std::vector<uint8_t> random_codes(size_t n) {
    std::vector<uint8_t> out(n);
    for (uint8_t& byte : out) byte = random_bits() % 4 == 0 ? 0xff : static_cast<uint8_t>(random_bits());
    return out;
}

void test_bit_counts(size_t bytes) {
    constexpr size_t kNumbers[] = {0, 1, 2, 3, 5, 7, 8, 9, 12, 15, 16, 17, 33};
    const std::vector<uint8_t> codes = random_codes(kRows * bytes);
    for (const bool at_start : {false, true}) {
        for (const size_t shift : {0, 1}) {
            Guarded<uint8_t> query(bytes, shift, at_start);
            const std::vector<uint8_t> query_codes = random_codes(bytes);
            std::copy(query_codes.begin(), query_codes.end(), query.data());
            std::vector<uint32_t> expected[2];  // of AND, of XOR
            for (size_t i = 0; i < kRows; ++i) {
                uint32_t both = 0, different = 0;
                for (size_t b = 0; b < bytes; ++b) {
                    const unsigned q = query[b], x = codes[i * bytes + b];
                    both += static_cast<uint32_t>(std::popcount(q & x));
                    different += static_cast<uint32_t>(std::popcount(q ^ x));
                }
                expected[0].push_back(both);
                expected[1].push_back(different);
            }
            for (const size_t n : kNumbers) {
                for (const size_t stride : {bytes, bytes + 5}) {
                    Guarded<uint8_t> data(n == 0 ? 0 : (n - 1) * stride + bytes, shift, at_start);
                    Guarded<uint32_t> rows(n), found(n);
                    for (size_t i = 0; i < n; ++i) {
                        std::memcpy(data.data() + i * stride, codes.data() + i * bytes, bytes);
                        rows[i] = static_cast<uint32_t>(random_bits() % n);
                    }
                    for (const KernelTable* table : levels()) {
                        for (const bool exclusive : {false, true}) {
                            const auto kernel = exclusive ? table->bits.xor_counts : table->bits.and_counts;
                            const char* name = exclusive ? "xor_counts" : "and_counts";
                            kernel(query.data(), data.data(), stride, nullptr, n, bytes, found.data());
                            for (size_t i = 0; i < n; ++i) {
                                check_that(found[i] == expected[exclusive][i], table, name, bytes, i);
                            }
                            kernel(query.data(), data.data(), stride, rows.data(), n, bytes, found.data());
                            for (size_t i = 0; i < n; ++i) {
                                check_that(found[i] == expected[exclusive][rows[i]], table, name, bytes, i);
                            }
                        }
                    }
                }
            }
        }
    }
}

void test_interleave(size_t bytes) {
    const size_t words = (bytes + 7) / 8;
    const std::vector<uint8_t> codes = random_codes(kGroup * bytes);
    for (const bool at_start : {false, true}) {
        for (const size_t n : {size_t{0}, size_t{1}, size_t{7}, size_t{8}, size_t{9}, size_t{31}, kGroup}) {
            for (const size_t stride : {bytes, bytes + 5}) {
                Guarded<uint8_t> data(n == 0 ? 0 : (n - 1) * stride + bytes, 0, at_start);
                for (size_t i = 0; i < n; ++i) {
                    std::memcpy(data.data() + i * stride, codes.data() + i * bytes, bytes);
                }
                Guarded<uint64_t> out(words * kGroup, 0, at_start);
                for (const KernelTable* table : levels()) {
                    std::fill_n(out.data(), words * kGroup, ~uint64_t{0});
                    table->bits.interleave(data.data(), stride, n, bytes, out.data());
                    for (size_t i = 0; i < kGroup; ++i) {
                        std::vector<uint8_t> row(words * 8);
                        if (i < n) std::copy_n(codes.begin() + static_cast<ptrdiff_t>(i * bytes), bytes, row.begin());
                        for (size_t w = 0; w < words; ++w) {
                            const bool same = std::memcmp(&out[w * kGroup + i], row.data() + w * 8, 8) == 0;
                            check_that(same, table, "interleave", bytes, i);
                        }
                    }
                }
            }
        }
    }
}

Guarded<uint64_t> random_words(size_t n) {
    const std::vector<uint8_t> bytes = random_codes(n * 8);
    std::vector<uint64_t> words(n);
    std::memcpy(words.data(), bytes.data(), bytes.size());
    return Guarded<uint64_t>(words);
}

void test_hamming_tile(size_t words, size_t width) {
    Guarded<uint64_t> codes = random_words(words * kGroup), queries = random_words(words * width);
    if (words % 2 == 1) {  // the largest distance
        for (size_t w = 0; w < words; ++w) {
            codes[w * kGroup + 5] = 0;
            queries[w * width] = ~uint64_t{0};
        }
    }
    std::vector<std::vector<int32_t>> expected(width, std::vector<int32_t>(kGroup));
    for (size_t q = 0; q < width; ++q) {
        for (size_t i = 0; i < kGroup; ++i) {
            for (size_t w = 0; w < words; ++w) {
                expected[q][i] += std::popcount(codes[w * kGroup + i] ^ queries[w * width + q]);
            }
        }
    }
    for (int choice = 0; choice < 7; ++choice) {
        Guarded<int32_t> most(width);
        for (size_t q = 0; q < width; ++q) {
            std::vector<int32_t> sorted = expected[q];
            std::sort(sorted.begin(), sorted.end());
            const int32_t bounds[] = {-1,
                                      sorted[0] - 1,
                                      sorted[0],
                                      sorted[kGroup / 2],
                                      sorted[kGroup - 1] - 1,
                                      sorted[kGroup - 1],
                                      std::numeric_limits<int32_t>::max()};
            most[q] = bounds[(static_cast<size_t>(choice) + (choice < 2 ? 0 : 3 * q)) % 7];  // first none, for all
        }
        for (const KernelTable* table : levels()) {
            Guarded<uint32_t> survivors(width), counts(width * kGroup);
            const uint32_t hit = table->bits.hamming_tile(codes.data(), words, queries.data(), width, most.data(),
                                                          survivors.data(), counts.data());
            check_that(hit >> width == 0, table, "hamming_tile", words * 8, width);
            for (size_t q = 0; q < width; ++q) {
                const bool some = hit >> q & 1;
                uint32_t wanted = 0;
                for (size_t i = 0; i < kGroup; ++i) {
                    if (expected[q][i] <= most[q]) wanted |= 1u << i;
                    if (!some) continue;
                    const bool right = counts[q * kGroup + i] == static_cast<uint32_t>(expected[q][i]);
                    check_that(right, table, "count of hamming_tile", words * 8, q * kGroup + i);
                }
                check_that(some ? survivors[q] == wanted : wanted == 0, table, "hamming_tile", words * 8, q);
            }
        }
    }
}

void test_planes(size_t words, size_t doc_planes, size_t query_planes, bool exclusive) {
    Guarded<uint64_t> codes = random_words(doc_planes * words * kGroup), queries = random_words(words * query_planes);
    Guarded<float> factors(2 * kGroup), weight(doc_planes * query_planes);
    for (size_t i = 0; i < 2 * kGroup; ++i) factors[i] = normal();
    for (size_t i = 0; i < doc_planes * query_planes; ++i) weight[i] = normal();
    std::vector<double> expected(kGroup), tolerance(kGroup);
    const float offset = 100 * normal(), tilt = normal();
    for (size_t i = 0; i < kGroup; ++i) {
        double sum = offset, magnitude = std::abs(offset);
        for (size_t t = 0; t < doc_planes; ++t) {
            for (size_t p = 0; p < query_planes; ++p) {
                int count = 0;
                for (size_t w = 0; w < words; ++w) {
                    const uint64_t x = codes[(t * words + w) * kGroup + i], q = queries[w * query_planes + p];
                    count += std::popcount(exclusive ? x ^ q : x & q);
                }
                const double term = double{weight[t * query_planes + p]} * count;
                sum += term;
                magnitude += std::abs(term);
            }
        }
        const double extra = double{tilt} * factors[kGroup + i];
        expected[i] = factors[i] * sum + extra;
        tolerance[i] = std::ldexp(static_cast<double>(doc_planes * query_planes + 4), -24) *
                       (std::abs(factors[i]) * magnitude + std::abs(extra));
    }
    std::vector<double> sorted = expected;
    std::sort(sorted.begin(), sorted.end());
    for (const float bound : {static_cast<float>(sorted[kGroup / 2]), -kInfinity, kInfinity, kNaN}) {
        const BitPlanes planes{words,  doc_planes, query_planes, queries.data(), weight.data(),
                               offset, tilt,       bound,        exclusive};
        for (const KernelTable* table : levels()) {
            Guarded<float> low(kGroup);
            const uint32_t survivors = table->bits.planes(codes.data(), factors.data(), &planes, low.data());
            for (size_t i = 0; i < kGroup; ++i) {
                check_that(near(low[i], expected[i], tolerance[i]), table, "planes", words * 8, i);
                check_that((survivors >> i & 1) == !(low[i] > bound), table, "survivors of planes", words * 8, i);
            }
        }
    }
    factors[3] = kNaN;
    const BitPlanes planes{words,  doc_planes, query_planes, queries.data(), weight.data(),
                           offset, tilt,       -kInfinity,   exclusive};
    for (const KernelTable* table : levels()) {
        Guarded<float> low(kGroup);
        check_that(table->bits.planes(codes.data(), factors.data(), &planes, low.data()) == 1u << 3, table,
                   "survival of a NaN", words * 8);
    }
}

void test_bits() {
    for (const size_t bytes : bit_lengths()) {
        test_bit_counts(bytes);
        test_interleave(bytes);
    }
    for (const size_t words : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 31, 32, 33, 48, 63, 65, 157, 1563}) {
        for (size_t width = 1; width <= kBitTile; ++width) test_hamming_tile(words, width);
        for (size_t doc_planes = 1; doc_planes <= (words > 100 ? 1 : 3); ++doc_planes) {
            for (size_t query_planes = 1; query_planes <= kBitPlanes; ++query_planes) {
                test_planes(words, doc_planes, query_planes, true);
                test_planes(words, doc_planes, query_planes, false);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Levels
// ---------------------------------------------------------------------------------------------------------------------

// Every slot that a level is meant to fill has an address of its own, and all others are those of a lower level.
void test_slots() {
    using Slots = std::set<std::string_view>;
    const Slots bits = {"bits_xor", "bits_and", "bits_select", "bits_interleave", "bits_hamming", "bits_planes"};
    Slots all = {"dot_f32",      "dot_f16",    "dot_bf16",    "dot_int8",   "dot_uint8",   "l2_f32",
                 "l2_f16",       "l2_bf16",    "settle_f32",  "settle_f16", "settle_bf16", "settle_int8",
                 "settle_uint8", "encode_f16", "encode_bf16", "quantize",   "tile_f32",    "tile_u8"};
    const Slots code_products = {"codes_dot2", "codes_dot4", "codes_dot8", "codes_row_dot"};
    const Slots code_floats = {"codes_estimate", "codes_nearest", "codes_hadamard"};
    const Slots code_sums = {"codes_sum4", "codes_sum8"}, selection = {"select_threshold", "select_keep"};
    all.insert("codes_sign_tables");
    for (const Slots& more : {bits, code_products, code_floats, code_sums, selection})
        all.insert(more.begin(), more.end());
    Slots wide = {"dot_f32",      "l2_f32",     "settle_f32",  "settle_f16", "settle_bf16", "settle_int8",
                  "settle_uint8", "encode_f16", "encode_bf16", "quantize",   "tile_f32"};
    for (const Slots& more : {code_floats, selection}) wide.insert(more.begin(), more.end());
    Slots integer_products = {"dot_int8", "dot_uint8", "tile_u8"};
    integer_products.insert(code_products.begin(), code_products.end());
    Slots bytes = {"codes_dot2", "codes_dot4"};
    for (const Slots& more : {bits, code_sums}) bytes.insert(more.begin(), more.end());
    Slots avx2 = all, neon = all;
    avx2.erase("codes_sum8");
    neon.erase("codes_sum8");
    for (const char* slot : {"bits_select", "codes_sign_tables", "select_threshold", "select_keep"}) neon.erase(slot);
    const std::map<std::string_view, Slots> filled = {
        {"scalar", all},      {"avx2", avx2},
        {"avx512", wide},     {"avx512vnni", integer_products},
        {"avx512icl", bytes}, {"avx512bf16", {"dot_bf16"}},
        {"neon", neon},       {"neondot", integer_products},
    };
    for (const KernelTable* table : levels()) {
        Slots named, own;
        for (const SlotLevel& slot : slots(*table)) {
            named.insert(slot.slot);
            if (slot.level == table->name) own.insert(slot.slot);
        }
        CHECK(named == all);
        if (own != filled.at(table->name)) {
            std::string list;
            for (const std::string_view slot : own) list.append(" ").append(slot);
            check_failed(__FILE__, __LINE__, std::string(table->name) + " fills" + list);
        }
    }
}

}  // namespace

int main() {
    for (const std::string_view name : available()) std::printf("%s ", std::string(name).c_str());
    std::printf("\n");
    test_slots();
    for (int type = 0; type < kElementTypes; ++type) {
        test_scores(type);
        test_one_row(type);
    }
    test_conversions(kF16);
    test_conversions(kBF16);
    test_quantize();
    for (const size_t dim : kDims) {
        for (size_t width = 1; width <= kTile; ++width) {
            test_tile_f32(dim, width);
            test_tile_u8(dim, width, false);
            test_tile_u8(dim, width, true);
        }
    }
    test_bits();
    return 0;
}
