// Kernels on packed bits in plain C++: what every other level must agree with.
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

uint32_t ones(uint64_t word) {
#if defined(_MSC_VER) && !defined(__clang__)
    word -= word >> 1 & 0x5555555555555555u;
    word = (word & 0x3333333333333333u) + (word >> 2 & 0x3333333333333333u);
    return static_cast<uint32_t>(((word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u >> 56);
#else
    return static_cast<uint32_t>(__builtin_popcountll(word));
#endif
}

// Word `at` of a row of `bytes` bytes, filled up with zeros.
uint64_t word_of(const uint8_t* row, size_t bytes, size_t at) {
    uint64_t word = 0;
    const size_t left = bytes - at * 8;
    memcpy(&word, row + at * 8, left < 8 ? left : 8);
    return word;
}

template <bool exclusive>
uint64_t joined(uint64_t a, uint64_t b) {
    return exclusive ? a ^ b : a & b;
}

template <bool exclusive>
void counts(const uint8_t* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t bytes,
            uint32_t* out) {
    const size_t words = bytes / 8;
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* row = data + (rows ? rows[i] : i) * stride;
        uint32_t sum = 0;
        for (size_t w = 0; w < words; ++w) {
            uint64_t a, b;
            memcpy(&a, query + w * 8, 8);
            memcpy(&b, row + w * 8, 8);
            sum += ones(joined<exclusive>(a, b));
        }
        if (bytes % 8 != 0) sum += ones(joined<exclusive>(word_of(query, bytes, words), word_of(row, bytes, words)));
        out[i] = sum;
    }
}

size_t select(const uint32_t* counts, size_t n, int32_t most, uint32_t* at) {
    size_t found = 0;
    for (size_t i = 0; i < n; ++i) {  // without a branch, which nobody could foresee
        at[found] = static_cast<uint32_t>(i);
        found += static_cast<int32_t>(counts[i]) <= most ? 1 : 0;
    }
    return found;
}

void interleave(const uint8_t* data, size_t stride, size_t n, size_t bytes, uint64_t* out) {
    const size_t words = (bytes + 7) / 8;
    for (size_t w = 0; w < words; ++w) {
        for (size_t i = 0; i < kGroup; ++i) {
            out[w * kGroup + i] = i < n ? word_of(data + i * stride, bytes, w) : 0;
        }
    }
}

uint32_t hamming_tile(const uint64_t* codes, size_t words, const uint64_t* queries, size_t width, const int32_t* most,
                      uint32_t* survivors, uint32_t* counts) {
    uint32_t hit = 0;
    for (size_t q = 0; q < width; ++q) {
        uint32_t* count = counts + q * kGroup;
        memset(count, 0, kGroup * sizeof(*count));
        for (size_t w = 0; w < words; ++w) {
            for (size_t i = 0; i < kGroup; ++i) count[i] += ones(codes[w * kGroup + i] ^ queries[w * width + q]);
        }
        survivors[q] = 0;
        for (size_t i = 0; i < kGroup; ++i) {
            if (static_cast<int32_t>(count[i]) <= most[q]) survivors[q] |= 1u << i;
        }
        if (survivors[q] != 0) hit |= 1u << q;
    }
    return hit;
}

template <bool exclusive>
void add_planes(const uint64_t* codes, const BitPlanes* query, float* sum) {
    for (size_t t = 0; t < query->doc_planes; ++t) {
        const uint64_t* plane = codes + t * query->words * kGroup;
        for (size_t p = 0; p < query->query_planes; ++p) {
            const float weight = query->weight[t * query->query_planes + p];
            for (size_t i = 0; i < kGroup; ++i) {
                uint32_t count = 0;
                for (size_t w = 0; w < query->words; ++w) {
                    count += ones(joined<exclusive>(plane[w * kGroup + i], query->query[w * query->query_planes + p]));
                }
                sum[i] += weight * static_cast<float>(count);
            }
        }
    }
}

uint32_t planes(const uint64_t* codes, const float* factors, const BitPlanes* query, float* low) {
    float sum[kGroup] = {};
    if (query->exclusive) {
        add_planes<true>(codes, query, sum);
    } else {
        add_planes<false>(codes, query, sum);
    }
    uint32_t survivors = 0;
    for (size_t i = 0; i < kGroup; ++i) {
        low[i] = factors[i] * (query->offset + sum[i]) + query->tilt * factors[kGroup + i];
        if (!(low[i] > query->bound)) survivors |= 1u << i;
    }
    return survivors;
}

}  // namespace

void fill_bits_scalar(KernelTable* table) {
    table->bits = {counts<true>, counts<false>, select, interleave, hamming_tile, planes};
}

}  // namespace nearfield::kernels
