// The centroids of inverted lists: which lists a vector belongs to, and which ones a query visits.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "codecs/screen.hpp"
#include "search/centroid_graph.hpp"
#include "search/clustering.hpp"

namespace nearfield {

// A list that a query visits.
struct Probe {
    uint32_t list;
    float distance;  // from the query to the centroid
};

class Coarse {
  public:
    // Centroids (lists, dims), of the first `dims` dimensions of vectors. Where there are so many that a look at each
    // of them takes longer, they are found by a graph, which is built unless its edges are given.
    Coarse(std::vector<float> centroids, size_t dims, Metric metric, std::vector<uint32_t> edges, const Run& run);
    static bool has_graph(size_t lists, size_t dims);
    const CentroidGraph* graph() const { return graph_.get(); }

    size_t lists() const { return lists_; }
    size_t dims() const { return dims_; }
    const std::vector<float>& values() const { return centroids_.values(); }
    const float* centroid(size_t list) const { return values().data() + list * dims_; }
    size_t nbytes() const;

    // The list of each vector (n, dims), the nearest in the sense of l2; and, if `soar` is not 0, a second one, that
    // whose residual r' has the least |r'|^2 + soar * <r / |r|, r'>^2, r being the residual of the first: labels (n) or
    // (n, 2).
    void assign(const float* vectors, size_t n, double soar, uint32_t* labels) const;
    // The `count` lists nearest to each query (n, dims), best first, by the metric: probes (n, count).
    void nearest(const float* queries, size_t n, size_t count, Probe* probes) const;
    // The distance from a query to a centroid, in float64: -<q, c> or |q - c|^2; and how far those of `nearest` may be
    // off, in float32.
    double distance(const float* query, size_t list) const;
    float rounding(const float* query) const;

  private:
    size_t lists_, dims_;
    Metric metric_;
    double longest_ = 0;  // centroid
    Centroids centroids_;
    ScreenCodec screen_;
    std::vector<float> groups_;  // of the screen; floats for their alignment
    std::unique_ptr<CentroidGraph> graph_;

    void nearest_by_graph(const float* query, size_t count, Probe* probes) const;
};

}  // namespace nearfield
