// NEON kernels on rows, one row after the other: the memory prefetcher follows a single stream best. Four running sums
// hide the latency of a multiply-add. The tail of a row goes through a zeroed buffer and nothing past a row is read.
#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

int32x4_t add_products(int32x4_t sum, int8x16_t a, int8x16_t b) {
    const int32x4_t low = vpadalq_s16(sum, vmull_s8(vget_low_s8(a), vget_low_s8(b)));
    return vpadalq_s16(low, vmull_high_s8(a, b));
}
uint32x4_t add_products(uint32x4_t sum, uint8x16_t a, uint8x16_t b) {
    const uint32x4_t low = vpadalq_u16(sum, vmull_u8(vget_low_u8(a), vget_low_u8(b)));
    return vpadalq_u16(low, vmull_high_u8(a, b));
}

#include "kernels/dense_neon.inc"

constexpr size_t kLanes = 4;

uint8x8_t load_four(const uint8_t* at) {
    uint32_t four;
    memcpy(&four, at, 4);
    return vreinterpret_u8_u32(vdup_n_u32(four));
}

// Four elements of each type to and from float32.
struct F32 {
    static constexpr size_t bytes = 4;
    static float32x4_t load(const uint8_t* at) { return vreinterpretq_f32_u8(vld1q_u8(at)); }
    static void store(uint8_t* at, float32x4_t x) { vst1q_u8(at, vreinterpretq_u8_f32(x)); }
};
struct F16 {
    static constexpr size_t bytes = 2;
    static float32x4_t load(const uint8_t* at) { return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(at))); }
    static void store(uint8_t* at, float32x4_t x) { vst1_u8(at, vreinterpret_u8_f16(vcvt_f16_f32(x))); }
};
struct BF16 {
    static constexpr size_t bytes = 2;
    static float32x4_t load(const uint8_t* at) {
        return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(at)), 16));
    }
    static void store(uint8_t* at, float32x4_t x) {  // round to nearest even by integer addition
        const uint32x4_t bits = vreinterpretq_u32_f32(x), high = vshrq_n_u32(bits, 16);
        const uint32x4_t odd = vandq_u32(high, vdupq_n_u32(1));
        const uint32x4_t sum = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
        const uint32x4_t quiet = vorrq_u32(high, vdupq_n_u32(0x40));
        const uint32x4_t out = vbslq_u32(vceqq_f32(x, x), vshrq_n_u32(sum, 16), quiet);
        vst1_u8(at, vreinterpret_u8_u16(vmovn_u32(out)));
    }
};
struct I8 {
    static constexpr size_t bytes = 1;
    static float32x4_t load(const uint8_t* at) {
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_four(at))))));
    }
};
struct U8 {
    static constexpr size_t bytes = 1;
    static float32x4_t load(const uint8_t* at) {
        return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(load_four(at)))));
    }
};

// The first n < 4 elements at `at`, zeros after them.
template <class T>
float32x4_t load_tail(const uint8_t* at, size_t n) {
    uint8_t buffer[kLanes * T::bytes] = {};
    memcpy(buffer, at, n * T::bytes);
    return T::load(buffer);
}
float32x4_t load_tail(const float* at, size_t n) { return load_tail<F32>(reinterpret_cast<const uint8_t*>(at), n); }

enum class Sum { kDot, kDotAndNorm, kL2 };

template <Sum kind>
struct Accumulator {
    float32x4_t sum = vdupq_n_f32(0), norm = vdupq_n_f32(0);
    void add(float32x4_t query, float32x4_t x) {
        if constexpr (kind == Sum::kL2) {
            const float32x4_t difference = vsubq_f32(query, x);
            sum = vfmaq_f32(sum, difference, difference);
        } else {
            sum = vfmaq_f32(sum, query, x);
            if constexpr (kind == Sum::kDotAndNorm) norm = vfmaq_f32(norm, x, x);
        }
    }
    void add(const Accumulator& other) {
        sum = vaddq_f32(sum, other.sum);
        norm = vaddq_f32(norm, other.norm);
    }
};

template <class T, Sum kind>
void score(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
           float* out, float* squared) {
    const size_t tail = dim % kLanes;
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* row = data + (rows ? rows[i] : i) * stride;
        Accumulator<kind> a, b, c, e;
        size_t d = 0;
        for (; d + 4 * kLanes <= dim; d += 4 * kLanes) {
            a.add(vld1q_f32(query + d), T::load(row + d * T::bytes));
            b.add(vld1q_f32(query + d + kLanes), T::load(row + (d + kLanes) * T::bytes));
            c.add(vld1q_f32(query + d + 2 * kLanes), T::load(row + (d + 2 * kLanes) * T::bytes));
            e.add(vld1q_f32(query + d + 3 * kLanes), T::load(row + (d + 3 * kLanes) * T::bytes));
        }
        for (; d + kLanes <= dim; d += kLanes) a.add(vld1q_f32(query + d), T::load(row + d * T::bytes));
        if (tail) b.add(load_tail(query + d, tail), load_tail<T>(row + d * T::bytes, tail));
        a.add(b);
        c.add(e);
        a.add(c);
        out[i] = vaddvq_f32(a.sum);
        if constexpr (kind == Sum::kDotAndNorm) squared[i] = vaddvq_f32(a.norm);
    }
}

template <class T>
void dot(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim, float* out,
         float* squared) {
    if (squared) {
        score<T, Sum::kDotAndNorm>(query, data, stride, rows, n, dim, out, squared);
    } else {
        score<T, Sum::kDot>(query, data, stride, rows, n, dim, out, squared);
    }
}

