// vdpbf16ps: 32 products of bfloat16 into 16 sums.
#include <immintrin.h>
#include <string.h>

#include "machine_limits.h"

namespace nearfield::bench {
namespace {

size_t multiply_add_bf16(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    constexpr size_t kSums = 16;
    __m512bh x, y;
    memcpy(&x, operands, 64);
    memcpy(&y, operands + 64, 64);
    __m512 sums[kSums];
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    for (size_t round = 0; round < rounds; ++round) {
        for (auto& sum : sums) sum = _mm512_dpbf16_ps(sum, x, y);
    }
    for (const auto& sum : sums) *sink ^= static_cast<uint64_t>(_mm512_reduce_add_ps(sum) != 0);
    return kSums * 32 * 2;
}

}  // namespace

void fill_limits_avx512bf16(Limits* limits) { limits->multiply_add[kUnitBF16] = multiply_add_bf16; }

}  // namespace nearfield::bench
