#include "codecs/tiles.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/dispatch.hpp"

namespace nearfield {

using kernels::kGroup;
using kernels::kTile;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

size_t element_bytes(TileCodes codes) { return codes == TileCodes::f32 ? 4 : 1; }

// Elements per query in a packed tile: 8-bit queries come in fours.
size_t padded_dim(TileCodes codes, size_t dim) { return codes == TileCodes::f32 ? dim : (dim + 3) / 4 * 4; }

}  // namespace

size_t tile_code_bytes(TileCodes codes, size_t dim) { return padded_dim(codes, dim) * kGroup * element_bytes(codes); }

IntegerQuery round_query(const float* query, size_t dim) {
    const kernels::KernelTable& table = kernels::active();
    const int limit = table.tile.query_limit;
    IntegerQuery out{std::vector<int8_t>(dim), 1.0f, 0.0f, 0};
    const bool integers = std::all_of(query, query + dim, [&](float x) {
        return std::abs(x) <= static_cast<float>(limit) && x == std::nearbyint(x);
    });
    if (integers) {
        std::transform(query, query + dim, out.code.begin(), [](float x) { return static_cast<int8_t>(x); });
    } else {
        float lengths[3];
        table.quantize(query, dim, limit, out.code.data(), lengths);
        out.scale = lengths[0];
        out.error = lengths[1];
    }
    for (const int8_t code : out.code) out.sum += code;
    return out;
}

TiledQueries::TiledQueries(TileCodes codes, size_t dim, size_t width)
    : codes_(codes),
      dim_(dim),
      width_(width),
      packed_(width * padded_dim(codes, dim) * element_bytes(codes)),
      bias_(width),
      scale_(width),
      slack_(width),
      offset_(width) {}

// Tiles hold [dim][width] floats or [dim / 4][width][4] bytes; the last tile is as wide as what is left.
std::byte* TiledQueries::element(size_t q, size_t d) {
    const size_t first = q / kTile * kTile, width = std::min(kTile, width_ - first);
    const size_t run = codes_ == TileCodes::f32 ? 1 : 4;
    const size_t at = first * padded_dim(codes_, dim_) + (d / run * width + (q - first)) * run + d % run;
    return packed_.data() + at * element_bytes(codes_);
}

void TiledQueries::set_f32(size_t q, const float* query, float scale, float slack, double offset) {
    for (size_t d = 0; d < dim_; ++d) std::memcpy(element(q, d), query + d, sizeof(float));
    scale_[q] = scale;
    slack_[q] = slack;
    offset_[q] = static_cast<float>(offset);
}

void TiledQueries::set_u8(size_t q, const IntegerQuery& query, float norm, float code_offset, float scale, float slack,
                          double offset) {
    for (size_t d = 0; d < dim_; d += 4)
        std::memcpy(element(q, d), query.code.data() + d, std::min<size_t>(4, dim_ - d));
    bias_[q] = static_cast<int32_t>(code_offset) * query.sum;
    scale_[q] = scale * query.scale;
    slack_[q] = slack;
    offset_[q] = static_cast<float>(offset);
    if (norm > 0) norm_ratio_ = std::max(norm_ratio_, query.error / norm * (1 + kRelative));
}

kernels::Tile TiledQueries::tile(size_t first, const float* slack, const float* bounds) const {
    return {std::min(kTile, width_ - first),
            packed_.data() + first * padded_dim(codes_, dim_) * element_bytes(codes_),
            bias_.data() + first,
            scale_.data() + first,
            slack,
            bounds,
            norm_ratio_};
}

uint32_t TiledQueries::run(const kernels::Tile& tile, const std::byte* group, uint32_t* survivors, float* lows) const {
    const kernels::TileKernels& kernel = kernels::active().tile;
    const auto* factors = reinterpret_cast<const float*>(group + tile_code_bytes(codes_, dim_));
    return codes_ == TileCodes::f32
               ? kernel.f32(reinterpret_cast<const float*>(group), factors, dim_, &tile, survivors, lows)
               : kernel.u8(reinterpret_cast<const uint8_t*>(group), factors, dim_, &tile, survivors, lows);
}

void TiledQueries::score(const std::byte* groups, size_t n, float* out) const noexcept {
    const size_t group_bytes = tile_group_bytes(codes_, dim_);
    // Without slack a lower bound is the estimate itself, and no bound leaves anything out.
    const float slack[kTile] = {};
    float bounds[kTile], lows[kTile * kGroup];
    uint32_t masks[kTile];
    std::fill_n(bounds, kTile, kInfinity);
    for (size_t first = 0; first < width_; first += kTile) {
        const kernels::Tile queries = tile(first, slack, bounds);
        for (size_t start = 0; start < n; start += kGroup) {
            run(queries, groups + start / kGroup * group_bytes, masks, lows);
            for (size_t q = 0; q < queries.width; ++q) {
                float* to = out + (first + q) * n + start;
                for (size_t i = 0; i < std::min(kGroup, n - start); ++i)
                    to[i] = lows[q * kGroup + i] + offset_[first + q];
            }
        }
    }
}

void TiledQueries::scan(const std::byte* groups, size_t n, SurvivorSink& sink) const noexcept {
    const size_t code_bytes = tile_code_bytes(codes_, dim_), group_bytes = tile_group_bytes(codes_, dim_);
    uint32_t masks[kTile];
    float lows[kTile * kGroup], bounds[kTile];
    Survivor survivors[kTile * kGroup];
    for (size_t first = 0; first < width_; first += kTile) {
        const size_t width = std::min(kTile, width_ - first);
        const kernels::Tile queries = tile(first, slack_.data() + first, bounds);
        const auto refresh = [&] {  // bounds without the offset, loosened by the rounding of this very sum
            for (size_t q = 0; q < width; ++q) {
                const float bound = sink.bounds[first + q], offset = offset_[first + q];
                bounds[q] =
                    bound == kInfinity ? kInfinity : bound - offset + kRelative * (std::abs(bound) + std::abs(offset));
            }
        };
        refresh();
        for (size_t start = 0; start < n; start += kGroup) {
            const std::byte* codes = groups + start / kGroup * group_bytes;
            const auto* factors = reinterpret_cast<const float*>(codes + code_bytes);
            const uint32_t hit = run(queries, codes, masks, lows);
            if (hit == 0) continue;
            const float* add = factors + kGroup;
            const float* err = factors + 2 * kGroup;
            const float* norm = factors + 3 * kGroup;
            const uint32_t present = n - start >= kGroup ? ~0u : (1u << (n - start)) - 1;
            size_t count = 0;
            for (uint32_t left = hit; left != 0; left &= left - 1) {
                const auto q = static_cast<size_t>(std::countr_zero(left));
                const float offset = offset_[first + q], slack = slack_[first + q];
                for (uint32_t docs = masks[q] & present; docs != 0; docs &= docs - 1) {
                    const auto i = static_cast<size_t>(std::countr_zero(docs));
                    const float low = lows[q * kGroup + i] + offset;
                    const float spread = 2 * slack * (err[i] + norm_ratio_ * norm[i]);
                    const float rounding =
                        4 * kRelative * (std::abs(low) + std::abs(offset) + std::abs(add[i]) + spread);
                    Survivor s{static_cast<uint32_t>(first + q), static_cast<uint32_t>(start + i), low - rounding,
                               low + spread + rounding};
                    if (!std::isfinite(s.low) || !std::isfinite(s.high)) s.low = -kInfinity, s.high = kInfinity;
                    survivors[count++] = s;
                }
            }
            if (count == 0) continue;
            sink.take({survivors, count});
            refresh();
        }
    }
}

}  // namespace nearfield
