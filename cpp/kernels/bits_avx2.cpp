// Bit kernels of AVX2, which counts ones only by looking up four bits at a time: six instructions for 32 bytes, and one
// to add the counts of bytes up. In long rows a Harley-Seal adder is shorter: it first adds the bits themselves, in
// parallel in all positions, and looks up only what weighs eight. In groups it is not, since a lane is a chain of its
// own.
//
// Rows of up to 64 bytes are counted by popcnt, a word at a time, which needs no sum across a register.
#include <immintrin.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

#include "kernels/bits.inc"

constexpr size_t kVector = 32;     // bytes
constexpr size_t kShortRow = 64;   // bytes
constexpr size_t kCarrySave = 16;  // vectors of a row from which the adder pays
constexpr size_t kAhead = 4096;    // bytes prefetched ahead of a scan
constexpr size_t kAtOnce = 4;      // long rows counted together
constexpr size_t kRowsAhead = 16;  // rows prefetched ahead in a list, unless they are longer together

__m256i load(const void* at) { return _mm256_loadu_si256(static_cast<const __m256i*>(at)); }
void store(void* at, __m256i x) { _mm256_storeu_si256(static_cast<__m256i*>(at), x); }
void prefetch(const uint8_t* at) { _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T0); }

template <bool exclusive>
__m256i joined(__m256i a, __m256i b) {
    return exclusive ? _mm256_xor_si256(a, b) : _mm256_and_si256(a, b);
}
template <bool exclusive>
uint64_t joined(uint64_t a, uint64_t b) {
    return exclusive ? a ^ b : a & b;
}

// The number of ones in each byte.
__m256i ones_of_bytes(__m256i x) {
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                           0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    const __m256i nibble = _mm256_set1_epi8(15);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble);
    return _mm256_add_epi8(_mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble)), _mm256_shuffle_epi8(table, high));
}

// Sums of the eight bytes of each 64-bit word.
__m256i sums_of_bytes(__m256i x) { return _mm256_sad_epu8(x, _mm256_setzero_si256()); }

// a + b + c in each bit position: the lower bit of the sum takes the place of a, the upper one is returned.
__m256i carry(__m256i* a, __m256i b, __m256i c) {
    const __m256i half = _mm256_xor_si256(b, c);
    const __m256i upper = _mm256_or_si256(_mm256_and_si256(b, c), _mm256_and_si256(half, *a));
    *a = _mm256_xor_si256(half, *a);
    return upper;
}

// The number of ones in each 64-bit word, summed over n vectors that `next` returns.
template <class Next>
__m256i sum_of_ones(size_t n, Next next) {
    __m256i sum = _mm256_setzero_si256(), bytes = sum;
    if (n >= kCarrySave) {
        __m256i ones = sum, twos = sum, fours = sum;
        while (n >= 8) {
            __m256i eights = _mm256_setzero_si256();  // counts of bytes, which hold 31 times 8
            for (size_t round = 0; round < 31 && n >= 8; ++round, n -= 8) {
                const __m256i two_a = carry(&ones, next(), next());
                const __m256i two_b = carry(&ones, next(), next());
                const __m256i four_a = carry(&twos, two_a, two_b);
                const __m256i two_c = carry(&ones, next(), next());
                const __m256i two_d = carry(&ones, next(), next());
                const __m256i four_b = carry(&twos, two_c, two_d);
                eights = _mm256_add_epi8(eights, ones_of_bytes(carry(&fours, four_a, four_b)));
            }
            sum = _mm256_add_epi64(sum, sums_of_bytes(eights));
        }
        sum = _mm256_add_epi64(_mm256_add_epi64(sum, sum), sums_of_bytes(ones_of_bytes(fours)));
        sum = _mm256_add_epi64(_mm256_add_epi64(sum, sum), sums_of_bytes(ones_of_bytes(twos)));
        sum = _mm256_add_epi64(_mm256_add_epi64(sum, sum), sums_of_bytes(ones_of_bytes(ones)));
    }
    for (; n > 0; --n) bytes = _mm256_add_epi8(bytes, ones_of_bytes(next()));
    return _mm256_add_epi64(sum, sums_of_bytes(bytes));
}

