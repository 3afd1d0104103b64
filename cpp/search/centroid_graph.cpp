#include "search/centroid_graph.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "codecs/kmeans.hpp"
#include "codecs/screen.hpp"
#include "codecs/tiles.hpp"
#include "kernels/dispatch.hpp"

namespace nearfield {

using kernels::kGroup;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Nearest neighbours among which those of a node are chosen. One is left out if it is nearer to one chosen before, by
// this factor between squared distances, than to the node.
constexpr size_t kPool = 96;
constexpr float kAlpha = 1.1f;
// One place of every node is left to `connect`.
constexpr size_t kChosen = CentroidGraph::kDegree - 1;
constexpr size_t kNodesPerItem = 64;

// Sums of huge values may overflow; an infinity can be compared.
float comparable(float distance) { return std::isnan(distance) ? kInfinity : distance; }

void prefetch([[maybe_unused]] const void* address) {
#if defined(__GNUC__)  // a hint that other compilers can do without
    __builtin_prefetch(address);
#endif
}

struct Near {
    float distance;
    uint32_t node;
    bool operator<(const Near& other) const {
        return distance != other.distance ? distance < other.distance : node < other.node;
    }
};

double squared_length(const float* vector, size_t dim) {
    double sums[3];
    kernels::active().dense[kernels::kF32].settle(vector, reinterpret_cast<const uint8_t*>(vector), 1.0f, dim, sums);
    return sums[1];
}

// The k nearest of the survivors of a scan, by the middle of their bounds, for each query.
class NearestSurvivors final : public SurvivorSink {
  public:
    NearestSurvivors(size_t queries, size_t k) : k_(k), bounds_(queries, kInfinity), lists_(queries) {
        bounds = bounds_.data();
    }
    void start_block(size_t first) { first_ = static_cast<uint32_t>(first); }
    void take(std::span<const Survivor> survivors) noexcept override {
        for (const Survivor& s : survivors) {
            lists_[s.query].push_back({comparable((s.low + s.high) / 2), first_ + s.at});
            if (lists_[s.query].size() >= 2 * k_) shrink(s.query);
        }
    }
    const std::vector<Near>& finish(size_t q) {
        shrink(q);
        return lists_[q];
    }

  private:
    void shrink(size_t q) {
        auto& list = lists_[q];
        if (list.size() < k_) return;
        const auto last = list.begin() + static_cast<std::ptrdiff_t>(k_ - 1);
        std::nth_element(list.begin(), last, list.end());
        bounds_[q] = last->distance;
        list.resize(k_);
    }

    size_t k_;
    uint32_t first_ = 0;
    std::vector<float> bounds_;
    std::vector<std::vector<Near>> lists_;
};

// Points (n, dim) between which edges are drawn by their distances.
struct Points {
    const float* values;
    size_t n, dim;

