#include "codecs/kmeans.hpp"

#include <algorithm>
#include <random>

#include "kernels/dispatch.hpp"

namespace nearfield {

using kernels::kGroup;

namespace {

// Points with the centroid that each is nearest to.
class Clusters {
  public:
    Clusters(const float* points, size_t stride, size_t n, size_t dim)
        : n_(n), dim_(dim), points_((n + kGroup - 1) / kGroup * kGroup * dim), own_(n), squared_(n) {
        for (size_t i = 0; i < n; i += kGroup) {
            interleave_points(points + i * stride, stride, std::min(kGroup, n - i), dim, points_.data() + i * dim);
        }
    }

    // Draws centroids among the points, each one with a probability proportional to its squared distance from the
    // nearest of those before it (k-means++; Arthur, Vassilvitskii 2007).
    std::vector<float> draw(size_t count, std::mt19937_64& random) {
        const auto nearest = kernels::active().codes.nearest;
        std::vector<float> centroids;
        std::fill(squared_.begin(), squared_.end(), 1.0f);
        for (size_t c = 0; c < count; ++c) {
            double left = 0;
            for (const float squared : squared_) left += static_cast<double>(squared);
            left *= static_cast<double>(random() >> 11) * 0x1p-53;
            size_t drawn = 0;
            while (drawn + 1 < n_ && left >= static_cast<double>(squared_[drawn])) {
                left -= static_cast<double>(squared_[drawn++]);
            }
            for (size_t d = 0; d < dim_; ++d) {
                centroids.push_back(points_[(drawn / kGroup * dim_ + d) * kGroup + drawn % kGroup]);
            }
            uint32_t index[kGroup];
            float squared[kGroup];
            for (size_t first = 0; first < n_; first += kGroup) {
                nearest(points_.data() + first * dim_, centroids.data() + c * dim_, 1, dim_, index, squared);
                for (size_t i = first; i < std::min(n_, first + kGroup); ++i) {
                    squared_[i] = c == 0 ? squared[i - first] : std::min(squared_[i], squared[i - first]);
                }
            }
        }
        return centroids;
    }

    // Returns whether any point changed over to another centroid.
    bool assign(const std::vector<float>& centroids) {
        const auto nearest = kernels::active().codes.nearest;
        bool changed = false;
        uint32_t index[kGroup];
        float squared[kGroup];
        for (size_t first = 0; first < n_; first += kGroup) {
            nearest(points_.data() + first * dim_, centroids.data(), centroids.size() / dim_, dim_, index, squared);
            for (size_t i = first; i < std::min(n_, first + kGroup); ++i) {
                changed |= own_[i] != index[i - first];
                own_[i] = index[i - first];
                squared_[i] = squared[i - first];
            }
        }
        return changed;
    }

    // Moves each centroid to the mean of its points.
    void update(std::vector<float>& centroids) {
        const size_t count = centroids.size() / dim_;
        std::vector<size_t> members(count);
        std::vector<double> errors(count);  // of each cluster, squared
        for (size_t i = 0; i < n_; ++i) {
            ++members[own_[i]];
            errors[own_[i]] += static_cast<double>(squared_[i]);
        }
        for (size_t c = 0; c < count; ++c) {
            if (members[c] == 0 && !refill(c, members, errors)) break;
        }
        std::vector<double> sums(centroids.size());
        for (size_t first = 0; first < n_; first += kGroup) {
            const float* group = points_.data() + first * dim_;
            for (size_t i = 0; i < std::min(kGroup, n_ - first); ++i) {
                double* sum = sums.data() + own_[first + i] * dim_;
                for (size_t d = 0; d < dim_; ++d) sum[d] += static_cast<double>(group[d * kGroup + i]);
            }
        }
        for (size_t i = 0; i < centroids.size(); ++i) {
            const size_t points = members[i / dim_];
            if (points > 0) centroids[i] = static_cast<float>(sums[i] / static_cast<double>(points));
        }
    }

  private:
    // Gives an empty cluster the farthest point of the one with the largest error; returns false if there is no error.
    bool refill(size_t empty, std::vector<size_t>& members, std::vector<double>& errors) {
        const auto worst = static_cast<size_t>(std::max_element(errors.begin(), errors.end()) - errors.begin());
        size_t farthest = n_;
        for (size_t i = 0; i < n_; ++i) {
            if (own_[i] == worst && (farthest == n_ || squared_[i] > squared_[farthest])) farthest = i;
        }
        if (farthest == n_ || !(squared_[farthest] > 0)) return false;
        errors[worst] -= static_cast<double>(squared_[farthest]);
        --members[worst];
        own_[farthest] = static_cast<uint32_t>(empty);
        ++members[empty];
        squared_[farthest] = 0;
        return true;
    }

    size_t n_, dim_;
    std::vector<float> points_;   // interleaved
    std::vector<uint32_t> own_;   // the centroid of each point
    std::vector<float> squared_;  // and the squared distance to it
};

}  // namespace

void interleave_points(const float* points, size_t stride, size_t n, size_t dim, float* out) {
    for (size_t d = 0; d < dim; ++d) {
        for (size_t i = 0; i < kGroup; ++i) out[d * kGroup + i] = i < n ? points[i * stride + d] : 0.0f;
    }
}

std::vector<float> kmeans(const float* points, size_t stride, size_t n, size_t dim, size_t count, uint64_t seed,
                          size_t rounds) {
    Clusters clusters(points, stride, n, dim);
    std::mt19937_64 random(seed);
    std::vector<float> centroids = clusters.draw(count, random);
    for (size_t round = 0; round < rounds; ++round) {
        if (!clusters.assign(centroids) && round > 0) break;
        clusters.update(centroids);
    }
    return centroids;
}

}  // namespace nearfield