// Two vectors of 64-bit counts in one: `a` in the even 32-bit lanes, `b` in the odd ones.
__m256i paired(__m256i a, __m256i b) { return _mm256_add_epi64(a, _mm256_slli_epi64(b, 32)); }

// ---------------------------------------------------------------------------------------------------------------------
// Rows
// ---------------------------------------------------------------------------------------------------------------------

// A row of kWords words, and a last one that is not whole.
template <bool exclusive, size_t kWords, bool kTail>
void count_short(const uint8_t* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t bytes,
                 uint32_t* out) {
    uint64_t words[kWords + kTail];
    if constexpr (kWords > 0) memcpy(words, query, kWords * 8);
    if constexpr (kTail) words[kWords] = last_word(query, bytes);
    const auto count = [&](const uint8_t* row) {
        uint64_t sum = 0;
        for (size_t w = 0; w < kWords; ++w) {
            uint64_t x;
            memcpy(&x, row + w * 8, 8);
            sum += static_cast<uint64_t>(_mm_popcnt_u64(joined<exclusive>(words[w], x)));
        }
        if constexpr (kTail) {
            sum += static_cast<uint64_t>(_mm_popcnt_u64(joined<exclusive>(words[kWords], last_word(row, bytes))));
        }
        return static_cast<uint32_t>(sum);
    };
    if (rows) {
        for (size_t i = 0; i < n; ++i) {
            prefetch(data + rows[n - i > kRowsAhead ? i + kRowsAhead : n - 1] * stride);
            out[i] = count(data + rows[i] * stride);
        }
        return;
    }
    constexpr size_t kPerLine = kWords < 2 ? 4 : 1;  // rows for which one line is prefetched
    size_t i = 0;
    for (; i + kPerLine <= n; i += kPerLine, data += kPerLine * stride) {
        prefetch(data + kAhead);
        for (size_t r = 0; r < kPerLine; ++r) out[i + r] = count(data + r * stride);
    }
    for (; i < n; ++i, data += stride) out[i] = count(data);
}

template <bool exclusive>
class LongQuery {
  public:
    LongQuery(const uint8_t* query, size_t bytes) : query_(query), bytes_(bytes) {
        // The rest of a row is loaded with the bytes before it, which do not count.
        uint8_t counts[kVector] = {};
        for (size_t b = kVector - bytes % kVector; b < kVector; ++b) counts[b] = 0xff;
        rest_ = load(counts);
    }
    void count(const uint8_t* const* rows, const uint8_t* const* later, uint32_t* out) const {
        // One after the other, in the order of memory.
        const __m256i first = sums(rows[0], later[0]), second = sums(rows[1], later[1]);
        const __m256i third = sums(rows[2], later[2]), fourth = sums(rows[3], later[3]);
        const __m256i a = paired(first, second), b = paired(third, fourth);
        const __m256i both = _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                         _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
    }

  private:
    __m256i sums(const uint8_t* row, const uint8_t* later) const {
        const __m256i whole = sum_of_ones(bytes_ / kVector, [query = query_, row, later]() mutable {
            prefetch(later);
            const __m256i x = joined<exclusive>(load(query), load(row));
            query += kVector;
            row += kVector;
            later += kVector;
            return x;
        });
        if (bytes_ % kVector == 0) return whole;
        const size_t last = bytes_ - kVector;
        const __m256i rest = _mm256_and_si256(rest_, joined<exclusive>(load(query_ + last), load(row + last)));
        return _mm256_add_epi64(whole, sums_of_bytes(ones_of_bytes(rest)));
    }

    const uint8_t* query_;
    size_t bytes_;
    __m256i rest_;
};

