// The table of SIMD kernels: one struct of function pointers, one instance per instruction-set level.
//
// This is the restricted header: the only project header that a file compiled with special instruction-set flags
// includes. It holds declarations and constants only - no inline function and no template - because two copies of one
// inline function compiled with different flags would be merged by the linker, and the wrong one could survive.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace nearfield::kernels {

// Element types of stored rows, in the order of KernelTable::dense; and bits, eight to a byte, the first one in the
// highest place (the order of numpy.packbits), which have kernels of their own.
enum ElementType : int { kF32 = 0, kF16 = 1, kBF16 = 2, kI8 = 3, kU8 = 4, kElementTypes = 5, kBits = 5 };

// Documents in one interleaved group, and the largest number of queries in one tile: 24 running sums of two AVX-512
// registers per query, or four parts of three queries with AVX2.
inline constexpr size_t kGroup = 32;
inline constexpr size_t kTile = 12;

// Kernels on rows in their natural order. `data` is the first row, `stride` the distance between rows in bytes (rows
// need no alignment); `rows` lists row numbers, or is null for rows 0 .. n-1.
struct DenseKernels {
    // Float elements: dot[i] = <query, row>, and squared[i] = <row, row> unless `squared` is null. All sums are
    // float32.
    void (*dot)(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
                float* dot, float* squared);
    // Float elements: out[i] = sum of (query - row)^2 in float32.
    void (*l2)(const float* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t dim,
               float* out);
    // Integer elements: the same product with an 8-bit query, exact; `squared` may be null.
    void (*integer_dot)(const int8_t* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n,
                        size_t dim, int32_t* dot, uint32_t* squared);
    // The canonical score of one row x = float(scale * element), summed in float64:
    // out = { <query, x>, <x, x>, sum of (query - x)^2 }.
    void (*settle)(const float* query, const uint8_t* row, float scale, size_t dim, double* out);
    // Conversion to and from float32, round to nearest even (float types only for encode).
    void (*decode)(const uint8_t* row, size_t dim, float* out);
    void (*encode)(const float* vector, size_t dim, uint8_t* row);
};

// A tile: up to kTile queries scored against one group of kGroup documents whose codes are interleaved. For query q
// and document x the kernel computes a lower bound of a distance,
//     low = add[x] - scale[q] * (mul[x] * dot(q, x)) - slack[q] * (err[x] + norm_ratio * norm[x]),
// and the document survives unless low > bound[q] (so that a NaN survives, and is settled exactly by the caller).
struct Tile {
    size_t width;         // queries, 1 .. kTile
    const void* queries;  // float32: [dim][width]; int8: [ceil(dim / 4)][width][4], padded with zeros
    const int32_t* bias;  // int8 tiles: subtracted from the dot product (128 * sum of the query: codes are +128)
    const float* scale;   // [width]
    const float* slack;   // [width]
    const float* bound;   // [width]
    float norm_ratio;
};

// Factors of a group, in this order: mul, add, err, norm, each kGroup floats.
inline constexpr size_t kGroupFactors = 4 * kGroup;

struct TileKernels {
    // Codes float32 [dim][kGroup]. Returns a mask of the queries with survivors; for these survivors[q] is a bit per
    // document and low[q * kGroup + i] the bounds of all documents of the group.
    uint32_t (*f32)(const float* codes, const float* factors, size_t dim, const Tile* tile, uint32_t* survivors,
                    float* low);
    // Codes uint8 [ceil(dim / 4)][kGroup][4], dimensions padded with 128; queries int8 within +-query_limit.
    uint32_t (*u8)(const uint8_t* codes, const float* factors, size_t dim, const Tile* tile, uint32_t* survivors,
                   float* low);
    // Largest magnitude of a query element that `u8` accepts: 127, or 63 where pairs of products are summed in 16 bits.
    int query_limit;
};

