// 8-bit tile with SDOT: a register holds four dimensions of four documents, and each document's products are added into
// its own 32-bit lane.
#include <arm_neon.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

#include "kernels/tile_neon.inc"

struct S8 : Integers {
    static Vector add(Vector sum, Codes codes, Codes query) { return vdotq_s32(sum, codes, query); }
};

uint32_t tile_u8(const uint8_t* codes, const float* factors, size_t dim, const Tile* tile, uint32_t* survivors,
                 float* low) {
    return run<S8>(codes, factors, (dim + 3) / 4, tile, survivors, low);
}

}  // namespace

void fill_tile_neondot(KernelTable* table) {
    table->tile.u8 = tile_u8;
    table->tile.query_limit = 127;
}

}  // namespace nearfield::kernels
