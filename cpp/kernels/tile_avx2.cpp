// AVX2 tiles, float32 and 8-bit. Both walk the same bytes: a step is 128 bytes of codes (one dimension of 32 floats, or
// four dimensions of 32 bytes) and four bytes of each query, broadcast. Sixteen registers do not hold the sums of a
// tile, so parts of two or three queries pass over the group one after the other; their sums rest in memory between
// blocks of steps, and the codes of a block stay in the first-level cache for all parts.
#include <immintrin.h>
#include <string.h>

#include "kernels/kernel_table.h"

namespace nearfield::kernels {
namespace {

constexpr size_t kLanes = 8, kStepBytes = 4 * kGroup, kBlock = 64;

struct F32 {
    using Vector = __m256;
    static constexpr size_t part = 3;  // queries: 12 sums, more than the two units times the latency of vfmadd need
    static Vector load(const uint8_t* at) { return _mm256_loadu_ps(reinterpret_cast<const float*>(at)); }
    static void store(uint8_t* at, Vector x) { _mm256_storeu_ps(reinterpret_cast<float*>(at), x); }
    static Vector broadcast(const uint8_t* at) { return _mm256_broadcast_ss(reinterpret_cast<const float*>(at)); }
    static Vector add(Vector sum, Vector codes, Vector query) { return _mm256_fmadd_ps(codes, query, sum); }
    static __m256 dots(Vector sums, const Tile*, size_t) { return sums; }
};

struct U8 {
    using Vector = __m256i;
    static constexpr size_t part = 2;  // queries: 8 sums, for every product needs a register of its own
    static Vector load(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
    static void store(uint8_t* at, Vector x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), x); }
    static Vector broadcast(const uint8_t* at) {
        int32_t four;
        memcpy(&four, at, 4);
        return _mm256_set1_epi32(four);
    }
    // Two products of a code up to 255 and a query element within +-63 are summed in 16 bits without saturation.
    static Vector add(Vector sum, Vector codes, Vector query) {
        const __m256i pairs = _mm256_maddubs_epi16(codes, query);
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    static __m256 dots(Vector sums, const Tile* tile, size_t q) {
        return _mm256_cvtepi32_ps(_mm256_sub_epi32(sums, _mm256_set1_epi32(tile->bias[q])));
    }
};

// The running sums of kQueries queries with all documents of a group. Nested members and not an array, which GCC would
// keep in memory.
template <class T, size_t kQueries>
struct Sums {
    using Vector = typename T::Vector;
    Sums<T, kQueries - 1> before;
    Vector a, b, c, d;

