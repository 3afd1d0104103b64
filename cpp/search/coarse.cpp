#include "search/coarse.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/dispatch.hpp"

namespace nearfield {

using kernels::kGroup;

namespace {

double dot(const float* a, const float* b, size_t dims) {
    double sums[3];
    kernels::active().dense[kernels::kF32].settle(a, reinterpret_cast<const uint8_t*>(b), 1.0f, dims, sums);
    return sums[0];
}

// Queries whose distances to all centroids are estimated together.
constexpr size_t kQueries = 8 * kernels::kTile;

constexpr float kFarthest = std::numeric_limits<float>::max();

}  // namespace

Coarse::Coarse(std::vector<float> centroids, size_t dims, Metric metric, std::vector<uint32_t> edges, const Run& run)
    : lists_(centroids.size() / dims),
      dims_(dims),
      metric_(metric),
      centroids_(std::move(centroids), dims),
      // Queries and centroids are compared as they are: what cosine wants has been done to them.
      screen_(dims, metric == Metric::l2 ? Metric::l2 : Metric::ip,
              ScreenCodec::center_of(values().data(), lists_, dims, Metric::ip)),
      groups_((lists_ + kGroup - 1) / kGroup * screen_.group_bytes() / sizeof(float)) {
    for (size_t list = 0; list < lists_; ++list) {
        longest_ = std::max(longest_, std::sqrt(dot(centroid(list), centroid(list), dims)));
    }
    std::vector<float> group(kGroup * dims);
    for (size_t first = 0; first < lists_; first += kGroup) {
        const size_t n = std::min(kGroup, lists_ - first);
        std::fill(std::copy_n(centroid(first), n * dims, group.begin()), group.end(), 0.0f);
        screen_.encode_group(group.data(),
                             reinterpret_cast<std::byte*>(groups_.data()) + first / kGroup * screen_.group_bytes());
    }
    if (!has_graph(lists_, dims)) return;
    graph_ = edges.empty() ? std::make_unique<CentroidGraph>(values().data(), lists_, dims, metric, run)
                           : std::make_unique<CentroidGraph>(values().data(), lists_, dims, metric, std::move(edges));
}

// Measured: below that, a scan of codes of 8 bits is over sooner.
bool Coarse::has_graph(size_t lists, size_t dims) {
    return lists >= size_t{1} << 14 && lists * dims >= size_t{1} << 24;
}

size_t Coarse::nbytes() const {
    return (graph_ ? graph_->nbytes() : 0) + centroids_.nbytes() + groups_.size() * sizeof(float);
}

void Coarse::assign(const float* vectors, size_t n, double soar, uint32_t* labels) const {
    if (soar == 0) {
        centroids_.assign(vectors, n, labels, nullptr);
        return;
    }
    std::vector<uint32_t> first(n);
    centroids_.assign(vectors, n, first.data(), nullptr);
    const auto dots = kernels::active().dense[kernels::kF32].dot;
    const auto squares = kernels::active().dense[kernels::kF32].l2;
    const auto* data = reinterpret_cast<const uint8_t*>(values().data());
    std::vector<float> along(lists_), apart(lists_), residual(dims_);
    for (size_t i = 0; i < n; ++i) {
        const float* vector = vectors + i * dims_;
        for (size_t d = 0; d < dims_; ++d) residual[d] = vector[d] - centroid(first[i])[d];
        const double length = dot(residual.data(), residual.data(), dims_);
        const double with_vector = dot(residual.data(), vector, dims_);
        squares(vector, data, dims_ * sizeof(float), nullptr, lists_, dims_, apart.data());
        dots(residual.data(), data, dims_ * sizeof(float), nullptr, lists_, dims_, along.data(), nullptr);
        uint32_t best = first[i];
        double least = std::numeric_limits<double>::infinity();
        for (uint32_t list = 0; list < lists_; ++list) {
            if (list == first[i]) continue;
            const double parallel = with_vector - static_cast<double>(along[list]);  // <r, x - c'>
            const double loss =
                static_cast<double>(apart[list]) + (length > 0 ? soar * parallel * parallel / length : 0.0);
            if (loss < least) {
                least = loss;
                best = list;
            }
        }
        labels[2 * i] = first[i];
        labels[2 * i + 1] = best;
    }
}

void Coarse::nearest_by_graph(const float* query, size_t count, Probe* probes) const {
    thread_local std::vector<CentroidGraph::Found> found;
    graph_->nearest(query, count, count + count / 4 + 64, found);
    for (size_t p = 0; p < count; ++p) probes[p] = {found[p].node, found[p].distance};
}

void Coarse::nearest(const float* queries, size_t n, size_t count, Probe* probes) const {
    if (graph_ && count < lists_ / 16) {
        for (size_t q = 0; q < n; ++q) nearest_by_graph(queries + q * dims_, count, probes + q * count);
        return;
    }
    const kernels::DenseKernels& kernel = kernels::active().dense[kernels::kF32];
    const kernels::SelectKernels& select = kernels::active().select;
    const auto* centroids = reinterpret_cast<const uint8_t*>(values().data());
    thread_local std::vector<float> estimates, distances;
    thread_local std::vector<uint32_t> lists;
    thread_local std::vector<Probe> near;
    distances.resize(lists_ + kGroup);
    lists.resize(lists_ + kGroup);
    for (size_t q = 0; q < n; ++q, probes += count) {
        if (q % kQueries == 0) {
            const size_t block = std::min(kQueries, n - q);
            estimates.resize(block * lists_);
            screen_.estimates(queries + q * dims_, block, reinterpret_cast<const std::byte*>(groups_.data()), lists_,
                              estimates.data());
            // Beyond float32: no list is nearer than another.
            for (float& estimate : estimates) estimate = std::isfinite(estimate) ? estimate : kFarthest;
        }
        const float *own = estimates.data() + q % kQueries * lists_, *query = queries + q * dims_;
        // A few more than are wanted, since estimates decide which these are.
        const size_t least = std::min(lists_, count + count / 4 + 4);
        const float bound = select.threshold(own, lists_, least, least + least / 4);
        const size_t kept = select.keep(own, nullptr, lists_, bound, distances.data(), lists.data());
        if (metric_ == Metric::l2) {
            kernel.l2(query, centroids, dims_ * sizeof(float), lists.data(), kept, dims_, distances.data());
        } else {
            kernel.dot(query, centroids, dims_ * sizeof(float), lists.data(), kept, dims_, distances.data(), nullptr);
        }
        near.clear();
        for (size_t i = 0; i < kept; ++i) {
            const float distance = metric_ == Metric::l2 ? distances[i] : -distances[i];
            near.push_back({lists[i], std::isfinite(distance) ? distance : kFarthest});
        }
        const auto nearer = [](const Probe& a, const Probe& b) {
            return a.distance != b.distance ? a.distance < b.distance : a.list < b.list;
        };
        std::partial_sort_copy(near.begin(), near.end(), probes, probes + count, nearer);
    }
}

float Coarse::rounding(const float* query) const {
    const double length = std::sqrt(dot(query, query, dims_));
    const double magnitude = metric_ == Metric::l2 ? (length + longest_) * (length + longest_) : length * longest_;
    return TiledQueries::kRelative * static_cast<float>(magnitude);
}

double Coarse::distance(const float* query, size_t list) const {
    double sums[3];
    kernels::active().dense[kernels::kF32].settle(query, reinterpret_cast<const uint8_t*>(centroid(list)), 1.0f, dims_,
                                                  sums);
    return metric_ == Metric::l2 ? sums[2] : -sums[0];
}

}  // namespace nearfield
