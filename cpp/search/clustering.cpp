#include "search/clustering.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <optional>
#include <random>

#include "codecs/tiles.hpp"
#include "kernels/dispatch.hpp"
#include "search/centroid_screen.hpp"

namespace nearfield {

using kernels::kGroup;

namespace {

// Points that one work item takes.
constexpr size_t kBatch = 768;
// Bounds save distances from so many centroids on, and after the first assignments, when centroids still move far.
constexpr size_t kBounded = 256, kUnboundedTurns = 2;
// k-means++ draws from this many points per cluster, for up to so many clusters; more start from any points.
constexpr size_t kDrawn = 16, kMostDrawn = 2048;
// Entropic transport: how soft assignments are, as a share of the mean of squared distances (less that to the nearest
// centroid), measured on up to so many points; and how often points and clusters are scaled in turn.
constexpr double kSoftness = 0.02;
constexpr size_t kSoftnessSample = 4096, kScalings = 8;
// Stripes of points whose sums are taken apart and then added up in order, whatever the number of threads.
constexpr size_t kStripes = 64;

const kernels::DenseKernels& floats() { return kernels::active().dense[kernels::kF32]; }
const uint8_t* bytes(const float* values) { return reinterpret_cast<const uint8_t*>(values); }

double uniform(std::mt19937_64& random) { return static_cast<double>(random() >> 11) * 0x1p-53; }

// One of each of `count` equal stretches of n things, in ascending order.
std::vector<size_t> draw_evenly(size_t n, size_t count, std::mt19937_64& random) {
    std::vector<size_t> out(count);
    const double stretch = static_cast<double>(n) / static_cast<double>(count);
    for (size_t i = 0; i < count; ++i) {
        const auto first = static_cast<size_t>(static_cast<double>(i) * stretch);
        const auto last = std::min(n, static_cast<size_t>(static_cast<double>(i + 1) * stretch));
        out[i] = first + static_cast<size_t>(uniform(random) * static_cast<double>(std::max(last, first + 1) - first));
    }
    return out;
}

std::vector<float> gathered(const float* points, size_t dim, const std::vector<size_t>& rows) {
    std::vector<float> out(rows.size() * dim);
    for (size_t i = 0; i < rows.size(); ++i) std::copy_n(points + rows[i] * dim, dim, out.data() + i * dim);
    return out;
}

// Draws k of the points, each one with a probability proportional to its squared distance from the nearest of those
// before it (k-means++; Arthur, Vassilvitskii 2007).
std::vector<float> draw_apart(const float* points, size_t n, size_t dim, size_t k, std::mt19937_64& random,
                              const Run& run) {
    constexpr size_t kBlock = 512;
    const size_t blocks = (n + kBlock - 1) / kBlock;
    std::vector<float> centroids(k * dim), squared(n, 1.0f);
    std::vector<double> totals(blocks);
    for (size_t b = 0; b < blocks; ++b) totals[b] = static_cast<double>(std::min(kBlock, n - b * kBlock));
    for (size_t c = 0; c < k; ++c) {
        double left = uniform(random) * std::accumulate(totals.begin(), totals.end(), 0.0);
        size_t block = 0;
        while (block + 1 < blocks && left >= totals[block]) left -= totals[block++];
        const size_t last = std::min(n, (block + 1) * kBlock);
        size_t drawn = block * kBlock;
        while (drawn + 1 < last && left >= static_cast<double>(squared[drawn])) {
            left -= static_cast<double>(squared[drawn++]);
        }
        float* centroid = centroids.data() + c * dim;
        std::copy_n(points + drawn * dim, dim, centroid);
        parallel_for(blocks, part_of(run, static_cast<double>(c) / static_cast<double>(k), 1), [&](size_t b) {
            const size_t first = b * kBlock, size = std::min(kBlock, n - first);
            float distances[kBlock];
            floats().l2(centroid, bytes(points + first * dim), dim * sizeof(float), nullptr, size, dim, distances);
            double total = 0;
            for (size_t i = 0; i < size; ++i) {
                const float distance = std::min(distances[i], std::numeric_limits<float>::max());
                squared[first + i] = c == 0 ? distance : std::min(squared[first + i], distance);
                total += static_cast<double>(squared[first + i]);
            }
            totals[b] = total;
        });
    }
    return centroids;
}

// Points that are assigned to centroids, again and again.
class Assignment {
  public:
    Assignment(const float* points, size_t n, std::shared_ptr<const Frame> frame, const KMeansOptions& options,
               const Run& run)
        : options_(options),
          points_(points),
          n_(n),
          dim_(frame->dim()),
          frame_(std::move(frame)),
          images_(*frame_, n),
          nearest_(n) {
        parallel_for((n_ + kBatch - 1) / kBatch, run, [&](size_t item) {
            images_.encode(*frame_, points_, item * kBatch, std::min(kBatch, n_ - item * kBatch));
        });
        double longest = 0, sum = 0;
        for (size_t i = 0; i < n_; ++i) {
            const auto length = static_cast<double>(images_.terms(i).length);
            longest = std::max(longest, length);
            sum += length;
        }
        even_lengths_ = longest * static_cast<double>(n_) <= 1e6 * sum && std::isfinite(longest);
    }

