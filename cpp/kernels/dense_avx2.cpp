// AVX2 (with FMA and F16C) kernels on rows, one row after the other: the memory prefetcher follows a single stream
// best. Four running sums hide the latency of a multiply-add. AVX2 has no masked loads of small elements, so the tail
// of a row goes through a zeroed buffer and nothing past a row is read.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

constexpr size_t kLanes = 8;
constexpr size_t kAhead = 8192;   // bytes prefetched ahead of a scan
constexpr size_t kRowsAhead = 3;  // rows prefetched ahead in a list

__m128i load_half(const uint8_t* at) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)); }
__m128i load_quarter(const uint8_t* at) { return _mm_loadl_epi64(reinterpret_cast<const __m128i*>(at)); }
void store_half(uint8_t* at, __m128i x) { _mm_storeu_si128(reinterpret_cast<__m128i*>(at), x); }

// Eight elements of each type to and from float32.
struct F32 {
    static constexpr size_t bytes = 4;
    static __m256 load(const uint8_t* at) { return _mm256_loadu_ps(reinterpret_cast<const float*>(at)); }
    static void store(uint8_t* at, __m256 x) { _mm256_storeu_ps(reinterpret_cast<float*>(at), x); }
};
struct F16 {
    static constexpr size_t bytes = 2;
    static __m256 load(const uint8_t* at) { return _mm256_cvtph_ps(load_half(at)); }
    static void store(uint8_t* at, __m256 x) { store_half(at, _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT)); }
};
struct BF16 {
    static constexpr size_t bytes = 2;
    static __m256 load(const uint8_t* at) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_half(at)), 16));
    }
    static void store(uint8_t* at, __m256 x) {  // round to nearest even by integer addition
        const __m256i bits = _mm256_castps_si256(x), high = _mm256_srli_epi32(bits, 16);
        const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
        const __m256i sum = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
        const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
        const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
        const __m256i out = _mm256_blendv_epi8(_mm256_srli_epi32(sum, 16), quiet, nan);
        store_half(at, _mm_packus_epi32(_mm256_castsi256_si128(out), _mm256_extracti128_si256(out, 1)));
    }
};
struct I8 {
    static constexpr size_t bytes = 1;
    static __m256 load(const uint8_t* at) { return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(load_quarter(at))); }
    static __m256i widen(__m128i x) { return _mm256_cvtepi8_epi16(x); }
};
struct U8 {
    static constexpr size_t bytes = 1;
    static __m256 load(const uint8_t* at) { return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(load_quarter(at))); }
    static __m256i widen(__m128i x) { return _mm256_cvtepu8_epi16(x); }
};

// The first n < 8 elements at `at`, zeros after them.
template <class T>
__m256 load_tail(const uint8_t* at, size_t n) {
    uint8_t buffer[kLanes * T::bytes] = {};
    memcpy(buffer, at, n * T::bytes);
    return T::load(buffer);
}
__m256 load_tail(const float* at, size_t n) { return load_tail<F32>(reinterpret_cast<const uint8_t*>(at), n); }

