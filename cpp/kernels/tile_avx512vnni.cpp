// AVX-512 VNNI 8-bit tile: one 64-byte load holds four dimensions of 16 documents, so vpdpbusd adds into each
// document's own 32-bit lane and no sum is ever taken across lanes. Codes are the unsigned operand (+128), the query
// the signed one.
#include <immintrin.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

#include "kernels/tile_avx512.inc"

// The running sums of kWidth queries with both halves of the group. Nested members and not an array: GCC copies an
// array of integer registers through memory in every step, at half the speed.
template <size_t kWidth>
struct Sums {
    Sums<kWidth - 1> before;
    __m512i half0 = _mm512_setzero_si512(), half1 = _mm512_setzero_si512();

    void add(__m512i x0, __m512i x1, const int8_t* queries) {
        before.add(x0, x1, queries);
        int32_t element;
        memcpy(&element, queries + (kWidth - 1) * 4, 4);
        const __m512i query = _mm512_set1_epi32(element);
        half0 = _mm512_dpbusd_epi32(half0, x0, query);
        half1 = _mm512_dpbusd_epi32(half1, x1, query);
    }
    void store(int32_t* sums) const {
        before.store(sums);
        _mm512_storeu_si512(sums + (kWidth - 1) * kGroup, half0);
        _mm512_storeu_si512(sums + (kWidth - 1) * kGroup + 16, half1);
    }
};
template <>
struct Sums<0> {
    void add(__m512i, __m512i, const int8_t*) {}
    void store(int32_t*) const {}
};

template <size_t kWidth>
void products(const uint8_t* codes, const int8_t* queries, size_t fours, int32_t* out) {
    Sums<kWidth> sums;
    for (size_t four = 0; four < fours; ++four) {
        const uint8_t* at = codes + four * kGroup * 4;
        sums.add(_mm512_loadu_si512(at), _mm512_loadu_si512(at + 64), queries + four * kWidth * 4);
    }
    sums.store(out);
}

uint32_t tile_u8(const uint8_t* codes, const float* factors, size_t dim, const Tile* tile, uint32_t* survivors,
                 float* low) {
    using Products = void (*)(const uint8_t*, const int8_t*, size_t, int32_t*);
    static constexpr Products kProducts[] = {products<1>, products<2>,  products<3>,  products<4>,
                                             products<5>, products<6>,  products<7>,  products<8>,
                                             products<9>, products<10>, products<11>, products<12>};
    static_assert(sizeof(kProducts) / sizeof(Products) == kTile);
    alignas(64) int32_t sums[kTile * kGroup];
    kProducts[tile->width - 1](codes, static_cast<const int8_t*>(tile->queries), (dim + 3) / 4, sums);
    const Judge judge(factors, tile->norm_ratio);
    uint32_t hit = 0;
    for (size_t q = 0; q < tile->width; ++q) {
        const __m512i bias = _mm512_set1_epi32(tile->bias[q]);
        const int32_t* at = sums + q * kGroup;
        const __m512 dots0 = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_load_si512(at), bias));
        const __m512 dots1 = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_load_si512(at + 16), bias));
        hit |= judge(tile, q, dots0, dots1, survivors, low);
    }
    return hit;
}

}  // namespace

void fill_tile_avx512vnni(KernelTable* table) {
    table->tile.u8 = tile_u8;
    table->tile.query_limit = 127;
}

}  // namespace nearfield::kernels