    // Assigns all points; returns whether any changed over to another centroid.
    bool assign(const std::vector<float>& centroids, const Run& run) {
        std::vector<uint32_t> before(n_);
        for (size_t i = 0; i < n_; ++i) before[i] = nearest_[i].centroid;
        switch (options_.balance) {
            case Balance::none:
                assign_nearest(centroids, run);
                break;
            case Balance::capacity:
                assign_within(centroids, run);
                break;
            case Balance::sinkhorn:
                assign_by_transport(centroids, run);
                break;
        }
        bool changed = !assigned_;
        assigned_ = true;
        for (size_t i = 0; i < n_; ++i) changed |= before[i] != nearest_[i].centroid;
        return changed;
    }

    // Moves each centroid to the mean of its points.
    void move(std::vector<float>& centroids, const Run& run) {
        sort_by_centroid();
        const auto empty = [&](size_t c) { return starts_[c] == starts_[c + 1]; };
        for (size_t c = 0; c < options_.k; ++c) {
            if (empty(c)) {
                refill();
                break;
            }
        }
        const Changes changes = changes_of_sums();
        constexpr size_t kAtOnce = 8;
        parallel_for((options_.k + kAtOnce - 1) / kAtOnce, run, [&](size_t item) {
            for (size_t c = item * kAtOnce; c < std::min(options_.k, (item + 1) * kAtOnce); ++c) {
                double* sum = sums_.data() + c * dim_;
                add_up(c, changes, sum);
                if (empty(c)) continue;
                auto divisor = static_cast<double>(starts_[c + 1] - starts_[c]);
                if (options_.spherical) {
                    const double length = std::sqrt(std::inner_product(sum, sum + dim_, sum, 0.0));
                    if (!(length > 1e-12 * divisor)) continue;  // its points cancel each other out: it stays
                    divisor = length;
                }
                float* centroid = centroids.data() + c * dim_;
                for (size_t d = 0; d < dim_; ++d) centroid[d] = static_cast<float>(sum[d] / divisor);
            }
        });
    }

    double inertia() const {
        double sum = 0;
        for (const NearestCentroid& nearest : nearest_) sum += nearest.squared;
        return sum;
    }
    std::vector<uint32_t> labels() const {
        std::vector<uint32_t> out(n_);
        for (size_t i = 0; i < n_; ++i) out[i] = nearest_[i].centroid;
        return out;
    }