template <bool exclusive>
void count_long(const uint8_t* query_bytes, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n,
                size_t bytes, uint32_t* out) {
    const LongQuery<exclusive> query(query_bytes, bytes);
    const size_t fitting = kAhead / bytes, rows_ahead = fitting < kRowsAhead ? fitting + 1 : kRowsAhead;
    const uint8_t *at[kAtOnce], *later[kAtOnce];
    const auto locate = [&](size_t r, size_t i) {
        const size_t next = i + rows_ahead;
        at[r] = data + (rows ? rows[i] : i) * stride;
        later[r] = rows ? data + rows[next < n ? next : n - 1] * stride : at[r] + kAhead;
    };
    size_t i = 0;
    for (; i + kAtOnce <= n; i += kAtOnce) {
        for (size_t r = 0; r < kAtOnce; ++r) locate(r, i + r);
        query.count(at, later, out + i);
    }
    if (i == n) return;
    uint32_t counts[kAtOnce];
    for (size_t r = 0; r < kAtOnce; ++r) locate(r, i + r < n ? i + r : n - 1);
    query.count(at, later, counts);
    memcpy(out + i, counts, (n - i) * sizeof(*counts));
}

template <bool exclusive>
void counts(const uint8_t* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t bytes,
            uint32_t* out) {
    using Rows = void (*)(const uint8_t*, const uint8_t*, size_t, const uint32_t*, size_t, size_t, uint32_t*);
    static constexpr Rows kShort[][2] = {
        {nullptr, count_short<exclusive, 0, true>},
        {count_short<exclusive, 1, false>, count_short<exclusive, 1, true>},
        {count_short<exclusive, 2, false>, count_short<exclusive, 2, true>},
        {count_short<exclusive, 3, false>, count_short<exclusive, 3, true>},
        {count_short<exclusive, 4, false>, count_short<exclusive, 4, true>},
        {count_short<exclusive, 5, false>, count_short<exclusive, 5, true>},
        {count_short<exclusive, 6, false>, count_short<exclusive, 6, true>},
        {count_short<exclusive, 7, false>, count_short<exclusive, 7, true>},
        {count_short<exclusive, 8, false>, nullptr},
    };
    const Rows run = bytes <= kShortRow ? kShort[bytes / 8][bytes % 8 != 0] : count_long<exclusive>;
    run(query, data, stride, rows, n, bytes, out);
}

size_t select(const uint32_t* counts, size_t n, int32_t most, uint32_t* at) {
    constexpr size_t kCounts = 8;  // in a register
    const __m256i bound = _mm256_set1_epi32(most);
    size_t found = 0, i = 0;
    for (; i + kCounts <= n; i += kCounts) {
        const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(counts + i));
        const int above = _mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(x, bound)));
        for (uint32_t hit = ~static_cast<uint32_t>(above) & 0xff; hit != 0; hit &= hit - 1) {
            at[found++] = static_cast<uint32_t>(i) + _tzcnt_u32(hit);
        }
    }
    for (; i < n; ++i) {
        if (static_cast<int32_t>(counts[i]) <= most) at[found++] = static_cast<uint32_t>(i);
    }
    return found;
}

// ---------------------------------------------------------------------------------------------------------------------
// Groups
// ---------------------------------------------------------------------------------------------------------------------

constexpr size_t kLanes = 4;                    // vectors in a register
constexpr size_t kPiece = 16;                   // bytes of a row that are moved at once
constexpr size_t kPairs = kGroup / 2 / kLanes;  // pairs of registers in a group

__m128i piece(const uint8_t* row) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row)); }

// The last bytes of a row from `at` on, fewer than a piece.
__m128i last_piece(const uint8_t* row, size_t at, size_t bytes) {
    const auto last = static_cast<int64_t>(bytes % 8 != 0 ? last_word(row, bytes) : 0);
    if (bytes - at < 8) return _mm_cvtsi64_si128(last);
    int64_t first;
    memcpy(&first, row + at, 8);
    return _mm_set_epi64x(last, first);
}

// Stores the words of four rows from one piece of each, one lane per row; of missing rows zeros.
void store_words(uint64_t* out, size_t words, __m256i present, __m128i a, __m128i b, __m128i c, __m128i d) {
    const __m256i even = _mm256_inserti128_si256(_mm256_castsi128_si256(a), c, 1);
    const __m256i odd = _mm256_inserti128_si256(_mm256_castsi128_si256(b), d, 1);
    store(out, _mm256_and_si256(present, _mm256_unpacklo_epi64(even, odd)));
    if (words > 1) store(out + kGroup, _mm256_and_si256(present, _mm256_unpackhi_epi64(even, odd)));
}

