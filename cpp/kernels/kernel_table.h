// The table of SIMD kernels: one struct of function pointers, one instance per instruction-set level.
//
// This is the restricted header: the only project header that a file compiled with special instruction-set flags
// includes. It holds declarations and constants only - no inline function and no template - because two copies of one
// inline function compiled with different flags would be merged by the linker, and the wrong one could survive.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace nearfield::kernels {

// Element types of stored rows, in the order of KernelTable::dense.
enum ElementType : int { kF32 = 0, kF16 = 1, kBF16 = 2, kI8 = 3, kU8 = 4, kElementTypes = 5 };

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

struct KernelTable {
    const char* name;                   // level whose kernels were last added: "scalar", "avx2", ...
    DenseKernels dense[kElementTypes];  // null slots where the type has no such kernel
    TileKernels tile;
    // code[i] = round(vector[i] / scale) with scale = max|vector| / limit; out = { scale, |vector - scale * code|,
    // |scale * code| }, the two lengths rounded up. A vector of zeros has scale 0.
    void (*quantize)(const float* vector, size_t dim, int limit, int8_t* code, float* out);
};

}  // namespace nearfield::kernels
