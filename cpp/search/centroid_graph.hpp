// A graph over the centroids of inverted lists: finds those nearest to a query without a look at every one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "codecs/codec.hpp"
#include "search/thread_pool.hpp"

namespace nearfield {

// Nodes are finite centroids (n, dim), 0 < n < 2^31, which must outlive the graph. Each one has edges to nearest
// neighbours in the sense of l2, thinned out by RobustPrune (Subramanya et al., DiskANN, 2019) so that they lead to all
// sides. Immutable.
class CentroidGraph {
  public:
    static constexpr size_t kDegree = 32;

    // Builds the graph; the same one at any number of threads.
    CentroidGraph(const float* centroids, size_t n, size_t dim, const Run& run);
    // A graph that was saved; its edges must be valid.
    CentroidGraph(const float* centroids, size_t n, size_t dim, std::vector<uint32_t> edges);

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
    // The `count` nodes (or all, if there are fewer) nearest to a query: by the squared distance under l2, under other
    // metrics by -<query, centroid>; best first, ties by number. `beam`, at least `count`, is how many of the nearest
    // nodes seen are kept: the search ends when the neighbours of all of these were seen. Overwrites `out`.
    void nearest(const float* query, Metric metric, size_t count, size_t beam, std::vector<Found>& out) const;

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
    std::vector<uint32_t> nearest_nodes(const float* queries, size_t n, size_t k, const Run& run) const;
    std::vector<uint32_t> prune(uint32_t node, std::vector<uint32_t> pool) const;
    void set_neighbors(uint32_t node, const std::vector<uint32_t>& neighbors);
    void add_reverse_edges(const Run& run);
    void connect();

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
