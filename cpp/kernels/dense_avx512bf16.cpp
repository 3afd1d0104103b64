// bfloat16 with the hardware's own instruction: vdpbf16ps, 32 products into 16 sums. The query is split once per call
// into two bfloat16 parts (value and remainder, 16 significant bits together), so the product is off by at most 2^-16
// of |query| |row|.
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

// Up to 32 values of the query in two bfloat16 parts.
void split(const float* query, size_t left, __m512bh* value, __m512bh* rest) {
    const __mmask32 mask = first(left);
    const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), query);
    const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), query + (left > 16 ? 16 : 0));
    *value = _mm512_cvtne2ps_pbh(high, low);
    *rest = _mm512_cvtne2ps_pbh(_mm512_sub_ps(high, widen(_mm512_cvtneps_pbh(high))),
                                _mm512_sub_ps(low, widen(_mm512_cvtneps_pbh(low))));
}

__m512bh load(const uint8_t* at) {
    const __m512i bits = _mm512_loadu_si512(at);
    __m512bh out;
    memcpy(&out, &bits, 64);
    return out;
}

__m512bh load(const uint8_t* at, __mmask32 mask) {
    const __m512i bits = _mm512_maskz_loadu_epi16(mask, at);
    __m512bh out;
    memcpy(&out, &bits, 64);
    return out;
}

template <bool kNorm>
struct Accumulator {
    __m512 sum = _mm512_setzero_ps(), rest_sum = _mm512_setzero_ps(), norm = _mm512_setzero_ps();
    void add(__m512bh value, __m512bh rest, __m512bh x) {
        sum = _mm512_dpbf16_ps(sum, value, x);
        rest_sum = _mm512_dpbf16_ps(rest_sum, rest, x);
        if constexpr (kNorm) norm = _mm512_dpbf16_ps(norm, x, x);
    }
    __m512 total() const { return _mm512_add_ps(sum, rest_sum); }
};

template <bool kNorm>
void score(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
           float* out, float* squared) {
    constexpr size_t kPanel = 2048, kStep = 32;  // dimensions split at a time (8 KiB of parts), per instruction
    __m512bh value[kPanel / kStep], rest[kPanel / kStep];
    for (size_t panel = 0; panel < dim; panel += kPanel) {
        const size_t width = dim - panel < kPanel ? dim - panel : kPanel;
        for (size_t d = 0; d < width; d += kStep)
            split(query + panel + d, width - d, &value[d / kStep], &rest[d / kStep]);
        for (size_t i = 0; i < n; ++i) {
            const uint8_t* row = data + (rows ? rows[i] : i) * stride + panel * 2;
            Accumulator<kNorm> even, odd;  // two, to hide the latency of vdpbf16ps
            size_t d = 0;
            for (; d + 2 * kStep <= width; d += 2 * kStep) {
                const size_t step = d / kStep;
                even.add(value[step], rest[step], load(row + d * 2));
                odd.add(value[step + 1], rest[step + 1], load(row + (d + kStep) * 2));
            }
            for (; d < width; d += kStep) {
                even.add(value[d / kStep], rest[d / kStep], load(row + d * 2, first(width - d)));
            }
            out[i] = (panel == 0 ? 0.0f : out[i]) + _mm512_reduce_add_ps(_mm512_add_ps(even.total(), odd.total()));
            if constexpr (kNorm)
                squared[i] =
                    (panel == 0 ? 0.0f : squared[i]) + _mm512_reduce_add_ps(_mm512_add_ps(even.norm, odd.norm));
        }
    }
}

// The kernel of the level below, which is set once, when the table is filled.
void (*scan)(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
             float* dot, float* squared);

// Listed rows, which tend to be in cache: 1.5 times the shifts of the level below. A scan of all rows from memory is
// faster there (0.9 of the read bandwidth against 0.8).
void dot(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim, float* out,
         float* squared) {
    if (rows == nullptr) {
        scan(query, data, stride, rows, n, dim, out, squared);
    } else if (squared) {
        score<true>(query, data, stride, rows, n, dim, out, squared);
    } else {
        score<false>(query, data, stride, rows, n, dim, out, squared);
    }
}

}  // namespace

void fill_dense_avx512bf16(KernelTable* table) {
    scan = table->dense[kBF16].dot;
    table->dense[kBF16].dot = dot;
}

}  // namespace nearfield::kernels
