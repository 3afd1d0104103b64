// Bit kernels of NEON, which counts the ones of bytes. These are added up as bytes while they fit (31 times 8), and
// then widened pair by pair.
#include <arm_neon.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

#include "kernels/bits.inc"

constexpr size_t kVector = 16;  // bytes
constexpr size_t kFlush = 31;   // vectors whose counts fit a byte
constexpr size_t kAtOnce = 4;   // rows counted together

template <bool exclusive>
uint8x16_t ones(uint8x16_t a, uint8x16_t b) {
    return vcntq_u8(exclusive ? veorq_u8(a, b) : vandq_u8(a, b));
}

// Sums of four bytes each.
uint32x4_t sums_of_bytes(uint8x16_t x) { return vpaddlq_u16(vpaddlq_u8(x)); }

// ---------------------------------------------------------------------------------------------------------------------
// Rows
// ---------------------------------------------------------------------------------------------------------------------

// The bytes of a row from `at` on, fewer than a vector.
uint8x16_t rest_of(const uint8_t* row, size_t at, size_t bytes) {
    const uint64_t last = bytes % 8 != 0 ? last_word(row, bytes) : 0;
    if (bytes - at < 8) return vreinterpretq_u8_u64(vcombine_u64(vcreate_u64(last), vcreate_u64(0)));
    return vcombine_u8(vld1_u8(row + at), vcreate_u8(last));
}

template <bool exclusive>
uint32x4_t sum_of_ones(const uint8_t* query, const uint8_t* row, size_t bytes) {
    const size_t whole = bytes / kVector * kVector;
    uint32x4_t sum = vdupq_n_u32(0);
    for (size_t at = 0; at < whole;) {
        const size_t end = whole - at < kFlush * kVector ? whole : at + kFlush * kVector;
        uint8x16_t counts = vdupq_n_u8(0);
        for (; at < end; at += kVector) {
            counts = vaddq_u8(counts, ones<exclusive>(vld1q_u8(query + at), vld1q_u8(row + at)));
        }
        sum = vaddq_u32(sum, sums_of_bytes(counts));
    }
    if (whole == bytes) return sum;
    const uint8x16_t rest = ones<exclusive>(rest_of(query, whole, bytes), rest_of(row, whole, bytes));
    return vaddq_u32(sum, sums_of_bytes(rest));
}

