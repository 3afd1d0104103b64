#include "search/centroid_screen.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>

#include "codecs/screen.hpp"
#include "codecs/tiles.hpp"
#include "kernels/dispatch.hpp"

namespace nearfield {

using kernels::kGroup;
using kernels::kTile;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Lengths whose squares float32 can hold, as for ScreenCodec.
constexpr double kLongest = 1e18, kShortest = 1e-17;
// Points that are worked on at a time.
constexpr size_t kBatch = 64 * kTile;

// What a few operations on float32 distances may lose.
constexpr float kRounding = 0x1p-20f;
// Squared, above all ordinary distances.
constexpr float kFar = 1e38f;

const kernels::DenseKernels& floats() { return kernels::active().dense[kernels::kF32]; }
const uint8_t* bytes(const float* values) { return reinterpret_cast<const uint8_t*>(values); }

double length(const float* vector, size_t dim) {
    double sums[3];
    floats().settle(vector, bytes(vector), 1.0f, dim, sums);
    return std::sqrt(sums[1]);
}

// Four minima side by side, which compilers keep in one register.
float least_of(const float* group) {
    const auto less = [](float a, float b) { return a < b ? a : b; };
    float a = group[0], b = group[1], c = group[2], d = group[3];
    for (size_t i = 4; i < kGroup; i += 4) {
        a = less(group[i], a);
        b = less(group[i + 1], b);
        c = less(group[i + 2], c);
        d = less(group[i + 3], d);
    }
    return less(less(a, b), less(c, d));
}

}  // namespace

Frame::Frame(const float* points, size_t n, size_t dim) : center_(ScreenCodec::center_of(points, n, dim, Metric::l2)) {}

void Frame::map(const float* point, float* image) const {
    for (size_t d = 0; d < center_.size(); ++d) image[d] = point[d] - center_[d];
}

PointImages::PointImages(const Frame& frame, size_t n)
    : bytes_((frame.width() + 3) / 4 * 4), codes_(n * bytes_), terms_(n) {}

void PointImages::encode(const Frame& frame, const float* points, size_t first, size_t n) {
    const kernels::KernelTable& table = kernels::active();
    std::vector<float> image(frame.width());
    for (size_t i = first; i < first + n; ++i) {
        frame.map(points + i * frame.dim(), image.data());
        const double norm = length(image.data(), image.size());
        int8_t* code = codes_.data() + i * bytes_;
        float lengths[3];
        if (!(norm < kLongest) || (norm > 0 && norm < kShortest)) {
            terms_[i] = {0, kInfinity, 0, 0};
            continue;
        }
        table.quantize(image.data(), image.size(), table.tile.query_limit, code, lengths);
        int32_t sum = 0;
        for (size_t d = 0; d < image.size(); ++d) sum += code[d];
        terms_[i] = {lengths[0], static_cast<float>(norm), lengths[1], sum};
    }
}

CentroidBounds::CentroidBounds(size_t points, size_t centroids) : points_(points) {
    constexpr size_t kMostBlocks = 32;
    const size_t groups = (centroids + kGroup - 1) / kGroup;
    groups_per_block_ = (groups + kMostBlocks - 1) / kMostBlocks;
    blocks_ = (groups + groups_per_block_ - 1) / groups_per_block_;
    values_.resize(blocks_ * points);
}

size_t CentroidBounds::block_size() const { return groups_per_block_ * kGroup; }

void CentroidBounds::forget(size_t point) {
    for (size_t block = 0; block < blocks_; ++block) of(block)[point] = 0;
}

CentroidScreen::CentroidScreen(std::vector<float> values, std::shared_ptr<const Frame> frame,
                               std::vector<uint32_t> order, const Run& run)
    : frame_(std::move(frame)), values_(std::move(values)), order_(std::move(order)), places_(count()) {
    if (order_.empty()) {
        order_.resize(count());
        std::iota(order_.begin(), order_.end(), 0u);
    }
    for (size_t at = 0; at < order_.size(); ++at) places_[order_[at]] = static_cast<uint32_t>(at);
    const size_t dim = frame_->dim(), width = frame_->width(), count = values_.size() / dim;
    const ScreenCodec codec(width, Metric::l2, std::vector<float>(width));
    const size_t floats_per_group = codec.group_bytes() / sizeof(float);
    const size_t groups = (count + kGroup - 1) / kGroup;
    groups_.resize(groups * floats_per_group);
    parallel_for(groups, run, [&](size_t group) {
        std::vector<float> images(kGroup * width);  // zeros where centroids are missing
        for (size_t i = 0; i < std::min(kGroup, count - group * kGroup); ++i) {
            frame_->map(values_.data() + order_[group * kGroup + i] * dim, images.data() + i * width);
        }
        codec.encode_group(images.data(), reinterpret_cast<std::byte*>(groups_.data() + group * floats_per_group));
    });
}

