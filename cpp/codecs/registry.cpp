#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <string>

#include "codecs/bits.hpp"
#include "codecs/codec.hpp"
#include "codecs/dense.hpp"

namespace nearfield {

namespace {

constexpr std::string_view kMetricNames[] = {"cosine", "ip", "l2", "hamming", "jaccard"};  // in the order of Metric

std::string quoted(std::string_view text) { return "\"" + std::string(text) + "\""; }

// Adds a choice to a list of them for a message.
void append_choice(std::string& list, std::string_view choice) {
    list.append(list.empty() ? "\"" : ", \"").append(choice).append("\"");
}

// Takes the parameters of a codec one by one; what is left over at the end does not exist.
class ParameterReader {
  public:
    explicit ParameterReader(const CodecSpec& spec) : codec_(spec.name), left_(spec.parameters) {}

    // The place of the value among the choices; the first is the default.
    size_t choice(std::string_view name, std::initializer_list<std::string_view> choices) {
        const std::string& value = take(name, *choices.begin());
        const auto* const found = std::find(choices.begin(), choices.end(), value);
        if (found != choices.end()) return static_cast<size_t>(found - choices.begin());
        std::string expected;
        for (const std::string_view one : choices) append_choice(expected, one);
        throw InvalidInput(std::string(name) + ": " + quoted(value) + " is not one of " + expected);
    }

    size_t number(std::string_view name, size_t otherwise, size_t least, size_t most) {
        const std::string& text = take(name, std::to_string(otherwise));
        size_t value = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
        if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most) {
            throw InvalidInput(std::string(name) + ": " + text + " given, expected " + std::to_string(least) + " to " +
                               std::to_string(most));
        }
        return value;
    }

    // All that were read, also the defaults.
    Parameters done() {
        if (left_.empty()) return std::move(read_);
        throw InvalidInput(left_.begin()->first + ": codec " + quoted(codec_) + " has no such parameter");
    }

  private:
    const std::string& take(std::string_view name, std::string_view otherwise) {
        std::string value(otherwise);
        if (const auto found = left_.find(name); found != left_.end()) {
            value = std::move(found->second);
            left_.erase(found);
        }
        return read_[std::string(name)] = std::move(value);
    }

    std::string codec_;
    Parameters left_, read_;
};

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
    return static_cast<float>(0.0 - distance);  // 0 - 0 is +0: a score is never written as -0
}

double core_distance(Metric metric, double score) {
    if (metric == Metric::l2) return score * std::abs(score);
    return metric == Metric::hamming ? score : -score;
}

bool is_similarity(Metric metric) { return metric != Metric::l2 && metric != Metric::hamming; }

std::unique_ptr<Codec> make_codec(const CodecSpec& spec, size_t dim, Metric metric) {
    using namespace kernels;
    constexpr std::string_view kPlain[] = {"f32", "f16", "bf16", "int8", "uint8"};  // in the order of ElementType
    const bool bits = is_bit_metric(metric);
    const std::string name = !spec.name.empty() ? spec.name : bits ? "bits" : "f32";
    const auto* const plain = std::find(std::begin(kPlain), std::end(kPlain), name);
    const bool signs = name == "sign" || name == "recurrent_binary";
    if (plain == std::end(kPlain) && !signs && name != "bits") {
        std::string expected;
        for (const std::string_view one : kPlain) append_choice(expected, one);
        for (const std::string_view one : {"sign", "recurrent_binary", "bits"}) append_choice(expected, one);
        throw InvalidInput("codec: " + quoted(name) + " is not one of " + expected);
    }
    if (bits != (name == "bits")) {
        throw InvalidInput("codec: " + quoted(name) + " does not go with metric " + quoted(metric_name(metric)) +
                           (bits ? ", which takes packed bits (codec \"bits\")" : ", which takes numbers"));
    }
    const size_t most = bits ? size_t{1} << 20 : 65535;
    if (dim == 0 || dim > most) {
        throw InvalidInput("dim: " + std::to_string(dim) + " given, expected 1 to " + std::to_string(most));
    }
    if (signs) return make_signs(spec, dim, metric);
    ParameterReader(spec).done();
    if (bits) return std::make_unique<BitsCodec>(dim, metric);
    const auto type = static_cast<ElementType>(plain - std::begin(kPlain));
    return std::make_unique<DenseCodec>(type, dim, metric, type == kI8 ? RowScale::stored : RowScale::none);
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

std::unique_ptr<Codec> Codec::trained(const Vectors& /*sample*/, Learned /*given*/) const {
    throw InvalidInput("codec: \"" + std::string(name()) + "\" has nothing to learn");
}

std::unique_ptr<Codec> Codec::with(Learned /*learned*/) const {
    throw InvalidInput("codec: \"" + std::string(name()) + "\" has nothing to learn");
}

}  // namespace nearfield