    const float* point(size_t i) const { return values + i * dim; }
    std::vector<uint32_t> nearest(const float* queries, size_t count, size_t k, const Run& run) const;
    std::vector<uint32_t> prune(uint32_t node, std::vector<uint32_t> pool) const;
    std::vector<std::vector<uint32_t>> neighbors(const Run& run) const;
};

// The k <= n points nearest to each of `count` queries by estimates from 8-bit codes, in no order.
std::vector<uint32_t> Points::nearest(const float* queries, size_t count, size_t k, const Run& run) const {
    const ScreenCodec codec(dim, Metric::l2, ScreenCodec::center_of(values, n, dim, Metric::l2));
    const size_t group_bytes = codec.group_bytes();
    std::vector<std::byte> groups((n + kGroup - 1) / kGroup * group_bytes);
    parallel_for((n + kGroup - 1) / kGroup, part_of(run, 0, 0.05), [&](size_t group) {
        std::vector<float> vectors(kGroup * dim);
        std::copy_n(point(group * kGroup), std::min(kGroup, n - group * kGroup) * dim, vectors.begin());
        codec.encode_group(vectors.data(), groups.data() + group * group_bytes);
    });
    std::vector<uint32_t> out(count * k);
    // A part of the work is some queries, against blocks of groups that fit the second-level cache.
    constexpr size_t kQueries = 8 * kernels::kTile, kBlockBytes = size_t{256} << 10;
    const size_t block = std::max<size_t>(1, kBlockBytes / group_bytes) * kGroup;
    parallel_for((count + kQueries - 1) / kQueries, part_of(run, 0.05, 1), [&](size_t item) {
        const size_t first = item * kQueries, width = std::min(kQueries, count - first);
        const auto scanner = codec.prepare(queries + first * dim, width);
        NearestSurvivors survivors(width, k);
        for (size_t start = 0; start < n; start += block) {
            survivors.start_block(start);
            scanner->scan({groups.data() + start / kGroup * group_bytes, std::min(block, n - start)}, survivors);
        }
        for (size_t q = 0; q < width; ++q) {
            const std::vector<Near>& list = survivors.finish(q);
            std::transform(list.begin(), list.end(), out.begin() + static_cast<std::ptrdiff_t>((first + q) * k),
                           [](const Near& near) { return near.node; });
        }
    });
    return out;
}

// The neighbours of a node among a pool: from near to far, each one stands for all that are much nearer to it than to
// the node.
std::vector<uint32_t> Points::prune(uint32_t node, std::vector<uint32_t> pool) const {
    const auto l2 = kernels::active().dense[kernels::kF32].l2;
    std::erase(pool, node);
    std::vector<float> distances(pool.size());
    const auto measure = [&](size_t from) {
        l2(point(from), reinterpret_cast<const uint8_t*>(values), dim * sizeof(float), pool.data(), pool.size(), dim,
           distances.data());
    };
    measure(node);
    std::vector<Near> left(pool.size());
    for (size_t i = 0; i < pool.size(); ++i) left[i] = {comparable(distances[i]), pool[i]};
    std::sort(left.begin(), left.end());
    std::vector<uint32_t> chosen;
    while (!left.empty() && chosen.size() < kChosen) {
        chosen.push_back(left[0].node);
        pool.resize(left.size());
        std::transform(left.begin(), left.end(), pool.begin(), [](const Near& near) { return near.node; });
        measure(chosen.back());
        size_t kept = 0;
        for (size_t i = 1; i < left.size(); ++i) {
            if (kAlpha * distances[i] > left[i].distance) left[kept++] = left[i];
        }
        left.resize(kept);
    }
    return chosen;
}

// The neighbours of every point, the more important first: those chosen among its nearest, and the points that chose
// it; chosen again from both where these are too many.
std::vector<std::vector<uint32_t>> Points::neighbors(const Run& run) const {
    const size_t k = std::min(n, kPool);
    const std::vector<uint32_t> nearest_of_all = nearest(values, n, k, part_of(run, 0, 0.6));
    std::vector<std::vector<uint32_t>> chosen(n);
    const auto for_each_point = [&](const Run& part, const auto& work) {
        parallel_for((n + kNodesPerItem - 1) / kNodesPerItem, part, [&](size_t item) {
            const size_t end = std::min(n, (item + 1) * kNodesPerItem);
            for (size_t i = item * kNodesPerItem; i < end; ++i) work(static_cast<uint32_t>(i));
        });
    };
    for_each_point(part_of(run, 0.6, 0.8), [&](uint32_t node) {
        const auto first = nearest_of_all.begin() + static_cast<std::ptrdiff_t>(node * k);
        chosen[node] = prune(node, {first, first + static_cast<std::ptrdiff_t>(k)});
    });
    std::vector<std::vector<uint32_t>> both = chosen;
    for (uint32_t node = 0; node < n; ++node) {
        for (const uint32_t neighbor : chosen[node]) {
            const auto& own = chosen[neighbor];
            if (std::find(own.begin(), own.end(), node) == own.end()) both[neighbor].push_back(node);
        }
    }
    for_each_point(part_of(run, 0.8, 1), [&](uint32_t node) {
        if (both[node].size() > kChosen) both[node] = prune(node, std::move(both[node]));
    });
    return both;
}

// The nearest nodes that a search has seen, best first.
class Beam {
  public:
    void reset(size_t capacity) {
        nodes_.resize(capacity);
        kept_ = next_ = 0;
    }
    size_t size() const { return kept_; }
    uint32_t node(size_t at) const { return nodes_[at].node & ~kFollowed; }
    // The distance beyond which nodes are not kept.
    float bound() const { return kept_ < nodes_.size() ? kInfinity : nodes_[kept_ - 1].distance; }