template <bool exclusive>
void counts(const uint8_t* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t bytes,
            uint32_t* out) {
    for (size_t i = 0; i < n; i += kAtOnce) {
        uint32x4_t sums[kAtOnce];
        for (size_t r = 0; r < kAtOnce; ++r) {
            const size_t row = i + r < n ? i + r : n - 1;
            sums[r] = sum_of_ones<exclusive>(query, data + (rows ? rows[row] : row) * stride, bytes);
        }
        const uint32x4_t all = vpaddq_u32(vpaddq_u32(sums[0], sums[1]), vpaddq_u32(sums[2], sums[3]));
        if (n - i >= kAtOnce) {
            vst1q_u32(out + i, all);
        } else {
            uint32_t last[kAtOnce];
            vst1q_u32(last, all);
            memcpy(out + i, last, (n - i) * sizeof(*last));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Groups
// ---------------------------------------------------------------------------------------------------------------------

constexpr size_t kLanes = 2;                // vectors in a register
constexpr size_t kEight = 8;                // vectors whose counts are kept in registers together
constexpr size_t kParts = kGroup / kEight;  // of a group
// Words of a group that are gone over together, part by part: few enough for the counts to fit bytes, and for the parts
// to follow each other closely in memory.
constexpr size_t kBlock = 16;
static_assert(kBlock <= kFlush);

// Stores the words of two rows from 16 bytes of each, one lane per row.
void store_words(uint64_t* out, size_t words, uint64x2_t present, uint8x16_t a, uint8x16_t b) {
    const uint64x2_t x = vreinterpretq_u64_u8(a), y = vreinterpretq_u64_u8(b);
    vst1q_u64(out, vandq_u64(present, vtrn1q_u64(x, y)));
    if (words > 1) vst1q_u64(out + kGroup, vandq_u64(present, vtrn2q_u64(x, y)));
}

void interleave(const uint8_t* data, size_t stride, size_t n, size_t bytes, uint64_t* out) {
    const size_t words = (bytes + 7) / 8;
    for (size_t start = 0; start < kGroup; start += kLanes, out += kLanes) {
        if (start >= n) {
            for (size_t w = 0; w < words; ++w) vst1q_u64(out + w * kGroup, vdupq_n_u64(0));
            continue;
        }
        const bool both = start + 1 < n;
        const uint64x2_t present = vcombine_u64(vcreate_u64(~uint64_t{0}), vcreate_u64(both ? ~uint64_t{0} : 0));
        const uint8_t *a = data + start * stride, *b = both ? a + stride : a;
        size_t at = 0;
        for (; at + kVector <= bytes; at += kVector) {
            store_words(out + at / 8 * kGroup, 2, present, vld1q_u8(a + at), vld1q_u8(b + at));
        }
        if (at < bytes) {
            store_words(out + at / 8 * kGroup, words - at / 8, present, rest_of(a, at, bytes), rest_of(b, at, bytes));
        }
    }
}

// The counts of eight vectors of a group, in their order.
struct Eight {
    uint32x4_t low, high;
};

// Counts in each byte, for kWidth queries and eight vectors of a group. Nested members and not an array, which GCC
// would keep in memory.
template <bool exclusive, size_t kWidth>
struct ByteCounts {
    ByteCounts<exclusive, kWidth - 1> others;
    uint8x16_t a = vdupq_n_u8(0), b = a, c = a, d = a;

    void add(uint8x16_t xa, uint8x16_t xb, uint8x16_t xc, uint8x16_t xd, const uint64_t* queries) {
        others.add(xa, xb, xc, xd, queries);
        const uint8x16_t query = vreinterpretq_u8_u64(vld1q_dup_u64(queries + kWidth - 1));
        a = vaddq_u8(a, ones<exclusive>(query, xa));
        b = vaddq_u8(b, ones<exclusive>(query, xb));
        c = vaddq_u8(c, ones<exclusive>(query, xc));
        d = vaddq_u8(d, ones<exclusive>(query, xd));
    }
    void flush(Eight* counts) const {
        others.flush(counts);
        Eight* own = counts + kWidth - 1;
        own->low = vaddq_u32(own->low, vpaddq_u32(sums_of_bytes(a), sums_of_bytes(b)));
        own->high = vaddq_u32(own->high, vpaddq_u32(sums_of_bytes(c), sums_of_bytes(d)));
    }
};
template <bool exclusive>
struct ByteCounts<exclusive, 0> {
    void add(uint8x16_t, uint8x16_t, uint8x16_t, uint8x16_t, const uint64_t*) {}
    void flush(Eight*) const {}
};

uint8x16_t load_words(const uint64_t* at) { return vreinterpretq_u8_u64(vld1q_u64(at)); }

// The counts of kWidth queries for a group. The words of a query stand `step` apart.
template <bool exclusive, size_t kWidth>
void count_group(const uint64_t* codes, size_t words, const uint64_t* queries, size_t step, Eight (*counts)[kWidth]) {
    for (size_t part = 0; part < kParts; ++part) {
        for (size_t q = 0; q < kWidth; ++q) counts[part][q] = {vdupq_n_u32(0), vdupq_n_u32(0)};
    }
    for (size_t block = 0; block < words; block += kBlock) {
        const size_t end = words - block < kBlock ? words : block + kBlock;
        for (size_t part = 0; part < kParts; ++part) {
            ByteCounts<exclusive, kWidth> bytes;
            for (size_t w = block; w < end; ++w) {
                const uint64_t* at = codes + w * kGroup + part * kEight;
                bytes.add(load_words(at), load_words(at + kLanes), load_words(at + 2 * kLanes),
                          load_words(at + 3 * kLanes), queries + w * step);
            }
            bytes.flush(counts[part]);
        }
    }
}

// A bit for each negative number.
uint32_t negative(int32x4_t x) {
    static constexpr uint32_t kBits[] = {1, 2, 4, 8};
    return vaddvq_u32(vmulq_u32(vshrq_n_u32(vreinterpretq_u32_s32(x), 31), vld1q_u32(kBits)));
}

// Counts less most + 1, so that those of survivors are negative.
int32x4_t above(uint32x4_t count, int32_t most) { return vaddq_s32(vreinterpretq_s32_u32(count), vdupq_n_s32(~most)); }

template <size_t kWidth>
uint32_t tile(const uint64_t* codes, size_t words, const uint64_t* queries, const int32_t* most, uint32_t* survivors,
              uint32_t* counts) {
    Eight counted[kParts][kWidth];
    count_group<true, kWidth>(codes, words, queries, kWidth, counted);
    int32x4_t any = vdupq_n_s32(0);
    for (size_t part = 0; part < kParts; ++part) {
        for (size_t q = 0; q < kWidth; ++q) {
            const Eight& count = counted[part][q];
            any = vorrq_s32(any, vorrq_s32(above(count.low, most[q]), above(count.high, most[q])));
        }
    }
    if (vminvq_s32(any) >= 0) return 0;

    uint32_t hit = 0;
    for (size_t q = 0; q < kWidth; ++q) {
        survivors[q] = 0;
        for (size_t part = 0; part < kParts; ++part) {
            const Eight& count = counted[part][q];
            const uint32_t low = negative(above(count.low, most[q])), high = negative(above(count.high, most[q]));
            survivors[q] |= (low | high << 4) << (part * kEight);
            vst1q_u32(counts + q * kGroup + part * kEight, count.low);
            vst1q_u32(counts + q * kGroup + part * kEight + 4, count.high);
        }
        if (survivors[q] != 0) hit |= 1u << q;
    }
    return hit;
}

uint32_t hamming_tile(const uint64_t* codes, size_t words, const uint64_t* queries, size_t width, const int32_t* most,
                      uint32_t* survivors, uint32_t* counts) {
    using Run = uint32_t (*)(const uint64_t*, size_t, const uint64_t*, const int32_t*, uint32_t*, uint32_t*);
    static constexpr Run kRuns[] = {tile<1>, tile<2>, tile<3>, tile<4>};
    static_assert(sizeof(kRuns) / sizeof(Run) == kBitTile);
    return kRuns[width - 1](codes, words, queries, most, survivors, counts);
}

// Weighted counts of the vectors of a group.
struct Weighted {
    float32x4_t low, high;
};

template <bool exclusive, size_t kWidth>
void add_planes(const uint64_t* plane, size_t words, const uint64_t* queries, size_t step, const float* weight,
                Weighted* sums) {
    Eight counts[kParts][kWidth];
    count_group<exclusive, kWidth>(plane, words, queries, step, counts);
    for (size_t part = 0; part < kParts; ++part) {
        for (size_t p = 0; p < kWidth; ++p) {
            sums[part].low = vfmaq_n_f32(sums[part].low, vcvtq_f32_u32(counts[part][p].low), weight[p]);
            sums[part].high = vfmaq_n_f32(sums[part].high, vcvtq_f32_u32(counts[part][p].high), weight[p]);
        }
    }
}

template <bool exclusive>
void weighted_counts(const uint64_t* codes, const BitPlanes* query, Weighted* sums) {
    using Add = void (*)(const uint64_t*, size_t, const uint64_t*, size_t, const float*, Weighted*);
    static constexpr Add kAdd[] = {add_planes<exclusive, 1>, add_planes<exclusive, 2>, add_planes<exclusive, 3>,
                                   add_planes<exclusive, 4>};
    constexpr size_t kMost = sizeof(kAdd) / sizeof(Add);
    const size_t words = query->words, planes = query->query_planes;
    for (size_t t = 0; t < query->doc_planes; ++t) {
        for (size_t p = 0; p < planes; p += kMost) {
            const size_t width = planes - p < kMost ? planes - p : kMost;
            kAdd[width - 1](codes + t * words * kGroup, words, query->query + p, planes, query->weight + t * planes + p,
                            sums);
        }
    }
}

// Scores four vectors; returns the survivors.
uint32_t score(const float* factors, const BitPlanes* query, float32x4_t sum, float* low) {
    const float32x4_t total = vaddq_f32(vdupq_n_f32(query->offset), sum);
    const float32x4_t extra = vmulq_n_f32(vld1q_f32(factors + kGroup), query->tilt);
    const float32x4_t lows = vfmaq_f32(extra, vld1q_f32(factors), total);
    vst1q_f32(low, lows);
    const uint32x4_t out = vcgtq_f32(lows, vdupq_n_f32(query->bound));
    return negative(vreinterpretq_s32_u32(vmvnq_u32(out)));
}

uint32_t planes(const uint64_t* codes, const float* factors, const BitPlanes* query, float* low) {
    Weighted sums[kParts];
    for (Weighted& sum : sums) sum = {vdupq_n_f32(0), vdupq_n_f32(0)};
    if (query->exclusive) {
        weighted_counts<true>(codes, query, sums);
    } else {
        weighted_counts<false>(codes, query, sums);
    }
    uint32_t survivors = 0;
    for (size_t part = 0; part < kParts; ++part) {
        const size_t first = part * kEight;
        survivors |= score(factors + first, query, sums[part].low, low + first) << first;
        survivors |= score(factors + first + 4, query, sums[part].high, low + first + 4) << (first + 4);
    }
    return survivors;
}

}  // namespace

void fill_bits_neon(KernelTable* table) {
    table->bits = {counts<true>, counts<false>, table->bits.select, interleave, hamming_tile, planes};
}

}  // namespace nearfield::kernels