  private:
    void assign_nearest(const std::vector<float>& centroids, const Run& run) {
        if (options_.k >= kBounded && turns_ == kUnboundedTurns) {
            bounds_.emplace(n_, options_.k);
            order_of_scan_ = neighbors_together(centroids, run);
        }
        ++turns_;
        const CentroidScreen screen(centroids, frame_, order_of_scan_, run);
        std::vector<float> moves;
        if (bounds_ && screen.ordinary()) {
            moves = moves_since(centroids);
            before_ = centroids;
        } else {
            bounds_.reset();
        }
        parallel_for((n_ + kBatch - 1) / kBatch, run, [&](size_t item) {
            const size_t first = item * kBatch, size = std::min(kBatch, n_ - first);
            // The centroid of the last time bounds the distance from the start on.
            for (size_t i = first; assigned_ && i < first + size; ++i) {
                nearest_[i].squared = screen.squared(points_ + i * dim_, nearest_[i].centroid);
            }
            if (bounds_) {
                screen.improve_within(points_, images_, first, size, moves.data(), *bounds_, nearest_.data() + first);
            } else {
                screen.improve_range(points_, images_, first, size, nearest_.data() + first);
            }
        });
    }

    // Centroids in such an order that the blocks of bounds are of near ones: these move alike.
    std::vector<uint32_t> neighbors_together(const std::vector<float>& centroids, const Run& run) const {
        KMeansOptions options;
        options.k = bounds_->blocks();
        options.iterations = 5;
        options.balance = Balance::capacity;
        const std::vector<uint32_t> block = kmeans_cluster(centroids.data(), options_.k, dim_, options, run).labels;
        std::vector<uint32_t> out(options_.k);
        std::iota(out.begin(), out.end(), 0u);
        std::stable_sort(out.begin(), out.end(), [&](uint32_t a, uint32_t b) { return block[a] < block[b]; });
        return out;
    }

    // How far the centroids of each block have moved since the last assignment, at most.
    std::vector<float> moves_since(const std::vector<float>& centroids) const {
        std::vector<float> out(bounds_->blocks());
        for (size_t at = 0; at < options_.k && !before_.empty(); ++at) {
            const size_t c = order_of_scan_[at];
            double sums[3];
            floats().settle(centroids.data() + c * dim_, bytes(before_.data() + c * dim_), 1.0f, dim_, sums);
            float& most = out[at / bounds_->block_size()];
            most = std::max(most, static_cast<float>(std::sqrt(sums[2])));
        }
        return out;
    }

    // Every point proposes itself to the nearest centroid that has room left, and where more do than there is room, the
    // nearest points are taken; the others go on to the centroids that are left.
    void assign_within(const std::vector<float>& centroids, const Run& run) {
        const double most = std::ceil(options_.slack * static_cast<double>(n_) / static_cast<double>(options_.k));
        std::vector<size_t> room(options_.k, static_cast<size_t>(std::min(most, static_cast<double>(n_))));
        std::vector<uint32_t> open(options_.k), homeless(n_);
        std::iota(open.begin(), open.end(), 0u);
        std::iota(homeless.begin(), homeless.end(), 0u);
        while (!homeless.empty()) {
            const Run part = part_of(run, 1 - static_cast<double>(homeless.size()) / static_cast<double>(n_), 1);
            std::vector<float> values(open.size() * dim_);
            for (size_t i = 0; i < open.size(); ++i) {
                std::copy_n(centroids.data() + open[i] * dim_, dim_, values.data() + i * dim_);
            }
            const CentroidScreen screen(std::move(values), frame_, {}, part);
            std::vector<NearestCentroid> proposals(homeless.size());
            parallel_for((homeless.size() + kBatch - 1) / kBatch, part, [&](size_t item) {
                const size_t first = item * kBatch, size = std::min(kBatch, homeless.size() - first);
                screen.improve(points_, images_, homeless.data() + first, size, proposals.data() + first);
            });
            std::vector<std::vector<uint32_t>> candidates(open.size());
            for (size_t i = 0; i < homeless.size(); ++i) {
                candidates[proposals[i].centroid].push_back(static_cast<uint32_t>(i));
            }
            std::vector<uint32_t> still_open, still_homeless;
            for (size_t c = 0; c < open.size(); ++c) {
                size_t& free = room[open[c]];
                std::vector<uint32_t>& given = candidates[c];
                const size_t taken = std::min(free, given.size());
                if (taken < given.size()) {
                    std::sort(given.begin(), given.end(), [&](uint32_t a, uint32_t b) {
                        return std::pair(proposals[a].squared, a) < std::pair(proposals[b].squared, b);
                    });
                }
                for (size_t i = 0; i < given.size(); ++i) {
                    if (i < taken) {
                        nearest_[homeless[given[i]]] = {proposals[given[i]].squared, open[c]};
                    } else {
                        still_homeless.push_back(homeless[given[i]]);
                    }
                }
                free -= taken;
                if (free > 0) still_open.push_back(open[c]);
            }
            std::sort(still_homeless.begin(), still_homeless.end());
            open = std::move(still_open);
            homeless = std::move(still_homeless);
        }
    }

