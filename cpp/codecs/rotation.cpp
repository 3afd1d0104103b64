#include "codecs/rotation.hpp"

#include <algorithm>
#include <bit>
#include <cmath>

#include "kernels/dispatch.hpp"

namespace nearfield {

namespace {

constexpr size_t kRounds = 4;

// SplitMix64 (Steele, Lea, Flood 2014): the same numbers on every platform.
class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed) {}
    uint64_t operator()() {
        uint64_t z = state_ += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        return z ^ z >> 31;
    }

  private:
    uint64_t state_;
};

}  // namespace

HadamardRotation::HadamardRotation(size_t dim, uint32_t seed, size_t multiple)
    : dim_(dim),
      padded_((dim + multiple - 1) / multiple * multiple),
      power_(std::bit_floor(padded_)),
      signs_((kRounds + 1) * padded_, 1.0f) {
    Random random(seed);
    for (size_t round = 0; round < kRounds; ++round) {
        float* signs = signs_.data() + round * padded_;
        uint64_t bits = 0;
        for (size_t d = 0; d < padded_; ++d, bits >>= 1) {
            if (d % 64 == 0) bits = random();
            if (bits & 1) signs[d] = -1.0f;
        }
    }
    // Every step is linear, so the factor of a Hadamard transform can be applied to its input.
    const auto hadamard = static_cast<float>(1 / std::sqrt(static_cast<double>(power_)));
    for (size_t round = 0; round < kRounds; ++round) {
        float* signs = signs_.data() + round * padded_;
        for (size_t d = 0; d < power_; ++d) signs[transformed_from(round) + d] *= hadamard;
        if (!mixed_after(round)) continue;
        for (size_t d = 0; d < padded_; ++d) {
            if (d < padded_ / 2 || d >= (padded_ + 1) / 2) signs[padded_ + d] *= static_cast<float>(std::sqrt(0.5));
        }
    }
}

void HadamardRotation::mix(float* values) const {
    const size_t half = padded_ / 2;
    float* others = values + padded_ - half;
    for (size_t d = 0; d < half; ++d) {
        const float first = values[d], second = others[d];
        values[d] = first + second;
        others[d] = first - second;
    }
}

void HadamardRotation::apply(const float* vector, float* rotated) const {
    const auto hadamard = kernels::active().codes.hadamard;
    const float* signs = signs_.data();
    for (size_t d = 0; d < dim_; ++d) rotated[d] = vector[d] * signs[d];
    std::fill(rotated + dim_, rotated + padded_, 0.0f);
    for (size_t round = 0; round < kRounds; ++round) {
        hadamard(rotated + transformed_from(round), power_);
        if (mixed_after(round)) mix(rotated);
        signs += padded_;
        for (size_t d = 0; d < padded_; ++d) rotated[d] *= signs[d];
    }
}

void HadamardRotation::inverse(const float* rotated, float* vector) const {
    // Every step is symmetric, so the transpose is all of them in the reverse order.
    const auto hadamard = kernels::active().codes.hadamard;
    const float* signs = signs_.data() + kRounds * padded_;
    std::vector<float> values(rotated, rotated + padded_);
    for (size_t round = kRounds; round-- > 0;) {
        for (size_t d = 0; d < padded_; ++d) values[d] *= signs[d];
        signs -= padded_;
        if (mixed_after(round)) mix(values.data());
        hadamard(values.data() + transformed_from(round), power_);
    }
    for (size_t d = 0; d < dim_; ++d) vector[d] = values[d] * signs[d];
}

}  // namespace nearfield
