#include "search/stateless.hpp"

#include <algorithm>
#include <cmath>

#include "codecs/dense.hpp"

namespace nearfield {

std::vector<float> scores(const Vectors& queries, const Vectors& vectors, Metric metric, const Run& run) {
    const std::vector<float> own = checked_f32(queries, vectors.dim, "queries");
    // Vectors are scored as float32, whatever they are stored as: a query rounded to 8 bits would do for a bound, not
    // here.
    const DenseCodec codec(kernels::kF32, vectors.dim, metric);
    std::vector<float> out(queries.n * vectors.n);
    // A part of the work is a block of rows that fits the second-level cache against a run of queries.
    constexpr size_t kBlockBytes = size_t{128} << 10, kRunQueries = 512;
    const size_t block = std::max<size_t>(1, kBlockBytes / codec.row_bytes());
    for (size_t start = 0; start < queries.n; start += kRunQueries) {
        const size_t width = std::min(kRunQueries, queries.n - start);
        const auto query = codec.prepare(own.data() + start * queries.dim, width);
        parallel_for((vectors.n + block - 1) / block, run, [&](size_t item) {
            const size_t first = item * block, n = std::min(block, vectors.n - first);
            std::vector<float> rows(n * vectors.dim), distances(width * n);
            vectors.to_f32(first, n, rows.data());
            query->score_block({reinterpret_cast<const std::byte*>(rows.data()), n}, distances.data());
            for (size_t q = 0; q < width; ++q) {
                const float* from = distances.data() + q * n;
                float* to = out.data() + (start + q) * vectors.n + first;
                if (metric == Metric::l2) {
                    for (size_t i = 0; i < n; ++i) to[i] = std::sqrt(std::max(from[i], 0.0f));
                } else if (metric == Metric::ip) {
                    for (size_t i = 0; i < n; ++i) to[i] = 0.0f - from[i];
                } else {  // NaN: a vector of zeros
                    for (size_t i = 0; i < n; ++i)
                        to[i] = from[i] == from[i] ? std::clamp(0.0f - from[i], -1.0f, 1.0f) : 0.0f;
                }
            }
        });
    }
    return out;
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
