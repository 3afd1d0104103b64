// Code kernels with AVX2 and FMA.
#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

struct Floats {
    using Vector = __m256;
    using Integers = __m256i;
    static constexpr size_t kLanes = 8;

    static Vector all(float x) { return _mm256_set1_ps(x); }
    static Integers zeros() { return _mm256_setzero_si256(); }
    static Vector load(const float* at) { return _mm256_loadu_ps(at); }
    static Vector of_integers(const int32_t* at) {
        return _mm256_cvtepi32_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)));
    }
    static void store(float* at, Vector x) { _mm256_storeu_ps(at, x); }
    static void store(uint32_t* at, Integers x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), x); }
    static Vector add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
    static Vector subtract(Vector a, Vector b) { return _mm256_sub_ps(a, b); }
    static Vector plus_product(Vector sum, Vector a, Vector b) { return _mm256_fmadd_ps(a, b, sum); }
    static Vector minus_product(Vector sum, Vector a, Vector b) { return _mm256_fnmadd_ps(a, b, sum); }
    static uint32_t not_above(Vector a, Vector b) {
        return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NGT_UQ)));
    }
    static void take_less(Vector x, size_t number, Vector& least, Integers& index) {
        const Vector less = _mm256_cmp_ps(x, least, _CMP_LT_OQ);
        least = _mm256_blendv_ps(least, x, less);
        const Integers numbers = _mm256_set1_epi32(static_cast<int32_t>(number));
        index = _mm256_blendv_epi8(index, numbers, _mm256_castps_si256(less));
    }
    static Vector hadamard(Vector x) {
        x = plus_product(_mm256_permute_ps(x, 0xb1), x, _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1));
        x = plus_product(_mm256_permute_ps(x, 0x4e), x, _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1));
        return plus_product(_mm256_permute2f128_ps(x, x, 1), x, _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1));
    }
};

#include "kernels/codes_floats.inc"

struct Bytes {
    using Vector = __m256i;
    using Integers = __m256i;
    static constexpr size_t kBytes = 32;
    static constexpr size_t kPart = 2;  // queries: 8 sums, for every product needs a register of its own

    static Vector load(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
    static Integers load(const int32_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
    static void store(uint8_t* at, Vector x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), x); }
    static void store(int32_t* at, Integers x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), x); }
    static Integers zeros() { return _mm256_setzero_si256(); }
    static Vector all_fours(int32_t four) { return _mm256_set1_epi32(four); }
    // Sixteen bytes as a table for each half of a register.
    static Vector table(const uint8_t* entries) {
        return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(entries)));
    }
    static Vector look_up(Vector table, Vector codes) { return _mm256_shuffle_epi8(table, codes); }
    template <size_t kBits>
    static Vector shifted(Vector x) {
        return _mm256_srli_epi16(x, kBits);
    }
    template <size_t kBits>
    static Vector lowest(Vector x) {
        return kBits == 8 ? x : _mm256_and_si256(x, _mm256_set1_epi8(static_cast<char>((1u << kBits) - 1)));
    }
    // Two products of a level up to 255 and a query element within +-63 are summed in 16 bits without saturation.
    static Integers plus_products(Integers sum, Vector levels, Vector query) {
        const __m256i pairs = _mm256_maddubs_epi16(levels, query);
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    // Levels as plus_products takes them, and what the sums of a tile or of a row start with.
    static Vector operand(Vector levels) { return levels; }
    static void start_sums(const int8_t*, size_t, size_t, size_t width, int32_t* sums) {
        memset(sums, 0, width * kGroup * sizeof(*sums));
    }
    static int32_t row_start(const int8_t*, size_t) { return 0; }
    // The first n bytes, a multiple of four; zeros after them.
    static Vector load_first(const uint8_t* at, size_t n) {
        static constexpr int32_t kMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
        return _mm256_maskload_epi32(reinterpret_cast<const int*>(at), load(kMasks + (kBytes - n) / 4));
    }
    // The sums of all lanes of four registers.
    static void store_sums(const Integers* x, int32_t* out) {
        const __m256i pairs0 = _mm256_hadd_epi32(x[0], x[1]), pairs1 = _mm256_hadd_epi32(x[2], x[3]);
        const __m256i fours = _mm256_hadd_epi32(pairs0, pairs1);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                         _mm_add_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1)));
    }
    static void prefetch(const uint8_t* row, size_t bytes) {
        for (size_t at = 0; at < bytes; at += 64) _mm_prefetch(reinterpret_cast<const char*>(row + at), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(row + bytes - 1), _MM_HINT_T0);
    }
};

#include "kernels/codes_rows.inc"
#include "kernels/codes_units.inc"

