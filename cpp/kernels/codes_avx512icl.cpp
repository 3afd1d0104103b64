// Code kernels with VBMI: vpermb looks bytes up in a table of 64, and vpermi2b in one of 128.
#include <immintrin.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

#include "kernels/codes_avx512vnni.inc"

// The levels of the codes at place kPlace of each byte. vpermb goes by the lowest six bits; the table repeats itself in
// all that are above a code, so that these need not be cleared.
template <size_t kBits>
class Levels {
  public:
    explicit Levels(const uint8_t* levels)
        : table_(_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)))) {}
    template <size_t kPlace>
    __m512i at(__m512i bytes) const {
        return _mm512_permutexvar_epi8(_mm512_srli_epi16(bytes, kBits * kPlace), table_);
    }

  private:
    __m512i table_;
};

// Sums of table entries of codes of four bits. One register holds the tables of the four bytes of a unit, one after the
// other.
template <size_t kWidth>
void entries(const uint8_t* codes, size_t units, const uint8_t* tables, int32_t* out) {
    constexpr size_t kTables = 64;  // bytes of the tables of four codes
    constexpr bool kSplit = kWidth <= 3;
    const __m512i nibble = _mm512_set1_epi8(15), numbers = _mm512_set1_epi32(0x30201000);
    const auto places = [&](__m512i x) {  // (x & nibble) | numbers
        return _mm512_ternarylogic_epi32(x, nibble, numbers, 0xea);
    };
    const auto look_up = [](__m512i at, __m512i table) { return _mm512_permutexvar_epi8(at, table); };
    Sums<kWidth> sums;
    Sums<kSplit ? kWidth : 0> odd;
    for (size_t u = 0; u < units; ++u) {
        __m512i x0 = _mm512_loadu_si512(codes + u * 128), x1 = _mm512_loadu_si512(codes + u * 128 + 64);
        keep(x0);
        keep(x1);
        const uint8_t* at = tables + u * kWidth * 2 * kTables;
        sums.add_entries(places(x0), places(x1), at, look_up);
        const __m512i high0 = places(_mm512_srli_epi16(x0, 4)), high1 = places(_mm512_srli_epi16(x1, 4));
        if constexpr (kSplit) {
            odd.add_entries(high0, high1, at + kTables, look_up);
        } else {
            sums.add_entries(high0, high1, at + kTables, look_up);
        }
    }
    if constexpr (kSplit) sums.add(odd);
    sums.store(out);
}

void sum4(const uint8_t* codes, size_t units, const uint8_t* tables, size_t width, int32_t* sums) {
    using Entries = void (*)(const uint8_t*, size_t, const uint8_t*, int32_t*);
    static constexpr Entries kEntries[] = {entries<1>, entries<2>, entries<3>, entries<4>,  entries<5>,  entries<6>,
                                           entries<7>, entries<8>, entries<9>, entries<10>, entries<11>, entries<12>};
    static_assert(sizeof(kEntries) / sizeof(Entries) == kTile);
    kEntries[width - 1](codes, units, tables, sums);
}

// Sums of table entries of codes of eight bits. Loading the tables, which nothing but a group shares, is what takes the
// time, whatever the width of the tile: one query passes over the units after the other.
//
// The entries of two neighbouring bytes of each unit, of all 32 vectors: each of the two tables is looked up in two
// halves of 128 entries by all codes, and then comes the choice.
__m512i pair_of_entries(__m512i codes, const uint8_t* tables) {
    const auto look_up = [&](const uint8_t* half) {
        return _mm512_permutex2var_epi8(_mm512_loadu_si512(half), codes, _mm512_loadu_si512(half + 64));
    };
    constexpr __mmask64 kOdd = 0xaaaaaaaaaaaaaaaa;
    const __mmask64 upper = _mm512_movepi8_mask(codes);
    const __m512i even = _mm512_mask_blend_epi8(upper, look_up(tables), look_up(tables + 128));
    const __m512i odd = _mm512_mask_blend_epi8(upper, look_up(tables + 256), look_up(tables + 384));
    return _mm512_mask_blend_epi8(kOdd, even, odd);
}

void sum8(const uint8_t* codes, size_t units, const uint8_t* tables, size_t width, int32_t* sums) {
    constexpr size_t kTables = 4 * 256;
    constexpr size_t kBlock = 64;  // units whose entries fit a sum of 16 bits: 64 * 4 * 255 < 2^16
    alignas(64) static constexpr uint16_t kEven[32] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                       32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
    const __m512i even = _mm512_load_si512(kEven), odd = _mm512_add_epi16(even, _mm512_set1_epi16(1));
    const __m512i ones = _mm512_set1_epi8(1);
    for (size_t q = 0; q < width; ++q) {
        __m512i sum0 = _mm512_setzero_si512(), sum1 = sum0;
        for (size_t start = 0; start < units; start += kBlock) {
            const size_t end = units - start < kBlock ? units : start + kBlock;
            __m512i low = _mm512_setzero_si512(), high = low;
            for (size_t u = start; u < end; ++u) {
                __m512i x0 = _mm512_loadu_si512(codes + u * 128), x1 = _mm512_loadu_si512(codes + u * 128 + 64);
                keep(x0);
                keep(x1);
                const uint8_t* at = tables + (u * width + q) * kTables;
                const __m512i first = pair_of_entries(_mm512_permutex2var_epi16(x0, even, x1), at);
                const __m512i second = pair_of_entries(_mm512_permutex2var_epi16(x0, odd, x1), at + kTables / 2);
                low = _mm512_add_epi16(low, _mm512_maddubs_epi16(first, ones));
                high = _mm512_add_epi16(high, _mm512_maddubs_epi16(second, ones));
            }
            const __m512i words = _mm512_add_epi16(low, high);
            sum0 = _mm512_add_epi32(sum0, _mm512_cvtepu16_epi32(_mm512_castsi512_si256(words)));
            sum1 = _mm512_add_epi32(sum1, _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(words, 1)));
        }
        _mm512_storeu_si512(sums + q * kGroup, sum0);
        _mm512_storeu_si512(sums + q * kGroup + 16, sum1);
    }
}

}  // namespace

void fill_codes_avx512icl(KernelTable* table) {
    table->codes.dot2 = dot<2, Levels<2>>;
    table->codes.dot4 = dot<4, Levels<4>>;
    table->codes.sum4 = sum4;
    table->codes.sum8 = sum8;
}

}  // namespace nearfield::kernels
