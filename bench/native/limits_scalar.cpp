// The loops of the baseline: plain C++, at the instruction set that every file of the project may use.
#include <string.h>

#include <bit>

#include "machine_limits.h"

namespace nearfield::bench {
namespace {

uint64_t read_in_order(const uint8_t* buffer, size_t bytes) {
    uint64_t sums[8] = {};
    for (size_t at = 0; at + 64 <= bytes; at += 64) {
        uint64_t words[8];
        memcpy(words, buffer + at, 64);
        for (size_t i = 0; i < 8; ++i) sums[i] ^= words[i];
    }
    uint64_t all = 0;
    for (const uint64_t sum : sums) all ^= sum;
    return all;
}

// `products` multiply-adds per round, spread over as many sums so that none waits for the one before it.
template <class Element, class Sum>
size_t multiply_add(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    constexpr size_t kSums = 32 / sizeof(Sum) * 4;
    Element a[kOperandBytes / sizeof(Element)];
    memcpy(a, operands, kOperandBytes);
    Sum sums[kSums] = {};
    for (size_t round = 0; round < rounds; ++round) {
        const Sum factor = static_cast<Sum>(a[round % 4]);
        for (size_t i = 0; i < kSums; ++i)
            sums[i] += factor * static_cast<Sum>(a[i % (kOperandBytes / sizeof(Element))]);
    }
    for (const Sum sum : sums) *sink += static_cast<uint64_t>(sum != 0);
    return 2 * kSums;
}

size_t count_bits(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    constexpr size_t kSums = 8;
    uint64_t words[2 * kSums], sums[kSums] = {};
    memcpy(words, operands, sizeof(words));
    for (size_t round = 0; round < rounds; ++round) {
        for (size_t i = 0; i < kSums; ++i) {
            words[i] = words[i] + round;  // or all rounds would be one
            sums[i] += static_cast<uint64_t>(std::popcount(words[i] ^ words[kSums + i]));
        }
    }
    for (const uint64_t sum : sums) *sink += sum;
    return 3 * kSums;
}

}  // namespace

void fill_limits_scalar(Limits* limits) {
    for (auto& read : limits->read) read = read_in_order;
    limits->multiply_add[kUnitF32] = limits->multiply_add[kUnitBF16] = multiply_add<float, float>;
    limits->multiply_add[kUnitF64] = multiply_add<double, double>;
    limits->multiply_add[kUnitInt8] = multiply_add<int8_t, int32_t>;
    limits->multiply_add[kUnitBits] = count_bits;
}

}  // namespace nearfield::bench
