// AVX-512 (F/BW/DQ/VL/CD) kernels on rows. One row after the other: several rows side by side would share the loads of
// the query, but the memory prefetcher follows a single stream two to three times as fast. Four running sums hide the 4
// cycles of a multiply-add. Tails use masked loads, so nothing past a row is read.
#include <immintrin.h>
#include <math.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

struct F32 {
    static constexpr size_t bytes = 4;
    static __m512 load(const uint8_t* at) { return _mm512_loadu_ps(at); }
    static __m512 load(const uint8_t* at, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, at); }
    static void store(uint8_t* at, __mmask16 mask, __m512 x) { _mm512_mask_storeu_ps(at, mask, x); }
};
struct F16 {
    static constexpr size_t bytes = 2;
    static __m512 load(const uint8_t* at) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
    }
    static __m512 load(const uint8_t* at, __mmask16 mask) {
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, at));
    }
    static void store(uint8_t* at, __mmask16 mask, __m512 x) {
        _mm256_mask_storeu_epi16(at, mask, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
};
struct BF16 {
    static constexpr size_t bytes = 2;
    static __m512 widen(__m256i x) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)); }
    static __m512 load(const uint8_t* at) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at))); }
    static __m512 load(const uint8_t* at, __mmask16 mask) { return widen(_mm256_maskz_loadu_epi16(mask, at)); }
    static void store(uint8_t* at, __mmask16 mask, __m512 x) {  // round to nearest even by integer addition
        const __m512i bits = _mm512_castps_si512(x), high = _mm512_srli_epi32(bits, 16);
        const __m512i odd = _mm512_and_si512(high, _mm512_set1_epi32(1));
        const __m512i sum = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
        const __m512i rounded = _mm512_srli_epi32(sum, 16);
        const __m512i out = _mm512_mask_or_epi32(rounded, nan, high, _mm512_set1_epi32(0x40));
        _mm256_mask_storeu_epi16(at, mask, _mm512_cvtepi32_epi16(out));
    }
};
struct I8 {
    static constexpr size_t bytes = 1;
    static __m512 widen(__m128i x) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x)); }
    static __m512 load(const uint8_t* at) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))); }
    static __m512 load(const uint8_t* at, __mmask16 mask) { return widen(_mm_maskz_loadu_epi8(mask, at)); }
};
struct U8 {
    static constexpr size_t bytes = 1;
    static __m512 widen(__m128i x) { return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(x)); }
    static __m512 load(const uint8_t* at) { return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at))); }
    static __m512 load(const uint8_t* at, __mmask16 mask) { return widen(_mm_maskz_loadu_epi8(mask, at)); }
};

__mmask16 tail_mask(size_t dim) { return static_cast<__mmask16>((1u << (dim % 16)) - 1u); }

enum class Sum { kDot, kDotAndNorm, kL2 };

template <Sum kind>
struct Accumulator {
    __m512 sum = _mm512_setzero_ps(), norm = _mm512_setzero_ps();
    void add(__m512 query, __m512 x) {
        if constexpr (kind == Sum::kL2) {
            const __m512 difference = _mm512_sub_ps(query, x);
            sum = _mm512_fmadd_ps(difference, difference, sum);
        } else {
            sum = _mm512_fmadd_ps(query, x, sum);
            if constexpr (kind == Sum::kDotAndNorm) norm = _mm512_fmadd_ps(x, x, norm);
        }
    }
    void add(const Accumulator& other) {
        sum = _mm512_add_ps(sum, other.sum);
        norm = _mm512_add_ps(norm, other.norm);
    }
};

template <Sum kind>
void score(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
           float* out, float* squared) {
    const __mmask16 tail = tail_mask(dim);
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* row = data + (rows ? rows[i] : i) * stride;
        Accumulator<kind> a, b, c, e;
        size_t d = 0;
        for (; d + 64 <= dim; d += 64) {
            a.add(_mm512_loadu_ps(query + d), F32::load(row + d * 4));
            b.add(_mm512_loadu_ps(query + d + 16), F32::load(row + (d + 16) * 4));
            c.add(_mm512_loadu_ps(query + d + 32), F32::load(row + (d + 32) * 4));
            e.add(_mm512_loadu_ps(query + d + 48), F32::load(row + (d + 48) * 4));
        }
        for (; d + 16 <= dim; d += 16) a.add(_mm512_loadu_ps(query + d), F32::load(row + d * 4));
        if (tail) b.add(_mm512_maskz_loadu_ps(tail, query + d), F32::load(row + d * 4, tail));
        a.add(b);
        c.add(e);
        a.add(c);
        out[i] = _mm512_reduce_add_ps(a.sum);
        if constexpr (kind == Sum::kDotAndNorm) squared[i] = _mm512_reduce_add_ps(a.norm);
    }
}

void dot_f32(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
             float* out, float* squared) {
    if (squared) {
        score<Sum::kDotAndNorm>(query, data, stride, rows, n, dim, out, squared);
    } else {
        score<Sum::kDot>(query, data, stride, rows, n, dim, out, squared);
    }
}

void l2_f32(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
            float* out) {
    score<Sum::kL2>(query, data, stride, rows, n, dim, out, nullptr);
}

struct Settled {
    __m512d dot = _mm512_setzero_pd(), norm = _mm512_setzero_pd(), distance = _mm512_setzero_pd();
    void add(__m256 query, __m256 row) {
        const __m512d q = _mm512_cvtps_pd(query), x = _mm512_cvtps_pd(row), difference = _mm512_sub_pd(q, x);
        dot = _mm512_fmadd_pd(q, x, dot);
        norm = _mm512_fmadd_pd(x, x, norm);
        distance = _mm512_fmadd_pd(difference, difference, distance);
    }
};

