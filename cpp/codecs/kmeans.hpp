// k-means.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace nearfield {

// Up to kernels::kGroup points, `stride` floats apart, as the `nearest` kernel reads them: [dim][kGroup], missing
// points are zeros.
void interleave_points(const float* points, size_t stride, size_t n, size_t dim, float* out);

// The `count` centroids (count, dim) of n >= count points that lie `stride` floats apart, by Lloyd's algorithm: at most
// `rounds` rounds from a random choice of points (k-means++), which depends on the seed only. A centroid that no point
// is nearest to takes the farthest point from the cluster with the largest squared error. Where there are fewer
// different points than centroids, some centroids are equal.
std::vector<float> kmeans(const float* points, size_t stride, size_t n, size_t dim, size_t count, uint64_t seed,
                          size_t rounds = 40);

}  // namespace nearfield
