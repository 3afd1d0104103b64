// Bit kernels with vpopcntq, which counts the ones of eight 64-bit words.
//
// On rows, the counts of eight rows are summed by one tree instead of eight times across a register, and rows of up to
// 32 bytes without gaps share registers. In a group each lane is a vector, so nothing is summed across lanes at all.
#include <immintrin.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

constexpr size_t kVector = 64;  // bytes
// Rows of a list are prefetched this far ahead, unless they are more bytes together. Rows in their natural order are
// not: it costs up to 15 %.
constexpr size_t kRowsAhead = 16, kAhead = 4096;

__mmask64 first(size_t n) { return n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1; }

void prefetch(const uint8_t* row, size_t bytes) {
    for (size_t at = 0; at < bytes; at += kVector) _mm_prefetch(reinterpret_cast<const char*>(row + at), _MM_HINT_T0);
}

template <bool exclusive>
__m512i ones(__m512i a, __m512i b) {
    return _mm512_popcnt_epi64(exclusive ? _mm512_xor_si512(a, b) : _mm512_and_si512(a, b));
}

// ---------------------------------------------------------------------------------------------------------------------
// Rows
// ---------------------------------------------------------------------------------------------------------------------

// Two vectors of 64-bit counts in one: `a` in the even 32-bit lanes, `b` in the odd ones.
__m512i paired(__m512i a, __m512i b) { return _mm512_add_epi64(a, _mm512_slli_epi64(b, 32)); }

// Sums of neighbouring 64-bit lanes: of `a` in the even lanes, of `b` in the odd ones.
__m512i sums_of_two(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

// Sums of neighbouring 128-bit lanes: of `a` in the lower half, of `b` in the upper one.
__m512i sums_of_four(__m512i a, __m512i b) {
    return _mm512_add_epi32(_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xdd));
}
__m256i sums_of_four(__m512i a) { return _mm512_castsi512_si256(sums_of_four(a, a)); }

// The sums of eight rows from the counts in their words. kVectors registers hold 8 / kVectors rows each.
template <size_t kVectors>
struct EightRows {
    __m512i v[kVectors];

    __m256i sums() const {
        if constexpr (kVectors == 8) {
            const __m512i low = sums_of_two(paired(v[0], v[1]), paired(v[2], v[3]));
            const __m512i high = sums_of_two(paired(v[4], v[5]), paired(v[6], v[7]));
            return sums_of_four(sums_of_four(low, high));
        } else if constexpr (kVectors == 4) {
            const __m256i even_first = sums_of_four(sums_of_two(paired(v[0], v[1]), paired(v[2], v[3])));
            return _mm256_permutevar8x32_epi32(even_first, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
        } else if constexpr (kVectors == 2) {
            const __m512i both = paired(v[0], v[1]);
            const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
            return _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, sums_of_two(both, both)));
        } else {
            return _mm512_cvtepi64_epi32(v[0]);
        }
    }
};

// A query of kWhole vectors, held in registers, and a last one that is not whole.
template <bool exclusive, size_t kWhole, bool kTail>
class ShortQuery {
  public:
    ShortQuery(const uint8_t* query, size_t bytes) : tail_mask_(first(bytes - kWhole * kVector)) {
        for (size_t v = 0; v < kWhole; ++v) parts_[v] = _mm512_loadu_si512(query + v * kVector);
        if constexpr (kTail) parts_[kWhole] = _mm512_maskz_loadu_epi8(tail_mask_, query + kWhole * kVector);
    }
    __m512i counts(const uint8_t* row) const {
        __m512i sum = _mm512_setzero_si512();
        for (size_t v = 0; v < kWhole; ++v) {
            sum = _mm512_add_epi64(sum, ones<exclusive>(parts_[v], _mm512_loadu_si512(row + v * kVector)));
        }
        if constexpr (kTail) {
            const __m512i x = _mm512_maskz_loadu_epi8(tail_mask_, row + kWhole * kVector);
            sum = _mm512_add_epi64(sum, ones<exclusive>(parts_[kWhole], x));
        }
        return sum;
    }

