// Code kernels with AVX-512 VNNI. Levels of four or fewer bits are looked up by vpshufb.
#include <immintrin.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

#include "kernels/codes_avx512vnni.inc"

// The levels of the codes at place kPlace of each byte.
template <size_t kBits>
class Levels {
  public:
    explicit Levels(const uint8_t* levels)
        : table_(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)))) {}
    template <size_t kPlace>
    __m512i at(__m512i bytes) const {
        const __m512i codes = _mm512_srli_epi16(bytes, kBits * kPlace);
        return _mm512_shuffle_epi8(table_, _mm512_and_si512(codes, _mm512_set1_epi8((1 << kBits) - 1)));
    }

  private:
    __m512i table_;
};

// Codes of eight bits are their own levels.
struct OwnLevels {
    template <size_t kPlace>
    __m512i at(__m512i bytes) const {
        return bytes;
    }
};

void dot8(const uint8_t* codes, size_t units, const int8_t* queries, size_t width, int32_t* sums) {
    products_of<OwnLevels, 1>(codes, units, OwnLevels(), queries, width, sums);
}

struct Bytes {
    using Vector = __m512i;
    using Integers = __m512i;
    static constexpr size_t kBytes = 64;

    static Vector load(const uint8_t* at) { return _mm512_loadu_si512(at); }
    static Vector load_first(const uint8_t* at, size_t n) {
        return _mm512_maskz_loadu_epi8((__mmask64{1} << n) - 1, at);
    }
    static Integers zeros() { return _mm512_setzero_si512(); }
    template <size_t kBits>
    static Vector shifted(Vector x) {
        return _mm512_srli_epi16(x, kBits);
    }
    template <size_t kBits>
    static Vector lowest(Vector x) {
        return kBits == 8 ? x : _mm512_and_si512(x, _mm512_set1_epi8(static_cast<char>((1u << kBits) - 1)));
    }
    static Integers plus_products(Integers sum, Vector codes, Vector query) {
        return _mm512_dpbusd_epi32(sum, codes, query);
    }
    static Vector operand(Vector codes) { return codes; }
    static int32_t row_start(const int8_t*, size_t) { return 0; }
    // The sums of all lanes of four registers.
    static void store_sums(const Integers* x, int32_t* out) {
        const __m512i low = _mm512_add_epi32(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
        const __m512i high = _mm512_add_epi32(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
        const __m512i four = _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
        const __m256i two = _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64(four, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                         _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1)));
    }
    static void prefetch(const uint8_t* row, size_t bytes) {
        for (size_t at = 0; at < bytes; at += 64) _mm_prefetch(reinterpret_cast<const char*>(row + at), _MM_HINT_T0);
        _mm_prefetch(reinterpret_cast<const char*>(row + bytes - 1), _MM_HINT_T0);
    }
};

#include "kernels/codes_rows.inc"

}  // namespace

void fill_codes_avx512vnni(KernelTable* table) {
    table->codes.dot2 = dot<2, Levels<2>>;
    table->codes.dot4 = dot<4, Levels<4>>;
    table->codes.dot8 = dot8;
    table->codes.row_dot = row_dot;
}

}  // namespace nearfield::kernels
