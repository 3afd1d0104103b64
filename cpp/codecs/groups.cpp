#include "codecs/groups.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "codecs/tiles.hpp"
#include "kernels/dispatch.hpp"

namespace nearfield {

using kernels::kGroup;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

alignas(64) constexpr float kZeros[kGroup] = {};
alignas(64) constexpr auto kOnes = [] {
    std::array<float, kGroup> out{};
    out.fill(1.0f);
    return out;
}();

}  // namespace

// ---------------------------------------------------------------------------------------------------------------------
// Layout
// ---------------------------------------------------------------------------------------------------------------------

void GroupLayout::pack(Rows rows, size_t n, std::byte* block) const {
    for (size_t first = 0; first < n; first += kGroup) {
        std::byte* group = block + first / kGroup * group_bytes();
        const size_t count = std::min(kGroup, n - first);
        if (count < kGroup) std::memset(group, 0, group_bytes());
        float farthest = 0;
        for (size_t i = 0; i < count; ++i) {
            const std::byte* row = rows.data + (first + i) * rows.stride;
            for (size_t u = 0; u < units; ++u) std::memcpy(group + (u * kGroup + i) * 4, row + u * 4, 4);
            for (size_t f = 0; f < factors; ++f) {
                std::memcpy(group + factors_at() + (f * kGroup + i) * sizeof(float),
                            row + code_bytes() + f * sizeof(float), sizeof(float));
            }
            if (reach) farthest = std::max(farthest, factor(row, factors));
        }
        if (!reach) continue;
        std::memset(group + reach_at(), 0, 64);
        std::memcpy(group + reach_at(), &farthest, sizeof(farthest));
    }
}

void GroupLayout::unpack(Block block, const uint32_t* list, size_t n, std::byte* rows, size_t stride) const {
    for (size_t at = 0; at < n; ++at) {
        const size_t index = list ? list[at] : at, i = index % kGroup;
        const std::byte* group = block.data + index / kGroup * group_bytes();
        std::byte* row = rows + at * stride;
        for (size_t u = 0; u < units; ++u) std::memcpy(row + u * 4, group + (u * kGroup + i) * 4, 4);
        for (size_t f = 0; f < factors; ++f) {
            std::memcpy(row + code_bytes() + f * sizeof(float), group + factors_at() + (f * kGroup + i) * sizeof(float),
                        sizeof(float));
        }
        if (reach) std::memcpy(row + code_bytes() + factors * sizeof(float), group + reach_at(), sizeof(float));
    }
}

float GroupLayout::factor(const std::byte* row, size_t which) const {
    float value;
    std::memcpy(&value, row + code_bytes() + which * sizeof(float), sizeof(value));
    return value;
}

void GroupLayout::set_factor(std::byte* row, size_t which, float value) const {
    std::memcpy(row + code_bytes() + which * sizeof(float), &value, sizeof(value));
}

// ---------------------------------------------------------------------------------------------------------------------
// Queries
// ---------------------------------------------------------------------------------------------------------------------

// Tiles as wide as may be, and about equally so.
GroupQuery::GroupQuery(GroupLayout layout, Roles roles, size_t width, size_t tile, float reach)
    : terms_(width), layout_(layout), factors_at_(layout.factors_at()), roles_(roles), reach_(reach) {
    const size_t tiles = std::max<size_t>(1, (width + tile - 1) / tile);
    tile_ = std::max<size_t>(1, (width + tiles - 1) / tiles);
}

const float* GroupQuery::factor(const std::byte* group, int which, const float* otherwise) const {
    if (which < 0) return otherwise;
    return reinterpret_cast<const float*>(group + factors_at_) + static_cast<size_t>(which) * kGroup;
}

GroupQuery::Spread GroupQuery::spread_of(const Terms& t) {
    constexpr float kRounding = 4 * TiledQueries::kRelative;
    return {kRounding * std::abs(t.base), t.error + 2 * kRounding * t.norm, kRounding * t.square};
}