// Kernels on packed bits. How bits are ordered within a byte does not matter to them.
struct BitKernels {
    // Rows in their natural order, as for DenseKernels; nothing before or behind the `bytes` of a row is read. out[i]
    // is the number of ones in (query ^ row), or in (query & row).
    void (*xor_counts)(const uint8_t* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n,
                       size_t bytes, uint32_t* out);
    void (*and_counts)(const uint8_t* query, const uint8_t* data, size_t stride, const uint32_t* rows, size_t n,
                       size_t bytes, uint32_t* out);
    // Writes the places of the counts that are at most `most` to `at`, in order, and returns how many they are. `at`
    // has room for n + kGroup numbers.
    size_t (*select)(const uint32_t* counts, size_t n, int32_t most, uint32_t* at);
    // Rows 0 .. n-1 (n <= kGroup) as one group in which each lane is a vector: out[word * kGroup + i] is the word of
    // row i; the last word of a row is filled up with zero bytes, and missing rows are zeros. words = ceil(bytes / 8).
    void (*interleave)(const uint8_t* data, size_t stride, size_t n, size_t bytes, uint64_t* out);
    // Hamming distances of a tile of queries to a group: counts[q * kGroup + i]; these are set for queries with
    // survivors only. A row survives if its distance is at most most[q] (-1: none does); survivors[q] is a bit per row,
    // the result a mask of the queries that have any.
    uint32_t (*hamming_tile)(const uint64_t* codes, size_t words, const uint64_t* queries, size_t width,
                             const int32_t* most, uint32_t* survivors, uint32_t* counts);
    // One query against a group whose codes are planes of bits [doc_planes][words][kGroup]: see BitPlanes. `factors`
    // are mul[kGroup] and add[kGroup]. Sets low of all rows, and returns the mask of the survivors: all but low >
    // bound.
    uint32_t (*planes)(const uint64_t* codes, const float* factors, const struct BitPlanes* query, float* low);
};

// The largest number of queries in a Hamming tile, and of planes of one query. hamming_tile takes its queries as
// [words][width].
inline constexpr size_t kBitTile = 4, kBitPlanes = 8;

// low[x] = mul[x] * (offset + sum over t, p of weight[t * query_planes + p] * count(t, p)) + tilt * add[x], in float32,
// where count(t, p) is the number of ones in (plane p of the query OP plane t of x).
struct BitPlanes {
    size_t words, doc_planes, query_planes;
    const uint64_t* query;  // [words][query_planes]
    const float* weight;    // [doc_planes][query_planes]
    float offset, tilt, bound;
    bool exclusive;  // OP is XOR; otherwise AND
};

