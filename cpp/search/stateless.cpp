#include "search/stateless.hpp"

#include <algorithm>
#include <cmath>

#include "codecs/dense.hpp"

namespace nearfield {

std::vector<float> scores(const Vectors& queries, const Vectors& vectors, Metric metric, const Run& run) {
    check_dim(queries.dim, vectors.dim, "queries");
    std::vector<float> own(queries.n * queries.dim);
    queries.to_f32(0, queries.n, own.data());
    check_finite(own.data(), queries.n, queries.dim, "queries", 0);
    const DenseCodec codec(vectors.type, vectors.dim, metric);
    std::vector<float> out(queries.n * vectors.n);
    // One query at a time against rows that fit the second-level cache would read all rows once per query; a part is
    // one such block of rows against all queries.
    constexpr size_t kBlockBytes = size_t{256} << 10;
    const size_t block = std::max<size_t>(1, kBlockBytes / codec.row_bytes());
    std::vector<std::unique_ptr<Query>> bound;
    for (size_t q = 0; q < queries.n; ++q) bound.push_back(codec.prepare(own.data() + q * queries.dim, 1));
    parallel_for((vectors.n + block - 1) / block, run, [&](size_t item) {
        const size_t first = item * block, n = std::min(block, vectors.n - first);
        for (size_t q = 0; q < queries.n; ++q) {
            float* row = out.data() + q * vectors.n + first;
            bound[q]->score_block({vectors.data + first * vectors.stride, n}, row);
            for (size_t i = 0; i < n; ++i) {
                row[i] = api_score(metric, row[i]);
                if (metric == Metric::cosine) row[i] = std::isnan(row[i]) ? 0.0f : std::clamp(row[i], -1.0f, 1.0f);
            }
        }
    });
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
