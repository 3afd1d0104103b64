// AVX-512 VNNI 8-bit tile: one 64-byte load holds four dimensions of 16 documents, so vpdpbusd adds into each document's
// own 32-bit lane and no sum is ever taken across lanes. Codes are the unsigned operand (+128), the query the signed one;
// the sums start at minus the bias.
#include <immintrin.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

#include "kernels/tile_avx512.inc"

template <size_t kWidth>
uint32_t run(const uint8_t* codes, const float* factors, size_t dim, const Tile* tile, uint32_t* survivors,
             float* low) {
    const auto* queries = static_cast<const int8_t*>(tile->queries);
    __m512i sums[kWidth][2];
    for (size_t q = 0; q < kWidth; ++q) sums[q][0] = sums[q][1] = _mm512_set1_epi32(-tile->bias[q]);
    const size_t fours = (dim + 3) / 4;
    for (size_t four = 0; four < fours; ++four) {
        const uint8_t* at = codes + four * kGroup * 4;
        const __m512i x0 = _mm512_loadu_si512(at), x1 = _mm512_loadu_si512(at + 64);
        for (size_t q = 0; q < kWidth; ++q) {
            int32_t element;
            memcpy(&element, queries + (four * kWidth + q) * 4, 4);
            const __m512i query = _mm512_set1_epi32(element);
            sums[q][0] = _mm512_dpbusd_epi32(sums[q][0], x0, query);
            sums[q][1] = _mm512_dpbusd_epi32(sums[q][1], x1, query);
        }
    }
    const Judge judge(factors, tile->norm_ratio);
    uint32_t hit = 0;
    for (size_t q = 0; q < kWidth; ++q) {
        hit |= judge(tile, q, _mm512_cvtepi32_ps(sums[q][0]), _mm512_cvtepi32_ps(sums[q][1]), survivors, low);
    }
    return hit;
}

uint32_t tile_u8(const uint8_t* codes, const float* factors, size_t dim, const Tile* tile, uint32_t* survivors,
                 float* low) {
    using Run = uint32_t (*)(const uint8_t*, const float*, size_t, const Tile*, uint32_t*, float*);
    static constexpr Run kRuns[] = {run<1>, run<2>, run<3>, run<4>,  run<5>,  run<6>,
                                    run<7>, run<8>, run<9>, run<10>, run<11>, run<12>};
    return kRuns[tile->width - 1](codes, factors, dim, tile, survivors, low);
}

}  // namespace

void fill_tile_avx512vnni(KernelTable* table) {
    table->tile.u8 = tile_u8;
    table->tile.query_limit = 127;
}

}  // namespace nearfield::kernels
