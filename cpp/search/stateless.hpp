// The functions on arrays that need no index: scores, the k best of given scores. (k nearest neighbours: Flat::over.)
#pragma once

#include <utility>
#include <vector>

#include "codecs/codec.hpp"
#include "search/thread_pool.hpp"

namespace nearfield {

// Scores (queries.n, vectors.n) as the user sees them, in float32 arithmetic; the rows of `vectors` lie side by side.
std::vector<float> scores(const Vectors& queries, const Vectors& vectors, Metric metric, const Run& run);

// Places and values of the k best of n scores, best first, ties by lower place; NaN is never among them.
std::vector<std::pair<size_t, float>> top_k(const float* scores, size_t n, size_t k, bool largest);

}  // namespace nearfield
