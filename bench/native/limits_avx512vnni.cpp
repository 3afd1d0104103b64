// vpdpbusd: 64 products of 8 bits into 16 sums.
#include <immintrin.h>

#include "machine_limits.h"

namespace nearfield::bench {
namespace {

size_t multiply_add_int8(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    constexpr size_t kSums = 16;
    const __m512i x = _mm512_loadu_si512(operands), y = _mm512_loadu_si512(operands + 64);
    __m512i sums[kSums];
    for (auto& sum : sums) sum = _mm512_setzero_si512();
    for (size_t round = 0; round < rounds; ++round) {
        for (auto& sum : sums) sum = _mm512_dpbusd_epi32(sum, x, y);
    }
    for (const auto& sum : sums) *sink ^= static_cast<uint64_t>(_mm512_reduce_add_epi32(sum));
    return kSums * 64 * 2;
}

}  // namespace

void fill_limits_avx512vnni(Limits* limits) { limits->multiply_add[kUnitInt8] = multiply_add_int8; }

}  // namespace nearfield::bench