void interleave(const uint8_t* data, size_t stride, size_t n, size_t bytes, uint64_t* out) {
    const size_t words = (bytes + 7) / 8;
    for (size_t start = 0; start < kGroup; start += kLanes, out += kLanes) {
        if (start >= n) {
            for (size_t w = 0; w < words; ++w) store(out + w * kGroup, _mm256_setzero_si256());
            continue;
        }
        const size_t left = n - start;
        const __m256i present =
            _mm256_cmpgt_epi64(_mm256_set1_epi64x(static_cast<int64_t>(left)), _mm256_setr_epi64x(0, 1, 2, 3));
        const uint8_t* rows[kLanes];
        for (size_t r = 0; r < kLanes; ++r) rows[r] = data + (start + (r < left ? r : 0)) * stride;
        const uint8_t* next = rows[0] + kGroup * stride;
        size_t at = 0;
        for (; at + kPiece <= bytes; at += kPiece) {
            // The hardware does not follow so many rows through memory at once. The next group is fetched in order, as
            // far as the second level: the first one is full of this group.
            const uint8_t* later = next + at * kLanes;
            _mm_prefetch(reinterpret_cast<const char*>(later), _MM_HINT_T1);
            store_words(out + at / 8 * kGroup, 2, present, piece(rows[0] + at), piece(rows[1] + at),
                        piece(rows[2] + at), piece(rows[3] + at));
        }
        if (at < bytes) {
            store_words(out + at / 8 * kGroup, words - at / 8, present, last_piece(rows[0], at, bytes),
                        last_piece(rows[1], at, bytes), last_piece(rows[2], at, bytes), last_piece(rows[3], at, bytes));
        }
    }
}

// Words of a group that are gone over together, in four columns: few enough for the counts to fit bytes (31), and for
// the columns to follow each other closely in memory.
constexpr size_t kBlock = 16;

// Counts in each byte, for kWidth queries and eight vectors of a group.
template <bool exclusive, size_t kWidth>
struct ByteCounts {
    ByteCounts<exclusive, kWidth - 1> others;
    __m256i low = _mm256_setzero_si256(), high = _mm256_setzero_si256();

    void add(__m256i x, __m256i y, const uint64_t* queries) {
        others.add(x, y, queries);
        const __m256i query = _mm256_set1_epi64x(static_cast<int64_t>(queries[kWidth - 1]));
        low = _mm256_add_epi8(low, ones_of_bytes(joined<exclusive>(query, x)));
        high = _mm256_add_epi8(high, ones_of_bytes(joined<exclusive>(query, y)));
    }
    void flush(__m256i* counts) const {
        others.flush(counts);
        const __m256i count = paired(sums_of_bytes(low), sums_of_bytes(high));
        counts[kWidth - 1] = _mm256_add_epi32(counts[kWidth - 1], count);
    }
};
template <bool exclusive>
struct ByteCounts<exclusive, 0> {
    void add(__m256i, __m256i, const uint64_t*) {}
    void flush(__m256i*) const {}
};

// The counts of kWidth queries for a group, eight vectors in each row of `counts`: 0 .. 3 in the even lanes, 4 .. 7 in
// the odd ones. The words of a query stand `step` apart.
template <bool exclusive, size_t kWidth>
void count_group(const uint64_t* codes, size_t words, const uint64_t* queries, size_t step, __m256i (*counts)[kWidth]) {
    for (size_t pair = 0; pair < kPairs; ++pair) {
        for (size_t q = 0; q < kWidth; ++q) counts[pair][q] = _mm256_setzero_si256();
    }
    for (size_t block = 0; block < words; block += kBlock) {
        const size_t end = words - block < kBlock ? words : block + kBlock;
        for (size_t pair = 0; pair < kPairs; ++pair) {
            ByteCounts<exclusive, kWidth> bytes;
            for (size_t w = block; w < end; ++w) {
                const uint64_t* at = codes + w * kGroup + pair * 2 * kLanes;
                bytes.add(load(at), load(at + kLanes), queries + w * step);
            }
            bytes.flush(counts[pair]);
        }
    }
}

