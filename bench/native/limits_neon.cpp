// The loops of NEON: 16-byte loads, fmla on 4 floats or 2 doubles, smull with sadalp for 8-bit products, and cnt
// for bits.
#include <arm_neon.h>

#include "machine_limits.h"

namespace nearfield::bench {
namespace {

uint64_t folded(uint8x16_t x) {
    const uint64x2_t words = vreinterpretq_u64_u8(x);
    return vgetq_lane_u64(words, 0) ^ vgetq_lane_u64(words, 1);
}

uint64_t read_in_order(const uint8_t* buffer, size_t bytes) {
    uint8x16_t sums[8];
    for (auto& sum : sums) sum = vdupq_n_u8(0);
    for (size_t at = 0; at + 128 <= bytes; at += 128) {
        for (size_t i = 0; i < 8; ++i) sums[i] = veorq_u8(sums[i], vld1q_u8(buffer + at + 16 * i));
    }
    uint64_t all = 0;
    for (const auto& sum : sums) all ^= folded(sum);
    return all;
}

uint64_t read_four_streams(const uint8_t* buffer, size_t bytes) {
    uint8x16_t sums[4];
    for (auto& sum : sums) sum = vdupq_n_u8(0);
    for (size_t start = 0; start + kReadUnit <= bytes; start += kReadUnit) {
        for (size_t at = start; at < start + kStreamBytes; at += 16) {
            for (size_t i = 0; i < 4; ++i) sums[i] = veorq_u8(sums[i], vld1q_u8(buffer + at + i * kStreamBytes));
        }
    }
    uint64_t all = 0;
    for (const auto& sum : sums) all ^= folded(sum);
    return all;
}

constexpr size_t kSums = 20;

size_t multiply_add_f32(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    const float32x4_t x = vreinterpretq_f32_u8(vld1q_u8(operands)), y = vreinterpretq_f32_u8(vld1q_u8(operands + 16));
    float32x4_t sums[kSums];
    for (auto& sum : sums) sum = vdupq_n_f32(0);
    for (size_t round = 0; round < rounds; ++round) {
        for (auto& sum : sums) sum = vfmaq_f32(sum, x, y);
    }
    for (const auto& sum : sums) *sink ^= folded(vreinterpretq_u8_f32(sum));
    return kSums * 4 * 2;
}

size_t multiply_add_f64(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    const float64x2_t x = vreinterpretq_f64_u8(vld1q_u8(operands)), y = vreinterpretq_f64_u8(vld1q_u8(operands + 16));
    float64x2_t sums[kSums];
    for (auto& sum : sums) sum = vdupq_n_f64(0);
    for (size_t round = 0; round < rounds; ++round) {
        for (auto& sum : sums) sum = vfmaq_f64(sum, x, y);
    }
    for (const auto& sum : sums) *sink ^= folded(vreinterpretq_u8_f64(sum));
    return kSums * 2 * 2;
}

size_t multiply_add_int8(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    int8x16_t x = vld1q_s8(reinterpret_cast<const int8_t*>(operands));
    const int8x16_t y = vld1q_s8(reinterpret_cast<const int8_t*>(operands + 16));
    int32x4_t sums[kSums];
    for (auto& sum : sums) sum = vdupq_n_s32(0);
    for (size_t round = 0; round < rounds; ++round) {
        for (auto& sum : sums) {
            // The products would otherwise be computed once, before the loop.
#if defined(__GNUC__)
            __asm__("" : "+w"(x));
#endif
            sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(x), vget_low_s8(y)));
            sum = vpadalq_s16(sum, vmull_high_s8(x, y));
        }
    }
    for (const auto& sum : sums) *sink ^= folded(vreinterpretq_u8_s32(sum));
    return kSums * 16 * 2;
}

size_t count_bits(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    uint8x16_t x = vld1q_u8(operands);
    const uint8x16_t y = vld1q_u8(operands + 16);
    uint8x16_t sums[kSums];
    for (auto& sum : sums) sum = vdupq_n_u8(0);
    for (size_t round = 0; round < rounds; ++round) {
        for (auto& sum : sums) {
#if defined(__GNUC__)
            __asm__("" : "+w"(x));
#endif
            sum = vaddq_u8(sum, vcntq_u8(veorq_u8(x, y)));
        }
    }
    for (const auto& sum : sums) *sink ^= folded(sum);
    return kSums * 2 * 3;
}

}  // namespace

void fill_limits_neon(Limits* limits) {
    limits->read[kInOrder] = limits->read[kPrefetched] = read_in_order;
    limits->read[kFourStreams] = read_four_streams;
    limits->multiply_add[kUnitF32] = limits->multiply_add[kUnitBF16] = multiply_add_f32;
    limits->multiply_add[kUnitF64] = multiply_add_f64;
    limits->multiply_add[kUnitInt8] = multiply_add_int8;
    limits->multiply_add[kUnitBits] = count_bits;
}

}  // namespace nearfield::bench