  private:
    __m512i parts_[kWhole + kTail];
    __mmask64 tail_mask_;
};

template <bool exclusive, bool kTail>
class LongQuery {
  public:
    LongQuery(const uint8_t* query, size_t bytes)
        : query_(query), whole_(bytes / kVector * kVector), tail_mask_(first(bytes % kVector)) {}
    __m512i counts(const uint8_t* row) const {
        __m512i sum = _mm512_setzero_si512();
        for (size_t at = 0; at < whole_; at += kVector) {
            sum = _mm512_add_epi64(sum, ones<exclusive>(_mm512_loadu_si512(query_ + at), _mm512_loadu_si512(row + at)));
        }
        if constexpr (kTail) {
            const __m512i query = _mm512_maskz_loadu_epi8(tail_mask_, query_ + whole_);
            const __m512i x = _mm512_maskz_loadu_epi8(tail_mask_, row + whole_);
            sum = _mm512_add_epi64(sum, ones<exclusive>(query, x));
        }
        return sum;
    }

  private:
    const uint8_t* query_;
    size_t whole_;
    __mmask64 tail_mask_;
};

template <class Query>
void count_rows(const uint8_t* query_bytes, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n,
                size_t bytes, uint32_t* out) {
    const Query query(query_bytes, bytes);
    const size_t fitting = kAhead / bytes, rows_ahead = fitting < kRowsAhead ? fitting + 1 : kRowsAhead;
    for (size_t i = 0; i < n; i += 8) {
        EightRows<8> eight;
        for (size_t r = 0; r < 8; ++r) {
            const size_t at = i + r < n ? i + r : n - 1;
            if (rows) {
                const size_t next = at + rows_ahead < n ? at + rows_ahead : n - 1;
                prefetch(data + rows[next] * stride, bytes);
            }
            eight.v[r] = query.counts(data + (rows ? rows[at] : at) * stride);
        }
        const size_t left = n - i;
        _mm256_mask_storeu_epi32(out + i, static_cast<__mmask8>(first(left < 8 ? left : 8)), eight.sums());
    }
}

// For each byte of a register its place in a slot of kSlot bytes, the number of the slot, and a bit where a slot
// begins.
template <size_t kSlot>
struct SlotTables {
    alignas(kVector) uint8_t places[kVector] = {}, numbers[kVector] = {};
    __mmask64 begins = 0;
    constexpr SlotTables() {
        for (size_t at = 0; at < kVector; ++at) {
            places[at] = at % kSlot;
            numbers[at] = at / kSlot;
            if (at % kSlot == 0) begins |= __mmask64{1} << at;
        }
    }
};

// Rows without gaps, of at most 8 * kVectors bytes: kSlots rows share a register, each in a slot of its own. Returns
// how many rows it has done.
template <bool exclusive, size_t kVectors, bool kFull>
size_t count_slots(const uint8_t* query, const uint8_t* data, size_t n, size_t bytes, uint32_t* out) {
    constexpr size_t kSlot = 8 * kVectors, kSlots = kVector / kSlot;
    static constexpr SlotTables<kSlot> kTables;
    const __m512i places = _mm512_load_si512(kTables.places), numbers = _mm512_load_si512(kTables.numbers);
    const __mmask64 used = first(bytes) * kTables.begins;
    const __m512i queries = _mm512_permutexvar_epi8(places, _mm512_maskz_loadu_epi8(first(bytes), query));
    // Byte `place` of row `number` is at number * bytes + place. The products are bytes, two equal ones side by side.
    const __m512i starts = _mm512_mullo_epi16(numbers, _mm512_set1_epi16(static_cast<int16_t>(bytes)));
    const __m512i spread = _mm512_add_epi8(places, starts);
    // Registers are loaded whole, with rows that come later; the last rows are not for this loop.
    const size_t loaded = (kVectors - 1) * kSlots * bytes + kVector;
    size_t i = 0;
    for (; i + 8 <= n && (n - i) * bytes >= loaded; i += 8) {
        EightRows<kVectors> eight;
        for (size_t v = 0; v < kVectors; ++v) {
            const uint8_t* at = data + (i + v * kSlots) * bytes;
            __m512i x = _mm512_loadu_si512(at);
            if constexpr (!kFull) x = _mm512_maskz_permutexvar_epi8(used, spread, x);
            eight.v[v] = ones<exclusive>(queries, x);
        }
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i), eight.sums());
    }
    return i;
}