size_t CentroidScreen::nbytes() const {
    return (values_.size() + groups_.size() + order_.size() + places_.size()) * sizeof(float);
}

bool CentroidScreen::ordinary() const {
    for (size_t c = 0; c < count(); ++c) {
        if (!(length(values_.data() + c * frame_->dim(), frame_->dim()) < kLongest / 2)) return false;
    }
    return true;
}

double CentroidScreen::squared(const float* point, size_t centroid) const {
    double sums[3];
    floats().settle(point, bytes(values_.data() + centroid * frame_->dim()), 1.0f, frame_->dim(), sums);
    return sums[2];
}

// Centroids that may be the nearest one of one point of a tile.
class CentroidScreen::Pending {
  public:
    // Settles all.
    void settle(const CentroidScreen& screen, const float* point, NearestCentroid& nearest) {
        if (size_ == 0) return;
        const auto least = static_cast<size_t>(std::min_element(lows_, lows_ + size_) - lows_);
        try_one(screen, point, centroids_[least], nearest);
        const auto bound = static_cast<float>(nearest.squared) * (1 + TiledQueries::kRelative);
        size_t kept = 0;
        for (size_t i = 0; i < size_; ++i) {
            if (i != least && !(lows_[i] > bound)) centroids_[kept++] = centroids_[i];
        }
        size_ = 0;
        if (kept == 0) return;
        const size_t dim = screen.frame_->dim();
        float distances[kRoom];
        floats().l2(point, bytes(screen.values_.data()), dim * sizeof(float), centroids_, kept, dim, distances);
        // All terms of these sums are positive, so they are right but for this share.
        const double rounding = static_cast<double>(dim + 8) * 0x1p-24;
        for (size_t i = 0; i < kept; ++i) {
            const auto distance = static_cast<double>(distances[i]);
            const bool trusted = distance > 1e-30 && std::isfinite(distance);
            if (trusted && distance * (1 - rounding) > nearest.squared) continue;
            try_one(screen, point, centroids_[i], nearest);
        }
    }
    // Whether a group of survivors might not find room.
    bool full() const { return size_ > kRoom - kGroup; }
    void add(uint32_t centroid, float low) {
        centroids_[size_] = centroid;
        lows_[size_++] = std::isnan(low) ? -kInfinity : low;
    }

  private:
    static constexpr size_t kRoom = 3 * kGroup;

    static void try_one(const CentroidScreen& screen, const float* point, uint32_t centroid, NearestCentroid& nearest) {
        const double squared = screen.squared(point, centroid);
        if (squared < nearest.squared || (squared == nearest.squared && centroid < nearest.centroid)) {
            nearest = {squared, centroid};
        }
    }

    size_t size_ = 0;
    uint32_t centroids_[kRoom];
    float lows_[kRoom];  // lower bounds of squared distances
};

// Points as the queries of a tile.
class CentroidScreen::PointTile {
  public:
    PointTile(const PointImages& images, const uint32_t* rows, size_t width) : width_(width) {
        const size_t fours = images.bytes() / 4;
        codes().resize(fours * width * 4);
        int8_t* packed = codes().data();
        for (size_t q = 0; q < width; ++q) {
            const int8_t* code = images.code(rows[q]);
            for (size_t four = 0; four < fours; ++four) {
                std::memcpy(packed + (four * width + q) * 4, code + four * 4, 4);
            }
            const PointImages::Terms& terms = images.terms(rows[q]);
            bias_[q] = 128 * terms.sum;
            scale_[q] = 2 * terms.scale;
            slack_[q] = 2 * terms.length;
            offset_[q] = terms.length * terms.length;
            bound_[q] = kInfinity;
            if (terms.length > 0 && std::isfinite(terms.length)) {
                norm_ratio_ = std::max(norm_ratio_, terms.error / terms.length * (1 + TiledQueries::kRelative));
            }
        }
    }