float sum_of(__m256 x) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
double sum_of(__m256d x) {
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(x), _mm256_extractf128_pd(x, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
}
int32_t sum_of(__m256i x) {
    const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}

enum class Sum { kDot, kDotAndNorm, kL2 };

template <Sum kind>
struct Accumulator {
    __m256 sum = _mm256_setzero_ps(), norm = _mm256_setzero_ps();
    void add(__m256 query, __m256 x) {
        if constexpr (kind == Sum::kL2) {
            // query - 1 * x: a subtraction proper would wait for the pipes that convert 16-bit elements.
            const __m256 difference = _mm256_fnmadd_ps(_mm256_set1_ps(1), x, query);
            sum = _mm256_fmadd_ps(difference, difference, sum);
        } else {
            sum = _mm256_fmadd_ps(query, x, sum);
            if constexpr (kind == Sum::kDotAndNorm) norm = _mm256_fmadd_ps(x, x, norm);
        }
    }
    void add(const Accumulator& other) {
        sum = _mm256_add_ps(sum, other.sum);
        norm = _mm256_add_ps(norm, other.norm);
    }
};

// The last dim % 8 elements of a row. In a row of eight or more they are loaded together with the ones before them,
// which are then masked: a detour through a buffer would wait for the store.
template <class T>
struct Last {
    size_t count, start;  // elements, and where the load begins
    bool short_row;
    __m256 mask, query;
    Last(const float* whole, size_t dim)
        : count(dim % kLanes), start(dim >= kLanes ? dim - kLanes : 0), short_row(dim < kLanes) {
        alignas(32) int32_t lanes[kLanes] = {};
        for (size_t i = dim >= kLanes ? kLanes - count : 0; i < kLanes; ++i) lanes[i] = -1;
        mask = _mm256_castsi256_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(lanes)));
        query = short_row ? load_tail(whole, count) : _mm256_and_ps(_mm256_loadu_ps(whole + start), mask);
    }
    __m256 load(const uint8_t* row) const {
        return short_row ? load_tail<T>(row, count) : _mm256_and_ps(T::load(row + start * T::bytes), mask);
    }
};

template <class T, Sum kind>
void score(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
           float* out, float* squared) {
    const Last<T> last(query, dim);
    // A scan of two-byte elements needs the first-level cache filled faster than the hardware does it by itself, which
    // knows nothing of the rows of a list.
    const bool fetch = rows != nullptr || T::bytes == 2;
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* row = data + (rows ? rows[i] : i) * stride;
        const uint8_t* later = rows ? data + rows[i + kRowsAhead < n ? i + kRowsAhead : n - 1] * stride : row + kAhead;
        Accumulator<kind> a, b, c, e;
        size_t d = 0;
        for (; d + 4 * kLanes <= dim; d += 4 * kLanes) {
            for (size_t line = 0; fetch && line < 4 * kLanes * T::bytes; line += 64) {
                _mm_prefetch(reinterpret_cast<const char*>(later + d * T::bytes + line), _MM_HINT_T0);
            }
            a.add(_mm256_loadu_ps(query + d), T::load(row + d * T::bytes));
            b.add(_mm256_loadu_ps(query + d + kLanes), T::load(row + (d + kLanes) * T::bytes));
            c.add(_mm256_loadu_ps(query + d + 2 * kLanes), T::load(row + (d + 2 * kLanes) * T::bytes));
            e.add(_mm256_loadu_ps(query + d + 3 * kLanes), T::load(row + (d + 3 * kLanes) * T::bytes));
        }
        for (; d + kLanes <= dim; d += kLanes) a.add(_mm256_loadu_ps(query + d), T::load(row + d * T::bytes));
        if (last.count) b.add(last.query, last.load(row));
        a.add(b);
        c.add(e);
        a.add(c);
        out[i] = sum_of(a.sum);
        if constexpr (kind == Sum::kDotAndNorm) squared[i] = sum_of(a.norm);
    }
}

template <class T>
void dot(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim, float* out,
         float* squared) {
    if (squared) {
        score<T, Sum::kDotAndNorm>(query, data, stride, rows, n, dim, out, squared);
    } else {
        score<T, Sum::kDot>(query, data, stride, rows, n, dim, out, squared);
    }
}

template <class T>
void l2(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
        float* out) {
    score<T, Sum::kL2>(query, data, stride, rows, n, dim, out, nullptr);
}

