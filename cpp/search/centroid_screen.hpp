// How the nearest centroid of a point is found without computing all distances.
//
// Points and centroids are rounded to 8 bits with proven bounds (see ScreenCodec), and points go over the centroids in
// tiles. What could be nearer than the best centroid known is settled from the floats themselves, so that the result is
// that of a full scan in float64.
#pragma once

#include <limits>
#include <vector>

#include "search/clustering.hpp"

namespace nearfield {

// The space that the images of points and centroids lie in: minus a centre, which makes them shorter.
class Frame {
  public:
    // Around the mean of n points, as far as these have ordinary lengths.
    Frame(const float* points, size_t n, size_t dim);

    size_t dim() const { return center_.size(); }
    size_t width() const { return center_.size(); }
    void map(const float* point, float* image) const;

  private:
    std::vector<float> center_;
};

// Images of points, rounded to 8 bits.
class PointImages {
  public:
    PointImages(const Frame& frame, size_t n);
    size_t bytes() const { return bytes_; }
    void encode(const Frame& frame, const float* points, size_t first, size_t n);

    const int8_t* code(size_t at) const { return codes_.data() + at * bytes_; }
    // A point that screening cannot be trusted with has infinite length.
    struct Terms {
        float scale, length, error;  // image = scale * code + (something of length at most error)
        int32_t sum;                 // of the code
    };
    const Terms& terms(size_t at) const { return terms_[at]; }

  private:
    size_t bytes_;  // of a code: the width, filled up with zeros to fours
    std::vector<int8_t> codes_;
    std::vector<Terms> terms_;
};

struct NearestCentroid {
    double squared = std::numeric_limits<double>::infinity();
    uint32_t centroid = 0;
};

// Lower bounds of the distances from points to blocks of centroids that follow each other in a scan, not counting a
// point's nearest centroid.
class CentroidBounds {
  public:
    CentroidBounds(size_t points, size_t centroids);
    size_t blocks() const { return blocks_; }
    size_t block_size() const;  // in centroids
    // Makes bounds of a point hold whatever its nearest centroid is.
    void forget(size_t point);
    // Of all points.
    float* of(size_t block) { return values_.data() + block * points_; }

  private:
    size_t points_, groups_per_block_, blocks_;
    std::vector<float> values_;
};

class CentroidScreen {
  public:
    // `values` (count, dim) are kept; they are scanned in this order, or in their own.
    CentroidScreen(std::vector<float> values, std::shared_ptr<const Frame> frame, std::vector<uint32_t> order,
                   const Run& run);

    const Frame& frame() const { return *frame_; }
    const std::vector<float>& values() const { return values_; }
    size_t count() const { return values_.size() / frame_->dim(); }
    size_t nbytes() const;

    // The squared distance from a point to a centroid, in float64.
    double squared(const float* point, size_t centroid) const;
    // Improves nearest[i], the best known centroid of point rows[i] of `points` and `images`.
    void improve(const float* points, const PointImages& images, const uint32_t* rows, size_t n,
                 NearestCentroid* nearest) const;
    // The same for points first .. first + n - 1.
    void improve_range(const float* points, const PointImages& images, size_t first, size_t n,
                       NearestCentroid* nearest) const;

    // The same from exact distances to the nearest centroids so far, and bounds that held before the centroids of a
    // block moved by at most moves[block]; these bounds are then renewed. Only for centroids that are all `ordinary`.
    void improve_within(const float* points, const PointImages& images, size_t first, size_t n, const float* moves,
                        CentroidBounds& bounds, NearestCentroid* nearest) const;
    // The nearest centroid of each point (n, dim).
    void find(const float* points, size_t n, NearestCentroid* nearest) const;
    // Whether screening can be trusted with all centroids.
    bool ordinary() const;

  private:
    class Pending;
    class PointTile;
    void improve_tile(const float* points, const PointImages& images, const uint32_t* rows, size_t width,
                      NearestCentroid* nearest) const;

    std::shared_ptr<const Frame> frame_;
    std::vector<float> values_;
    std::vector<uint32_t> order_, places_;  // centroid at each place of a scan, and the other way round
    std::vector<float> groups_;             // of a ScreenCodec; floats for their alignment
};

}  // namespace nearfield