    // Leaves out what is farther from a point than this, loosened by what float32 may lose in the sums.
    void bound(size_t q, double squared) {
        const auto limit = static_cast<float>(squared);
        if (!std::isfinite(limit) || !std::isfinite(offset_[q])) return;
        bound_[q] = limit - offset_[q] + 4 * TiledQueries::kRelative * (limit + offset_[q]);
    }
    // Scores a group of centroids; see TileKernels::u8.
    uint32_t run(const CentroidScreen& screen, size_t group, uint32_t* survivors, float* lows) const {
        const size_t width = screen.frame_->width(), code_bytes = tile_code_bytes(TileCodes::u8, width);
        const auto* at =
            reinterpret_cast<const uint8_t*>(screen.groups_.data()) + group * tile_group_bytes(TileCodes::u8, width);
        const kernels::Tile tile{width_, codes().data(), bias_, scale_, slack_, bound_, norm_ratio_};
        return kernels::active().tile.u8(at, reinterpret_cast<const float*>(at + code_bytes), width, &tile, survivors,
                                         lows);
    }
    // The lower bound of a squared distance that the kernel's means.
    float squared(size_t q, float low) const {
        return low + offset_[q] - TiledQueries::kRelative * (std::abs(low) + offset_[q]);
    }

  private:
    static std::vector<int8_t>& codes() {
        thread_local std::vector<int8_t> codes;
        return codes;
    }

    size_t width_;
    int32_t bias_[kTile];
    float scale_[kTile], slack_[kTile], offset_[kTile], bound_[kTile], norm_ratio_ = 0;
};

void CentroidScreen::improve_tile(const float* points, const PointImages& images, const uint32_t* rows, size_t width,
                                  NearestCentroid* nearest) const {
    PointTile tile(images, rows, width);
    for (size_t q = 0; q < width; ++q) tile.bound(q, nearest[q].squared);
    Pending pending[kTile];
    uint32_t survivors[kTile];
    float lows[kTile * kGroup];
    for (size_t first = 0; first < count(); first += kGroup) {
        const uint32_t hit = tile.run(*this, first / kGroup, survivors, lows);
        const uint32_t present = count() - first >= kGroup ? ~0u : (1u << (count() - first)) - 1;
        for (uint32_t left = hit; left != 0; left &= left - 1) {
            const auto q = static_cast<size_t>(std::countr_zero(left));
            for (uint32_t found = survivors[q] & present; found != 0; found &= found - 1) {
                const auto i = static_cast<size_t>(std::countr_zero(found));
                const uint32_t centroid = order_[first + i];
                // The best one known is its own survivor.
                if (centroid == nearest[q].centroid && std::isfinite(nearest[q].squared)) continue;
                pending[q].add(centroid, tile.squared(q, lows[q * kGroup + i]));
            }
            if (!pending[q].full()) continue;
            pending[q].settle(*this, points + rows[q] * frame_->dim(), nearest[q]);
            tile.bound(q, nearest[q].squared);
        }
    }
    for (size_t q = 0; q < width; ++q) pending[q].settle(*this, points + rows[q] * frame_->dim(), nearest[q]);
}