template <bool exclusive>
void counts(const uint8_t* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t bytes,
            uint32_t* out) {
    if (rows == nullptr && stride == bytes && bytes <= 32) {
        using Slots = size_t (*)(const uint8_t*, const uint8_t*, size_t, size_t, uint32_t*);
        const bool full = bytes == 8 || bytes == 16 || bytes == 32;
        static constexpr Slots kSlots[][2] = {
            {count_slots<exclusive, 1, false>, count_slots<exclusive, 1, true>},
            {count_slots<exclusive, 2, false>, count_slots<exclusive, 2, true>},
            {count_slots<exclusive, 4, false>, count_slots<exclusive, 4, true>},
        };
        const size_t done = kSlots[bytes <= 8 ? 0 : bytes <= 16 ? 1 : 2][full](query, data, n, bytes, out);
        data += done * stride;
        out += done;
        n -= done;
    }
    if (n == 0) return;
    using Rows = void (*)(const uint8_t*, const uint8_t*, size_t, const uint32_t*, size_t, size_t, uint32_t*);
    static constexpr Rows kRuns[][2] = {
        {nullptr, count_rows<ShortQuery<exclusive, 0, true>>},
        {count_rows<ShortQuery<exclusive, 1, false>>, count_rows<ShortQuery<exclusive, 1, true>>},
        {count_rows<ShortQuery<exclusive, 2, false>>, count_rows<ShortQuery<exclusive, 2, true>>},
        {count_rows<ShortQuery<exclusive, 3, false>>, count_rows<ShortQuery<exclusive, 3, true>>},
        {count_rows<ShortQuery<exclusive, 4, false>>, count_rows<ShortQuery<exclusive, 4, true>>},
        {count_rows<LongQuery<exclusive, false>>, count_rows<LongQuery<exclusive, true>>},
    };
    const size_t whole = bytes / kVector;
    kRuns[whole < 5 ? whole : 5][bytes % kVector != 0](query, data, stride, rows, n, bytes, out);
}

size_t select(const uint32_t* counts, size_t n, int32_t most, uint32_t* at) {
    constexpr size_t kCounts = 16;  // in a register
    const __m512i bound = _mm512_set1_epi32(most);
    __m512i places = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    size_t found = 0;
    for (size_t i = 0; i < n; i += kCounts) {
        const auto present = static_cast<__mmask16>(n - i >= kCounts ? 0xffffu : (1u << (n - i)) - 1);
        const __m512i x = _mm512_maskz_loadu_epi32(present, counts + i);
        if (const __mmask16 hit = _mm512_mask_cmple_epi32_mask(present, x, bound)) {
            // Packed in a register: storing under a mask is slow on some CPUs.
            _mm512_storeu_si512(at + found, _mm512_maskz_compress_epi32(hit, places));
            found += static_cast<size_t>(_mm_popcnt_u32(hit));
        }
        places = _mm512_add_epi32(places, _mm512_set1_epi32(kCounts));
    }
    return found;
}

// ---------------------------------------------------------------------------------------------------------------------
// Groups
// ---------------------------------------------------------------------------------------------------------------------

constexpr size_t kLanes = 8;   // vectors in a register
constexpr size_t kPiece = 16;  // bytes of a row that are moved at once