    void insert(Near near) {
        if (kept_ == nodes_.size() && !(near.distance < nodes_[kept_ - 1].distance)) return;
        size_t at = 0;  // by halves without a branch, as nobody could foresee which way it goes
        for (size_t left = kept_; left > 0;) {
            const size_t half = (left + 1) / 2;
            at += half * static_cast<size_t>(nodes_[at + half - 1].distance <= near.distance);
            left -= half;
        }
        kept_ = std::min(kept_ + 1, nodes_.size());
        const auto place = nodes_.begin() + static_cast<std::ptrdiff_t>(at);
        const auto end = nodes_.begin() + static_cast<std::ptrdiff_t>(kept_);
        std::copy_backward(place, end - 1, end);
        *place = near;
        next_ = std::min(next_, at);
    }

    // Moves on to the nearest node that was not followed yet; returns false if there is none.
    bool follow(uint32_t& node) {
        while (next_ < kept_ && (nodes_[next_].node & kFollowed)) ++next_;
        if (next_ == kept_) return false;
        node = nodes_[next_].node;
        nodes_[next_++].node |= kFollowed;
        return true;
    }
    // A node that may be the next one to follow.
    uint32_t later() const { return node(next_ < kept_ ? next_ : 0); }

  private:
    static constexpr uint32_t kFollowed = uint32_t{1} << 31;

    size_t kept_ = 0, next_ = 0;  // all before `next_` were followed
    std::vector<Near> nodes_;
};

}  // namespace

size_t CentroidGraph::rows(size_t n) {
    // About sqrt(n) entries.
    return n + std::max<size_t>(1, static_cast<size_t>(std::sqrt(static_cast<double>(n))) / kDegree);
}

bool CentroidGraph::valid(const std::vector<uint32_t>& edges, size_t n) {
    return edges.size() == rows(n) * kDegree &&
           std::all_of(edges.begin(), edges.end(), [n](uint32_t node) { return node < n; });
}

size_t CentroidGraph::nbytes() const {
    return edges_.size() * sizeof(uint32_t) + mean_.size() * sizeof(float) + codes_.size() * sizeof(CacheLine) +
           terms_.size() * sizeof(Terms);
}

CentroidGraph::CentroidGraph(const float* centroids, size_t n, size_t dim, Metric metric, std::vector<uint32_t> edges)
    : l2_(metric == Metric::l2),
      centroids_(centroids),
      n_(n),
      dim_(dim),
      stride_((dim + sizeof(CacheLine) - 1) / sizeof(CacheLine) * sizeof(CacheLine)),
      edges_(std::move(edges)),
      mean_(ScreenCodec::center_of(centroids, n, dim, Metric::l2)),
      codes_(n * stride_ / sizeof(CacheLine)),
      terms_(n) {
    encode();
}

CentroidGraph::CentroidGraph(const float* centroids, size_t n, size_t dim, Metric metric, const Run& run)
    : CentroidGraph(centroids, n, dim, metric, std::vector<uint32_t>(rows(n) * kDegree)) {
    choose_entries(part_of(run, 0, 0.02));
    if (l2_) {
        set_neighbors({Points{centroids, n, dim}.neighbors(part_of(run, 0.02, 1))});
    } else {
        // Inner products favour long vectors. Those nearest to a query have directions near to its own, or are long:
        // then they are near to each other once one more dimension gives all of them the same length (Bachrach et al.,
        // 2014). One graph follows the directions, one the longer vectors; they share the places.
        std::vector<double> squares(n);
        for (size_t i = 0; i < n; ++i) squares[i] = squared_length(centroid(i), dim);
        const double longest = *std::max_element(squares.begin(), squares.end());
        std::vector<float> directions(centroids, centroids + n * dim), lengthened;
        for (size_t i = 0; i < n; ++i) {
            lengthened.insert(lengthened.end(), centroid(i), centroid(i) + dim);
            lengthened.push_back(static_cast<float>(std::sqrt(longest - squares[i])));
            const auto scale = static_cast<float>(squares[i] > 0 ? 1 / std::sqrt(squares[i]) : 0);
            for (size_t d = 0; d < dim; ++d) directions[i * dim + d] *= scale;
        }
        auto by_direction = Points{directions.data(), n, dim}.neighbors(part_of(run, 0.02, 0.5));
        auto by_length = Points{lengthened.data(), n, dim + 1}.neighbors(part_of(run, 0.5, 1));
        set_neighbors({std::move(by_direction), std::move(by_length)});
    }
    connect();
}