void CentroidScreen::improve_within(const float* points, const PointImages& images, size_t first, size_t n,
                                    const float* moves, CentroidBounds& bounds, NearestCentroid* nearest) const {
    std::vector<float> own(n);
    const auto set_own = [&](size_t i) {
        own[i] = static_cast<float>(std::sqrt(nearest[i].squared)) * (1 + kRounding);
    };
    for (size_t i = 0; i < n; ++i) set_own(i);
    std::vector<uint32_t> left_open(n + 1);
    uint32_t survivors[kTile];
    float lows[kTile * kGroup];
    for (size_t block = 0; block < bounds.blocks(); ++block) {
        float* bound = bounds.of(block) + first;
        const size_t first_group = block * bounds.block_size() / kGroup;
        const size_t last_group = std::min(first_group + bounds.block_size() / kGroup, (count() + kGroup - 1) / kGroup);
        // Scores the points of a tile with the whole block, which takes the place of their bounds.
        const auto scan = [&](const uint32_t* rows, size_t width) {
            const PointTile tile(images, rows, width);
            float least[kTile];
            std::fill_n(least, kTile, kInfinity);
            for (size_t group = first_group; group < last_group; ++group) {
                tile.run(*this, group, survivors, lows);
                const size_t start = group * kGroup;
                for (size_t q = 0; q < width; ++q) {
                    float* low = lows + q * kGroup;
                    NearestCentroid& best = nearest[rows[q] - first];
                    if (places_[best.centroid] / kGroup == group) low[places_[best.centroid] % kGroup] = kInfinity;
                    for (size_t i = count() - std::min(count(), start); i < kGroup; ++i) low[i] = kInfinity;
                    const float here = least_of(low);
                    least[q] = std::min(least[q], here);
                    if (tile.squared(q, here) > static_cast<float>(best.squared) * (1 + TiledQueries::kRelative)) {
                        continue;
                    }
                    const NearestCentroid before = best;
                    Pending pending;
                    for (size_t i = 0; i < kGroup; ++i) {
                        if (low[i] != kInfinity) pending.add(order_[start + i], tile.squared(q, low[i]));
                    }
                    pending.settle(*this, points + rows[q] * frame_->dim(), best);
                    if (best.centroid == before.centroid) continue;
                    // What was the nearest one now counts in its own block.
                    const auto left = static_cast<float>(std::sqrt(before.squared)) * (1 - kRounding);
                    const size_t of = places_[before.centroid] / bounds.block_size();
                    float& other = bounds.of(of)[rows[q]];
                    if (of == block) {
                        least[q] = -kInfinity;
                    } else {
                        other = std::min(other, left);
                    }
                    set_own(rows[q] - first);
                }
            }
            for (size_t q = 0; q < width; ++q) {
                const float squared = tile.squared(q, std::min(least[q], kFar));
                const bool known = squared > 0 && std::isfinite(images.terms(rows[q]).length);
                bound[rows[q] - first] = known ? std::sqrt(squared) * (1 - kRounding) : 0.0f;
            }
        };
        const float move = moves[block] * (1 + kRounding);
        size_t open = 0;
        for (size_t i = 0; i < n; ++i) {  // without branches: which points are left open cannot be predicted
            bound[i] -= move + bound[i] * kRounding;
            left_open[open] = static_cast<uint32_t>(first + i);
            open += own[i] < bound[i] ? 0u : 1u;
        }
        for (size_t at = 0; at < open; at += kTile) scan(left_open.data() + at, std::min(kTile, open - at));
    }
}

void CentroidScreen::improve(const float* points, const PointImages& images, const uint32_t* rows, size_t n,
                             NearestCentroid* nearest) const {
    for (size_t i = 0; i < n; i += kTile) {
        improve_tile(points, images, rows + i, std::min(kTile, n - i), nearest + i);
    }
}

void CentroidScreen::improve_range(const float* points, const PointImages& images, size_t first, size_t n,
                                   NearestCentroid* nearest) const {
    uint32_t rows[kTile];
    for (size_t i = 0; i < n; i += kTile) {
        const size_t width = std::min(kTile, n - i);
        for (size_t q = 0; q < width; ++q) rows[q] = static_cast<uint32_t>(first + i + q);
        improve_tile(points, images, rows, width, nearest + i);
    }
}

void CentroidScreen::find(const float* points, size_t n, NearestCentroid* nearest) const {
    PointImages images(*frame_, n);
    images.encode(*frame_, points, 0, n);
    std::fill_n(nearest, n, NearestCentroid{});
    improve_range(points, images, 0, n, nearest);
}

Centroids::Centroids(std::vector<float> values, size_t dim) {
    auto frame = std::make_shared<Frame>(values.data(), values.size() / dim, dim);
    screen_ =
        std::make_shared<CentroidScreen>(std::move(values), std::move(frame), std::vector<uint32_t>{}, Run{1, {}});
}

size_t Centroids::count() const { return screen_->count(); }
size_t Centroids::dim() const { return screen_->frame().dim(); }
const std::vector<float>& Centroids::values() const { return screen_->values(); }
size_t Centroids::nbytes() const { return screen_->nbytes(); }

void Centroids::assign(const float* points, size_t n, uint32_t* labels, float* squared) const {
    std::vector<NearestCentroid> nearest(std::min(n, kBatch));
    for (size_t first = 0; first < n; first += kBatch) {
        const size_t size = std::min(kBatch, n - first);
        screen_->find(points + first * dim(), size, nearest.data());
        for (size_t i = 0; i < size; ++i) {
            labels[first + i] = nearest[i].centroid;
            if (squared != nullptr) squared[first + i] = static_cast<float>(nearest[i].squared);
        }
    }
}

void Centroids::assign(const float* points, size_t n, uint32_t* labels, float* squared, const Run& run) const {
    parallel_for((n + kBatch - 1) / kBatch, run, [&](size_t item) {
        const size_t first = item * kBatch;
        assign(points + first * dim(), std::min(kBatch, n - first), labels + first,
               squared == nullptr ? nullptr : squared + first);
    });
}

}  // namespace nearfield
