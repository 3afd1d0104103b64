// Fast random rotations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nearfield {

// A random rotation in O(dim log dim): rounds of random sign flips and Walsh-Hadamard transforms. Vectors are filled up
// with zeros to a multiple of some number of dimensions; where that is not a power of two, the first and the last 2^k
// coordinates are transformed in turn, and rotations by 45 degrees between the two halves (of an odd number without the
// one in the middle) follow each such pair (RaBitQ-Library, "FhtKacRotator", which mixes the halves after every
// transform: that leaves single coordinates with a sixteenth of a sparse vector's energy). It depends on its arguments
// only.
class HadamardRotation {
  public:
    HadamardRotation(size_t dim, uint32_t seed, size_t multiple = 64);

    size_t dim() const { return dim_; }
    size_t padded() const { return padded_; }
    void apply(const float* vector, float* rotated) const;    // (dim) -> (padded)
    void inverse(const float* rotated, float* vector) const;  // (padded) -> (dim)

  private:
    size_t transformed_from(size_t round) const { return round % 2 == 0 ? 0 : padded_ - power_; }
    bool mixed_after(size_t round) const { return round % 2 == 1 && power_ < padded_; }
    void mix(float* values) const;  // the halves, without the factor

    size_t dim_, padded_, power_;
    // Before each round, and after the last: a sign per coordinate, times the factor that makes the round before it
    // keep lengths.
    std::vector<float> signs_;
};

}  // namespace nearfield
