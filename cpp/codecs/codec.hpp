// The one boundary that every search crosses: how vectors are stored and how a query scores what is stored.
//
// Inside the core a score is a distance, smaller is better: -<q, x> for ip, -cos(q, x) for cosine, the squared
// Euclidean distance for l2, the number of different bits for hamming, and -|q & x| / |q | x| for jaccard. The sign and
// the square root are restored once, at the API (see api_score).
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "codecs/vectors.hpp"
#include "kernels/kernel_table.h"

namespace nearfield {

enum class Metric { cosine, ip, l2, hamming, jaccard };

// Whether the metric compares packed bits, not numbers.
inline bool is_bit_metric(Metric metric) { return metric == Metric::hamming || metric == Metric::jaccard; }

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
// Whether the user's scores are similarities, higher is better.
bool is_similarity(Metric metric);

// Fixed-stride codes addressed by row number.
struct Rows {
    const std::byte* data;
    size_t stride;
};

// n packed codes with their factors. Codes of residuals lie around one centre: `center` is the distance from the (only)
// query to it, and `corrections` are added to the distances of the rows; float32 may lose `rounding` of these sums.
struct Block {
    const std::byte* data;
    size_t n;
    float center = 0;
    const float* corrections = nullptr;
    float rounding = 0;
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

// Takes estimated distances from a query to rows from `at` on, at most kGroup of them side by side, of which some are
// at most bounds[query] or not known (NaN). `take` may lower the bounds.
class EstimateSink {
  public:
    virtual ~EstimateSink() = default;
    virtual void take(size_t query, size_t at, const float* distances, size_t n) noexcept = 0;
    const float* bounds = nullptr;
};

// Queries bound to packed codes: the part of a codec that a scan needs.
class Scanner {
  public:
    virtual ~Scanner() = default;
    virtual void scan(Block block, SurvivorSink& sink) const noexcept = 0;
};

// Distances that are offset + scale * count, for whole counts from 0 to `largest`.
struct Counts {
    size_t largest;
    double scale, offset;
};

// One codec bound to a batch of queries; built once per search and shared by its threads.
class Query : public Scanner {
  public:
    // Whether the middle of a row's bounds is the same wherever it lies and with whatever other queries it is scanned,
    // so that candidates for reranking can be chosen by it, unsettled.
    virtual bool stable() const { return false; }
    // Set, for all queries, if scans give such counts in place of distances (and get them as bounds), so that results
    // can be chosen by counting.
    virtual std::optional<Counts> counts(size_t /*query*/) const { return std::nullopt; }
    // Estimated distances from query 0 to the listed rows.
    virtual void score_rows(Rows rows, const uint32_t* list, size_t n, float* out) const noexcept = 0;
    // Estimated distances (queries, block.n).
    virtual void score_block(Block block, float* out) const noexcept = 0;
    // Gives the sink estimated distances from query 0, the only one, to the rows of a block.
    virtual void select(Block block, EstimateSink& sink) const noexcept;
    // Whether some of several queries can be scanned; then pick() gives the sink the estimates of the listed queries,
    // each with a centre of its own in place of the block's.
    virtual bool picks() const { return false; }
    virtual void pick(Block /*block*/, std::span<const uint32_t> /*queries*/, const float* /*centers*/,
                      EstimateSink& /*sink*/) const noexcept {}
    // Bounds of the canonical distances from one query to the listed rows; by default the distances themselves.
    virtual void bound_rows(size_t query, Rows rows, const uint32_t* list, size_t n, float* low,
                            float* high) const noexcept;
    // Canonical distances from one query to the listed rows, computed in float64 on the decoded vectors. Results and
    // ties are decided by these alone, so they do not depend on how the rows were found.
    virtual void settle(size_t query, Rows rows, const uint32_t* list, size_t n, double* out) const noexcept = 0;
};

// Parameters of a codec by name, as text.
using Parameters = std::map<std::string, std::string, std::less<>>;

// What a codec has learned from vectors, by name.
using Learned = std::map<std::string, std::vector<float>, std::less<>>;

class Codec {
  public:
    virtual ~Codec() = default;
    virtual std::string_view name() const = 0;
    // All of its parameters, also those that were left at their defaults.
    virtual Parameters parameters() const { return {}; }
    // Bytes of a row; how many of them, at its end, are read only for rows that a scan leaves open.
    virtual size_t row_bytes() const = 0;
    virtual size_t fine_bytes() const { return 0; }
    // Whether the codec gains by coding what is left of vectors beside a centroid in place of the vectors. It then does
    // so as a codec for inner products, and its scans take blocks with a centre.
    virtual bool codes_residuals() const { return false; }
    // How many rows make up a group of a block, in which their codes may be interleaved; a block of n rows takes
    // ceil(n / group) groups. Blocks hold rows without their fine bytes.
    virtual size_t group() const { return 1; }
    virtual size_t group_bytes() const { return row_bytes(); }
    // Vectors as the codec takes them; throws InvalidInput naming the argument and the row, counted from `first`.
    virtual CheckedVectors check(const Vectors& vectors, std::string_view name, size_t first = 0) const = 0;

    // Whether the codec has to learn before it can encode.
    virtual bool untrained() const { return false; }
    // How many vectors are enough for it to learn from.
    virtual size_t sample() const { return size_t{1} << 14; }
    // This codec after learning from a sample; `given` holds what was learned elsewhere. Only for untrained codecs.
    virtual std::unique_ptr<Codec> trained(const Vectors& sample, Learned given) const;
    // What it has learned; an untrained codec becomes equal to it by `with`, which throws InvalidInput for arrays that
    // do not fit.
    virtual Learned learned() const { return {}; }
    virtual std::unique_ptr<Codec> with(Learned learned) const;

    // Checked vectors to rows; throws UnencodableVector.
    virtual void encode(const Vectors& vectors, std::byte* rows) const = 0;
    virtual void decode(Rows rows, const uint32_t* list, size_t n, float* out) const = 0;
    // Whether rows from elsewhere could have been encoded: codecs that take any bytes say yes.
    virtual bool valid(Rows /*rows*/, size_t /*n*/) const { return true; }
    // Rows to a block, and the listed rows of a block back to rows, `stride` bytes apart, without their fine bytes.
    virtual void pack(Rows rows, size_t n, std::byte* block) const;
    virtual void unpack(Block block, const uint32_t* list, size_t n, std::byte* rows, size_t stride) const;
    // Checked queries, copied; the codec must outlive what is returned.
    virtual std::unique_ptr<Query> prepare(const Vectors& queries) const = 0;
};

// A codec to be made: its short name, and the parameters that are not to have their defaults.
struct CodecSpec {
    std::string name;  // "": the metric's own, "f32" or "bits"
    Parameters parameters;
};

// Makes a codec, untrained. Throws InvalidInput for a name or parameter that does not exist, or does not go with the
// metric.
std::unique_ptr<Codec> make_codec(const CodecSpec& spec, size_t dim, Metric metric);

}  // namespace nearfield
