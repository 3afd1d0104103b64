// Code kernels with SDOT, which adds four products of bytes into each 32-bit sum.
#include <arm_neon.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

int32x4_t add_products(int32x4_t sum, int8x16_t a, int8x16_t b) { return vdotq_s32(sum, a, b); }

#include "kernels/codes_neon.inc"

}  // namespace

void fill_codes_neondot(KernelTable* table) {
    table->codes.dot2 = dot<2>;
    table->codes.dot4 = dot<4>;
    table->codes.dot8 = dot8;
    table->codes.row_dot = row_dot;
}

}  // namespace nearfield::kernels