// From the order of count_group to that of the group.
__m256i group_order() { return _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7); }

template <size_t kWidth>
uint32_t tile(const uint64_t* codes, size_t words, const uint64_t* queries, const int32_t* most, uint32_t* survivors,
              uint32_t* counts) {
    __m256i counted[kPairs][kWidth], any = _mm256_setzero_si256();
    count_group<true, kWidth>(codes, words, queries, kWidth, counted);
    for (size_t pair = 0; pair < kPairs; ++pair) {
        for (size_t q = 0; q < kWidth; ++q) {
            any = _mm256_or_si256(any, _mm256_add_epi32(counted[pair][q], _mm256_set1_epi32(~most[q])));
        }
    }
    if (_mm256_movemask_ps(_mm256_castsi256_ps(any)) == 0) return 0;

    uint32_t hit = 0;
    for (size_t q = 0; q < kWidth; ++q) {
        survivors[q] = 0;
        for (size_t pair = 0; pair < kPairs; ++pair) {
            const __m256i count = _mm256_permutevar8x32_epi32(counted[pair][q], group_order());
            const __m256i above = _mm256_add_epi32(count, _mm256_set1_epi32(~most[q]));
            const int mask = _mm256_movemask_ps(_mm256_castsi256_ps(above));
            survivors[q] |= static_cast<uint32_t>(mask) << (pair * 2 * kLanes);
            store(counts + q * kGroup + pair * 2 * kLanes, count);
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

template <bool exclusive, size_t kWidth>
void add_planes(const uint64_t* plane, size_t words, const uint64_t* queries, size_t step, const float* weight,
                __m256* sums) {
    __m256i counts[kPairs][kWidth];
    count_group<exclusive, kWidth>(plane, words, queries, step, counts);
    for (size_t pair = 0; pair < kPairs; ++pair) {
        for (size_t p = 0; p < kWidth; ++p) {
            const __m256 count = _mm256_cvtepi32_ps(counts[pair][p]);
            sums[pair] = _mm256_fmadd_ps(_mm256_set1_ps(weight[p]), count, sums[pair]);
        }
    }
}

template <bool exclusive>
void weighted_counts(const uint64_t* codes, const BitPlanes* query, __m256* sums) {
    using Add = void (*)(const uint64_t*, size_t, const uint64_t*, size_t, const float*, __m256*);
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

uint32_t planes(const uint64_t* codes, const float* factors, const BitPlanes* query, float* low) {
    __m256 sums[kPairs] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
    if (query->exclusive) {
        weighted_counts<true>(codes, query, sums);
    } else {
        weighted_counts<false>(codes, query, sums);
    }
    const __m256 offset = _mm256_set1_ps(query->offset), tilt = _mm256_set1_ps(query->tilt);
    const __m256 bound = _mm256_set1_ps(query->bound);
    uint32_t survivors = 0;
    for (size_t pair = 0; pair < kPairs; ++pair) {
        const size_t first = pair * 2 * kLanes;
        const __m256 mul = _mm256_loadu_ps(factors + first), add = _mm256_loadu_ps(factors + kGroup + first);
        const __m256 total = _mm256_add_ps(offset, _mm256_permutevar8x32_ps(sums[pair], group_order()));
        const __m256 lows = _mm256_fmadd_ps(mul, total, _mm256_mul_ps(tilt, add));
        _mm256_storeu_ps(low + first, lows);
        const int mask = _mm256_movemask_ps(_mm256_cmp_ps(lows, bound, _CMP_NGT_UQ));
        survivors |= static_cast<uint32_t>(mask) << first;
    }
    return survivors;
}

}  // namespace

void fill_bits_avx2(KernelTable* table) {
    table->bits = {counts<true>, counts<false>, select, interleave, hamming_tile, planes};
}

}  // namespace nearfield::kernels