// Searches start from nodes in the middle of clusters, so that none is out of the way, however far apart they lie.
void CentroidGraph::choose_entries(const Run& run) {
    const size_t entries = edges_.size() - n_ * kDegree, clusters = std::min(n_, entries);
    const std::vector<float> middles = kmeans(centroids_, dim_, n_, dim_, clusters, 0, 1);
    const std::vector<uint32_t> nodes = Points{centroids_, n_, dim_}.nearest(middles.data(), clusters, 1, run);
    for (size_t i = 0; i < entries; ++i) edges_[n_ * kDegree + i] = nodes[i % clusters];
}

// Takes neighbours from each of some graphs in turn, as long as there are places.
void CentroidGraph::set_neighbors(const std::vector<std::vector<std::vector<uint32_t>>>& graphs) {
    for (uint32_t node = 0; node < n_; ++node) {
        uint32_t* own = edges_.data() + node * kDegree;
        uint32_t* end = own;
        for (size_t rank = 0; rank < kChosen; ++rank) {
            for (const auto& graph : graphs) {
                if (rank >= graph[node].size() || end == own + kChosen) continue;
                if (std::find(own, end, graph[node][rank]) == end) *end++ = graph[node][rank];
            }
        }
        std::fill(end, own + kDegree, node);
    }
}

void CentroidGraph::encode() {
    const kernels::KernelTable& kernel = kernels::active();
    std::vector<float> moved(dim_);
    std::vector<int8_t> code(dim_);
    for (size_t i = 0; i < n_; ++i) {
        for (size_t d = 0; d < dim_; ++d) moved[d] = centroid(i)[d] - mean_[d];
        const auto squared = static_cast<float>(squared_length(moved.data(), dim_));
        if (!(squared < kInfinity)) std::fill(moved.begin(), moved.end(), 0.0f);  // too long for a code
        float lengths[3];
        kernel.quantize(moved.data(), dim_, 127, code.data(), lengths);
        terms_[i] = {lengths[0], comparable(squared)};
        uint8_t* out = codes_[i * stride_ / sizeof(CacheLine)].bytes;
        std::transform(code.begin(), code.end(), out, [](int8_t c) { return static_cast<uint8_t>(c + 128); });
    }
}

// Gives each node that no entry leads to an edge from one that can be reached and has a place left: the nearest one
// that a search finds. There always is one, since each node that is reached brings a free place along.
void CentroidGraph::connect() {
    std::vector<bool> seen(n_);
    std::vector<uint32_t> reached;
    const auto reach = [&](uint32_t start) {
        size_t at = reached.size();
        const auto add = [&](uint32_t node) {
            if (!seen[node]) reached.push_back(node);
            seen[node] = true;
        };
        for (add(start); at < reached.size(); ++at) {
            for (size_t j = 0; j < kDegree; ++j) add(edges_[reached[at] * kDegree + j]);
        }
    };
    const auto attach = [&](uint32_t node, uint32_t to) {
        const auto own = edges_.begin() + static_cast<std::ptrdiff_t>(to * kDegree);
        const auto place = std::find(own, own + kDegree, to);
        if (place == own + kDegree) return false;
        *place = node;
        return true;
    };
    for (size_t i = n_ * kDegree; i < edges_.size(); ++i) reach(edges_[i]);
    std::vector<Found> found;
    size_t full = 0;  // nodes at the front of `reached` that have no place left
    for (uint32_t node = 0; node < n_; ++node) {
        if (seen[node]) continue;
        nearest(centroid(node), kDegree, kDegree, found);
        if (std::none_of(found.begin(), found.end(), [&](const Found& near) { return attach(node, near.node); })) {
            while (!attach(node, reached[full])) ++full;
        }
        reach(node);
    }
}

