// Every kernel on codes of every level that this CPU offers, against arithmetic written out here. All arrays end right
// before an unreadable page, or begin right behind one, so a kernel that reads or writes past an end crashes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "kernel_checks.hpp"

using namespace nearfield::kernels;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

template <class T>
void fill(Guarded<T>& out, size_t n, int low, int high) {
    std::uniform_int_distribution<int> any(low, high);
    for (size_t i = 0; i < n; ++i) out[i] = static_cast<T>(any(random_bits));
}

// ---------------------------------------------------------------------------------------------------------------------
// Groups
// ---------------------------------------------------------------------------------------------------------------------

// A group of random codes, its layout written out.
struct Group {
    size_t bits, units, places;  // places: codes of a unit
    Guarded<uint8_t> bytes;
    std::vector<size_t> codes;  // [units * places][kGroup]

    Group(size_t code_bits, size_t n, size_t shift, bool at_start, bool largest)
        : bits(code_bits),
          units(n),
          places(32 / code_bits),
          bytes(n * kGroup * 4, shift, at_start),
          codes(n * places * kGroup) {
        fill(bytes, units * kGroup * 4, largest ? 255 : 0, 255);
        for (size_t u = 0; u < units; ++u) {
            for (size_t i = 0; i < kGroup; ++i) {
                for (size_t code = 0; code < places; ++code) {
                    const size_t byte = bytes[(u * kGroup + i) * 4 + code % 4], low = code / 4 * bits;
                    codes[(u * places + code) * kGroup + i] = byte >> low & ((1u << bits) - 1);
                }
            }
        }
    }
};

void check_sums(const KernelTable* table, const std::string& kernel, const Group& group, size_t width,
                Guarded<int32_t>& sums, const std::vector<int64_t>& expected) {
    for (size_t i = 0; i < width * kGroup; ++i) {
        check_that(sums[i] == expected[i], table, kernel.c_str(), group.units, i);
    }
}

// Largest: the sums are as far from zero as they can be.
void test_dot(size_t bits, size_t units, size_t width, bool largest) {
    Group group(bits, units, units % 3, units % 2 == 0, largest);
    Guarded<uint8_t> levels(16);
    fill(levels, 16, largest ? 255 : 0, 255);
    for (size_t i = 4; bits == 2 && i < 16; ++i) levels[i] = levels[i - 4];
    for (const KernelTable* table : ::levels()) {
        const int limit = table->tile.query_limit;
        const size_t values = units * width * group.places;
        Guarded<int8_t> queries(values, units % 3);
        fill(queries, values, -limit, limit);
        for (size_t v = 0; largest && v < values; ++v) {
            queries[v] = static_cast<int8_t>(v / group.places % 2 == 0 ? limit : -limit);
        }
        std::vector<int64_t> expected(width * kGroup);
        for (size_t u = 0; u < units; ++u) {
            for (size_t q = 0; q < width; ++q) {
                for (size_t code = 0; code < group.places; ++code) {
                    const int64_t value = queries[(u * width + q) * group.places + code];
                    for (size_t i = 0; i < kGroup; ++i) {
                        const size_t x = group.codes[(u * group.places + code) * kGroup + i];
                        expected[q * kGroup + i] += value * static_cast<int64_t>(bits == 8 ? x : levels[x]);
                    }
                }
            }
        }
        Guarded<int32_t> sums(width * kGroup);
        const CodeKernels& kernels = table->codes;
        if (bits == 8) {
            kernels.dot8(group.bytes.data(), units, queries.data(), width, sums.data());
        } else {
            const auto dot = bits == 2 ? kernels.dot2 : kernels.dot4;
            dot(group.bytes.data(), units, levels.data(), queries.data(), width, sums.data());
        }
        check_sums(table, "dot" + std::to_string(bits), group, width, sums, expected);
    }
}

void test_sum(size_t bits, size_t units, size_t width, bool largest) {
    Group group(bits, units, units % 3, units % 2 == 0, false);
    const size_t entries = size_t{1} << bits, bytes = units * width * group.places * entries;
    Guarded<uint8_t> tables(bytes, units % 3);
    fill(tables, bytes, largest ? 255 : 0, 255);
    std::vector<int64_t> expected(width * kGroup);
    for (size_t u = 0; u < units; ++u) {
        for (size_t q = 0; q < width; ++q) {
            for (size_t code = 0; code < group.places; ++code) {
                const size_t at = ((u * width + q) * group.places + code) * entries;
                for (size_t i = 0; i < kGroup; ++i) {
                    expected[q * kGroup + i] += tables[at + group.codes[(u * group.places + code) * kGroup + i]];
                }
            }
        }
    }
    for (const KernelTable* table : levels()) {
        Guarded<int32_t> sums(width * kGroup);
        const auto sum = bits == 4 ? table->codes.sum4 : table->codes.sum8;
        sum(group.bytes.data(), units, tables.data(), width, sums.data());
        check_sums(table, "sum" + std::to_string(bits), group, width, sums, expected);
    }
}