template <class T>
void settle(const float* query, const uint8_t* row, float scale, size_t dim, double* out) {
    Settled low, high;
    const __m512 scales = _mm512_set1_ps(scale);
    const auto add = [&](__m512 q, __m512 x) {
        x = _mm512_mul_ps(x, scales);
        low.add(_mm512_castps512_ps256(q), _mm512_castps512_ps256(x));
        high.add(_mm512_extractf32x8_ps(q, 1), _mm512_extractf32x8_ps(x, 1));
    };
    size_t d = 0;
    for (; d + 16 <= dim; d += 16) add(_mm512_loadu_ps(query + d), T::load(row + d * T::bytes));
    if (const __mmask16 tail = tail_mask(dim)) {
        add(_mm512_maskz_loadu_ps(tail, query + d), T::load(row + d * T::bytes, tail));
    }
    out[0] = _mm512_reduce_add_pd(_mm512_add_pd(low.dot, high.dot));
    out[1] = _mm512_reduce_add_pd(_mm512_add_pd(low.norm, high.norm));
    out[2] = _mm512_reduce_add_pd(_mm512_add_pd(low.distance, high.distance));
}

template <class T>
void decode(const uint8_t* row, size_t dim, float* out) {
    size_t d = 0;
    for (; d + 16 <= dim; d += 16) _mm512_storeu_ps(out + d, T::load(row + d * T::bytes));
    if (const __mmask16 tail = tail_mask(dim)) _mm512_mask_storeu_ps(out + d, tail, T::load(row + d * T::bytes, tail));
}

template <class T>
void encode(const float* vector, size_t dim, uint8_t* row) {
    size_t d = 0;
    for (; d + 16 <= dim; d += 16) T::store(row + d * T::bytes, 0xffff, _mm512_loadu_ps(vector + d));
    if (const __mmask16 tail = tail_mask(dim)) {
        T::store(row + d * T::bytes, tail, _mm512_maskz_loadu_ps(tail, vector + d));
    }
}

void quantize(const float* vector, size_t dim, int limit, int8_t* code, float* out) {
    const __mmask16 tail = tail_mask(dim);
    const size_t whole = dim - dim % 16;
    __m512 largest = _mm512_setzero_ps();
    for (size_t d = 0; d < whole; d += 16) {
        largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_loadu_ps(vector + d)));
    }
    largest = _mm512_max_ps(largest, _mm512_abs_ps(_mm512_maskz_loadu_ps(tail, vector + whole)));
    const float scale = _mm512_reduce_max_ps(largest) / static_cast<float>(limit);
    const __m512 scales = _mm512_set1_ps(scale);
    // A subnormal scale has no finite inverse: such a vector gets the code 0 and its own length as the error.
    const __m512 inverse = _mm512_set1_ps(scale >= 0x1p-126f ? 1.0f / scale : 0.0f);
    const __m512 limits = _mm512_set1_ps(static_cast<float>(limit)),
                 floors = _mm512_sub_ps(_mm512_setzero_ps(), limits);
    __m512 error = _mm512_setzero_ps(), norm = _mm512_setzero_ps();
    for (size_t d = 0; d < dim; d += 16) {
        const __mmask16 mask = d < whole ? __mmask16{0xffff} : tail;
        const __m512 x = _mm512_maskz_loadu_ps(mask, vector + d);
        const __m512 scaled = _mm512_mul_ps(x, inverse);
        const __m512 rounded = _mm512_roundscale_ps(scaled, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        const __m512 integer = _mm512_min_ps(_mm512_max_ps(rounded, floors), limits);
        const __m512 value = _mm512_mul_ps(integer, scales), difference = _mm512_fnmadd_ps(integer, scales, x);
        error = _mm512_fmadd_ps(difference, difference, error);
        norm = _mm512_fmadd_ps(value, value, norm);
        _mm_mask_storeu_epi8(code + d, mask, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(integer)));
    }
    // Up for the rounding of the sums, and for squares too small for float32: each of those hides less than 2^-75.
    const float up = 1.0f + 0x1p-23f * static_cast<float>(dim + 8), tiny = 0x1p-74f * sqrtf(static_cast<float>(dim));
    out[0] = scale;
    out[1] = sqrtf(_mm512_reduce_add_ps(error)) * up + tiny;
    out[2] = sqrtf(_mm512_reduce_add_ps(norm)) * up + tiny;
}

}  // namespace

void fill_dense_avx512(KernelTable* table) {
    table->dense[kF32] = {dot_f32, l2_f32, nullptr, settle<F32>, decode<F32>, encode<F32>};
    // Scans of two-byte elements stay with the 256-bit kernels: a conversion to 512 bits is two operations on Zen 4,
    // where they reach 0.94 of the read bandwidth and 512-bit ones 0.8.
    table->dense[kF16].settle = settle<F16>;
    table->dense[kF16].decode = decode<F16>;
    table->dense[kF16].encode = encode<F16>;
    table->dense[kBF16].settle = settle<BF16>;
    table->dense[kBF16].decode = decode<BF16>;
    table->dense[kBF16].encode = encode<BF16>;
    table->dense[kI8].settle = settle<I8>;
    table->dense[kI8].decode = decode<I8>;
    table->dense[kU8].settle = settle<U8>;
    table->dense[kU8].decode = decode<U8>;
    table->quantize = quantize;
}

}  // namespace nearfield::kernels
