// The loops of AVX-512: 64-byte loads, vfmadd on 16 floats or 8 doubles. Sums enough for two units of latency 4.
#include <immintrin.h>

#include "machine_limits.h"

namespace nearfield::bench {
namespace {

uint64_t folded(__m512i x) { return static_cast<uint64_t>(_mm512_reduce_add_epi64(x)); }

template <bool kAhead>
uint64_t read(const uint8_t* buffer, size_t bytes) {
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t at = 0; at + 256 <= bytes; at += 256) {
        if constexpr (kAhead) {
            for (size_t line = 0; line < 256; line += 64) {
                _mm_prefetch(reinterpret_cast<const char*>(buffer + at + kPrefetchAhead + line), _MM_HINT_T0);
            }
        }
        a = _mm512_xor_si512(a, _mm512_loadu_si512(buffer + at));
        b = _mm512_xor_si512(b, _mm512_loadu_si512(buffer + at + 64));
        c = _mm512_xor_si512(c, _mm512_loadu_si512(buffer + at + 128));
        d = _mm512_xor_si512(d, _mm512_loadu_si512(buffer + at + 192));
    }
    return folded(_mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d)));
}

uint64_t read_four_streams(const uint8_t* buffer, size_t bytes) {
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t start = 0; start + kReadUnit <= bytes; start += kReadUnit) {
        for (size_t at = start; at < start + kStreamBytes; at += 64) {
            a = _mm512_xor_si512(a, _mm512_loadu_si512(buffer + at));
            b = _mm512_xor_si512(b, _mm512_loadu_si512(buffer + at + kStreamBytes));
            c = _mm512_xor_si512(c, _mm512_loadu_si512(buffer + at + 2 * kStreamBytes));
            d = _mm512_xor_si512(d, _mm512_loadu_si512(buffer + at + 3 * kStreamBytes));
        }
    }
    return folded(_mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d)));
}

constexpr size_t kSums = 16;

size_t multiply_add_f32(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    const __m512 x = _mm512_loadu_ps(operands), y = _mm512_loadu_ps(operands + 64);
    __m512 sums[kSums];
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    for (size_t round = 0; round < rounds; ++round) {
        for (auto& sum : sums) sum = _mm512_fmadd_ps(x, y, sum);
    }
    for (const auto& sum : sums) *sink ^= folded(_mm512_castps_si512(sum));
    return kSums * 16 * 2;
}

size_t multiply_add_f64(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    const __m512d x = _mm512_loadu_pd(operands), y = _mm512_loadu_pd(operands + 64);
    __m512d sums[kSums];
    for (auto& sum : sums) sum = _mm512_setzero_pd();
    for (size_t round = 0; round < rounds; ++round) {
        for (auto& sum : sums) sum = _mm512_fmadd_pd(x, y, sum);
    }
    for (const auto& sum : sums) *sink ^= folded(_mm512_castpd_si512(sum));
    return kSums * 8 * 2;
}

}  // namespace

void fill_limits_avx512(Limits* limits) {
    limits->read[kInOrder] = read<false>;
    limits->read[kPrefetched] = read<true>;
    limits->read[kFourStreams] = read_four_streams;
    limits->multiply_add[kUnitF32] = limits->multiply_add[kUnitBF16] = multiply_add_f32;
    limits->multiply_add[kUnitF64] = multiply_add_f64;
}

}  // namespace nearfield::bench
