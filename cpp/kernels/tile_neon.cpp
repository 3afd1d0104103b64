// NEON tiles: float32 with fused multiply-adds, 8-bit with widening products.
#include <arm_neon.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

#include "kernels/tile_neon.inc"

struct F32 {
    using Vector = float32x4_t;
    using Codes = float32x4_t;
    static void start(const Tile* tile, size_t, uint8_t* sums) { memset(sums, 0, tile->width * kStepBytes); }
    static Vector load(const uint8_t* at) { return vreinterpretq_f32_u8(vld1q_u8(at)); }
    static void store(uint8_t* at, Vector x) { vst1q_u8(at, vreinterpretq_u8_f32(x)); }
    static Codes load_codes(const uint8_t* at) { return load(at); }
    static Codes broadcast(const uint8_t* at) {
        float one;
        memcpy(&one, at, 4);
        return vdupq_n_f32(one);
    }
    static Vector add(Vector sum, Codes codes, Codes query) { return vfmaq_f32(sum, codes, query); }
    static float32x4_t dots(Vector sums) { return sums; }
};

// A product of a code and a query element within +-127 is at most 128 * 127: two of them are summed in 16 bits.
struct S8 : Integers {
    static Vector add(Vector sum, Codes codes, Codes query) {
        const int16x8_t low = vmull_s8(vget_low_s8(codes), vget_low_s8(query)), high = vmull_high_s8(codes, query);
        return vpadalq_s16(sum, vpaddq_s16(low, high));
    }
};

uint32_t tile_f32(const float* codes, const float* factors, size_t dim, const Tile* tile, uint32_t* survivors,
                  float* low) {
    return run<F32>(reinterpret_cast<const uint8_t*>(codes), factors, dim, tile, survivors, low);
}

uint32_t tile_u8(const uint8_t* codes, const float* factors, size_t dim, const Tile* tile, uint32_t* survivors,
                 float* low) {
    return run<S8>(codes, factors, (dim + 3) / 4, tile, survivors, low);
}

}  // namespace

void fill_tile_neon(KernelTable* table) { table->tile = {tile_f32, tile_u8, 127}; }

}  // namespace nearfield::kernels
