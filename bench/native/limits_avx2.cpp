// The loops of AVX2: 32-byte loads; vfmadd (two a cycle, latency 4: ten sums or more); and for 8-bit products
// vpmaddubsw, vpmaddwd and vpaddd, the shortest exact sequence that the level has. Ones are counted four bits at a
// time.
#include <immintrin.h>

#include "machine_limits.h"

namespace nearfield::bench {
namespace {

__m256i load(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }

uint64_t folded(__m256i x) {
    alignas(32) uint64_t words[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(words), x);
    return words[0] ^ words[1] ^ words[2] ^ words[3];
}

template <bool kAhead>
uint64_t read(const uint8_t* buffer, size_t bytes) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t at = 0; at + 128 <= bytes; at += 128) {
        if constexpr (kAhead) {
            _mm_prefetch(reinterpret_cast<const char*>(buffer + at + kPrefetchAhead), _MM_HINT_T0);
            _mm_prefetch(reinterpret_cast<const char*>(buffer + at + kPrefetchAhead + 64), _MM_HINT_T0);
        }
        a = _mm256_xor_si256(a, load(buffer + at));
        b = _mm256_xor_si256(b, load(buffer + at + 32));
        c = _mm256_xor_si256(c, load(buffer + at + 64));
        d = _mm256_xor_si256(d, load(buffer + at + 96));
    }
    return folded(_mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d)));
}

uint64_t read_four_streams(const uint8_t* buffer, size_t bytes) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a;
    for (size_t start = 0; start + kReadUnit <= bytes; start += kReadUnit) {
        for (size_t at = start; at < start + kStreamBytes; at += 32) {
            a = _mm256_xor_si256(a, load(buffer + at));
            b = _mm256_xor_si256(b, load(buffer + at + kStreamBytes));
            c = _mm256_xor_si256(c, load(buffer + at + 2 * kStreamBytes));
            d = _mm256_xor_si256(d, load(buffer + at + 3 * kStreamBytes));
        }
    }
    return folded(_mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d)));
}

constexpr size_t kSums = 12;

size_t multiply_add_f32(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    const __m256 x = _mm256_castsi256_ps(load(operands)), y = _mm256_castsi256_ps(load(operands + 32));
    __m256 sums[kSums];
    for (auto& sum : sums) sum = _mm256_setzero_ps();
    for (size_t round = 0; round < rounds; ++round) {
        for (auto& sum : sums) sum = _mm256_fmadd_ps(x, y, sum);
    }
    for (const auto& sum : sums) *sink ^= folded(_mm256_castps_si256(sum));
    return kSums * 8 * 2;
}

size_t multiply_add_f64(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    const __m256d x = _mm256_castsi256_pd(load(operands)), y = _mm256_castsi256_pd(load(operands + 32));
    __m256d sums[kSums];
    for (auto& sum : sums) sum = _mm256_setzero_pd();
    for (size_t round = 0; round < rounds; ++round) {
        for (auto& sum : sums) sum = _mm256_fmadd_pd(x, y, sum);
    }
    for (const auto& sum : sums) *sink ^= folded(_mm256_castpd_si256(sum));
    return kSums * 4 * 2;
}

size_t multiply_add_int8(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    __m256i x = load(operands);
    const __m256i y = load(operands + 32), ones = _mm256_set1_epi16(1);
    constexpr size_t kIntegerSums = 6;
    __m256i sums[kIntegerSums];
    for (auto& sum : sums) sum = _mm256_setzero_si256();
    for (size_t round = 0; round < rounds; ++round) {
        for (auto& sum : sums) {
            // The products would otherwise be computed once, before the loop.
#if defined(__GNUC__)
            __asm__("" : "+x"(x));
#endif
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(x, y), ones));
        }
    }
    for (const auto& sum : sums) *sink ^= folded(sum);
    return kIntegerSums * 32 * 2;
}

size_t count_bits(const uint8_t* operands, size_t rounds, uint64_t* sink) {
    __m256i x = load(operands);
    const __m256i y = load(operands + 32), nibble = _mm256_set1_epi8(15);
    const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                           0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
    constexpr size_t kCounts = 6;
    __m256i sums[kCounts];
    for (auto& sum : sums) sum = _mm256_setzero_si256();
    for (size_t round = 0; round < rounds; ++round) {
        for (auto& sum : sums) {
#if defined(__GNUC__)
            __asm__("" : "+x"(x));
#endif
            const __m256i bits = _mm256_xor_si256(x, y);
            const __m256i low = _mm256_and_si256(bits, nibble);
            const __m256i high = _mm256_and_si256(_mm256_srli_epi16(bits, 4), nibble);
            const __m256i ones = _mm256_add_epi8(_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high));
            sum = _mm256_add_epi8(sum, ones);
        }
    }
    for (const auto& sum : sums) *sink ^= folded(sum);
    return kCounts * 4 * 3;
}

}  // namespace

void fill_limits_avx2(Limits* limits) {
    limits->read[kInOrder] = read<false>;
    limits->read[kPrefetched] = read<true>;
    limits->read[kFourStreams] = read_four_streams;
    limits->multiply_add[kUnitF32] = limits->multiply_add[kUnitBF16] = multiply_add_f32;
    limits->multiply_add[kUnitF64] = multiply_add_f64;
    limits->multiply_add[kUnitInt8] = multiply_add_int8;
    limits->multiply_add[kUnitBits] = count_bits;
}

}  // namespace nearfield::bench
