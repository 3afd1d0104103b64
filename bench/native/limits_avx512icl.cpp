// vpopcntq: the ones of eight 64-bit words.
#include <immintrin.h>

#include "machine_limits.h"

namespace nearfield::bench {
namespace {

size_t count_bits(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    constexpr size_t kSums = 16;
    __m512i x = _mm512_loadu_si512(operands);
    const __m512i y = _mm512_loadu_si512(operands + 64);
    __m512i sums[kSums];
    for (auto& sum : sums) sum = _mm512_setzero_si512();
    for (size_t round = 0; round < rounds; ++round) {
        for (auto& sum : sums) {
            // The counts would otherwise be computed once, before the loop.
#if defined(__GNUC__)
            __asm__("" : "+v"(x));
#endif
            sum = _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_xor_si512(x, y)));
        }
    }
    for (const auto& sum : sums) *sink ^= static_cast<uint64_t>(_mm512_reduce_add_epi64(sum));
    return kSums * 8 * 3;
}

}  // namespace

void fill_limits_avx512icl(Limits* limits) { limits->multiply_add[kUnitBits] = count_bits; }

}  // namespace nearfield::bench