// Kernels on groups of kGroup codes that are interleaved in units of four bytes, so that each 32-bit lane belongs to
// one vector: unit u of vector i lies at (u * kGroup + i) * 4. With codes of b bits (1, 2, 4 or 8) a unit holds 32 / b
// of them: byte j holds code (32 / b) * u + 4 * p + j in its bits b * p to b * p + b - 1. Codes beyond the last are
// zeros. Queries are int8 within +-TileKernels::query_limit. All sums are exact.
struct CodeKernels {
    // sums[q * kGroup + i] = sum over the codes of vector i of level[code] * query value, for 1 <= width <= kTile
    // queries. queries: [units][width][32 / b], zeros beyond the last. `levels` holds 16 bytes: the unsigned level of
    // each code, four times over for codes of 2 bits; codes of 8 bits are their own levels.
    void (*dot2)(const uint8_t* codes, size_t units, const uint8_t* levels, const int8_t* queries, size_t width,
                 int32_t* sums);
    void (*dot4)(const uint8_t* codes, size_t units, const uint8_t* levels, const int8_t* queries, size_t width,
                 int32_t* sums);
    void (*dot8)(const uint8_t* codes, size_t units, const int8_t* queries, size_t width, int32_t* sums);
    // sums[q * kGroup + i] = sum over the codes of vector i of table[code]: a table of bytes for each place of a code,
    // [units][width][8][16] for codes of 4 bits, [units][width][4][256] for codes of 8 bits. Wider tiles make sum8 no
    // faster: reading the tables takes the time, most of all where they are not aligned to 64 bytes.
    void (*sum4)(const uint8_t* codes, size_t units, const uint8_t* tables, size_t width, int32_t* sums);
    void (*sum8)(const uint8_t* codes, size_t units, const uint8_t* tables, size_t width, int32_t* sums);
    // Tables for sum4 of what sign bits add up to, with one byte for each number of four of them: code i of a unit u is
    // for the numbers code[(4 * (i / 4) + t) * 4 * units + 4 * u + i % 4], t = 0 .. 3, and entry e of its table is the
    // sum of those numbers whose bit t is set in e, less the lowest of its entries. No entry exceeds a byte. Tables lie
    // `width` * 128 bytes apart from unit to unit.
    void (*sign_tables)(const int8_t* code, size_t units, size_t width, uint8_t* tables);
    // Turns the sums of a tile of queries into distances[q * kGroup + i] (see Estimate); survivors[q] is a bit for each
    // vector, the result a mask of the queries that have any.
    uint32_t (*estimate)(const int32_t* sums, const struct Factors* factors, const struct Estimate* queries,
                         size_t width, uint32_t* survivors, float* distances);
    // Listed rows in natural order (as for DenseKernels), not interleaved: sums[i] = sum of code * query value over the
    // `bytes` (a multiple of 4) of codes of b bits. query: [8 / b][bytes], place p of byte j at p * bytes + j.
    void (*row_dot)(const uint8_t* data, size_t stride, const uint32_t* rows, size_t n, size_t bytes, size_t b,
                    const int8_t* query, int32_t* sums);
    // The nearest of `count` centroids [count][dim] to each of kGroup points, given as [dim][kGroup], and the squared
    // distance to it in float32; the first one of several.
    void (*nearest)(const float* points, const float* centroids, size_t count, size_t dim, uint32_t* index,
                    float* squared);
    // The Walsh-Hadamard transform of n (a power of two) values in place, unnormalised.
    void (*hadamard)(float* values, size_t n);
};

// distance[i] = base + add[i] + mul[i] * (scale * sums[i] + shift) + tilt * off[i], in float32 and the same for the
// same vector wherever it lies; the vector survives unless distance[i] - slack * err[i] > bound. The factors of a group
// are arrays of kGroup floats.
struct Estimate {
    float base, scale, shift, tilt, slack, bound;
};
struct Factors {
    const float *add, *mul, *off, *err;
};

// A tag that no value has.
inline constexpr uint32_t kNoTag = 0xffffffff;

// The smallest of many values.
struct SelectKernels {
    // A bound that at least `least` of n > 0 values do not exceed (1 <= least <= n), and not more than `most` (at least
    // `least`), unless all bounds that do leave more, because values are equal. No value is NaN.
    float (*threshold)(const float* values, size_t n, size_t least, size_t most);
    // Those values that are at most `bound`, in their order, and their tags: those given, of which some may be kNoTag
    // and are left out, or their places. NaN counts, and is kept, as -infinity. Returns how many; there is room for
    // kGroup more than are kept, and they may take the place of those given.
    size_t (*keep)(const float* values, const uint32_t* tags, size_t n, float bound, float* kept, uint32_t* kept_tags);
};

struct KernelTable {
    const char* name;                   // level whose kernels were last added: "scalar", "avx2", ...
    DenseKernels dense[kElementTypes];  // null slots where the type has no such kernel
    TileKernels tile;
    BitKernels bits;
    CodeKernels codes;
    SelectKernels select;
    // code[i] = round(vector[i] / scale) with scale = max|vector| / limit; out = { scale, |vector - scale * code|,
    // |scale * code| }, the two lengths rounded up. A vector of zeros has scale 0.
    void (*quantize)(const float* vector, size_t dim, int limit, int8_t* code, float* out);
};

}  // namespace nearfield::kernels
