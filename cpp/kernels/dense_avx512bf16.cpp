// bfloat16 with the hardware's own instructions: vcvtneps2bf16 for encoding and vdpbf16ps, 32 products into 16 sums, for
// the scan. The query is split into two bfloat16 parts (value and remainder, 16 significant bits together), so the
// product is off by at most 2^-16 of |query| |row|; eight rows at a time share the split.
#include <immintrin.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

__mmask32 first(size_t n) { return n >= 32 ? ~__mmask32{0} : (__mmask32{1} << n) - 1; }

__m512 widen(__m256bh x) {
    __m256i bits;
    memcpy(&bits, &x, 32);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

struct Split {
    __m512bh value, rest;
    Split(const float* query, size_t left) {
        const __mmask32 mask = first(left);
        const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), query);
        const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), query + (left > 16 ? 16 : 0));
        value = _mm512_cvtne2ps_pbh(high, low);
        rest = _mm512_cvtne2ps_pbh(_mm512_sub_ps(high, widen(_mm512_cvtneps_pbh(high))),
                                   _mm512_sub_ps(low, widen(_mm512_cvtneps_pbh(low))));
    }
};

__m512bh load(const uint8_t* at, __mmask32 mask) {
    const __m512i bits = _mm512_maskz_loadu_epi16(mask, at);
    __m512bh out;
    memcpy(&out, &bits, 64);
    return out;
}

template <bool kNorm>
void score(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
           float* out, float* squared) {
    constexpr size_t kRows = 8;
    for (size_t i = 0; i < n; i += kRows) {
        const size_t count = n - i < kRows ? n - i : kRows;
        const uint8_t* row[kRows];
        __m512 sums[kRows], norms[kRows];
        for (size_t r = 0; r < kRows; ++r) {  // a short last group repeats its last row, and does not store it
            const size_t at = i + (r < count ? r : count - 1);
            row[r] = data + (rows ? rows[at] : at) * stride;
            sums[r] = norms[r] = _mm512_setzero_ps();
        }
        for (size_t d = 0; d < dim; d += 32) {
            const Split q(query + d, dim - d);
            const __mmask32 mask = first(dim - d);
            for (size_t r = 0; r < kRows; ++r) {
                const __m512bh x = load(row[r] + d * 2, mask);
                sums[r] = _mm512_dpbf16_ps(_mm512_dpbf16_ps(sums[r], q.value, x), q.rest, x);
                if constexpr (kNorm) norms[r] = _mm512_dpbf16_ps(norms[r], x, x);
                _mm_prefetch(reinterpret_cast<const char*>(row[r] + d * 2 + kRows * stride), _MM_HINT_T0);
            }
        }
        for (size_t r = 0; r < count; ++r) {
            out[i + r] = _mm512_reduce_add_ps(sums[r]);
            if constexpr (kNorm) squared[i + r] = _mm512_reduce_add_ps(norms[r]);
        }
    }
}

void dot(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim, float* out,
         float* squared) {
    if (squared) {
        score<true>(query, data, stride, rows, n, dim, out, squared);
    } else {
        score<false>(query, data, stride, rows, n, dim, out, squared);
    }
}

}  // namespace

void fill_dense_avx512bf16(KernelTable* table) { table->dense[kBF16].dot = dot; }

}  // namespace nearfield::kernels
