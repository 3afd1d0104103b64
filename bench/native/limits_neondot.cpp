// sdot: 16 products of 8 bits into 4 sums.
#include <arm_neon.h>

#include "machine_limits.h"

namespace nearfield::bench {
namespace {

size_t multiply_add_int8(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    constexpr size_t kSums = 20;
    const int8x16_t x = vld1q_s8(reinterpret_cast<const int8_t*>(operands));
    const int8x16_t y = vld1q_s8(reinterpret_cast<const int8_t*>(operands + 16));
    int32x4_t sums[kSums];
    for (auto& sum : sums) sum = vdupq_n_s32(0);
    for (size_t round = 0; round < rounds; ++round) {
        for (auto& sum : sums) sum = vdotq_s32(sum, x, y);
    }
    for (const auto& sum : sums) *sink ^= static_cast<uint64_t>(vaddvq_s32(sum));
    return kSums * 16 * 2;
}

}  // namespace

void fill_limits_neondot(Limits* limits) { limits->multiply_add[kUnitInt8] = multiply_add_int8; }

}  // namespace nearfield::bench
