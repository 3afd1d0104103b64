// k-means of whole vectors, and the nearest centroid of each vector.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "search/thread_pool.hpp"

namespace nearfield {

// How the sizes of clusters are kept alike: not at all; by a largest size that no cluster exceeds; or by entropic
// transport, which makes them nearly equal.
enum class Balance { none, capacity, sinkhorn };

struct KMeansOptions {
    size_t k = 1;
    size_t iterations = 25;  // at most; fewer when no point changes over any more
    bool spherical = false;  // points and centroids are scaled to unit length
    Balance balance = Balance::none;
    double slack = 1.0;  // a cluster's capacity is ceil(slack * n / k)
    uint64_t seed = 0;
    size_t sample = 0;            // centroids are trained on at most that many points per cluster; 0: on all
    const float* init = nullptr;  // centroids (k, dim) to start from
    bool labels = true;           // whether all points are assigned to the final centroids
};

struct Clustering {
    std::vector<float> centroids;  // (k, dim)
    std::vector<uint32_t> labels;  // of all points, in the sense of the final centroids; empty unless asked for
    size_t iterations = 0;         // that were made
    size_t trained_on = 0;         // points
    double inertia = 0;  // squared distances of the points from their centroids, summed; of those trained on in the
                         // last iteration where no labels were asked for
};

// Lloyd's algorithm on n >= k >= 1 finite points (n, dim). The same result at any number of threads. A cluster that
// becomes empty takes a point of the cluster with the largest error; where there are fewer different points than
// clusters, some centroids are equal.
Clustering kmeans_cluster(const float* points, size_t n, size_t dim, const KMeansOptions& options, const Run& run);

// Vectors (n, dim) scaled to length 1; zeros stay zeros.
void to_unit_length(const float* vectors, size_t n, size_t dim, float* out);

class CentroidScreen;

// A set of centroids that finds the nearest one of any vector. Immutable; copies share what they hold.
class Centroids {
  public:
    // At least one finite centroid (count, dim).
    Centroids(std::vector<float> values, size_t dim);

    size_t count() const;
    size_t dim() const;
    const std::vector<float>& values() const;
    size_t nbytes() const;

    // The centroid with the least squared Euclidean distance to each of n finite points (n, dim), computed in float64;
    // the first one of several. `squared` (the distances) may be null. Does not depend on how points are split into
    // calls. On the calling thread only:
    void assign(const float* points, size_t n, uint32_t* labels, float* squared) const;
    // On several threads:
    void assign(const float* points, size_t n, uint32_t* labels, float* squared, const Run& run) const;

  private:
    std::shared_ptr<const CentroidScreen> screen_;
};

}  // namespace nearfield
