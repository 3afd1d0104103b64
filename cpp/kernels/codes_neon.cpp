// Code kernels with NEON.
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

struct Floats {
    using Vector = float32x4_t;
    using Integers = uint32x4_t;
    static constexpr size_t kLanes = 4;

    static Vector all(float x) { return vdupq_n_f32(x); }
    static Integers zeros() { return vdupq_n_u32(0); }
    static Vector load(const float* at) { return vld1q_f32(at); }
    static Vector of_integers(const int32_t* at) { return vcvtq_f32_s32(vld1q_s32(at)); }
    static void store(float* at, Vector x) { vst1q_f32(at, x); }
    static void store(uint32_t* at, Integers x) { vst1q_u32(at, x); }
    static Vector add(Vector a, Vector b) { return vaddq_f32(a, b); }
    static Vector subtract(Vector a, Vector b) { return vsubq_f32(a, b); }
    static Vector plus_product(Vector sum, Vector a, Vector b) { return vfmaq_f32(sum, a, b); }
    static Vector minus_product(Vector sum, Vector a, Vector b) { return vfmsq_f32(sum, a, b); }
    static uint32_t not_above(Vector a, Vector b) {
        const uint32_t bits[kLanes] = {1, 2, 4, 8};
        return vaddvq_u32(vbicq_u32(vld1q_u32(bits), vcgtq_f32(a, b)));
    }
    static void take_less(Vector x, size_t number, Vector& least, Integers& index) {
        const uint32x4_t less = vcltq_f32(x, least);
        least = vbslq_f32(less, x, least);
        index = vbslq_u32(less, vdupq_n_u32(static_cast<uint32_t>(number)), index);
    }
    static Vector hadamard(Vector x) {
        const float odd[kLanes] = {1, -1, 1, -1}, upper[kLanes] = {1, 1, -1, -1};
        x = plus_product(vrev64q_f32(x), x, load(odd));
        return plus_product(vextq_f32(x, x, 2), x, load(upper));
    }
};

#include "kernels/codes_floats.inc"

// A product of a level and a query value within +-127 is at most 128 * 127: two of them are summed in 16 bits.
int32x4_t add_products(int32x4_t sum, int8x16_t a, int8x16_t b) {
    const int16x8_t low = vmull_s8(vget_low_s8(a), vget_low_s8(b)), high = vmull_high_s8(a, b);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
}

#include "kernels/codes_neon.inc"

// The codes of a unit as bytes in the order of their vectors, two registers for each place.
void spread(const uint8_t* unit, uint8_t* out) {
    for (size_t half = 0; half < kGroup; half += Bytes::kBytes) {
        const uint8x16x4_t bytes = vld4q_u8(unit + 4 * half);
        for (size_t j = 0; j < 4; ++j) {
            Bytes::store(out + j * kGroup + half, Bytes::lowest<4>(bytes.val[j]));
            Bytes::store(out + (4 + j) * kGroup + half, Bytes::shifted<4>(bytes.val[j]));
        }
    }
}

class Entries {
  public:
    void add(const uint8_t* table, const uint8_t* codes) {
        const uint8x16_t entries = Bytes::table(table);
        const uint8x16_t first = Bytes::look_up(entries, Bytes::load(codes));
        const uint8x16_t last = Bytes::look_up(entries, Bytes::load(codes + 16));
        a_ = vaddw_u8(a_, vget_low_u8(first));
        b_ = vaddw_high_u8(b_, first);
        c_ = vaddw_u8(c_, vget_low_u8(last));
        d_ = vaddw_high_u8(d_, last);
    }
    void add_to(int32_t* sums) const {
        add_words(a_, sums);
        add_words(b_, sums + 8);
        add_words(c_, sums + 16);
        add_words(d_, sums + 24);
    }

  private:
    static void add_words(uint16x8_t words, int32_t* sums) {
        const uint32x4_t low = vmovl_u16(vget_low_u16(words)), high = vmovl_high_u16(words);
        Bytes::store(sums, vaddq_s32(Bytes::load(sums), vreinterpretq_s32_u32(low)));
        Bytes::store(sums + 4, vaddq_s32(Bytes::load(sums + 4), vreinterpretq_s32_u32(high)));
    }

    uint16x8_t a_ = vdupq_n_u16(0), b_ = a_, c_ = a_, d_ = a_;
};

#include "kernels/codes_entries.inc"

}  // namespace

void fill_codes_neon(KernelTable* table) {
    CodeKernels& codes = table->codes;
    codes = {dot<2>, dot<4>, dot8, sum4, codes.sum8, codes.sign_tables, estimate, row_dot, nearest, hadamard};
}

}  // namespace nearfield::kernels
