#include "search/stateless.hpp"

#include <algorithm>
#include <cmath>

#include "codecs/bits.hpp"
#include "codecs/dense.hpp"
#include "kernels/dispatch.hpp"

namespace nearfield {

namespace {

// Whether float32 sums of squares of such a vector are to be trusted.
std::vector<bool> ordinary_lengths(const float* vectors, size_t n, size_t dim) {
    const auto settle = kernels::active().dense[kernels::kF32].settle;
    std::vector<bool> out(n);
    for (size_t i = 0; i < n; ++i) {
        const float* vector = vectors + i * dim;
        double sums[3];
        settle(vector, reinterpret_cast<const uint8_t*>(vector), 1.0f, dim, sums);
        out[i] = sums[1] == 0 || (sums[1] > 1e-30 && sums[1] < 1e36);
    }
    return out;
}

std::vector<float> number_scores(const Vectors& queries, const Vectors& vectors, Metric metric, const Run& run) {
    const size_t dim = vectors.dim;
    const CheckedVectors checked = CheckedVectors::floats(queries, dim, "queries");
    std::vector<float> own(checked.view().floats(), checked.view().floats() + queries.n * dim);
    const std::vector<bool> ordinary_query = ordinary_lengths(own.data(), queries.n, dim);
    // Queries of zeros fill the batch up, so that any number of queries goes through the same kernels.
    own.resize((queries.n + kTileFrom) * dim);
    // Vectors are scored as float32, whatever they are stored as: a query rounded to 8 bits would do for a bound, not
    // here.
    const DenseCodec codec(kernels::kF32, dim, metric);
    std::vector<float> out(queries.n * vectors.n);
    // A part of the work is a block of rows that fits the second-level cache against a run of queries.
    constexpr size_t kBlockBytes = size_t{128} << 10, kRunQueries = 512;
    const size_t block = std::max<size_t>(1, kBlockBytes / codec.row_bytes());
    for (size_t start = 0; start < queries.n; start += kRunQueries) {
        const size_t width = std::min(kRunQueries, queries.n - start), bound = std::max(width, kTileFrom);
        const auto query = codec.prepare({reinterpret_cast<const std::byte*>(own.data() + start * dim), kernels::kF32,
                                          bound, dim, dim * sizeof(float)});
        parallel_for((vectors.n + block - 1) / block, run, [&](size_t item) {
            const size_t first = item * block, n = std::min(block, vectors.n - first);
            std::vector<float> rows(n * dim), distances(bound * n);
            vectors.to_f32(first, n, rows.data());
            const std::vector<bool> ordinary = ordinary_lengths(rows.data(), n, dim);
            const auto* data = reinterpret_cast<const std::byte*>(rows.data());
            query->score_block({data, n}, distances.data());
            for (size_t q = 0; q < width; ++q) {
                const float* from = distances.data() + q * n;
                float* to = out.data() + (start + q) * vectors.n + first;
                for (size_t i = 0; i < n; ++i) {
                    // A squared distance may vanish in float32 though the lengths are ordinary.
                    const bool trusted = ordinary[i] && ordinary_query[start + q] &&
                                         (metric != Metric::l2 || from[i] > 1e-30f) && std::isfinite(from[i]);
                    double distance = from[i];
                    if (!trusted) query->settle(q, {data + i * dim * sizeof(float), 0}, nullptr, 1, &distance);
                    if (metric == Metric::cosine) distance = std::clamp(distance, -1.0, 1.0);
                    to[i] = api_score(metric, distance);
                }
            }
        });
    }
    return out;
}

std::vector<float> bit_scores(const Vectors& queries, const Vectors& vectors, Metric metric, const Run& run) {
    const BitsCodec codec(vectors.dim, metric);
    const CheckedVectors checked = codec.check(queries, "queries", 0);
    const auto query = codec.prepare(checked.view());
    std::vector<float> out(queries.n * vectors.n);
    constexpr size_t kBlockBytes = size_t{128} << 10;
    const size_t block = std::max<size_t>(1, kBlockBytes / codec.row_bytes());
    parallel_for((vectors.n + block - 1) / block, run, [&](size_t item) {
        const size_t first = item * block, n = std::min(block, vectors.n - first);
        std::vector<float> distances(queries.n * n);
        query->score_block({vectors.data + first * vectors.stride, n}, distances.data());
        for (size_t q = 0; q < queries.n; ++q) {
            for (size_t i = 0; i < n; ++i) {
                out[q * vectors.n + first + i] = api_score(metric, distances[q * n + i]);
            }
        }
    });
    return out;
}

}  // namespace

std::vector<float> scores(const Vectors& queries, const Vectors& vectors, Metric metric, const Run& run) {
    return is_bit_metric(metric) ? bit_scores(queries, vectors, metric, run)
                                 : number_scores(queries, vectors, metric, run);
}

std::vector<std::pair<size_t, float>> top_k(const float* scores, size_t n, size_t k, bool largest) {
    using Hit = std::pair<size_t, float>;
    const auto better = [largest](const Hit& a, const Hit& b) {
        if (a.second != b.second) return largest ? a.second > b.second : a.second < b.second;
        return a.first < b.first;
    };
    std::vector<Hit> hits;
    if (k == 0) return hits;
    const size_t capacity = 2 * std::min(k, n) + 64;
    hits.reserve(capacity);
    bool full = false;
    Hit worst{};
    const auto shrink = [&] {
        const size_t kept = std::min(k, hits.size());
        std::nth_element(hits.begin(), hits.begin() + static_cast<std::ptrdiff_t>(kept - 1), hits.end(), better);
        hits.resize(kept);
        full = kept == k;
        worst = hits.back();
    };
    for (size_t i = 0; i < n; ++i) {
        const Hit hit{i, scores[i]};
        if (std::isnan(hit.second) || (full && !better(hit, worst))) continue;
        hits.push_back(hit);
        if (hits.size() == capacity) shrink();
    }
    if (!hits.empty()) shrink();
    std::sort(hits.begin(), hits.end(), better);
    return hits;
}

}  // namespace nearfield
