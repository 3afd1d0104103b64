// Portable kernels: what every CPU can run, and the C++ twin of the float64 oracle for the tests.
#include <math.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

float half_to_float(uint16_t half) {
    const uint32_t sign = uint32_t{half & 0x8000u} << 16;
    const uint32_t exponent = (half >> 10) & 31, mantissa = half & 0x3ff;
    if (exponent == 0) {  // zero and subnormal: mantissa * 2^-24 is exact in float32
        const float value = static_cast<float>(mantissa) * 0x1p-24f;
        return sign ? -value : value;
    }
    const uint32_t bits = sign | (exponent == 31 ? 0x7f800000u : (exponent + 112) << 23) | mantissa << 13;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

uint16_t float_to_half(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits >= 0x7f800000u) return static_cast<uint16_t>(sign | 0x7c00u | (bits > 0x7f800000u ? 0x200u : 0u));
    if (bits >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // rounds to infinity
    if (bits < 0x38800000u) {  // subnormal half: count of 2^-24, rounded to nearest even by the addition
        float magnitude;
        memcpy(&magnitude, &bits, 4);
        const float shifted = magnitude + 0.5f;  // ulp of [0.5, 1) is 2^-24
        uint32_t count;
        memcpy(&count, &shifted, 4);
        return static_cast<uint16_t>(sign | (count - 0x3f000000u));
    }
    const uint32_t rounded = bits + 0xfffu + ((bits >> 13) & 1u);
    return static_cast<uint16_t>(sign | ((rounded - 0x38000000u) >> 13));
}

float bfloat_to_float(uint16_t value) {
    const uint32_t bits = uint32_t{value} << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

uint16_t float_to_bfloat(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
    return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

struct F32 {
    static constexpr size_t bytes = 4;
    static float load(const uint8_t* at) {
        float value;
        memcpy(&value, at, 4);
        return value;
    }
    static void store(float value, uint8_t* at) { memcpy(at, &value, 4); }
};
struct F16 {
    static constexpr size_t bytes = 2;
    static float load(const uint8_t* at) {
        uint16_t bits;
        memcpy(&bits, at, 2);
        return half_to_float(bits);
    }
    static void store(float value, uint8_t* at) {
        const uint16_t bits = float_to_half(value);
        memcpy(at, &bits, 2);
    }
};
struct BF16 {
    static constexpr size_t bytes = 2;
    static float load(const uint8_t* at) {
        uint16_t bits;
        memcpy(&bits, at, 2);
        return bfloat_to_float(bits);
    }
    static void store(float value, uint8_t* at) {
        const uint16_t bits = float_to_bfloat(value);
        memcpy(at, &bits, 2);
    }
};
struct I8 {
    static constexpr size_t bytes = 1;
    static int32_t load(const uint8_t* at) { return static_cast<int8_t>(*at); }
};
struct U8 {
    static constexpr size_t bytes = 1;
    static int32_t load(const uint8_t* at) { return *at; }
};

template <class T>
void dot(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim, float* out,
         float* squared) {
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* row = data + (rows ? rows[i] : i) * stride;
        float sum = 0, norm = 0;
        for (size_t d = 0; d < dim; ++d) {
            const float x = T::load(row + d * T::bytes);
            sum += query[d] * x;
            norm += x * x;
        }
        out[i] = sum;
        if (squared) squared[i] = norm;
    }
}

template <class T>
void l2(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
        float* out) {
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* row = data + (rows ? rows[i] : i) * stride;
        float sum = 0;
        for (size_t d = 0; d < dim; ++d) {
            const float difference = query[d] - T::load(row + d * T::bytes);
            sum += difference * difference;
        }
        out[i] = sum;
    }
}

template <class T>
void integer_dot(const int8_t* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
                 int32_t* out, uint32_t* squared) {
    for (size_t i = 0; i < n; ++i) {
        const uint8_t* row = data + (rows ? rows[i] : i) * stride;
        int32_t sum = 0;
        uint32_t norm = 0;
        for (size_t d = 0; d < dim; ++d) {
            const int32_t x = T::load(row + d);
            sum += query[d] * x;
            norm += static_cast<uint32_t>(x * x);
        }
        out[i] = sum;
        if (squared) squared[i] = norm;
    }
}

template <class T>
void settle(const float* query, const uint8_t* row, float scale, size_t dim, double* out) {
    double sum = 0, norm = 0, distance = 0;
    for (size_t d = 0; d < dim; ++d) {
        const double q = query[d], x = static_cast<float>(T::load(row + d * T::bytes)) * scale;
        sum += q * x;
        norm += x * x;
        distance += (q - x) * (q - x);
    }
    out[0] = sum;
    out[1] = norm;
    out[2] = distance;
}

template <class T>
void decode(const uint8_t* row, size_t dim, float* out) {
    for (size_t d = 0; d < dim; ++d) out[d] = static_cast<float>(T::load(row + d * T::bytes));
}

template <class T>
void encode(const float* vector, size_t dim, uint8_t* row) {
    for (size_t d = 0; d < dim; ++d) T::store(vector[d], row + d * T::bytes);
}

void quantize(const float* vector, size_t dim, int limit, int8_t* code, float* out) {
    float largest = 0;
    for (size_t d = 0; d < dim; ++d) largest = fmaxf(largest, fabsf(vector[d]));
    const float scale = largest / static_cast<float>(limit);
    const float inverse = scale >= 0x1p-126f ? 1.0f / scale : 0.0f;  // a subnormal scale has no finite inverse
    double error = 0, norm = 0;
    for (size_t d = 0; d < dim; ++d) {
        const float rounded =
            fminf(fmaxf(nearbyintf(vector[d] * inverse), -static_cast<float>(limit)), static_cast<float>(limit));
        const double value = double{rounded} * scale, difference = vector[d] - value;
        code[d] = static_cast<int8_t>(rounded);
        error += difference * difference;
        norm += value * value;
    }
    const double up = 1.0 + 0x1p-22;  // for the rounding to float32 and of these sums
    out[0] = scale;
    out[1] = static_cast<float>(sqrt(error) * up + 0x1p-149);
    out[2] = static_cast<float>(sqrt(norm) * up + 0x1p-149);
}

}  // namespace

void fill_dense_scalar(KernelTable* table) {
    table->dense[kF32] = {dot<F32>, l2<F32>, nullptr, settle<F32>, decode<F32>, encode<F32>};
    table->dense[kF16] = {dot<F16>, l2<F16>, nullptr, settle<F16>, decode<F16>, encode<F16>};
    table->dense[kBF16] = {dot<BF16>, l2<BF16>, nullptr, settle<BF16>, decode<BF16>, encode<BF16>};
    table->dense[kI8] = {nullptr, nullptr, integer_dot<I8>, settle<I8>, decode<I8>, nullptr};
    table->dense[kU8] = {nullptr, nullptr, integer_dot<U8>, settle<U8>, decode<U8>, nullptr};
    table->quantize = quantize;
}

}  // namespace nearfield::kernels