// Bytes `at` .. at + 15 of four rows, of which only `left` are there in the last piece of a row.
template <bool kLast>
__m512i pieces(const uint8_t* const* rows, size_t at, __mmask16 left) {
    const auto piece = [&](size_t r) {
        if constexpr (kLast) return _mm_maskz_loadu_epi8(left, rows[r] + at);
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[r] + at));
    };
    // Merged on the way in: a register of four pieces costs no shuffle.
    __m512i x = _mm512_castsi128_si512(piece(0));
    x = _mm512_mask_broadcast_i64x2(x, 0x0c, piece(2));
    x = _mm512_mask_broadcast_i64x2(x, 0x30, piece(4));
    return _mm512_mask_broadcast_i64x2(x, 0xc0, piece(6));
}

// Stores the words of eight rows that stand in `even` and `odd` rows, one lane per row; of missing rows zeros.
void store_words(uint64_t* out, size_t words, __mmask8 present, __m512i even, __m512i odd) {
    _mm512_storeu_si512(out, _mm512_maskz_unpacklo_epi64(present, even, odd));
    if (words > 1) _mm512_storeu_si512(out + kGroup, _mm512_maskz_unpackhi_epi64(present, even, odd));
}

void interleave(const uint8_t* data, size_t stride, size_t n, size_t bytes, uint64_t* out) {
    const size_t words = (bytes + 7) / 8;
    for (size_t start = 0; start < kGroup; start += kLanes, out += kLanes) {
        if (start >= n) {
            for (size_t w = 0; w < words; ++w) _mm512_storeu_si512(out + w * kGroup, _mm512_setzero_si512());
            continue;
        }
        const size_t left = n - start;
        const auto present = static_cast<__mmask8>(first(left));
        const uint8_t* rows[kLanes];
        for (size_t r = 0; r < kLanes; ++r) rows[r] = data + (start + (r < left ? r : 0)) * stride;
        const uint8_t* next = rows[0] + kGroup * stride;
        size_t at = 0;
        for (; at + kVector <= bytes; at += kVector) {
            // The hardware does not follow eight rows through memory at once. What comes after them is fetched in
            // order, as far as the second level: the first one is full of these rows and their words.
            for (size_t line = 0; line < kLanes; ++line) {
                const uint8_t* later = next + at * kLanes + line * kVector;
                _mm_prefetch(reinterpret_cast<const char*>(later), _MM_HINT_T1);
            }
            for (size_t piece = at; piece < at + kVector; piece += kPiece) {
                store_words(out + piece / 8 * kGroup, 2, present, pieces<false>(rows, piece, 0),
                            pieces<false>(rows + 1, piece, 0));
            }
        }
        for (; at + kPiece <= bytes; at += kPiece) {
            store_words(out + at / 8 * kGroup, 2, present, pieces<false>(rows, at, 0), pieces<false>(rows + 1, at, 0));
        }
        if (at < bytes) {
            const auto mask = static_cast<__mmask16>(first(bytes - at));
            store_words(out + at / 8 * kGroup, words - at / 8, present, pieces<true>(rows, at, mask),
                        pieces<true>(rows + 1, at, mask));
        }
    }
}

// One value for each vector of a group: 0 .. 7, 8 .. 15, 16 .. 23, 24 .. 31. No array, and no loop over them: the
// compiler would keep them in memory.
struct Lanes {
    __m512i a, b, c, d;

    static Lanes load(const uint64_t* at) {
        return {_mm512_loadu_si512(at), _mm512_loadu_si512(at + kLanes), _mm512_loadu_si512(at + 2 * kLanes),
                _mm512_loadu_si512(at + 3 * kLanes)};
    }
    static Lanes all(int64_t x) {
        const __m512i each = _mm512_set1_epi64(x);
        return {each, each, each, each};
    }
    uint32_t negative() const {
        return static_cast<uint32_t>(_mm512_movepi64_mask(a)) | static_cast<uint32_t>(_mm512_movepi64_mask(b)) << 8 |
               static_cast<uint32_t>(_mm512_movepi64_mask(c)) << 16 |
               static_cast<uint32_t>(_mm512_movepi64_mask(d)) << 24;
    }
};

// The lower halves of the differences.
void store_difference(uint32_t* out, __m512i x, __m512i y) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi64_epi32(_mm512_sub_epi64(x, y)));
}