    static constexpr size_t offset = (kQueries - 1) * kStepBytes;
    explicit Sums(const uint8_t* sums)
        : before(sums),
          a(T::load(sums + offset)),
          b(T::load(sums + offset + 32)),
          c(T::load(sums + offset + 64)),
          d(T::load(sums + offset + 96)) {}
    void add(Vector xa, Vector xb, Vector xc, Vector xd, const uint8_t* queries) {
        before.add(xa, xb, xc, xd, queries);
        const Vector query = T::broadcast(queries + (kQueries - 1) * 4);
        a = T::add(a, xa, query);
        b = T::add(b, xb, query);
        c = T::add(c, xc, query);
        d = T::add(d, xd, query);
    }
    void store(uint8_t* sums) const {
        before.store(sums);
        T::store(sums + offset, a);
        T::store(sums + offset + 32, b);
        T::store(sums + offset + 64, c);
        T::store(sums + offset + 96, d);
    }
};
template <class T>
struct Sums<T, 0> {
    using Vector = typename T::Vector;
    explicit Sums(const uint8_t*) {}
    void add(Vector, Vector, Vector, Vector, const uint8_t*) {}
    void store(uint8_t*) const {}
};

template <class T, size_t kQueries>
void products(const uint8_t* codes, const uint8_t* queries, size_t width, size_t steps, uint8_t* out) {
    Sums<T, kQueries> sums(out);
    for (size_t step = 0; step < steps; ++step) {
        const uint8_t* at = codes + step * kStepBytes;
        sums.add(T::load(at), T::load(at + 32), T::load(at + 64), T::load(at + 96), queries + step * width * 4);
    }
    sums.store(out);
}

// Dot products of all queries of the tile with the group: 32-bit numbers [width][kGroup].
template <class T>
void all_products(const uint8_t* codes, const Tile* tile, size_t steps, uint8_t* out) {
    using Products = void (*)(const uint8_t*, const uint8_t*, size_t, size_t, uint8_t*);
    static constexpr Products kProducts[] = {products<T, 1>, products<T, 2>, products<T, 3>};
    const auto* queries = static_cast<const uint8_t*>(tile->queries);
    const size_t width = tile->width;
    memset(out, 0, width * kStepBytes);
    for (size_t step = 0; step < steps; step += kBlock) {
        const size_t block = steps - step < kBlock ? steps - step : kBlock;
        for (size_t q = 0; q < width; q += T::part) {
            const size_t part = width - q < T::part ? width - q : T::part;
            kProducts[part - 1](codes + step * kStepBytes, queries + (step * width + q) * 4, width, block,
                                out + q * kStepBytes);
        }
    }
}

template <class T>
uint32_t run(const uint8_t* codes, const float* factors, size_t steps, const Tile* tile, uint32_t* survivors,
             float* low) {
    constexpr size_t kVectors = kGroup / kLanes;
    alignas(32) uint8_t sums[kTile * kStepBytes];
    all_products<T>(codes, tile, steps, sums);
    __m256 slack[kVectors];
    for (size_t v = 0; v < kVectors; ++v) {
        const float* err = factors + 2 * kGroup + v * kLanes;
        slack[v] =
            _mm256_fmadd_ps(_mm256_set1_ps(tile->norm_ratio), _mm256_loadu_ps(err + kGroup), _mm256_loadu_ps(err));
    }
    uint32_t hit = 0;
    for (size_t q = 0; q < tile->width; ++q) {
        const __m256 scale = _mm256_set1_ps(tile->scale[q]), width = _mm256_set1_ps(tile->slack[q]);
        const __m256 bound = _mm256_set1_ps(tile->bound[q]);
        __m256 lows[kVectors];
        uint32_t mask = 0;
        for (size_t v = 0; v < kVectors; ++v) {
            const float* mul = factors + v * kLanes;
            const __m256 dots = T::dots(T::load(sums + q * kStepBytes + v * 32), tile, q);
            const __m256 product = _mm256_mul_ps(_mm256_loadu_ps(mul), dots);
            const __m256 estimate = _mm256_fnmadd_ps(scale, product, _mm256_loadu_ps(mul + kGroup));
            lows[v] = _mm256_fnmadd_ps(width, slack[v], estimate);
            const int kept = _mm256_movemask_ps(_mm256_cmp_ps(lows[v], bound, _CMP_NGT_UQ));
            mask |= static_cast<uint32_t>(kept) << (kLanes * v);
        }
        if (mask == 0) continue;
        hit |= 1u << q;
        survivors[q] = mask;
        for (size_t v = 0; v < kVectors; ++v) _mm256_storeu_ps(low + q * kGroup + v * kLanes, lows[v]);
    }
    return hit;
}

uint32_t tile_f32(const float* codes, const float* factors, size_t dim, const Tile* tile, uint32_t* survivors,
                  float* low) {
    return run<F32>(reinterpret_cast<const uint8_t*>(codes), factors, dim, tile, survivors, low);
}

uint32_t tile_u8(const uint8_t* codes, const float* factors, size_t dim, const Tile* tile, uint32_t* survivors,
                 float* low) {
    return run<U8>(codes, factors, (dim + 3) / 4, tile, survivors, low);
}

}  // namespace

void fill_tile_avx2(KernelTable* table) { table->tile = {tile_f32, tile_u8, 63}; }

}  // namespace nearfield::kernels
