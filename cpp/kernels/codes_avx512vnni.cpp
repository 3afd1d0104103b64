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
struct Bytes {
    template <size_t kPlace>
    __m512i at(__m512i bytes) const {
        return bytes;
    }
};

void dot8(const uint8_t* codes, size_t units, const int8_t* queries, size_t width, int32_t* sums) {
    products_of<Bytes, 1>(codes, units, Bytes(), queries, width, sums);
}

// ---------------------------------------------------------------------------------------------------------------------
// Rows
// ---------------------------------------------------------------------------------------------------------------------

constexpr size_t kVector = 64;     // bytes
constexpr size_t kRows = 4;        // scored together, so that they share the query and the sums across registers
constexpr size_t kRowsAhead = 16;  // prefetched ahead in a list

void prefetch(const uint8_t* row, size_t bytes) {
    _mm_prefetch(reinterpret_cast<const char*>(row + bytes - 1), _MM_HINT_T0);
    for (size_t at = 0; at < bytes; at += kVector) _mm_prefetch(reinterpret_cast<const char*>(row + at), _MM_HINT_T0);
}

// The sums of 16 lanes of four registers.
__m128i sums_of(const __m512i* x) {
    const __m512i low = _mm512_add_epi32(_mm512_unpacklo_epi32(x[0], x[1]), _mm512_unpackhi_epi32(x[0], x[1]));
    const __m512i high = _mm512_add_epi32(_mm512_unpacklo_epi32(x[2], x[3]), _mm512_unpackhi_epi32(x[2], x[3]));
    const __m512i four = _mm512_add_epi32(_mm512_unpacklo_epi64(low, high), _mm512_unpackhi_epi64(low, high));
    const __m256i two = _mm256_add_epi32(_mm512_castsi512_si256(four), _mm512_extracti64x4_epi64(four, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(two), _mm256_extracti128_si256(two, 1));
}

template <size_t kBits>
void row_products(const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t bytes, const int8_t* query,
                  int32_t* out) {
    const __m512i mask = _mm512_set1_epi8(static_cast<char>((1u << kBits) - 1));
    for (size_t i = 0; i < n; i += kRows) {
        const uint8_t* row[kRows];
        __m512i sums[kRows];
        for (size_t r = 0; r < kRows; ++r) {
            const size_t at = i + r < n ? i + r : n - 1;
            row[r] = data + (rows ? rows[at] : at) * stride;
            if (rows) prefetch(data + rows[at + kRowsAhead < n ? at + kRowsAhead : n - 1] * stride, bytes);
            sums[r] = _mm512_setzero_si512();
        }
        for (size_t at = 0; at < bytes; at += kVector) {
            const __mmask64 present = bytes - at < kVector ? (__mmask64{1} << (bytes - at)) - 1 : ~__mmask64{0};
            __m512i x[kRows];
            for (size_t r = 0; r < kRows; ++r) x[r] = _mm512_maskz_loadu_epi8(present, row[r] + at);
            for (size_t place = 0; place < 8 / kBits; ++place) {
                const __m512i values = _mm512_maskz_loadu_epi8(present, query + place * bytes + at);
                for (size_t r = 0; r < kRows; ++r) {
                    const __m512i codes = kBits == 8 ? x[r] : _mm512_and_si512(x[r], mask);
                    sums[r] = _mm512_dpbusd_epi32(sums[r], codes, values);
                    if (kBits < 8) x[r] = _mm512_srli_epi16(x[r], kBits);
                }
            }
        }
        const size_t left = n - i;
        const auto stored = static_cast<__mmask8>((1u << (left < kRows ? left : kRows)) - 1);
        _mm_mask_storeu_epi32(out + i, stored, sums_of(sums));
    }
}

void row_dot(const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t bytes, size_t b,
             const int8_t* query, int32_t* sums) {
    const auto run = b == 1 ? row_products<1> : b == 2 ? row_products<2> : b == 4 ? row_products<4> : row_products<8>;
    run(data, stride, rows, n, bytes, query, sums);
}

}  // namespace

void fill_codes_avx512vnni(KernelTable* table) {
    table->codes.dot2 = dot<2, Levels<2>>;
    table->codes.dot4 = dot<4, Levels<4>>;
    table->codes.dot8 = dot8;
    table->codes.row_dot = row_dot;
}

}  // namespace nearfield::kernels
