// A graph over the centroids of inverted lists: finds those nearest to a query without a look at every one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codecs/codec.hpp"
#include "search/thread_pool.hpp"

namespace nearfield {

// Nodes are finite centroids (n, dim), 0 < n < 2^31, which must outlive the graph. Edges lead to near neighbours,
// thinned out by RobustPrune (Subramanya et al., DiskANN, 2019) so that they lead to all sides. Distances are squared
// ones under l2, and -<query, centroid> under other metrics. Immutable.
class CentroidGraph {
  public:
    static constexpr size_t kDegree = 32;

    // Builds the graph; the same one at any number of threads.
    CentroidGraph(const float* centroids, size_t n, size_t dim, Metric metric, const Run& run);
    // A graph that was saved; its edges must be valid.
    CentroidGraph(const float* centroids, size_t n, size_t dim, Metric metric, std::vector<uint32_t> edges);

    // The graph as it is saved, (rows(n), kDegree): the neighbours of each node, in places that are left over the node
    // itself; then the entries, the nodes at which searches start.
    const std::vector<uint32_t>& edges() const { return edges_; }
    static size_t rows(size_t n);
    // Whether a search can follow these edges.
    static bool valid(const std::vector<uint32_t>& edges, size_t n);
    size_t nbytes() const;

    struct Found {
        uint32_t node;
        float distance;
    };
    // The `count` nodes (or all, if there are fewer) nearest to a query, best first, ties by number. `beam`, at least
    // `count`, is how many of the nearest nodes seen are kept: the search ends when the neighbours of all of these were
    // seen. Overwrites `out`.
    void nearest(const float* query, size_t count, size_t beam, std::vector<Found>& out) const;

  private:
    struct alignas(64) CacheLine {
        uint8_t bytes[64];
    };
    struct Terms {
        float scale, squared;
    };

    const uint8_t* bytes() const { return reinterpret_cast<const uint8_t*>(centroids_); }
    const float* centroid(size_t node) const { return centroids_ + node * dim_; }
    void encode();
    void choose_entries(const Run& run);
    void set_neighbors(const std::vector<std::vector<std::vector<uint32_t>>>& graphs);
    void connect();

    bool l2_;
    const float* centroids_;
    size_t n_, dim_, stride_;
    std::vector<uint32_t> edges_;
    // What searches go by: centroids minus their mean, in 8 bits (+128), with the scale of the code and the squared
    // length.
    std::vector<float> mean_;
    std::vector<CacheLine> codes_;
    std::vector<Terms> terms_;
};

}  // namespace nearfield
