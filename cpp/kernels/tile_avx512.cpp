// AVX-512 float32 tile: a group of 32 documents is two registers per dimension, a tile of 12 queries 24 running sums;
// the query element is a broadcast operand used twice. The width is a compile-time constant: a run-time width would
// spill the sums.
#include <immintrin.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

#include "kernels/tile_avx512.inc"

template <size_t kWidth>
uint32_t run(const float* codes, const float* factors, size_t dim, const Tile* tile, uint32_t* survivors, float* low) {
    const auto* queries = static_cast<const float*>(tile->queries);
    __m512 sums[kWidth][2];
    for (size_t q = 0; q < kWidth; ++q) sums[q][0] = sums[q][1] = _mm512_setzero_ps();
    for (size_t d = 0; d < dim; ++d) {
        const __m512 x0 = _mm512_loadu_ps(codes + d * kGroup), x1 = _mm512_loadu_ps(codes + d * kGroup + 16);
        for (size_t q = 0; q < kWidth; ++q) {
            const __m512 query = _mm512_set1_ps(queries[d * kWidth + q]);
            sums[q][0] = _mm512_fmadd_ps(query, x0, sums[q][0]);
            sums[q][1] = _mm512_fmadd_ps(query, x1, sums[q][1]);
        }
    }
    const Judge judge(factors, tile->norm_ratio);
    uint32_t hit = 0;
    for (size_t q = 0; q < kWidth; ++q) hit |= judge(tile, q, sums[q][0], sums[q][1], survivors, low);
    return hit;
}

uint32_t tile_f32(const float* codes, const float* factors, size_t dim, const Tile* tile, uint32_t* survivors,
                  float* low) {
    using Run = uint32_t (*)(const float*, const float*, size_t, const Tile*, uint32_t*, float*);
    static constexpr Run kRuns[] = {run<1>, run<2>, run<3>, run<4>,  run<5>,  run<6>,
                                    run<7>, run<8>, run<9>, run<10>, run<11>, run<12>};
    static_assert(sizeof(kRuns) / sizeof(Run) == kTile);
    return kRuns[tile->width - 1](codes, factors, dim, tile, survivors, low);
}

}  // namespace

void fill_tile_avx512(KernelTable* table) { table->tile.f32 = tile_f32; }

}  // namespace nearfield::kernels