    // Squared distances [centroid][point] from centroids to up to a group of points.
    class Distances {
      public:
        Distances(const std::vector<float>& centroids, size_t dim)
            : dim_(dim), tiles_(TileCodes::f32, dim, centroids.size() / dim) {
            for (size_t c = 0; c < centroids.size() / dim; ++c) {
                const float* centroid = centroids.data() + c * dim;
                double sums[3];
                floats().settle(centroid, bytes(centroid), 1.0f, dim, sums);
                tiles_.set_f32(c, centroid, 2, 0, sums[1]);
            }
        }
        void of(const float* points, size_t n, float* out) const {
            thread_local std::vector<float> group;
            group.assign(dim_ * kGroup + kernels::kGroupFactors, 0.0f);
            for (size_t i = 0; i < n; ++i) {
                const float* point = points + i * dim_;
                for (size_t d = 0; d < dim_; ++d) group[d * kGroup + i] = point[d];
                double sums[3];
                floats().settle(point, bytes(point), 1.0f, dim_, sums);
                group[dim_ * kGroup + i] = 1;
                group[(dim_ + 1) * kGroup + i] = static_cast<float>(sums[1]);
            }
            tiles_.score(reinterpret_cast<const std::byte*>(group.data()), n, out);
        }

      private:
        size_t dim_;
        TiledQueries tiles_;
    };

    // Shares of points, exp(-(squared distance - potential of the centroid) / softness) up to a factor per point, such
    // that every centroid gets about the same (Sinkhorn); then each point goes where its share is largest.
    void assign_by_transport(const std::vector<float>& centroids, const Run& run) {
        const size_t k = options_.k;
        const Distances distances(centroids, dim_);
        potentials_.resize(k);
        softness_ = softness(distances);
        const double equal = static_cast<double>(n_) / static_cast<double>(k);
        const size_t stripe = ((n_ + kStripes - 1) / kStripes + kGroup - 1) / kGroup * kGroup;
        const size_t stripes = (n_ + stripe - 1) / stripe;
        for (size_t scaling = 0; scaling <= kScalings; ++scaling) {
            const bool last = scaling == kScalings;
            std::vector<std::vector<double>> shares(stripes, std::vector<double>(k));
            const Run part = part_of(run, static_cast<double>(scaling) / (kScalings + 1),
                                     static_cast<double>(scaling + 1) / (kScalings + 1));
            parallel_for(stripes, part, [&](size_t s) {
                std::vector<float> block(k * kGroup);
                for (size_t first = s * stripe; first < std::min(n_, (s + 1) * stripe); first += kGroup) {
                    const size_t size = std::min(kGroup, n_ - first);
                    distances.of(points_ + first * dim_, size, block.data());
                    take_shares(block.data(), first, size, last, shares[s].data());
                    checkpoint();
                }
            });
            if (last || !(softness_ > 0)) continue;
            for (size_t c = 0; c < k; ++c) {
                double sum = 0;
                for (const auto& of_stripe : shares) sum += of_stripe[c];
                potentials_[c] += softness_ * std::log(equal / std::max(sum, 1e-30));
            }
        }
        const CentroidScreen screen(centroids, frame_, {}, run);
        parallel_for((n_ + kBatch - 1) / kBatch, run, [&](size_t item) {
            for (size_t i = item * kBatch; i < std::min(n_, (item + 1) * kBatch); ++i) {
                nearest_[i].squared = screen.squared(points_ + i * dim_, nearest_[i].centroid);
            }
        });
    }