// Where there are corrections, the rows have no `add` of their own: that is a part of l2 only.
kernels::Factors GroupQuery::factors_of(const std::byte* group, const float* corrections) const {
    return {corrections ? corrections : factor(group, roles_.add, kZeros), factor(group, roles_.mul, kOnes.data()),
            factor(group, roles_.off, kZeros), factor(group, roles_.err, kZeros)};
}

void GroupQuery::score_rows(Rows rows, const uint32_t* list, size_t n, float* out) const noexcept {
    constexpr size_t kPiece = 256;
    double exact[kPiece];
    for (size_t start = 0; start < n; start += kPiece) {
        const size_t count = std::min(kPiece, n - start);
        const Rows piece{list ? rows.data : rows.data + start * rows.stride, rows.stride};
        settle(0, piece, list ? list + start : nullptr, count, exact);
        for (size_t i = 0; i < count; ++i) out[start + i] = static_cast<float>(exact[i]);
    }
}

void GroupQuery::score_block(Block block, float* out) const noexcept {
    alignas(64) int32_t sums[kernels::kTile * kGroup];
    alignas(64) float distances[kGroup];
    uint32_t survivors;
    for (size_t first = 0; first < width(); first += tile_) {
        const size_t count = std::min(tile_, width() - first);
        for (size_t start = 0; start < block.n; start += kGroup) {
            const std::byte* group = block.data + start / kGroup * layout_.group_bytes();
            const kernels::Factors factors = factors_of(group, block.corrections ? block.corrections + start : nullptr);
            sum(reinterpret_cast<const uint8_t*>(group), first, count, sums);
            for (size_t q = 0; q < count; ++q) {
                const Terms& t = terms_[first + q];
                const kernels::Estimate query{t.base + block.center, t.scale, t.shift, t.tilt, t.slack, kInfinity};
                kernels::active().codes.estimate(sums + q * kGroup, &factors, &query, 1, &survivors, distances);
                std::copy_n(distances, std::min(kGroup, block.n - start), out + (first + q) * block.n + start);
            }
        }
    }
}

void GroupQuery::scan(Block block, SurvivorSink& sink) const noexcept {
    const auto estimate = kernels::active().codes.estimate;
    // Copies, which stay in registers while the kernels write to memory.
    const GroupLayout layout = layout_;
    const size_t group_bytes = layout.group_bytes(), reach_at = layout.reach_at();
    alignas(64) int32_t sums[kernels::kTile * kGroup];
    alignas(64) float distances[kernels::kTile * kGroup];
    uint32_t survivors[kernels::kTile];
    kernels::Estimate queries[kernels::kTile];
    Spread spreads[kernels::kTile];
    Survivor found[kGroup];
    float reach = reach_;
    for (size_t first = 0; first < width(); first += tile_) {
        const size_t count = std::min(tile_, width() - first);
        for (size_t q = 0; q < count; ++q) {
            const Terms& t = terms_[first + q];
            queries[q] = {t.base + block.center, t.scale, t.shift, t.tilt, t.slack, kInfinity};
            spreads[q] = spread_of(t);
            spreads[q].constant += block.rounding;
        }
        for (size_t start = 0; start < block.n; start += kGroup) {
            const std::byte* group = block.data + start / kGroup * group_bytes;
            sum(reinterpret_cast<const uint8_t*>(group), first, count, sums);
            if (layout.reach) std::memcpy(&reach, group + reach_at, sizeof(reach));
            for (size_t q = 0; q < count; ++q) queries[q].bound = sink.bounds[first + q] + spreads[q].at(reach);
            const kernels::Factors factors = factors_of(group, block.corrections ? block.corrections + start : nullptr);
            const uint32_t present = block.n - start >= kGroup ? ~0u : (1u << (block.n - start)) - 1;
            for (uint32_t hit = estimate(sums, &factors, queries, count, survivors, distances); hit != 0;
                 hit &= hit - 1) {
                const auto q = static_cast<size_t>(std::countr_zero(hit));
                const float spread = spreads[q].at(reach);
                size_t kept = 0;
                for (uint32_t left = survivors[q] & present; left != 0; left &= left - 1) {
                    const auto i = static_cast<size_t>(std::countr_zero(left));
                    const float distance = distances[q * kGroup + i], off = spread + queries[q].slack * factors.err[i];
                    const bool known = std::isfinite(distance) && std::isfinite(off);
                    found[kept++] = {static_cast<uint32_t>(first + q), static_cast<uint32_t>(start + i),
                                     known ? distance - off : -kInfinity, known ? distance + off : kInfinity};
                }
                if (kept > 0) sink.take({found, kept});
            }
        }
    }
}