void test_groups() {
    const auto test = [](size_t units, size_t width) {
        for (const bool largest : {false, true}) {
            for (const size_t bits : {2, 4, 8}) test_dot(bits, units, width, largest);
            for (const size_t bits : {4, 8}) test_sum(bits, units, width, largest);
        }
    };
    for (const size_t units : {1, 2, 3, 8, 33}) {
        for (size_t width = 1; width <= kTile; ++width) test(units, width);
    }
    for (size_t units = 1; units <= 100; ++units) test(units, 1 + units % 5);
    for (const size_t width : {1, 12}) test(1000, width);
}

// ---------------------------------------------------------------------------------------------------------------------
// Estimates
// ---------------------------------------------------------------------------------------------------------------------

void test_estimate() {
    for (int round = 0; round < 200; ++round) {
        const size_t width = 1 + random_bits() % kTile;
        Guarded<int32_t> sums(width * kGroup), turned_sums(width * kGroup);
        Guarded<float> values(4 * kGroup), turned(4 * kGroup);
        fill(sums, width * kGroup, -2000000, 2000000);
        for (size_t i = 0; i < 4 * kGroup; ++i) values[i] = normal();
        const size_t by = random_bits() % kGroup;
        for (size_t i = 0; i < kGroup; ++i) {
            for (size_t q = 0; q < width; ++q) turned_sums[q * kGroup + i] = sums[q * kGroup + (i + by) % kGroup];
            for (size_t f = 0; f < 4; ++f) turned[f * kGroup + i] = values[f * kGroup + (i + by) % kGroup];
        }
        const auto factors_of = [](Guarded<float>& f) {
            return Factors{f.data(), f.data() + kGroup, f.data() + 2 * kGroup, f.data() + 3 * kGroup};
        };
        const Factors factors = factors_of(values), turned_factors = factors_of(turned);
        const float bounds[] = {normal(), kInfinity, -kInfinity, kNaN};
        Guarded<Estimate> queries(width);
        for (size_t q = 0; q < width; ++q) {
            queries[q] = {normal(),
                          normal() * 1e-6f,
                          normal(),
                          round % 3 == 0 ? 0.0f : normal(),
                          round % 4 == 0 ? 0.0f : std::abs(normal()),
                          bounds[(q + static_cast<size_t>(round)) % 4]};
        }
        for (const KernelTable* table : levels()) {
            Guarded<float> distances(width * kGroup), turned_distances(width * kGroup);
            Guarded<uint32_t> survivors(width), turned_survivors(width);
            const uint32_t hit =
                table->codes.estimate(sums.data(), &factors, queries.data(), width, survivors.data(), distances.data());
            table->codes.estimate(turned_sums.data(), &turned_factors, queries.data(), width, turned_survivors.data(),
                                  turned_distances.data());
            for (size_t q = 0; q < width; ++q) {
                const Estimate terms = queries[q];
                check_that((hit >> q & 1) == (survivors[q] != 0 ? 1u : 0u), table, "query with survivors", q);
                for (size_t i = 0; i < kGroup; ++i) {
                    const float distance = distances[q * kGroup + i];
                    const double inner = double{terms.scale} * sums[q * kGroup + i];
                    const double product = factors.mul[i] * (inner + terms.shift);
                    const double off = double{terms.tilt} * factors.off[i], err = double{terms.slack} * factors.err[i];
                    const double wanted = double{terms.base} + factors.add[i] + product + off;
                    const double magnitude = std::abs(terms.base) + std::abs(factors.add[i]) + std::abs(off) +
                                             std::abs(factors.mul[i]) * (std::abs(inner) + std::abs(terms.shift));
                    check_that(near(distance, wanted, 8 * 0x1p-24 * magnitude), table, "estimate", i);
                    const size_t place = (i + kGroup - by) % kGroup;
                    check_that(turned_distances[q * kGroup + place] == distance, table, "estimate at another place", i);
                    const bool survives = (survivors[q] >> i & 1) != 0;
                    check_that((turned_survivors[q] >> place & 1) == (survives ? 1u : 0u), table, "survivor", i);
                    const double low = double{distance} - err;
                    if (near(low, terms.bound, 4 * 0x1p-24 * (std::abs(distance) + std::abs(err)))) continue;
                    check_that(survives == !(low > terms.bound), table, "survivor", i);
                }
            }
        }
    }
    // A distance that is no number survives.
    Guarded<int32_t> sums(kGroup);
    Guarded<float> values(kGroup), distances(kGroup);
    for (size_t i = 0; i < kGroup; ++i) values[i] = i == 5 ? kNaN : 1.0f;
    const Factors factors{values.data(), values.data(), values.data(), values.data()};
    const Estimate query{0, 0, 0, 0, 0, 0};
    for (const KernelTable* table : levels()) {
        uint32_t survivors = 0;
        const uint32_t hit = table->codes.estimate(sums.data(), &factors, &query, 1, &survivors, distances.data());
        check_that(hit == 1 && survivors == 1u << 5, table, "estimate", 5);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Rows
// ---------------------------------------------------------------------------------------------------------------------

void check_rows(const KernelTable* table, size_t bits, size_t bytes, size_t gap, size_t shift, size_t n, bool largest) {
    const int limit = table->tile.query_limit;
    const size_t places = 8 / bits, stride = bytes + gap;
    Guarded<int8_t> query(places * bytes, shift);
    fill(query, places * bytes, largest ? limit : -limit, limit);
    Guarded<uint8_t> data(n == 0 ? 0 : (n - 1) * stride + bytes, shift, shift == 2);
    fill(data, n == 0 ? 0 : (n - 1) * stride + bytes, largest ? 255 : 0, 255);
    std::vector<int64_t> expected(n);
    for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < bytes; ++j) {
            for (size_t place = 0; place < places; ++place) {
                const int code = data[i * stride + j] >> (bits * place) & ((1 << bits) - 1);
                expected[i] += code * query[place * bytes + j];
            }
        }
    }
    Guarded<int32_t> sums(n), listed_sums(n);
    Guarded<uint32_t> rows(n);
    for (size_t i = 0; i < n; ++i) rows[i] = static_cast<uint32_t>(random_bits() % n);
    table->codes.row_dot(data.data(), stride, nullptr, n, bytes, bits, query.data(), sums.data());
    table->codes.row_dot(data.data(), stride, rows.data(), n, bytes, bits, query.data(), listed_sums.data());
    for (size_t i = 0; i < n; ++i) {
        check_that(sums[i] == expected[i], table, "row_dot", bytes, i);
        check_that(listed_sums[i] == expected[rows[i]], table, "row_dot of a list", bytes, i);
    }
}