    // Adds up what each centroid gets of points, or in the last turn assigns them.
    void take_shares(float* block, size_t first, size_t n, bool last, double* shares) {
        const size_t k = options_.k;
        for (size_t c = 0; c < k; ++c) {
            for (size_t i = 0; i < n; ++i) block[c * n + i] -= static_cast<float>(potentials_[c]);
        }
        float least[kGroup], sums[kGroup] = {};
        uint32_t best[kGroup] = {};
        std::copy_n(block, n, least);
        for (size_t c = 1; c < k; ++c) {
            for (size_t i = 0; i < n; ++i) {
                if (block[c * n + i] < least[i]) least[i] = block[c * n + i], best[i] = static_cast<uint32_t>(c);
            }
        }
        if (last) {
            for (size_t i = 0; i < n; ++i) nearest_[first + i].centroid = best[i];
            return;
        }
        if (!(softness_ > 0)) return;
        const auto inverse = static_cast<float>(1 / softness_);
        constexpr float kNegligible = -30;
        for (size_t c = 0; c < k; ++c) {
            for (size_t i = 0; i < n; ++i) {
                float& share = block[c * n + i];
                const float exponent = (least[i] - share) * inverse;
                share = exponent > kNegligible ? std::exp(exponent) : 0.0f;  // nearly all are, and exp is slow
                sums[i] += share;
            }
        }
        for (size_t c = 0; c < k; ++c) {
            double sum = 0;
            for (size_t i = 0; i < n; ++i) sum += static_cast<double>(block[c * n + i] / sums[i]);
            shares[c] += sum;
        }
    }

    double softness(const Distances& distances) const {
        const size_t k = options_.k, groups = (n_ + kGroup - 1) / kGroup;
        const size_t step = std::max<size_t>(1, groups * kGroup / kSoftnessSample);
        std::vector<float> block(k * kGroup);
        double sum = 0;
        size_t points = 0;
        for (size_t group = 0; group < groups; group += step) {
            const size_t first = group * kGroup, n = std::min(kGroup, n_ - first);
            distances.of(points_ + first * dim_, n, block.data());
            for (size_t i = 0; i < n; ++i) {
                float least = block[i];
                for (size_t c = 1; c < k; ++c) least = std::min(least, block[c * n + i]);
                for (size_t c = 0; c < k; ++c) sum += static_cast<double>(block[c * n + i] - least);
            }
            points += n;
        }
        return kSoftness * sum / static_cast<double>(points) / static_cast<double>(k);
    }

    // Points that came to a cluster (not negative) and left it (~point) since it was summed up, cluster after cluster.
    struct Changes {
        bool all;  // everything is to be summed up anew
        std::vector<size_t> starts;
        std::vector<int64_t> points;
    };
    Changes changes_of_sums() {
        // Sums are made anew now and then, so that rounding does not pile up, and always where a point is so far away
        // that little would be left of the others' sum after it came and went.
        constexpr size_t kRenewed = 8;
        Changes out{turns_of_sums_++ % kRenewed == 0 || !even_lengths_, std::vector<size_t>(options_.k + 1), {}};
        if (out.all) {
            sums_.resize(options_.k * dim_);
            summed_ = labels();
            return out;
        }
        const auto for_each = [&](const auto& take) {
            for (size_t i = 0; i < n_; ++i) {
                if (summed_[i] == nearest_[i].centroid) continue;
                take(summed_[i], ~static_cast<int64_t>(i));
                take(nearest_[i].centroid, static_cast<int64_t>(i));
            }
        };
        for_each([&](uint32_t c, int64_t) { ++out.starts[c + 1]; });
        std::partial_sum(out.starts.begin(), out.starts.end(), out.starts.begin());
        out.points.resize(out.starts.back());
        std::vector<size_t> next(out.starts.begin(), out.starts.end() - 1);
        for_each([&](uint32_t c, int64_t change) { out.points[next[c]++] = change; });
        summed_ = labels();
        return out;
    }
    void add_up(size_t c, const Changes& changes, double* sum) const {
        const size_t moved = changes.starts[c + 1] - changes.starts[c];
        if (changes.all || moved > starts_[c + 1] - starts_[c]) {
            std::fill_n(sum, dim_, 0.0);
            for (size_t at = starts_[c]; at < starts_[c + 1]; ++at) {
                const float* point = points_ + size_t{order_[at]} * dim_;
                for (size_t d = 0; d < dim_; ++d) sum[d] += static_cast<double>(point[d]);
            }
            return;
        }
        for (size_t at = changes.starts[c]; at < changes.starts[c + 1]; ++at) {
            const int64_t change = changes.points[at];
            const float* point = points_ + static_cast<size_t>(change < 0 ? ~change : change) * dim_;
            const double sign = change < 0 ? -1 : 1;
            for (size_t d = 0; d < dim_; ++d) sum[d] += sign * static_cast<double>(point[d]);
        }
    }