void GroupQuery::select(Block block, EstimateSink& sink) const noexcept {
    const auto estimate = kernels::active().codes.estimate;
    const size_t group_bytes = layout_.group_bytes();
    const Terms& t = terms_[0];
    kernels::Estimate query{t.base + block.center, t.scale, t.shift, t.tilt, 0, kInfinity};
    alignas(64) int32_t sums[kGroup];
    alignas(64) float distances[kGroup];
    uint32_t survivors;
    for (size_t start = 0; start < block.n; start += kGroup) {
        const std::byte* group = block.data + start / kGroup * group_bytes;
        sum(reinterpret_cast<const uint8_t*>(group), 0, 1, sums);
        const kernels::Factors factors = factors_of(group, block.corrections ? block.corrections + start : nullptr);
        query.bound = sink.bounds[0];
        if (estimate(sums, &factors, &query, 1, &survivors, distances) == 0) continue;
        sink.take(0, start, distances, std::min(kGroup, block.n - start));
    }
}

void GroupQuery::sum(const uint8_t* codes, size_t first, size_t width, int32_t* sums) const noexcept {
    tables_.kernel(codes, layout_.units, tables_.data + first * layout_.units * tables_.unit_bytes, width, sums);
}

void GroupQuery::pick(Block block, std::span<const uint32_t> queries, const float* centers,
                      EstimateSink& sink) const noexcept {
    const auto estimate = kernels::active().codes.estimate;
    const size_t units = layout_.units, group_bytes = layout_.group_bytes();
    struct alignas(64) Line {
        uint8_t bytes[64];
    };
    const size_t unit_lines = tables_.unit_bytes / sizeof(Line);
    thread_local std::vector<Line> gathered;
    gathered.resize(tile_ * units * unit_lines);
    alignas(64) int32_t sums[kernels::kTile * kGroup];
    alignas(64) float distances[kernels::kTile * kGroup];
    uint32_t survivors[kernels::kTile];
    kernels::Estimate terms[kernels::kTile];
    for (size_t first = 0; first < queries.size(); first += tile_) {
        const size_t count = std::min(tile_, queries.size() - first);
        // The tables of these queries, side by side.
        for (size_t q = 0; q < count; ++q) {
            const size_t query = queries[first + q], tile = query / tile_ * tile_;
            const size_t in_tile = std::min(tile_, width() - tile);
            const uint8_t* from = tables_.data + (tile * units + query - tile) * unit_lines * sizeof(Line);
            Line* to = gathered.data() + q * unit_lines;
            for (size_t u = 0; u < units; ++u, from += in_tile * unit_lines * sizeof(Line), to += count * unit_lines) {
                for (size_t i = 0; i < unit_lines; ++i) std::memcpy(to + i, from + i * sizeof(Line), sizeof(Line));
            }
            const Terms& t = terms_[query];
            terms[q] = {t.base + centers[first + q], t.scale, t.shift, t.tilt, 0, kInfinity};
        }
        for (size_t start = 0; start < block.n; start += kGroup) {
            const std::byte* group = block.data + start / kGroup * group_bytes;
            tables_.kernel(reinterpret_cast<const uint8_t*>(group), units, gathered.data()->bytes, count, sums);
            for (size_t q = 0; q < count; ++q) terms[q].bound = sink.bounds[queries[first + q]];
            const kernels::Factors factors = factors_of(group, block.corrections ? block.corrections + start : nullptr);
            for (uint32_t hit = estimate(sums, &factors, terms, count, survivors, distances); hit != 0;
                 hit &= hit - 1) {
                const auto q = static_cast<size_t>(std::countr_zero(hit));
                sink.take(queries[first + q], start, distances + q * kGroup, std::min(kGroup, block.n - start));
            }
        }
    }
}

}  // namespace nearfield