// Running sums of kWidth queries over a group.
template <bool exclusive, size_t kWidth>
struct Sums {
    Sums<exclusive, kWidth - 1> others;
    Lanes own;

    explicit Sums(const int64_t* start) : others(start), own(Lanes::all(start[kWidth - 1])) {}
    void add(const Lanes& x, const uint64_t* queries) {
        others.add(x, queries);
        const __m512i query = _mm512_set1_epi64(static_cast<int64_t>(queries[kWidth - 1]));
        own.a = _mm512_add_epi64(own.a, ones<exclusive>(query, x.a));
        own.b = _mm512_add_epi64(own.b, ones<exclusive>(query, x.b));
        own.c = _mm512_add_epi64(own.c, ones<exclusive>(query, x.c));
        own.d = _mm512_add_epi64(own.d, ones<exclusive>(query, x.d));
    }
    // Words stand kGroup apart in `codes` and `step` apart in `queries`.
    void add(const uint64_t* codes, size_t words, const uint64_t* queries, size_t step) {
        for (size_t w = 0; w < words; ++w) add(Lanes::load(codes + w * kGroup), queries + w * step);
    }
    // Calls visit(query, sums) for each.
    template <class Visit>
    void each(const Visit& visit) const {
        others.each(visit);
        visit(kWidth - 1, own);
    }
};
template <bool exclusive>
struct Sums<exclusive, 0> {
    explicit Sums(const int64_t*) {}
    void add(const Lanes&, const uint64_t*) {}
    template <class Visit>
    void each(const Visit&) const {}
};

template <size_t kWidth>
uint32_t tile(const uint64_t* codes, size_t words, const uint64_t* queries, const int32_t* most, uint32_t* survivors,
              uint32_t* counts) {
    // Sums start at -(most + 1), so that those of survivors are negative in the end.
    int64_t start[kWidth];
    for (size_t q = 0; q < kWidth; ++q) start[q] = ~int64_t{most[q]};
    Sums<true, kWidth> sums(start);
    sums.add(codes, words, queries, kWidth);
    __m512i any = _mm512_setzero_si512();
    sums.each([&](size_t, const Lanes& sum) {
        any = _mm512_ternarylogic_epi64(any, sum.a, sum.b, 0xfe);
        any = _mm512_ternarylogic_epi64(any, sum.c, sum.d, 0xfe);
    });
    if (_mm512_movepi64_mask(any) == 0) return 0;

    uint32_t hit = 0;
    sums.each([&](size_t q, const Lanes& sum) {
        const uint32_t mask = sum.negative();
        survivors[q] = mask;
        if (mask == 0) return;
        hit |= 1u << q;
        const __m512i back = _mm512_set1_epi64(start[q]);
        uint32_t* out = counts + q * kGroup;
        store_difference(out, sum.a, back);
        store_difference(out + kLanes, sum.b, back);
        store_difference(out + 2 * kLanes, sum.c, back);
        store_difference(out + 3 * kLanes, sum.d, back);
    });
    return hit;
}

uint32_t hamming_tile(const uint64_t* codes, size_t words, const uint64_t* queries, size_t width, const int32_t* most,
                      uint32_t* survivors, uint32_t* counts) {
    using Run = uint32_t (*)(const uint64_t*, size_t, const uint64_t*, const int32_t*, uint32_t*, uint32_t*);
    static constexpr Run kRuns[] = {tile<1>, tile<2>, tile<3>, tile<4>};
    static_assert(sizeof(kRuns) / sizeof(Run) == kBitTile);
    return kRuns[width - 1](codes, words, queries, most, survivors, counts);
}

