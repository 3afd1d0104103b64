// Integer dot products on rows with vpdpbusd: 64 unsigned by signed products into 16 sums. Signed rows are shifted to
// unsigned by flipping the sign bit, and 128 times the sum of the query is subtracted at the end; exact in 32 bits up
// to 65,535 dimensions. Row lengths (for cosine and l2) come from vpdpwssd on 16-bit elements: the loads are shared,
// and a scan from memory has the cycles to spare.
#include <immintrin.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

struct I8 {
    static __m512i unsigned_codes(__m512i x) { return _mm512_xor_si512(x, _mm512_set1_epi8(-128)); }
    static __m512i widen(__m256i x) { return _mm512_cvtepi8_epi16(x); }
    static constexpr int32_t bias = 128;
};
struct U8 {
    static __m512i unsigned_codes(__m512i x) { return x; }
    static __m512i widen(__m256i x) { return _mm512_cvtepu8_epi16(x); }
    static constexpr int32_t bias = 0;
};

__mmask64 first(size_t n) { return n >= 64 ? ~__mmask64{0} : (__mmask64{1} << n) - 1; }

template <class T, bool kNorm>
struct Accumulator {
    __m512i dot = _mm512_setzero_si512(), norm = _mm512_setzero_si512();
    // Elements past the end of the query meet a zero there; past the end of the row they are masked to zero.
    void add(__m512i query, __m512i x) {
        dot = _mm512_dpbusd_epi32(dot, T::unsigned_codes(x), query);
        if constexpr (kNorm) {
            const __m512i low = T::widen(_mm512_castsi512_si256(x)), high = T::widen(_mm512_extracti64x4_epi64(x, 1));
            norm = _mm512_dpwssd_epi32(_mm512_dpwssd_epi32(norm, low, low), high, high);
        }
    }
};

template <class T, bool kNorm>
void score(const int8_t* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
           int32_t* out, uint32_t* squared) {
    __m512i sums = _mm512_setzero_si512();
    for (size_t d = 0; d < dim; d += 64) {
        sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), _mm512_maskz_loadu_epi8(first(dim - d), query + d));
    }
    const int32_t correction = T::bias * _mm512_reduce_add_epi32(sums);
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* row = data + (rows ? rows[i] : i) * stride;
        Accumulator<T, kNorm> even, odd;
        size_t d = 0;
        for (; d + 128 <= dim; d += 128) {
            even.add(_mm512_loadu_si512(query + d), _mm512_loadu_si512(row + d));
            odd.add(_mm512_loadu_si512(query + d + 64), _mm512_loadu_si512(row + d + 64));
        }
        for (; d < dim; d += 64) {
            const __mmask64 mask = first(dim - d);
            even.add(_mm512_maskz_loadu_epi8(mask, query + d), _mm512_maskz_loadu_epi8(mask, row + d));
        }
        out[i] = _mm512_reduce_add_epi32(_mm512_add_epi32(even.dot, odd.dot)) - correction;
        if constexpr (kNorm) {
            squared[i] = static_cast<uint32_t>(_mm512_reduce_add_epi32(_mm512_add_epi32(even.norm, odd.norm)));
        }
    }
}

template <class T>
void integer_dot(const int8_t* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
                 int32_t* out, uint32_t* squared) {
    if (squared) {
        score<T, true>(query, data, stride, rows, n, dim, out, squared);
    } else {
        score<T, false>(query, data, stride, rows, n, dim, out, squared);
    }
}

}  // namespace

void fill_dense_avx512vnni(KernelTable* table) {
    table->dense[kI8].integer_dot = integer_dot<I8>;
    table->dense[kU8].integer_dot = integer_dot<U8>;
}

}  // namespace nearfield::kernels