template <class T>
void l2(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
        float* out) {
    score<T, Sum::kL2>(query, data, stride, rows, n, dim, out, nullptr);
}

struct Settled {
    float64x2_t dot = vdupq_n_f64(0), norm = vdupq_n_f64(0), distance = vdupq_n_f64(0);
    void add(float64x2_t q, float64x2_t x) {
        const float64x2_t difference = vsubq_f64(q, x);
        dot = vfmaq_f64(dot, q, x);
        norm = vfmaq_f64(norm, x, x);
        distance = vfmaq_f64(distance, difference, difference);
    }
};

template <class T>
void settle(const float* query, const uint8_t* row, float scale, size_t dim, double* out) {
    Settled low, high;
    const auto add = [&](float32x4_t q, float32x4_t x) {
        x = vmulq_n_f32(x, scale);
        low.add(vcvt_f64_f32(vget_low_f32(q)), vcvt_f64_f32(vget_low_f32(x)));
        high.add(vcvt_high_f64_f32(q), vcvt_high_f64_f32(x));
    };
    size_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) add(vld1q_f32(query + d), T::load(row + d * T::bytes));
    if (d < dim) add(load_tail(query + d, dim - d), load_tail<T>(row + d * T::bytes, dim - d));
    out[0] = vaddvq_f64(vaddq_f64(low.dot, high.dot));
    out[1] = vaddvq_f64(vaddq_f64(low.norm, high.norm));
    out[2] = vaddvq_f64(vaddq_f64(low.distance, high.distance));
}

template <class T>
void decode(const uint8_t* row, size_t dim, float* out) {
    size_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) vst1q_f32(out + d, T::load(row + d * T::bytes));
    float tail[kLanes];
    vst1q_f32(tail, load_tail<T>(row + d * T::bytes, dim - d));
    memcpy(out + d, tail, (dim - d) * sizeof(float));
}

template <class T>
void encode(const float* vector, size_t dim, uint8_t* row) {
    size_t d = 0;
    for (; d + kLanes <= dim; d += kLanes) T::store(row + d * T::bytes, vld1q_f32(vector + d));
    uint8_t tail[kLanes * T::bytes];
    T::store(tail, load_tail(vector + d, dim - d));
    memcpy(row + d * T::bytes, tail, (dim - d) * T::bytes);
}

void quantize(const float* vector, size_t dim, int limit, int8_t* code, float* out) {
    const auto load = [&](size_t d) {
        return dim - d < kLanes ? load_tail(vector + d, dim - d) : vld1q_f32(vector + d);
    };
    float32x4_t largest = vdupq_n_f32(0);
    for (size_t d = 0; d < dim; d += kLanes) largest = vmaxq_f32(largest, vabsq_f32(load(d)));
    const float scale = vmaxvq_f32(largest) / static_cast<float>(limit);
    // A subnormal scale has no finite inverse: such a vector gets the code 0 and its own length as the error.
    const float inverse = scale >= 0x1p-126f ? 1.0f / scale : 0.0f;
    const float32x4_t scales = vdupq_n_f32(scale), limits = vdupq_n_f32(static_cast<float>(limit));
    float32x4_t error = vdupq_n_f32(0), norm = vdupq_n_f32(0);
    for (size_t d = 0; d < dim; d += kLanes) {
        const float32x4_t x = load(d), rounded = vrndnq_f32(vmulq_n_f32(x, inverse));
        const float32x4_t integer = vminq_f32(vmaxq_f32(rounded, vnegq_f32(limits)), limits);
        const float32x4_t value = vmulq_f32(integer, scales), difference = vfmsq_f32(x, integer, scales);
        error = vfmaq_f32(error, difference, difference);
        norm = vfmaq_f32(norm, value, value);
        const int16x4_t words = vmovn_s32(vcvtq_s32_f32(integer));
        int8_t bytes[2 * kLanes];
        vst1_s8(bytes, vmovn_s16(vcombine_s16(words, words)));
        memcpy(code + d, bytes, dim - d < kLanes ? dim - d : kLanes);
    }
    // Up for the rounding of the sums, and for squares too small for float32: each of those hides less than 2^-75.
    const float up = 1.0f + 0x1p-23f * static_cast<float>(dim + 8), tiny = 0x1p-74f * sqrtf(static_cast<float>(dim));
    out[0] = scale;
    out[1] = sqrtf(vaddvq_f32(error)) * up + tiny;
    out[2] = sqrtf(vaddvq_f32(norm)) * up + tiny;
}

}  // namespace

void fill_dense_neon(KernelTable* table) {
    table->dense[kF32] = {dot<F32>, l2<F32>, nullptr, settle<F32>, decode<F32>, encode<F32>};
    table->dense[kF16] = {dot<F16>, l2<F16>, nullptr, settle<F16>, decode<F16>, encode<F16>};
    table->dense[kBF16] = {dot<BF16>, l2<BF16>, nullptr, settle<BF16>, decode<BF16>, encode<BF16>};
    table->dense[kI8] = {nullptr, nullptr, integer_dot<SignedRow>, settle<I8>, decode<I8>, nullptr};
    table->dense[kU8] = {nullptr, nullptr, integer_dot<UnsignedRow>, settle<U8>, decode<U8>, nullptr};
    table->quantize = quantize;
}

}  // namespace nearfield::kernels
