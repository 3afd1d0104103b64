// The one boundary that every search crosses: how vectors are stored and how a query scores what is stored.
//
// Inside the core a score is a distance, smaller is better: -<q, x> for ip, -cos(q, x) for cosine, and the squared
// Euclidean distance for l2. The sign and the square root are restored once, at the API (see api_score).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

#include "kernels/kernel_table.h"

namespace nearfield {

enum class Metric { cosine, ip, l2 };

// A caller's mistake; the message names the argument, the value and what was expected.
struct InvalidInput : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

// A vector that the codec cannot hold. `row` counts within the call.
struct UnencodableVector : InvalidInput {
    UnencodableVector(size_t at, const std::string& why) : InvalidInput(why), row(at) {}
    size_t row;
};

Metric parse_metric(std::string_view name);
std::string_view metric_name(Metric metric);

// The score that the user sees for a distance of the core.
float api_score(Metric metric, double distance);
// The distance of the core at which a user's score lies, for range search.
double core_distance(Metric metric, double score);

// Fixed-stride codes addressed by row number.
struct Rows {
    const std::byte* data;
    size_t stride;
};

// n packed codes with their factors around one centre; `center` is the distance from the query to that centre, for
// codecs that code residuals (0 for those of flat arrays).
struct Block {
    const std::byte* data;
    size_t n;
    float center = 0;
};

// A code of a block that may belong to the answer: its true distance lies in [low, high].
struct Survivor {
    uint32_t query;
    uint32_t at;
    float low, high;
};

// Takes the survivors of a scan. A code whose `low` exceeds `bounds[query]` may be dropped by the scan; `take` may
// lower the bounds.
class SurvivorSink {
  public:
    virtual ~SurvivorSink() = default;
    virtual void take(std::span<const Survivor> survivors) noexcept = 0;
    const float* bounds = nullptr;
};

// Queries bound to packed codes: the part of a codec that a scan needs.
class Scanner {
  public:
    virtual ~Scanner() = default;
    virtual void scan(Block block, SurvivorSink& sink) const noexcept = 0;
};

// One codec bound to a batch of queries; built once per search and shared by its threads.
class Query : public Scanner {
  public:
    // Estimated distances from query 0 to the listed rows.
    virtual void score_rows(Rows rows, const uint32_t* list, size_t n, float* out) const noexcept = 0;
    // Estimated distances (queries, block.n).
    virtual void score_block(Block block, float* out) const noexcept = 0;
    // Canonical distances from one query to the listed rows, computed in float64 on the decoded vectors. Results and
    // ties are decided by these alone, so they do not depend on how the rows were found.
    virtual void settle(size_t query, Rows rows, const uint32_t* list, size_t n, double* out) const noexcept = 0;
};

class Codec {
  public:
    virtual ~Codec() = default;
    virtual std::string_view name() const = 0;
    virtual size_t row_bytes() const = 0;
    virtual size_t block_bytes(size_t n) const = 0;
    // Learns the codec's parameters; codecs that have none ignore it.
    virtual void train(const float* vectors, size_t n) = 0;
    // Vectors (n, dim) to rows; throws UnencodableVector.
    virtual void encode(const float* vectors, size_t n, std::byte* rows) const = 0;
    virtual void decode(Rows rows, const uint32_t* list, size_t n, float* out) const = 0;
    virtual void pack(Rows rows, size_t n, std::byte* block) const = 0;
    // Queries (n, dim), copied.
    virtual std::unique_ptr<Query> prepare(const float* queries, size_t n) const = 0;
};

// The codec of a short name: "f32", "f16", "bf16", "int8" or "uint8".
std::unique_ptr<Codec> make_codec(std::string_view name, size_t dim, Metric metric);

}  // namespace nearfield