// Weighted counts of all vectors of a group: 0 .. 7 and 8 .. 15 take turns in v[0], the others in v[1].
struct Weighted {
    __m512 v[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
};

template <bool exclusive, size_t kWidth>
inline void add_planes(const uint64_t* plane, size_t words, const uint64_t* queries, size_t step, const float* weight,
                       Weighted* sum) {
    static constexpr int64_t kStart[kWidth] = {};
    Sums<exclusive, kWidth> sums(kStart);
    sums.add(plane, words, queries, step);
    sums.each([&](size_t p, const Lanes& count) {
        const __m512 each = _mm512_set1_ps(weight[p]);
        const __m512i low = paired(count.a, count.b), high = paired(count.c, count.d);
        sum->v[0] = _mm512_fmadd_ps(each, _mm512_cvtepi32_ps(low), sum->v[0]);
        sum->v[1] = _mm512_fmadd_ps(each, _mm512_cvtepi32_ps(high), sum->v[1]);
    });
}

template <bool exclusive>
Weighted weighted_counts(const uint64_t* codes, const BitPlanes* query) {
    using Add = void (*)(const uint64_t*, size_t, const uint64_t*, size_t, const float*, Weighted*);
    static constexpr Add kAdd[] = {add_planes<exclusive, 1>, add_planes<exclusive, 2>, add_planes<exclusive, 3>,
                                   add_planes<exclusive, 4>};
    constexpr size_t kAtOnce = sizeof(kAdd) / sizeof(Add);
    const size_t words = query->words, planes = query->query_planes;
    Weighted sum;
    for (size_t t = 0; t < query->doc_planes; ++t) {
        for (size_t p = 0; p < planes; p += kAtOnce) {
            const size_t width = planes - p < kAtOnce ? planes - p : kAtOnce;
            kAdd[width - 1](codes + t * words * kGroup, words, query->query + p, planes, query->weight + t * planes + p,
                            &sum);
        }
    }
    return sum;
}

uint32_t score(Weighted sum, const float* factors, const BitPlanes* query, float* low) {
    const __m512i order = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 1, 3, 5, 7, 9, 11, 13, 15);
    const __m512 offset = _mm512_set1_ps(query->offset), tilt = _mm512_set1_ps(query->tilt);
    const __m512 bound = _mm512_set1_ps(query->bound);
    uint32_t survivors = 0;
    for (size_t half = 0; half < 2; ++half) {
        const __m512 mul = _mm512_loadu_ps(factors + 16 * half), add = _mm512_loadu_ps(factors + kGroup + 16 * half);
        const __m512 total = _mm512_add_ps(offset, _mm512_permutexvar_ps(order, sum.v[half]));
        const __m512 lows = _mm512_fmadd_ps(mul, total, _mm512_mul_ps(tilt, add));
        _mm512_storeu_ps(low + 16 * half, lows);
        survivors |= static_cast<uint32_t>(_mm512_cmp_ps_mask(lows, bound, _CMP_NGT_UQ)) << (16 * half);
    }
    return survivors;
}

// One plane of documents, all in registers: a third faster where codes are short.
template <bool exclusive, size_t kWidth>
uint32_t score_plane(const uint64_t* codes, const float* factors, const BitPlanes* query, float* low) {
    Weighted sum;
    add_planes<exclusive, kWidth>(codes, query->words, query->query, kWidth, query->weight, &sum);
    return score(sum, factors, query, low);
}

uint32_t planes(const uint64_t* codes, const float* factors, const BitPlanes* query, float* low) {
    using Score = uint32_t (*)(const uint64_t*, const float*, const BitPlanes*, float*);
    static constexpr Score kScore[][2] = {{score_plane<false, 1>, score_plane<true, 1>},
                                          {score_plane<false, 2>, score_plane<true, 2>},
                                          {score_plane<false, 3>, score_plane<true, 3>},
                                          {score_plane<false, 4>, score_plane<true, 4>}};
    if (query->doc_planes == 1 && query->query_planes <= 4) {
        return kScore[query->query_planes - 1][query->exclusive](codes, factors, query, low);
    }
    const Weighted sum = query->exclusive ? weighted_counts<true>(codes, query) : weighted_counts<false>(codes, query);
    return score(sum, factors, query, low);
}

}  // namespace

void fill_bits_avx512icl(KernelTable* table) {
    table->bits = {counts<true>, counts<false>, select, interleave, hamming_tile, planes};
}

}  // namespace nearfield::kernels