    void sort_by_centroid() {
        starts_.assign(options_.k + 1, 0);
        for (const NearestCentroid& nearest : nearest_) ++starts_[nearest.centroid + 1];
        std::partial_sum(starts_.begin(), starts_.end(), starts_.begin());
        std::vector<size_t> next(starts_.begin(), starts_.end() - 1);
        order_.resize(n_);
        for (size_t i = 0; i < n_; ++i) order_[next[nearest_[i].centroid]++] = static_cast<uint32_t>(i);
    }

    // Gives each empty cluster the farthest point of the cluster with the largest error, as long as there is an error.
    void refill() {
        std::vector<double> errors(options_.k);
        std::vector<std::vector<uint32_t>> members(options_.k);
        for (size_t c = 0; c < options_.k; ++c) {
            members[c].assign(order_.begin() + static_cast<std::ptrdiff_t>(starts_[c]),
                              order_.begin() + static_cast<std::ptrdiff_t>(starts_[c + 1]));
            for (const uint32_t i : members[c]) errors[c] += nearest_[i].squared;
        }
        for (size_t c = 0; c < options_.k; ++c) {
            if (!members[c].empty()) continue;
            const auto worst = static_cast<size_t>(std::max_element(errors.begin(), errors.end()) - errors.begin());
            auto& from = members[worst];
            const auto farthest = std::max_element(from.begin(), from.end(), [&](uint32_t a, uint32_t b) {
                return nearest_[a].squared < nearest_[b].squared;
            });
            if (farthest == from.end() || !(nearest_[*farthest].squared > 0) || from.size() == 1) break;
            errors[worst] -= nearest_[*farthest].squared;
            nearest_[*farthest] = {0, static_cast<uint32_t>(c)};
            if (bounds_) bounds_->forget(*farthest);
            members[c].push_back(*farthest);
            from.erase(farthest);
        }
        sort_by_centroid();
    }