// Sixteen products at a time, widened to 16 bits: any two of them fit the 32-bit lane of vpmaddwd, -128 * -128 too.
template <class T, bool kNorm>
struct IntegerAccumulator {
    __m256i dot = _mm256_setzero_si256(), norm = _mm256_setzero_si256();
    void add(__m128i query, __m128i row) {
        const __m256i x = T::widen(row);
        dot = _mm256_add_epi32(dot, _mm256_madd_epi16(_mm256_cvtepi8_epi16(query), x));
        if constexpr (kNorm) norm = _mm256_add_epi32(norm, _mm256_madd_epi16(x, x));
    }
};

template <class T, bool kNorm>
void integer_score(const int8_t* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
                   int32_t* out, uint32_t* squared) {
    constexpr size_t kStep = 16;
    const auto* q = reinterpret_cast<const uint8_t*>(query);
    const size_t tail = dim % kStep, whole = dim - tail;
    // The tail as in Last: loaded with the elements before it, which are masked, or through a buffer in a short row.
    uint8_t lanes[kStep] = {}, query_tail[kStep] = {}, row_tail[kStep] = {};
    for (size_t j = kStep - tail; j < kStep; ++j) lanes[j] = 0xff;
    const __m128i mask = load_half(lanes);
    memcpy(query_tail + (whole ? kStep - tail : 0), q + whole, tail);
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* row = data + (rows ? rows[i] : i) * stride;
        IntegerAccumulator<T, kNorm> even, odd;
        size_t d = 0;
        for (; d + 2 * kStep <= whole; d += 2 * kStep) {
            even.add(load_half(q + d), load_half(row + d));
            odd.add(load_half(q + d + kStep), load_half(row + d + kStep));
        }
        if (d < whole) even.add(load_half(q + d), load_half(row + d));
        if (tail && whole) {
            odd.add(load_half(query_tail), _mm_and_si128(load_half(row + dim - kStep), mask));
        } else if (tail) {
            memcpy(row_tail, row, tail);
            odd.add(load_half(query_tail), load_half(row_tail));
        }
        out[i] = sum_of(_mm256_add_epi32(even.dot, odd.dot));
        if constexpr (kNorm) squared[i] = static_cast<uint32_t>(sum_of(_mm256_add_epi32(even.norm, odd.norm)));
    }
}

template <class T>
void integer_dot(const int8_t* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
                 int32_t* out, uint32_t* squared) {
    if (squared) {
        integer_score<T, true>(query, data, stride, rows, n, dim, out, squared);
    } else {
        integer_score<T, false>(query, data, stride, rows, n, dim, out, squared);
    }
}

struct Settled {
    __m256d dot = _mm256_setzero_pd(), norm = _mm256_setzero_pd(), distance = _mm256_setzero_pd();
    void add(__m128 query, __m128 row) {
        const __m256d q = _mm256_cvtps_pd(query), x = _mm256_cvtps_pd(row), difference = _mm256_sub_pd(q, x);
        dot = _mm256_fmadd_pd(q, x, dot);
        norm = _mm256_fmadd_pd(x, x, norm);
        distance = _mm256_fmadd_pd(difference, difference, distance);
    }
};

template <class T>
void settle(const float* query, const uint8_t* row, float scale, size_t dim, double* out) {
    Settled low, high;
    const __m256 scales = _mm256_set1_ps(scale);
    const auto add = [&](__m256 q, __m256 x) {
        x = _mm256_mul_ps(x, scales);
        low.add(_mm256_castps256_ps128(q), _mm256_castps256_ps128(x));
        high.add(_mm256_extractf128_ps(q, 1), _mm256_extractf128_ps(x, 1));
    };
    size_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) add(_mm256_loadu_ps(query + d), T::load(row + d * T::bytes));
    if (d < dim) add(load_tail(query + d, dim - d), load_tail<T>(row + d * T::bytes, dim - d));
    out[0] = sum_of(_mm256_add_pd(low.dot, high.dot));
    out[1] = sum_of(_mm256_add_pd(low.norm, high.norm));
    out[2] = sum_of(_mm256_add_pd(low.distance, high.distance));
}

