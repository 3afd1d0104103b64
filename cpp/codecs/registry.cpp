#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "codecs/bits.hpp"
#include "codecs/codec.hpp"
#include "codecs/dense.hpp"
#include "codecs/parameters.hpp"
#include "codecs/pq.hpp"
#include "codecs/rabitq.hpp"
#include "codecs/scalar.hpp"
#include "codecs/transforms.hpp"

namespace nearfield {

namespace {

constexpr std::string_view kMetricNames[] = {"cosine", "ip", "l2", "hamming", "jaccard"};  // in the order of Metric

std::unique_ptr<Codec> make_signs(const CodecSpec& spec, size_t dim, Metric metric) {
    ParameterReader parameters(spec);
    Signs signs;
    constexpr size_t kMostPlanes = kernels::kBitPlanes;
    if (spec.name == "recurrent_binary") signs.planes = parameters.number("bits", 2, 1, kMostPlanes);
    signs.threshold = static_cast<Signs::Threshold>(parameters.choice("threshold", {"zero", "mean", "median"}));
    signs.rotated = parameters.choice("rotation", {"none", "random", "learned"}) != 0;
    using Queries = Signs::Queries;
    if (spec.name == "sign") {  // one bit is too coarse to be compared with one bit
        constexpr Queries kQueries[] = {Queries::int4, Queries::int2, Queries::code, Queries::full};
        signs.queries = kQueries[parameters.choice("query", {"int4", "int2", "code", "float"})];
    } else {
        constexpr Queries kQueries[] = {Queries::code, Queries::int2, Queries::int4, Queries::full};
        signs.queries = kQueries[parameters.choice("query", {"code", "int2", "int4", "float"})];
    }
    parameters.number("seed", 0, 0, std::numeric_limits<uint32_t>::max());  // of the rotation, which is made elsewhere
    return std::make_unique<BitsCodec>(spec.name, dim, metric, signs, parameters.done());
}

}  // namespace

Metric parse_metric(std::string_view name) {
    std::string expected;
    for (const std::string_view& known : kMetricNames) {
        if (name == known) return static_cast<Metric>(&known - kMetricNames);
        append_choice(expected, known);
    }
    throw InvalidInput("metric: " + quoted(name) + " is not one of " + expected);
}

std::string_view metric_name(Metric metric) { return kMetricNames[static_cast<size_t>(metric)]; }

float api_score(Metric metric, double distance) {
    if (metric == Metric::l2) return static_cast<float>(std::sqrt(std::max(distance, 0.0)));
    if (metric == Metric::hamming) return static_cast<float>(distance);
    if (metric == Metric::cosine) distance = std::clamp(distance, -1.0, 1.0);  // codes are not of unit length
    return static_cast<float>(0.0 - distance);  // 0 - 0 is +0: a score is never written as -0
}

double core_distance(Metric metric, double score) {
    if (metric == Metric::l2) return score * std::abs(score);
    return metric == Metric::hamming ? score : -score;
}

bool is_similarity(Metric metric) { return metric != Metric::l2 && metric != Metric::hamming; }

namespace {

constexpr std::string_view kPlain[] = {"f32", "f16", "bf16", "int8", "uint8"};  // in the order of ElementType

std::unique_ptr<Codec> make_plain(const CodecSpec& spec, size_t dim, Metric metric) {
    ParameterReader(spec).done();
    const auto type = static_cast<kernels::ElementType>(std::find(std::begin(kPlain), std::end(kPlain), spec.name) -
                                                        std::begin(kPlain));
    return std::make_unique<DenseCodec>(type, dim, metric, type == kernels::kI8 ? RowScale::stored : RowScale::none);
}

std::unique_ptr<Codec> make_bits(const CodecSpec& spec, size_t dim, Metric metric) {
    ParameterReader(spec).done();
    return std::make_unique<BitsCodec>(dim, metric);
}

struct Kind {
    std::string_view name;
    std::unique_ptr<Codec> (*make)(const CodecSpec& spec, size_t dim, Metric metric);
};
constexpr Kind kKinds[] = {
    {"f32", make_plain},     {"f16", make_plain}, {"bf16", make_plain}, {"int8", make_plain},
    {"uint8", make_plain},   {"sq", make_scalar}, {"lvq", make_scalar}, {"lloyd", make_scalar},
    {"rabitq", make_rabitq}, {"pq", make_pq},     {"sign", make_signs}, {"recurrent_binary", make_signs},
    {"bits", make_bits},
};

// A short name such as "rabitq4" or "lvq4x8" says its codec's bits, and the residual's.
CodecSpec spelled_out(const CodecSpec& spec) {
    for (const std::string_view name : {"sq", "lvq", "pq", "rabitq", "lloyd"}) {
        if (!spec.name.starts_with(name) || spec.name.size() == name.size()) continue;
        std::string bits = spec.name.substr(name.size());
        if (bits.find_first_not_of("0123456789x") != std::string::npos) continue;
        CodecSpec out{std::string(name), spec.parameters};
        if (const size_t x = bits.find('x'); x != std::string::npos && name == "lvq") {
            out.parameters.emplace("residual", bits.substr(x + 1));
            bits.resize(x);
        }
        out.parameters.emplace("bits", bits);
        return out;
    }
    return spec;
}

}  // namespace

std::unique_ptr<Codec> make_codec(const CodecSpec& given, size_t dim, Metric metric) {
    const bool bits = is_bit_metric(metric);
    CodecSpec spec = spelled_out(given);
    if (spec.name.empty()) spec.name = bits ? "bits" : "f32";
    const auto* const kind =
        std::find_if(std::begin(kKinds), std::end(kKinds), [&](const Kind& one) { return one.name == spec.name; });
    if (kind == std::end(kKinds)) {
        std::string expected;
        for (const Kind& one : kKinds) append_choice(expected, one.name);
        throw InvalidInput("codec: " + quoted(given.name) + " is not one of " + expected);
    }
    if (bits != (spec.name == "bits")) {
        throw InvalidInput("codec: " + quoted(given.name) + " does not go with metric " + quoted(metric_name(metric)) +
                           (bits ? ", which takes packed bits (codec \"bits\")" : ", which takes numbers"));
    }
    const size_t most = bits ? size_t{1} << 20 : 65535;
    if (dim == 0 || dim > most) {
        throw InvalidInput("dim: " + std::to_string(dim) + " given, expected 1 to " + std::to_string(most));
    }
    return has_transforms(spec) ? make_transformed(spec, dim, metric) : kind->make(spec, dim, metric);
}

void Query::select(Block block, EstimateSink& sink) const noexcept {
    thread_local std::vector<float> distances;
    distances.resize(block.n);
    score_block(block, distances.data());
    for (size_t at = 0; at < block.n; at += kernels::kGroup) {
        sink.take(0, at, distances.data() + at, std::min(kernels::kGroup, block.n - at));
    }
}

void Query::bound_rows(size_t query, Rows rows, const uint32_t* list, size_t n, float* low,
                       float* high) const noexcept {
    constexpr size_t kPiece = 256;
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    double exact[kPiece];
    for (size_t start = 0; start < n; start += kPiece) {
        const size_t count = std::min(kPiece, n - start);
        const Rows piece{list ? rows.data : rows.data + start * rows.stride, rows.stride};
        settle(query, piece, list ? list + start : nullptr, count, exact);
        for (size_t i = 0; i < count; ++i) {
            const auto rounded = static_cast<float>(exact[i]);
            low[start + i] = std::nextafter(rounded, -kInfinity);
            high[start + i] = std::nextafter(rounded, kInfinity);
        }
    }
}

void Codec::pack(Rows rows, size_t n, std::byte* block) const {
    for (size_t i = 0; i < n; ++i) std::memcpy(block + i * row_bytes(), rows.data + i * rows.stride, row_bytes());
}

void Codec::unpack(Block block, const uint32_t* list, size_t n, std::byte* rows, size_t stride) const {
    for (size_t i = 0; i < n; ++i) {
        std::memcpy(rows + i * stride, block.data + (list ? list[i] : i) * row_bytes(), row_bytes());
    }
}

std::unique_ptr<Codec> Codec::trained(const Vectors& /*sample*/, Learned /*given*/) const {
    throw InvalidInput("codec: \"" + std::string(name()) + "\" has nothing to learn");
}

std::unique_ptr<Codec> Codec::with(Learned /*learned*/) const {
    throw InvalidInput("codec: \"" + std::string(name()) + "\" has nothing to learn");
}

}  // namespace nearfield