void CentroidGraph::nearest(const float* query, size_t count, size_t beam, std::vector<Found>& out) const {
    struct Scratch {
        Beam beam;
        std::vector<uint64_t> seen;  // a bit for each node
        std::vector<uint32_t> nodes;
        std::vector<int32_t> sums;
        std::vector<float> distances, moved;
    };
    thread_local Scratch scratch;
    Scratch& s = scratch;
    const kernels::KernelTable& kernel = kernels::active();
    const size_t entries = edges_.size() - n_ * kDegree, most = std::min(n_, std::max({beam, count, size_t{1}}));
    s.beam.reset(most);
    s.seen.assign((n_ + 63) / 64, 0);
    s.nodes.resize(std::max(most, entries));
    s.sums.resize(entries);
    s.distances.resize(std::max(most, entries));
    // With y = c - mean: |q - c|^2 = |y|^2 - 2 <q - mean, y>, and -<q, c> = -<q, y>, but for a constant of the query.
    s.moved.assign(query, query + dim_);
    for (size_t d = 0; l2_ && d < dim_; ++d) s.moved[d] -= mean_[d];
    IntegerQuery rounded = round_query(s.moved.data(), dim_);
    rounded.code.resize(stride_);
    const int32_t bias = 128 * rounded.sum;
    const float scale = l2_ ? -2 * rounded.scale : -rounded.scale, with_length = l2_ ? 1.0f : 0.0f;

    const auto see = [&](const uint32_t* nodes, size_t n) {
        size_t fresh = 0;
        for (size_t i = 0; i < n; ++i) {  // without a branch, as in `insert`
            uint64_t& word = s.seen[nodes[i] / 64];
            s.nodes[fresh] = nodes[i];
            fresh += ~word >> nodes[i] % 64 & 1;
            word |= uint64_t{1} << nodes[i] % 64;
        }
        kernel.codes.row_dot(codes_[0].bytes, stride_, s.nodes.data(), fresh, stride_, 8, rounded.code.data(),
                             s.sums.data());
        size_t nearer = 0;
        const float bound = s.beam.bound();
        for (size_t i = 0; i < fresh; ++i) {
            const uint32_t node = s.nodes[i];
            const float product = scale * terms_[node].scale * static_cast<float>(s.sums[i] - bias);
            const float distance = comparable(with_length * terms_[node].squared + product);
            s.nodes[nearer] = node;
            s.distances[nearer] = distance;
            nearer += static_cast<size_t>(distance <= bound);
        }
        for (size_t i = 0; i < nearer; ++i) s.beam.insert({s.distances[i], s.nodes[i]});
    };
    see(edges_.data() + n_ * kDegree, entries);
    for (uint32_t node; s.beam.follow(node);) {
        prefetch(edges_.data() + s.beam.later() * kDegree);
        prefetch(edges_.data() + s.beam.later() * kDegree + kDegree / 2);
        see(edges_.data() + node * kDegree, kDegree);
    }

    const size_t kept = s.beam.size();
    for (size_t i = 0; i < kept; ++i) s.nodes[i] = s.beam.node(i);
    const kernels::DenseKernels& dense = kernel.dense[kernels::kF32];
    const size_t row_bytes = dim_ * sizeof(float);
    if (l2_) {
        dense.l2(query, bytes(), row_bytes, s.nodes.data(), kept, dim_, s.distances.data());
    } else {
        dense.dot(query, bytes(), row_bytes, s.nodes.data(), kept, dim_, s.distances.data(), nullptr);
    }
    out.resize(kept);
    for (size_t i = 0; i < kept; ++i) out[i] = {s.nodes[i], comparable(l2_ ? s.distances[i] : -s.distances[i])};
    const auto last = out.begin() + static_cast<std::ptrdiff_t>(std::min(count, kept));
    std::partial_sort(out.begin(), last, out.end(), [](const Found& a, const Found& b) {
        return a.distance != b.distance ? a.distance < b.distance : a.node < b.node;
    });
    out.erase(last, out.end());
}

}  // namespace nearfield