template <class T>
void decode(const uint8_t* row, size_t dim, float* out) {
    size_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) _mm256_storeu_ps(out + d, T::load(row + d * T::bytes));
    float tail[kLanes];
    _mm256_storeu_ps(tail, load_tail<T>(row + d * T::bytes, dim - d));
    memcpy(out + d, tail, (dim - d) * sizeof(float));
}

template <class T>
void encode(const float* vector, size_t dim, uint8_t* row) {
    size_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) T::store(row + d * T::bytes, _mm256_loadu_ps(vector + d));
    uint8_t tail[kLanes * T::bytes];
    T::store(tail, load_tail(vector + d, dim - d));
    memcpy(row + d * T::bytes, tail, (dim - d) * T::bytes);
}

void quantize(const float* vector, size_t dim, int limit, int8_t* code, float* out) {
    const auto load = [&](size_t d) {
        return dim - d < kLanes ? load_tail(vector + d, dim - d) : _mm256_loadu_ps(vector + d);
    };
    const __m256 sign = _mm256_set1_ps(-0.0f);
    __m256 largest = _mm256_setzero_ps();
    for (size_t d = 0; d < dim; d += kLanes) largest = _mm256_max_ps(largest, _mm256_andnot_ps(sign, load(d)));
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    const float scale = _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most))) / static_cast<float>(limit);
    const __m256 scales = _mm256_set1_ps(scale);
    // A subnormal scale has no finite inverse: such a vector gets the code 0 and its own length as the error.
    const __m256 inverse = _mm256_set1_ps(scale >= 0x1p-126f ? 1.0f / scale : 0.0f);
    const __m256 limits = _mm256_set1_ps(static_cast<float>(limit)), floors = _mm256_xor_ps(limits, sign);
    __m256 error = _mm256_setzero_ps(), norm = _mm256_setzero_ps();
    for (size_t d = 0; d < dim; d += kLanes) {
        const __m256 x = load(d);
        const __m256 rounded =
            _mm256_round_ps(_mm256_mul_ps(x, inverse), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        const __m256 integer = _mm256_min_ps(_mm256_max_ps(rounded, floors), limits);
        const __m256 value = _mm256_mul_ps(integer, scales), difference = _mm256_fnmadd_ps(integer, scales, x);
        error = _mm256_fmadd_ps(difference, difference, error);
        norm = _mm256_fmadd_ps(value, value, norm);
        const __m256i wide = _mm256_cvtps_epi32(integer);
        const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        int8_t bytes[2 * kLanes];
        _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes), _mm_packs_epi16(words, words));
        memcpy(code + d, bytes, dim - d < kLanes ? dim - d : kLanes);
    }
    // Up for the rounding of the sums, and for squares too small for float32: each of those hides less than 2^-75.
    const float up = 1.0f + 0x1p-23f * static_cast<float>(dim + 8), tiny = 0x1p-74f * sqrtf(static_cast<float>(dim));
    out[0] = scale;
    out[1] = sqrtf(sum_of(error)) * up + tiny;
    out[2] = sqrtf(sum_of(norm)) * up + tiny;
}

}  // namespace

void fill_dense_avx2(KernelTable* table) {
    table->dense[kF32] = {dot<F32>, l2<F32>, nullptr, settle<F32>, decode<F32>, encode<F32>};
    table->dense[kF16] = {dot<F16>, l2<F16>, nullptr, settle<F16>, decode<F16>, encode<F16>};
    table->dense[kBF16] = {dot<BF16>, l2<BF16>, nullptr, settle<BF16>, decode<BF16>, encode<BF16>};
    table->dense[kI8] = {nullptr, nullptr, integer_dot<I8>, settle<I8>, decode<I8>, nullptr};
    table->dense[kU8] = {nullptr, nullptr, integer_dot<U8>, settle<U8>, decode<U8>, nullptr};
    table->quantize = quantize;
}

}  // namespace nearfield::kernels
