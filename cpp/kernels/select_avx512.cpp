// Select kernels with AVX-512. What is kept is pushed together in registers: stores that do it are slow on Zen 4.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

constexpr size_t kLanes = 16;

// The lanes below n.
__mmask16 lanes(size_t n) { return n < kLanes ? static_cast<__mmask16>((1u << n) - 1) : __mmask16{0xffff}; }

void extremes(const float* values, size_t n, float* smallest, float* largest) {
    __m512 low = _mm512_set1_ps(INFINITY), high = _mm512_set1_ps(-INFINITY);
    for (size_t i = 0; i < n; i += kLanes) {
        const __mmask16 present = lanes(n - i);
        const __m512 x = _mm512_maskz_loadu_ps(present, values + i);
        low = _mm512_mask_min_ps(low, present, low, x);
        high = _mm512_mask_max_ps(high, present, high, x);
    }
    *smallest = _mm512_reduce_min_ps(low);
    *largest = _mm512_reduce_max_ps(high);
}

size_t count_at_most(const float* values, size_t n, float bound) {
    const __m512 bounds = _mm512_set1_ps(bound);
    size_t count = 0;
    for (size_t i = 0; i < n; i += kLanes) {
        const __mmask16 present = lanes(n - i);
        const __m512 x = _mm512_maskz_loadu_ps(present, values + i);
        count += static_cast<size_t>(_mm_popcnt_u32(_mm512_mask_cmp_ps_mask(present, x, bounds, _CMP_LE_OQ)));
    }
    return count;
}

#include "kernels/select_threshold.inc"

size_t keep(const float* values, const uint32_t* tags, size_t n, float bound, float* kept, uint32_t* kept_tags) {
    const __m512 bounds = _mm512_set1_ps(bound), infinity = _mm512_set1_ps(-INFINITY);
    const __m512i none = _mm512_set1_epi32(static_cast<int32_t>(kNoTag));
    __m512i numbers = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    size_t count = 0;
    for (size_t i = 0; i < n; i += kLanes) {
        const __mmask16 present = lanes(n - i);
        const __m512 loaded = _mm512_maskz_loadu_ps(present, values + i);
        const __m512i tag = tags ? _mm512_maskz_loadu_epi32(present, tags + i) : numbers;
        numbers = _mm512_add_epi32(numbers, _mm512_set1_epi32(kLanes));
        const __m512 x = _mm512_mask_mov_ps(loaded, _mm512_cmp_ps_mask(loaded, loaded, _CMP_UNORD_Q), infinity);
        const __mmask16 in =
            _mm512_mask_cmpneq_epi32_mask(_mm512_mask_cmp_ps_mask(present, x, bounds, _CMP_LE_OQ), tag, none);
        if (in == 0) continue;
        _mm512_storeu_ps(kept + count, _mm512_maskz_compress_ps(in, x));
        _mm512_storeu_si512(kept_tags + count, _mm512_maskz_compress_epi32(in, tag));
        count += static_cast<size_t>(_mm_popcnt_u32(in));
    }
    return count;
}

}  // namespace

void fill_select_avx512(KernelTable* table) { table->select = {threshold, keep}; }

}  // namespace nearfield::kernels
