#include <algorithm>
#include <cmath>
#include <string>

#include "codecs/codec.hpp"
#include "codecs/dense.hpp"

namespace nearfield {

Metric parse_metric(std::string_view name) {
    if (name == "cosine") return Metric::cosine;
    if (name == "ip") return Metric::ip;
    if (name == "l2") return Metric::l2;
    throw InvalidInput("metric: \"" + std::string(name) + "\" is not one of \"cosine\", \"ip\", \"l2\"");
}

std::string_view metric_name(Metric metric) {
    return metric == Metric::cosine ? "cosine" : metric == Metric::ip ? "ip" : "l2";
}

float api_score(Metric metric, double distance) {
    if (metric == Metric::l2) return static_cast<float>(std::sqrt(std::max(distance, 0.0)));
    return static_cast<float>(0.0 - distance);  // 0 - 0 is +0: a score is never written as -0
}

double core_distance(Metric metric, double score) { return metric == Metric::l2 ? score * std::abs(score) : -score; }

std::unique_ptr<Codec> make_codec(std::string_view name, size_t dim, Metric metric) {
    using namespace kernels;
    if (name == "f32") return std::make_unique<DenseCodec>(kF32, dim, metric);
    if (name == "f16") return std::make_unique<DenseCodec>(kF16, dim, metric);
    if (name == "bf16") return std::make_unique<DenseCodec>(kBF16, dim, metric);
    if (name == "int8") return std::make_unique<DenseCodec>(kI8, dim, metric, RowScale::stored);
    if (name == "uint8") return std::make_unique<DenseCodec>(kU8, dim, metric);
    throw InvalidInput("codec: \"" + std::string(name) +
                       "\" is not one of \"f32\", \"f16\", \"bf16\", \"int8\", \"uint8\"");
}

}  // namespace nearfield
