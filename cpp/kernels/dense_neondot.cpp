// Integer dot products on rows with SDOT and UDOT: 16 products into four 32-bit sums, exact.
#include <arm_neon.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

int32x4_t add_products(int32x4_t sum, int8x16_t a, int8x16_t b) { return vdotq_s32(sum, a, b); }
uint32x4_t add_products(uint32x4_t sum, uint8x16_t a, uint8x16_t b) { return vdotq_u32(sum, a, b); }

#include "kernels/dense_neon.inc"

}  // namespace

void fill_dense_neondot(KernelTable* table) {
    table->dense[kI8].integer_dot = integer_dot<SignedRow>;
    table->dense[kU8].integer_dot = integer_dot<UnsignedRow>;
}

}  // namespace nearfield::kernels
