// A compact image of float vectors with a proven error bound: what exact search scans first.
//
// Each vector, minus a fixed centre, is rounded to 8 bits with one scale; the length of what was rounded away is kept
// beside it. By the Cauchy-Schwarz inequality |<q, y> - s_q s <c_q, c>| <= |q| |y - s c| + |q - s_q c_q| |s c|, so the
// rows whose bound does not reach the running k-th best can be left out without changing the result.
#pragma once

#include <vector>

#include "codecs/codec.hpp"
#include "codecs/tiles.hpp"

namespace nearfield {

class ScreenCodec {
  public:
    ScreenCodec(size_t dim, Metric metric, std::vector<float> center);

    // The centre for a set of vectors (n, dim): the mean of what is coded.
    static std::vector<float> center_of(const float* vectors, size_t n, size_t dim, Metric metric);

    size_t group_bytes() const;
    const std::vector<float>& center() const { return center_; }
    // Codes one whole group of kernels::kGroup vectors.
    void encode_group(const float* vectors, std::byte* group) const;
    // Scans blocks of groups; the distances are those of the vectors themselves, within [low, high].
    std::unique_ptr<Scanner> prepare(const float* queries, size_t n) const;
    // Estimated distances (n, count) of the first `count` vectors of groups.
    void estimates(const float* queries, size_t n, const std::byte* groups, size_t count, float* out) const;

  private:
    // The vector that is coded, vector (or its direction, under cosine) - centre; returns false for a vector too long
    // for float32 squares, or too short to have a direction.
    static bool image(const float* vector, const float* center, size_t dim, Metric metric, float* out);

    TiledQueries tiles(const float* queries, size_t n) const;

    size_t dim_;
    Metric metric_;
    std::vector<float> center_;
};

}  // namespace nearfield