// The codes of a unit as bytes, a register for each place: those of vector 8 * k + 4 * half + t lie at 4 * k + t in
// each half.
void spread(const uint8_t* unit, uint8_t* out) {
    const __m256i by_place =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    const __m256i x0 = _mm256_shuffle_epi8(Bytes::load(unit), by_place);
    const __m256i x1 = _mm256_shuffle_epi8(Bytes::load(unit + 32), by_place);
    const __m256i x2 = _mm256_shuffle_epi8(Bytes::load(unit + 64), by_place);
    const __m256i x3 = _mm256_shuffle_epi8(Bytes::load(unit + 96), by_place);
    const __m256i low01 = _mm256_unpacklo_epi32(x0, x1), high01 = _mm256_unpackhi_epi32(x0, x1);
    const __m256i low23 = _mm256_unpacklo_epi32(x2, x3), high23 = _mm256_unpackhi_epi32(x2, x3);
    const __m256i bytes[] = {_mm256_unpacklo_epi64(low01, low23), _mm256_unpackhi_epi64(low01, low23),
                             _mm256_unpacklo_epi64(high01, high23), _mm256_unpackhi_epi64(high01, high23)};
    for (size_t j = 0; j < 4; ++j) {
        Bytes::store(out + j * kGroup, Bytes::lowest<4>(bytes[j]));
        Bytes::store(out + (4 + j) * kGroup, Bytes::lowest<4>(Bytes::shifted<4>(bytes[j])));
    }
}

// Sums of entries in 16 bits: of the words of two of them, modulo 2^16, and of the upper bytes of these alone.
class Entries {
  public:
    void add(const uint8_t* table, const uint8_t* codes) {
        const __m256i entries = Bytes::look_up(Bytes::table(table), Bytes::load(codes));
        both_ = _mm256_add_epi16(both_, entries);
        upper_ = _mm256_add_epi16(upper_, _mm256_srli_epi16(entries, 8));
    }
    void add_to(int32_t* sums) const {
        const __m256i lower = _mm256_sub_epi16(both_, _mm256_slli_epi16(upper_, 8));
        // In each half of each of these are the sums of vectors 4 * half and on, and of those eight further on.
        const __m256i first = _mm256_unpacklo_epi16(lower, upper_), last = _mm256_unpackhi_epi16(lower, upper_);
        add_words(_mm256_permute4x64_epi64(first, 0xd8), sums);
        add_words(_mm256_permute4x64_epi64(last, 0xd8), sums + 16);
    }

  private:
    static void add_words(__m256i words, int32_t* sums) {
        const __m256i low = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(words));
        const __m256i high = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(words, 1));
        Bytes::store(sums, _mm256_add_epi32(Bytes::load(sums), low));
        Bytes::store(sums + 8, _mm256_add_epi32(Bytes::load(sums + 8), high));
    }

    __m256i both_ = _mm256_setzero_si256(), upper_ = _mm256_setzero_si256();
};

#include "kernels/codes_entries.inc"

// The tables of four codes at a time, two in each register.
void sign_tables(const int8_t* code, size_t units, size_t width, uint8_t* tables) {
    const auto twice = [](__m128i x) { return _mm256_broadcastsi128_si256(x); };
    const __m256i in[4] = {
        twice(_mm_set1_epi16(static_cast<int16_t>(0xff00))), twice(_mm_set1_epi32(static_cast<int32_t>(0xffff0000))),
        twice(_mm_set1_epi64x(static_cast<int64_t>(0xffffffff00000000))), twice(_mm_set_epi64x(-1, 0))};
    const __m256i first = _mm256_set_m128i(_mm_set1_epi8(1), _mm_setzero_si128());
    const __m256i last = _mm256_add_epi8(first, _mm256_set1_epi8(2));
    const __m128i zero = _mm_setzero_si128();
    for (size_t u = 0; u < units; ++u, tables += width * 128) {
        for (size_t half = 0; half < 2; ++half) {
            __m128i lowest = zero;
            __m256i sums0 = _mm256_setzero_si256(), sums1 = sums0;
            for (size_t t = 0; t < 4; ++t) {
                int32_t four;
                memcpy(&four, code + (4 * half + t) * 4 * units + 4 * u, sizeof(four));
                const __m128i x = _mm_cvtsi32_si128(four);
                lowest = _mm_add_epi8(lowest, _mm_min_epi8(x, zero));
                const __m256i all = twice(x);
                sums0 = _mm256_add_epi8(sums0, _mm256_and_si256(_mm256_shuffle_epi8(all, first), in[t]));
                sums1 = _mm256_add_epi8(sums1, _mm256_and_si256(_mm256_shuffle_epi8(all, last), in[t]));
            }
            const __m256i all = twice(lowest);
            Bytes::store(tables + half * 64, _mm256_sub_epi8(sums0, _mm256_shuffle_epi8(all, first)));
            Bytes::store(tables + half * 64 + 32, _mm256_sub_epi8(sums1, _mm256_shuffle_epi8(all, last)));
        }
    }
}

}  // namespace

void fill_codes_avx2(KernelTable* table) {
    CodeKernels& codes = table->codes;
    codes = {dot<2>, dot<4>, dot8, sum4, codes.sum8, sign_tables, estimate, row_dot, nearest, hadamard};
}

}  // namespace nearfield::kernels
