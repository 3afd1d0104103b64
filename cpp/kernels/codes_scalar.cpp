// Kernels on groups of codes in plain C++: what every other level must agree with.
#include <math.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

constexpr size_t kUnit = 4;  // bytes of a vector that lie together

// Code `place` of a unit: codes of kBits bits fill the lowest bits of all four bytes first.
template <size_t kBits>
uint32_t code_at(const uint8_t* unit, size_t place) {
    constexpr uint32_t kMask = (1u << kBits) - 1;
    return uint32_t{unit[place % kUnit]} >> (kBits * (place / kUnit)) & kMask;
}

// sums[q][i] = sum of value(code, u, q, place) over all codes of vector i.
template <size_t kBits, class Value>
void sum_values(const uint8_t* codes, size_t units, size_t width, int32_t* sums, const Value& value) {
    memset(sums, 0, width * kGroup * sizeof(*sums));
    for (size_t u = 0; u < units; ++u) {
        for (size_t q = 0; q < width; ++q) {
            for (size_t i = 0; i < kGroup; ++i) {
                const uint8_t* unit = codes + (u * kGroup + i) * kUnit;
                for (size_t place = 0; place < 32 / kBits; ++place) {
                    sums[q * kGroup + i] += value(code_at<kBits>(unit, place), u, q, place);
                }
            }
        }
    }
}

template <size_t kBits>
void dot(const uint8_t* codes, size_t units, const uint8_t* levels, const int8_t* queries, size_t width,
         int32_t* sums) {
    sum_values<kBits>(codes, units, width, sums, [&](uint32_t code, size_t u, size_t q, size_t place) {
        return levels[code] * queries[(u * width + q) * (32 / kBits) + place];
    });
}

void dot8(const uint8_t* codes, size_t units, const int8_t* queries, size_t width, int32_t* sums) {
    sum_values<8>(codes, units, width, sums, [&](uint32_t code, size_t u, size_t q, size_t place) {
        return static_cast<int32_t>(code) * queries[(u * width + q) * kUnit + place];
    });
}

template <size_t kBits>
void sum(const uint8_t* codes, size_t units, const uint8_t* tables, size_t width, int32_t* sums) {
    constexpr size_t kPlaces = 32 / kBits, kEntries = size_t{1} << kBits;
    sum_values<kBits>(codes, units, width, sums, [&](uint32_t code, size_t u, size_t q, size_t place) {
        return int32_t{tables[((u * width + q) * kPlaces + place) * kEntries + code]};
    });
}

void sign_tables(const int8_t* code, size_t units, size_t width, uint8_t* tables) {
    constexpr size_t kCodes = 8, kEntries = 16;
    for (size_t u = 0; u < units; ++u, tables += width * kCodes * kEntries) {
        for (size_t i = 0; i < kCodes; ++i) {
            int32_t numbers[4], lowest = 0;
            for (size_t t = 0; t < 4; ++t) {
                numbers[t] = code[(i / 4 * 4 + t) * 4 * units + 4 * u + i % 4];
                lowest += numbers[t] < 0 ? numbers[t] : 0;
            }
            for (size_t e = 0; e < kEntries; ++e) {
                int32_t sum = -lowest;
                for (size_t t = 0; t < 4; ++t) sum += (e >> t & 1) != 0 ? numbers[t] : 0;
                tables[i * kEntries + e] = static_cast<uint8_t>(sum);
            }
        }
    }
}

uint32_t estimate(const int32_t* sums, const Factors* factors, const Estimate* queries, size_t width,
                  uint32_t* survivors, float* distances) {
    uint32_t hit = 0;
    for (size_t q = 0; q < width; ++q, sums += kGroup, distances += kGroup) {
        const Estimate& terms = queries[q];
        survivors[q] = 0;
        for (size_t i = 0; i < kGroup; ++i) {
            const float product = factors->mul[i] * (terms.scale * static_cast<float>(sums[i]) + terms.shift);
            distances[i] = terms.base + factors->add[i] + product + terms.tilt * factors->off[i];
            if (!(distances[i] - terms.slack * factors->err[i] > terms.bound)) survivors[q] |= 1u << i;
        }
        if (survivors[q] != 0) hit |= 1u << q;
    }
    return hit;
}

template <size_t kBits>
int32_t row_sum(const uint8_t* row, size_t bytes, const int8_t* query) {
    constexpr uint32_t kMask = (1u << kBits) - 1;
    int32_t sum = 0;
    for (size_t place = 0; place < 8 / kBits; ++place) {
        const int8_t* values = query + place * bytes;
        for (size_t j = 0; j < bytes; ++j) {
            sum += static_cast<int32_t>(uint32_t{row[j]} >> (kBits * place) & kMask) * values[j];
        }
    }
    return sum;
}

void row_dot(const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t bytes, size_t b,
             const int8_t* query, int32_t* sums) {
    const auto row_sum_b = b == 1 ? row_sum<1> : b == 2 ? row_sum<2> : b == 4 ? row_sum<4> : row_sum<8>;
    for (size_t i = 0; i < n; ++i) sums[i] = row_sum_b(data + (rows ? rows[i] : i) * stride, bytes, query);
}

void nearest(const float* points, const float* centroids, size_t count, size_t dim, uint32_t* index, float* squared) {
    for (size_t i = 0; i < kGroup; ++i) {
        index[i] = 0;
        squared[i] = INFINITY;
    }
    for (size_t c = 0; c < count; ++c) {
        float distance[kGroup] = {};
        for (size_t d = 0; d < dim; ++d) {
            for (size_t i = 0; i < kGroup; ++i) {
                const float difference = points[d * kGroup + i] - centroids[c * dim + d];
                distance[i] += difference * difference;
            }
        }
        for (size_t i = 0; i < kGroup; ++i) {
            if (!(distance[i] < squared[i])) continue;
            index[i] = static_cast<uint32_t>(c);
            squared[i] = distance[i];
        }
    }
}

void hadamard(float* values, size_t n) {
    for (size_t half = 1; half < n; half *= 2) {
        for (size_t start = 0; start < n; start += 2 * half) {
            for (size_t i = start; i < start + half; ++i) {
                const float a = values[i], b = values[i + half];
                values[i] = a + b;
                values[i + half] = a - b;
            }
        }
    }
}

}  // namespace

void fill_codes_scalar(KernelTable* table) {
    table->codes = {dot<2>, dot<4>, dot8, sum<4>, sum<8>, sign_tables, estimate, row_dot, nearest, hadamard};
}

}  // namespace nearfield::kernels