void test_rows() {
    for (const KernelTable* table : levels()) {
        for (const size_t bits : {1, 2, 4, 8}) {
            for (size_t bytes = 4; bytes <= 1600; bytes += bytes < 300 ? 4 : 100) {
                for (const size_t n : {1, 2, 5}) check_rows(table, bits, bytes, bytes % 7, n % 3, n, n == 2);
            }
            for (size_t n = 0; n < 40; ++n) check_rows(table, bits, 48, n % 5, n % 3, n, false);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Centroids
// ---------------------------------------------------------------------------------------------------------------------

// Whole: small integers, whose distances are exact and often equal.
void test_nearest(size_t count, size_t dim, bool whole) {
    Guarded<float> points(dim * kGroup), centroids(count * dim);
    if (whole) {
        fill(points, dim * kGroup, -2, 2);
        fill(centroids, count * dim, -2, 2);
    } else {
        for (size_t i = 0; i < dim * kGroup; ++i) points[i] = normal();
        for (size_t i = 0; i < count * dim; ++i) centroids[i] = normal();
    }
    std::vector<double> distances(count * kGroup);
    for (size_t c = 0; c < count; ++c) {
        for (size_t i = 0; i < kGroup; ++i) {
            for (size_t d = 0; d < dim; ++d) {
                const double difference = double{points[d * kGroup + i]} - centroids[c * dim + d];
                distances[c * kGroup + i] += difference * difference;
            }
        }
    }
    const double rounding = whole ? 0 : std::ldexp(static_cast<double>(dim + 4), -24);
    for (const KernelTable* table : levels()) {
        Guarded<uint32_t> index(kGroup);
        Guarded<float> squared(kGroup);
        table->codes.nearest(points.data(), centroids.data(), count, dim, index.data(), squared.data());
        for (size_t i = 0; i < kGroup; ++i) {
            check_that(index[i] < count, table, "nearest", dim, i);
            size_t first = 0;
            for (size_t c = 1; c < count; ++c) {
                if (distances[c * kGroup + i] < distances[first * kGroup + i]) first = c;
            }
            const double least = distances[first * kGroup + i], found = distances[index[i] * kGroup + i];
            check_that(found <= least * (1 + 2 * rounding), table, "nearest", dim, i);
            check_that(near(squared[i], found, found * rounding), table, "distance to the nearest", dim, i);
            check_that(!whole || index[i] == first, table, "first of the nearest", dim, i);
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Tables of signs
// ---------------------------------------------------------------------------------------------------------------------

// At any four numbers whose sizes add up to a byte at most.
void test_sign_tables(size_t units, size_t width) {
    constexpr size_t kUnitBytes = 8 * 16;
    Guarded<int8_t> code(units * 32, units % 3, units % 2 == 0);
    for (size_t half = 0; half < 2; ++half) {
        for (size_t byte = 0; byte < units * 4; ++byte) {
            int left = random_bits() % 4 == 0 ? 254 : static_cast<int>(random_bits() % 255);
            for (size_t t = 0; t < 4; ++t) {
                const int size =
                    t == 3 ? std::min(left, 127) : static_cast<int>(random_bits() % (std::min(left, 127) + 1));
                left -= size;
                code[(half * 4 + t) * 4 * units + byte] = static_cast<int8_t>(random_bits() % 2 == 0 ? size : -size);
            }
        }
    }
    for (const KernelTable* table : levels()) {
        // The tables of the last query of a tile; what belongs to the others is left alone.
        const size_t first = (width - 1) * kUnitBytes;
        Guarded<uint8_t> found(units * width * kUnitBytes);
        std::fill_n(found.data(), units * width * kUnitBytes, uint8_t{77});
        table->codes.sign_tables(code.data(), units, width, found.data() + first);
        for (size_t u = 0; u < units; ++u) {
            for (size_t i = 0; i < 8; ++i) {
                int sums[16] = {}, lowest = 0;
                for (size_t e = 0; e < 16; ++e) {
                    for (size_t t = 0; t < 4; ++t) {
                        if ((e >> t & 1) != 0) sums[e] += code[(i / 4 * 4 + t) * 4 * units + 4 * u + i % 4];
                    }
                    lowest = std::min(lowest, sums[e]);
                }
                for (size_t e = 0; e < 16; ++e) {
                    const uint8_t entry = found[u * width * kUnitBytes + first + i * 16 + e];
                    check_that(entry == sums[e] - lowest, table, "sign_tables", units, i * 16 + e);
                }
            }
            for (size_t b = 0; b < first; ++b) {
                check_that(found[u * width * kUnitBytes + b] == 77, table, "sign_tables", units, b);
            }
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The Walsh-Hadamard transform
// ---------------------------------------------------------------------------------------------------------------------

void test_hadamard(size_t n) {
    std::vector<float> values(n);
    for (float& x : values) x = normal();
    std::vector<double> expected(values.begin(), values.end());
    for (size_t half = 1; half < n; half *= 2) {
        for (size_t i = 0; i < n; ++i) {
            if ((i & half) != 0) continue;
            const double a = expected[i], b = expected[i + half];
            expected[i] = a + b;
            expected[i + half] = a - b;
        }
    }
    double magnitude = 0;
    for (const float x : values) magnitude += std::abs(x);
    for (const KernelTable* table : levels()) {
        for (const bool at_start : {false, true}) {
            Guarded<float> found(n, 0, at_start);
            std::copy(values.begin(), values.end(), found.data());
            table->codes.hadamard(found.data(), n);
            const double tolerance = std::log2(2.0 * static_cast<double>(n)) * 0x1p-24 * magnitude;
            for (size_t i = 0; i < n; ++i) check_that(near(found[i], expected[i], tolerance), table, "hadamard", n, i);
        }
    }
}

}  // namespace

int main() {
    test_groups();
    test_estimate();
    test_rows();
    for (const size_t dim : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 15, 16, 17, 24, 33, 64, 384}) {
        for (const size_t count : {1, 2, 3, 4, 5, 7, 8, 16, 17, 255, 256}) {
            test_nearest(count, dim, false);
            test_nearest(count, dim, true);
        }
    }
    for (const size_t units : {1, 2, 3, 4, 12, 25}) {
        for (const size_t width : {1, 2, 7}) test_sign_tables(units, width);
    }
    for (size_t n = 1; n <= 65536; n *= 2) test_hadamard(n);
    return 0;
}
