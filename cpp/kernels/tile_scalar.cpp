// Portable tile kernels: the definition of what every other level computes.
#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

struct Factors {
    const float *mul, *add, *err, *norm;
};

Factors split(const float* factors) { return {factors, factors + kGroup, factors + 2 * kGroup, factors + 3 * kGroup}; }

uint32_t judge(const float* dots, const Factors& x, const Tile* tile, size_t q, uint32_t* survivors, float* low) {
    uint32_t mask = 0;
    for (size_t i = 0; i < kGroup; ++i) {
        const float slack = tile->slack[q] * (x.err[i] + tile->norm_ratio * x.norm[i]);
        low[q * kGroup + i] = x.add[i] - tile->scale[q] * (x.mul[i] * dots[i]) - slack;
        if (!(low[q * kGroup + i] > tile->bound[q])) mask |= 1u << i;
    }
    survivors[q] = mask;
    return mask ? 1u << q : 0u;
}

uint32_t tile_f32(const float* codes, const float* factors, size_t dim, const Tile* tile, uint32_t* survivors,
                  float* low) {
    const auto* queries = static_cast<const float*>(tile->queries);
    uint32_t hit = 0;
    for (size_t q = 0; q < tile->width; ++q) {
        float dots[kGroup] = {};
        for (size_t d = 0; d < dim; ++d) {
            for (size_t i = 0; i < kGroup; ++i) dots[i] += queries[d * tile->width + q] * codes[d * kGroup + i];
        }
        hit |= judge(dots, split(factors), tile, q, survivors, low);
    }
    return hit;
}

uint32_t tile_u8(const uint8_t* codes, const float* factors, size_t dim, const Tile* tile, uint32_t* survivors,
                 float* low) {
    const auto* queries = static_cast<const int8_t*>(tile->queries);
    uint32_t hit = 0;
    for (size_t q = 0; q < tile->width; ++q) {
        int32_t sums[kGroup] = {};
        for (size_t four = 0; four < (dim + 3) / 4; ++four) {
            const int8_t* query = queries + (four * tile->width + q) * 4;
            const uint8_t* code = codes + four * kGroup * 4;
            for (size_t i = 0; i < kGroup; ++i) {
                for (size_t j = 0; j < 4; ++j) sums[i] += query[j] * code[i * 4 + j];
            }
        }
        float dots[kGroup];
        for (size_t i = 0; i < kGroup; ++i) dots[i] = static_cast<float>(sums[i] - tile->bias[q]);
        hit |= judge(dots, split(factors), tile, q, survivors, low);
    }
    return hit;
}

}  // namespace

void fill_tile_scalar(KernelTable* table) { table->tile = {tile_f32, tile_u8, 127}; }

}  // namespace nearfield::kernels
