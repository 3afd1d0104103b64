// Code kernels on floats with AVX-512.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

struct Floats {
    using Vector = __m512;
    using Integers = __m512i;
    static constexpr size_t kLanes = 16;

    static Vector all(float x) { return _mm512_set1_ps(x); }
    static Integers zeros() { return _mm512_setzero_si512(); }
    static Vector load(const float* at) { return _mm512_loadu_ps(at); }
    static Vector of_integers(const int32_t* at) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(at)); }
    static void store(float* at, Vector x) { _mm512_storeu_ps(at, x); }
    static void store(uint32_t* at, Integers x) { _mm512_storeu_si512(at, x); }
    static Vector add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
    static Vector subtract(Vector a, Vector b) { return _mm512_sub_ps(a, b); }
    static Vector plus_product(Vector sum, Vector a, Vector b) { return _mm512_fmadd_ps(a, b, sum); }
    static Vector minus_product(Vector sum, Vector a, Vector b) { return _mm512_fnmadd_ps(a, b, sum); }
    // A bit for each lane in which `a` is not above `b`.
    static uint32_t not_above(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_NGT_UQ); }
    // Where x is less than the least so far, it takes its place, and its number that of the index.
    static void take_less(Vector x, size_t number, Vector& least, Integers& index) {
        const __mmask16 less = _mm512_cmp_ps_mask(x, least, _CMP_LT_OQ);
        least = _mm512_mask_mov_ps(least, less, x);
        index = _mm512_mask_mov_epi32(index, less, _mm512_set1_epi32(static_cast<int32_t>(number)));
    }
    static Vector hadamard(Vector x) {
        // Each step adds the partner of a lane to it or, in the upper one of the two, subtracts it from the partner.
        const auto signs = [](__mmask16 upper) { return _mm512_mask_blend_ps(upper, all(1.0f), all(-1.0f)); };
        x = plus_product(_mm512_permute_ps(x, 0xb1), x, signs(0xaaaa));
        x = plus_product(_mm512_permute_ps(x, 0x4e), x, signs(0xcccc));
        x = plus_product(_mm512_shuffle_f32x4(x, x, 0xb1), x, signs(0xf0f0));
        return plus_product(_mm512_shuffle_f32x4(x, x, 0x4e), x, signs(0xff00));
    }
};

#include "kernels/codes_floats.inc"

}  // namespace

void fill_codes_avx512(KernelTable* table) {
    table->codes.estimate = estimate;
    table->codes.nearest = nearest;
    table->codes.hadamard = hadamard;
}

}  // namespace nearfield::kernels
