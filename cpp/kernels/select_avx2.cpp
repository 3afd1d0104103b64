// Select kernels with AVX2.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

constexpr size_t kLanes = 8;

// The lanes below n.
__m256i lanes(size_t n) {
    const __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int32_t>(n)), numbers);
}

void extremes(const float* values, size_t n, float* smallest, float* largest) {
    __m256 low = _mm256_set1_ps(INFINITY), high = _mm256_set1_ps(-INFINITY);
    for (size_t i = 0; i < n; i += kLanes) {
        const __m256i present = lanes(n - i < kLanes ? n - i : kLanes);
        const __m256 x = _mm256_maskload_ps(values + i, present), mask = _mm256_castsi256_ps(present);
        low = _mm256_min_ps(low, _mm256_blendv_ps(low, x, mask));
        high = _mm256_max_ps(high, _mm256_blendv_ps(high, x, mask));
    }
    alignas(32) float lows[kLanes], highs[kLanes];
    _mm256_store_ps(lows, low);
    _mm256_store_ps(highs, high);
    *smallest = lows[0];
    *largest = highs[0];
    for (size_t i = 1; i < kLanes; ++i) {
        *smallest = lows[i] < *smallest ? lows[i] : *smallest;
        *largest = highs[i] > *largest ? highs[i] : *largest;
    }
}

size_t count_at_most(const float* values, size_t n, float bound) {
    const __m256 bounds = _mm256_set1_ps(bound);
    __m256i counts = _mm256_setzero_si256();
    size_t i = 0;
    for (; i + kLanes <= n; i += kLanes) {
        const __m256 in = _mm256_cmp_ps(_mm256_loadu_ps(values + i), bounds, _CMP_LE_OQ);
        counts = _mm256_sub_epi32(counts, _mm256_castps_si256(in));
    }
    alignas(32) uint32_t each[kLanes];
    _mm256_store_si256(reinterpret_cast<__m256i*>(each), counts);
    size_t count = 0;
    for (const uint32_t one : each) count += one;
    for (; i < n; ++i) count += values[i] <= bound ? 1 : 0;
    return count;
}

#include "kernels/select_threshold.inc"

size_t keep(const float* values, const uint32_t* tags, size_t n, float bound, float* kept, uint32_t* kept_tags) {
    const __m256 bounds = _mm256_set1_ps(bound), infinity = _mm256_set1_ps(-INFINITY);
    const __m256i none = _mm256_set1_epi32(static_cast<int32_t>(kNoTag));
    __m256i numbers = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    size_t count = 0;
    for (size_t i = 0; i < n; i += kLanes) {
        const __m256i present = lanes(n - i < kLanes ? n - i : kLanes);
        const __m256 loaded = _mm256_maskload_ps(values + i, present);
        const __m256i tag = tags ? _mm256_maskload_epi32(reinterpret_cast<const int*>(tags + i), present) : numbers;
        numbers = _mm256_add_epi32(numbers, _mm256_set1_epi32(kLanes));
        const __m256 x = _mm256_blendv_ps(loaded, infinity, _mm256_cmp_ps(loaded, loaded, _CMP_UNORD_Q));
        const __m256i in =
            _mm256_andnot_si256(_mm256_cmpeq_epi32(tag, none),
                                _mm256_and_si256(present, _mm256_castps_si256(_mm256_cmp_ps(x, bounds, _CMP_LE_OQ))));
        const auto mask = static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(in)));
        if (mask == 0) continue;
        // The numbers of the lanes in the mask, a byte each, side by side.
        const uint64_t bytes = _pdep_u64(mask, 0x0101010101010101) * 0xff;
        const uint64_t order = _pext_u64(0x0706050403020100, bytes);
        const __m256i places = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(order)));
        _mm256_storeu_ps(kept + count, _mm256_permutevar8x32_ps(x, places));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(kept_tags + count), _mm256_permutevar8x32_epi32(tag, places));
        count += static_cast<size_t>(_mm_popcnt_u32(mask));
    }
    return count;
}

}  // namespace

void fill_select_avx2(KernelTable* table) { table->select = {threshold, keep}; }

}  // namespace nearfield::kernels