    const KMeansOptions& options_;
    const float* points_;
    size_t n_, dim_;
    std::shared_ptr<const Frame> frame_;
    PointImages images_;
    std::vector<NearestCentroid> nearest_;
    bool assigned_ = false;
    size_t turns_ = 0;
    std::optional<CentroidBounds> bounds_;
    std::vector<uint32_t> order_of_scan_;
    std::vector<float> before_;     // the centroids that the bounds are of
    std::vector<double> sums_;      // of the points of each cluster,
    std::vector<uint32_t> summed_;  // when these were the clusters of points
    size_t turns_of_sums_ = 0;
    bool even_lengths_ = true;        // no point is far longer than most
    std::vector<uint32_t> order_;     // points by centroid,
    std::vector<size_t> starts_;      // and where those of each begin
    std::vector<double> potentials_;  // of centroids, for entropic transport; kept as a start for the next one
    double softness_ = 0;
};

}  // namespace

void to_unit_length(const float* vectors, size_t n, size_t dim, float* out) {
    for (size_t i = 0; i < n; ++i) {
        double sums[3];
        floats().settle(vectors + i * dim, bytes(vectors + i * dim), 1.0f, dim, sums);
        const double factor = sums[1] > 0 ? 1 / std::sqrt(sums[1]) : 0;
        for (size_t d = 0; d < dim; ++d) {
            out[i * dim + d] = static_cast<float>(static_cast<double>(vectors[i * dim + d]) * factor);
        }
    }
}

Clustering kmeans_cluster(const float* points, size_t n, size_t dim, const KMeansOptions& options, const Run& run) {
    const size_t k = options.k;
    std::vector<float> unit;
    if (options.spherical) {
        unit.resize(n * dim);
        parallel_for((n + kBatch - 1) / kBatch, part_of(run, 0, 0.02), [&](size_t item) {
            const size_t first = item * kBatch;
            to_unit_length(points + first * dim, std::min(kBatch, n - first), dim, unit.data() + first * dim);
        });
        points = unit.data();
    }
    std::mt19937_64 random(options.seed);
    Clustering out;
    out.trained_on = options.sample > 0 && n / k >= options.sample ? k * options.sample : n;
    std::vector<float> sample;
    if (out.trained_on < n) sample = gathered(points, dim, draw_evenly(n, out.trained_on, random));
    const float* trained = out.trained_on < n ? sample.data() : points;

    if (options.init != nullptr) {
        out.centroids.assign(options.init, options.init + k * dim);
        if (options.spherical) to_unit_length(options.init, k, dim, out.centroids.data());
    } else if (k <= kMostDrawn) {
        const auto drawn =
            gathered(trained, dim, draw_evenly(out.trained_on, std::min(out.trained_on, kDrawn * k), random));
        out.centroids = draw_apart(drawn.data(), drawn.size() / dim, dim, k, random, part_of(run, 0.02, 0.05));
    } else {
        out.centroids = gathered(trained, dim, draw_evenly(out.trained_on, k, random));
    }

    const auto frame = std::make_shared<Frame>(trained, out.trained_on, dim);
    Assignment assignment(trained, out.trained_on, frame, options, part_of(run, 0.05, 0.07));
    const double turn = 0.93 / static_cast<double>(options.iterations + 1);
    const auto part = [&](double from, double to) {
        const double at = 0.07 + turn * static_cast<double>(out.iterations);
        return part_of(run, at + turn * from, at + turn * to);
    };
    bool moved = true;
    while (out.iterations < options.iterations) {
        // Every round by itself may be too short for its loops to report.
        if (run.poll && !run.poll(0.07 + turn * static_cast<double>(out.iterations))) throw Interrupted{};
        moved = assignment.assign(out.centroids, part(0, 0.8));
        if (!moved) break;
        assignment.move(out.centroids, part(0.8, 1));
        ++out.iterations;
    }
    if (!options.labels) {
        out.inertia = assignment.inertia();
        return out;
    }
    if (out.trained_on == n) {
        if (moved) assignment.assign(out.centroids, part(0, 1));
        out.labels = assignment.labels();
        out.inertia = assignment.inertia();
    } else if (options.balance == Balance::none) {
        const CentroidScreen screen(out.centroids, frame, {}, part(0, 0.1));
        std::vector<double> errors((n + kBatch - 1) / kBatch);
        out.labels.resize(n);
        parallel_for(errors.size(), part(0.1, 1), [&](size_t item) {
            const size_t first = item * kBatch, size = std::min(kBatch, n - first);
            NearestCentroid nearest[kBatch];
            screen.find(points + first * dim, size, nearest);
            for (size_t i = 0; i < size; ++i) {
                out.labels[first + i] = nearest[i].centroid;
                errors[item] += nearest[i].squared;
            }
        });
        out.inertia = std::accumulate(errors.begin(), errors.end(), 0.0);
    } else {
        Assignment all(points, n, frame, options, part(0, 0.1));
        all.assign(out.centroids, part(0.1, 1));
        out.labels = all.labels();
        out.inertia = all.inertia();
    }
    return out;
}

}  // namespace nearfield
