#include "search/centroid_screen.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

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

const kernels::DenseKernels& floats() { return kernels::active().dense[kernels::kF32]; }
const uint8_t* bytes(const float* values) { return reinterpret_cast<const uint8_t*>(values); }

double length(const float* vector, size_t dim) {
    double sums[3];
    floats().settle(vector, bytes(vector), 1.0f, dim, sums);
    return std::sqrt(sums[1]);
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

CentroidScreen::CentroidScreen(std::vector<float> values, std::shared_ptr<const Frame> frame, const Run& run)
    : frame_(std::move(frame)), values_(std::move(values)) {
    const size_t dim = frame_->dim(), width = frame_->width(), count = values_.size() / dim;
    const ScreenCodec codec(width, Metric::l2, std::vector<float>(width));
    const size_t floats_per_group = codec.group_bytes() / sizeof(float);
    const size_t groups = (count + kGroup - 1) / kGroup;
    groups_.resize(groups * floats_per_group);
    parallel_for(groups, run, [&](size_t group) {
        std::vector<float> images(kGroup * width);  // zeros where centroids are missing
        for (size_t i = 0; i < std::min(kGroup, count - group * kGroup); ++i) {
            frame_->map(values_.data() + (group * kGroup + i) * dim, images.data() + i * width);
        }
        codec.encode_group(images.data(), reinterpret_cast<std::byte*>(groups_.data() + group * floats_per_group));
    });
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

void CentroidScreen::improve_tile(const float* points, const PointImages& images, const uint32_t* rows, size_t width,
                                  NearestCentroid* nearest) const {
    const size_t dim = frame_->dim(), fours = images.bytes() / 4;
    thread_local std::vector<int8_t> codes;
    codes.resize(fours * width * 4);
    int32_t bias[kTile];
    float scale[kTile], slack[kTile], bound[kTile], offset[kTile], norm_ratio = 0;
    const auto refresh = [&](size_t q) {  // loosened by what float32 may lose in the sums
        const auto squared = static_cast<float>(nearest[q].squared);
        bound[q] = std::isfinite(squared) && std::isfinite(offset[q])
                       ? squared - offset[q] + 4 * TiledQueries::kRelative * (squared + offset[q])
                       : kInfinity;
    };
    for (size_t q = 0; q < width; ++q) {
        const int8_t* code = images.code(rows[q]);
        for (size_t four = 0; four < fours; ++four) {
            std::memcpy(codes.data() + (four * width + q) * 4, code + four * 4, 4);
        }
        const PointImages::Terms& terms = images.terms(rows[q]);
        bias[q] = 128 * terms.sum;
        scale[q] = 2 * terms.scale;
        slack[q] = 2 * terms.length;
        offset[q] = terms.length * terms.length;
        if (terms.length > 0 && std::isfinite(terms.length)) {
            norm_ratio = std::max(norm_ratio, terms.error / terms.length * (1 + TiledQueries::kRelative));
        }
        refresh(q);
    }
    const kernels::Tile tile{width, codes.data(), bias, scale, slack, bound, norm_ratio};
    const auto kernel = kernels::active().tile.u8;
    const size_t code_bytes = tile_code_bytes(TileCodes::u8, frame_->width());
    const size_t group_bytes = tile_group_bytes(TileCodes::u8, frame_->width());
    const auto* groups = reinterpret_cast<const uint8_t*>(groups_.data());
    Pending pending[kTile];
    uint32_t survivors[kTile];
    float lows[kTile * kGroup];
    for (size_t first = 0; first < count(); first += kGroup) {
        const uint8_t* group = groups + first / kGroup * group_bytes;
        const uint32_t hit =
            kernel(group, reinterpret_cast<const float*>(group + code_bytes), frame_->width(), &tile, survivors, lows);
        const uint32_t present = count() - first >= kGroup ? ~0u : (1u << (count() - first)) - 1;
        for (uint32_t left = hit; left != 0; left &= left - 1) {
            const auto q = static_cast<size_t>(std::countr_zero(left));
            for (uint32_t found = survivors[q] & present; found != 0; found &= found - 1) {
                const auto i = static_cast<size_t>(std::countr_zero(found));
                const auto centroid = static_cast<uint32_t>(first + i);
                // The best one known is its own survivor.
                if (centroid == nearest[q].centroid && std::isfinite(nearest[q].squared)) continue;
                const float low = lows[q * kGroup + i];
                pending[q].add(centroid, low + offset[q] - TiledQueries::kRelative * (std::abs(low) + offset[q]));
            }
            if (!pending[q].full()) continue;
            pending[q].settle(*this, points + rows[q] * dim, nearest[q]);
            refresh(q);
        }
    }
    for (size_t q = 0; q < width; ++q) pending[q].settle(*this, points + rows[q] * dim, nearest[q]);
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

Centroids::Centroids(std::vector<float> values, size_t dim) {
    auto frame = std::make_shared<Frame>(values.data(), values.size() / dim, dim);
    screen_ = std::make_shared<CentroidScreen>(std::move(values), std::move(frame), Run{1, {}});
}

size_t Centroids::count() const { return screen_->count(); }
size_t Centroids::dim() const { return screen_->frame().dim(); }
const std::vector<float>& Centroids::values() const { return screen_->values(); }
size_t Centroids::nbytes() const { return screen_->nbytes(); }

void Centroids::assign(const float* points, size_t n, uint32_t* labels, float* squared) const {
    PointImages images(screen_->frame(), std::min(n, kBatch));
    std::vector<NearestCentroid> nearest;
    for (size_t first = 0; first < n; first += kBatch) {
        const float* batch = points + first * dim();
        const size_t size = std::min(kBatch, n - first);
        images.encode(screen_->frame(), batch, 0, size);
        nearest.assign(size, {});
        screen_->improve_range(batch, images, 0, size, nearest.data());
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
