// Queries packed into tiles, and the scan of interleaved groups of documents that every tile codec shares.
#pragma once

#include <vector>

#include "codecs/codec.hpp"

namespace nearfield {

// Interleaved groups as the tile kernels read them: codes, then kernels::kGroupFactors floats, group after group.
enum class TileCodes { f32, u8 };

size_t tile_code_bytes(TileCodes codes, size_t dim);
inline size_t tile_group_bytes(TileCodes codes, size_t dim) {
    return tile_code_bytes(codes, dim) + kernels::kGroupFactors * sizeof(float);
}

// A query rounded to 8 bits: query = scale * code + (something of length at most `error`). A query that already
// consists of small integers is kept as it is, without error.
struct IntegerQuery {
    std::vector<int8_t> code;
    float scale, error;
    int32_t sum;
};
IntegerQuery round_query(const float* query, size_t dim);

// The distance of a document from the terms of the tile kernel (kernel_table.h) is
//     offset[q] + add[x] - scale[q] * mul[x] * dot(q, x), off by at most slack[q] * (err[x] + norm_ratio * norm[x])
// and by kRelative of the magnitudes that were added up: the float32 arithmetic of the last steps.
class TiledQueries {
  public:
    static constexpr float kRelative = 0x1p-20f;

    TiledQueries(TileCodes codes, size_t dim, size_t width);
    // Sets query q; `scale` multiplies the dot product with the vector as given (the rounding of integer codes is
    // added here). A slack of infinity makes every document survive.
    void set_f32(size_t q, const float* query, float scale, float slack, double offset);
    void set_u8(size_t q, const IntegerQuery& query, float norm, float code_offset, float scale, float slack,
                double offset);
    // Scans ceil(n / kGroup) groups.
    void scan(const std::byte* groups, size_t n, SurvivorSink& sink) const noexcept;
    // Estimated distances (queries, n) of the documents of ceil(n / kGroup) groups.
    void score(const std::byte* groups, size_t n, float* out) const noexcept;

  private:
    std::byte* element(size_t q, size_t d);
    kernels::Tile tile(size_t first, const float* slack, const float* bounds) const;
    uint32_t run(const kernels::Tile& tile, const std::byte* group, uint32_t* survivors, float* lows) const;

    TileCodes codes_;
    size_t dim_, width_;
    std::vector<std::byte> packed_;  // tile after tile
    std::vector<int32_t> bias_;
    std::vector<float> scale_, slack_;
    std::vector<float> offset_;
    float norm_ratio_ = 0;
};

}  // namespace nearfield
