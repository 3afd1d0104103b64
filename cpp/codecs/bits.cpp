#include "codecs/bits.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "codecs/bit_planes.hpp"
#include "codecs/parameters.hpp"

namespace nearfield {

BitsCodec::BitsCodec(size_t dim, Metric metric) : BitsCodec("bits", dim, metric, {}, {}) {}

BitsCodec::BitsCodec(std::string name, size_t dim, Metric metric, Signs signs, Parameters parameters)
    : name_(std::move(name)), dim_(dim), metric_(metric), signs_(signs), parameters_(std::move(parameters)) {}

CheckedVectors BitsCodec::check(const Vectors& vectors, std::string_view name, size_t first) const {
    if (is_bit_metric(metric_)) return CheckedVectors::bits(vectors, dim_, name);
    if (vectors.type != kernels::kBits) return CheckedVectors::floats(vectors, dim_, name, first);
    if (signs_.planes > 1 || signs_.rotated) {
        throw InvalidInput(std::string(name) + ": packed bits given, expected vectors of numbers");
    }
    return CheckedVectors::bits(vectors, dim_, name);
}

// ---------------------------------------------------------------------------------------------------------------------
// Learning
// ---------------------------------------------------------------------------------------------------------------------

std::unique_ptr<Codec> BitsCodec::trained(const Vectors& sample, Learned given) const {
    if (sample.type == kernels::kBits) throw InvalidInput("vectors: packed bits given, expected numbers to learn from");
    auto out = std::make_unique<BitsCodec>(*this);
    if (signs_.rotated) {
        const auto rotation = given.find("rotation");
        if (rotation == given.end() || rotation->second.size() != dim_ * dim_) {
            throw InvalidInput("rotation: expected a matrix of (" + std::to_string(dim_) + ", " + std::to_string(dim_) +
                               ")");
        }
        out->rotation_ = std::move(rotation->second);
    }
    const size_t n = sample.n;
    std::vector<float> rest(n * dim_);
    for (size_t i = 0; i < n; ++i) out->rotate(sample.floats() + i * dim_, rest.data() + i * dim_);
    if (signs_.threshold != Signs::Threshold::zero && n > 0) {
        out->threshold_.resize(dim_);
        std::vector<float> column(n);
        for (size_t d = 0; d < dim_; ++d) {
            double sum = 0;
            for (size_t i = 0; i < n; ++i) sum += static_cast<double>(column[i] = rest[i * dim_ + d]);
            if (signs_.threshold == Signs::Threshold::median) {
                const auto middle = column.begin() + static_cast<std::ptrdiff_t>(n / 2);
                std::nth_element(column.begin(), middle, column.end());
                out->threshold_[d] = n % 2 != 0 ? *middle : (*middle + *std::max_element(column.begin(), middle)) / 2;
            } else {
                out->threshold_[d] = static_cast<float>(sum / static_cast<double>(n));
            }
            for (size_t i = 0; i < n; ++i) rest[i * dim_ + d] -= out->threshold_[d];
        }
    }
    for (size_t t = 0; t < signs_.planes; ++t) {
        double sum = 0;
        for (const float value : rest) sum += static_cast<double>(std::abs(value));
        const auto scale = static_cast<float>(rest.empty() ? 0.0 : sum / static_cast<double>(rest.size()));
        out->scales_.push_back(scale);
        for (float& value : rest) value -= value > 0 ? scale : -scale;
    }
    return out;
}

Learned BitsCodec::learned() const {
    Learned out;
    if (scales_.empty()) return out;
    out["scale"] = scales_;
    if (!threshold_.empty()) out["threshold"] = threshold_;
    if (!rotation_.empty()) out["rotation"] = rotation_;
    return out;
}

std::unique_ptr<Codec> BitsCodec::with(Learned learned) const {
    auto out = std::make_unique<BitsCodec>(*this);
    out->scales_ = take_learned(learned, "scale", signs_.learn() ? signs_.planes : 0);
    out->threshold_ = take_learned(learned, "threshold", signs_.threshold != Signs::Threshold::zero ? dim_ : 0);
    out->rotation_ = take_learned(learned, "rotation", signs_.rotated ? dim_ * dim_ : 0);
    return out;
}

// ---------------------------------------------------------------------------------------------------------------------
// Coding
// ---------------------------------------------------------------------------------------------------------------------

void BitsCodec::rotate(const float* vector, float* out) const {
    std::copy_n(vector, dim_, out);
    if (metric_ == Metric::cosine) {
        double squared = 0;
        for (size_t d = 0; d < dim_; ++d) squared += static_cast<double>(vector[d]) * static_cast<double>(vector[d]);
        const double inverse = squared > 0 ? 1 / std::sqrt(squared) : 0;
        for (size_t d = 0; d < dim_; ++d) out[d] = static_cast<float>(static_cast<double>(vector[d]) * inverse);
    }
    if (rotation_.empty()) return;
    const std::vector<float> unrotated(out, out + dim_);
    kernels::active().dense[kernels::kF32].dot(unrotated.data(), reinterpret_cast<const uint8_t*>(rotation_.data()),
                                               dim_ * sizeof(float), nullptr, dim_, dim_, out, nullptr);
}

void BitsCodec::encode_planes(float* rest, std::byte* row) const {
    for (size_t t = 0; t < signs_.planes; ++t) {
        std::byte* plane = row + t * plane_bytes();
        for (size_t byte = 0; byte < dim_ / 8; ++byte) {
            uint8_t ones[8];
            for (size_t j = 0; j < 8; ++j) ones[j] = rest[byte * 8 + j] > 0 ? 1 : 0;
            plane[byte] = gathered(ones, 0);
        }
        if (dim_ % 8 != 0) plane[dim_ / 8] = std::byte{0};
        for (size_t d = dim_ / 8 * 8; d < dim_; ++d) {
            if (rest[d] > 0) plane[d / 8] |= static_cast<std::byte>(0x80u >> d % 8);
        }
        if (t + 1 == signs_.planes) break;
        for (size_t d = 0; d < dim_; ++d) rest[d] -= rest[d] > 0 ? scales_[t] : -scales_[t];
    }
}

void BitsCodec::encode(const Vectors& vectors, std::byte* rows) const {
    std::vector<float> rest(vectors.type == kernels::kBits ? 0 : dim_);
    for (size_t i = 0; i < vectors.n; ++i) {
        std::byte* row = rows + i * row_bytes();
        if (vectors.type == kernels::kBits) {
            std::memcpy(row, vectors.data + i * vectors.stride, plane_bytes());
        } else {
            if (signs_.learn()) {
                rotate(vectors.floats() + i * dim_, rest.data());
            } else {  // the signs are those of the vector itself, whatever its length
                std::copy_n(vectors.floats() + i * dim_, dim_, rest.data());
            }
            for (size_t d = 0; d < threshold_.size(); ++d) rest[d] -= threshold_[d];
            encode_planes(rest.data(), row);
        }
        if (!stores_length()) continue;
        const auto squared = static_cast<float>(squared_length(row));
        std::memcpy(row + signs_.planes * plane_bytes(), &squared, sizeof(squared));
    }
}

double BitsCodec::dot(const float* vector, const std::byte* row) const {
    double total = 0;
    for (size_t t = 0; t < signs_.planes; ++t) {
        const std::byte* plane = row + t * plane_bytes();
        double sums[8] = {};
        const size_t whole = dim_ / 8;
        for (size_t byte = 0; byte < whole; ++byte) {
            const std::array<float, 8>& signs = signs_of(plane[byte]);
            for (size_t j = 0; j < 8; ++j) {
                sums[j] += static_cast<double>(vector[byte * 8 + j]) * static_cast<double>(signs[j]);
            }
        }
        for (size_t d = whole * 8; d < dim_; ++d) {
            sums[d % 8] += static_cast<double>(vector[d]) * static_cast<double>(signs_of(plane[whole])[d % 8]);
        }
        double sum = 0;
        for (const double part : sums) sum += part;
        total += static_cast<double>(scale(t)) * sum;
    }
    return total;
}

double BitsCodec::squared_length(const std::byte* row) const {
    double squared = 0;
    for (size_t t = 0; t < signs_.planes; ++t) {
        for (size_t s = 0; s < signs_.planes; ++s) {
            uint32_t differ = 0;
            if (s != t) {
                count_ones(true, row + s * plane_bytes(), {row + t * plane_bytes(), 0}, nullptr, 1, plane_bytes(),
                           &differ);
            }
            squared += static_cast<double>(scale(s)) * static_cast<double>(scale(t)) *
                       (static_cast<double>(dim_) - 2 * static_cast<double>(differ));
        }
    }
    if (signs_.coded_queries() || threshold_.empty()) return squared;
    squared += 2 * dot(threshold_.data(), row);
    for (const float value : threshold_) squared += static_cast<double>(value) * static_cast<double>(value);
    return std::max(0.0, squared);
}

void BitsCodec::decode(Rows rows, const uint32_t* list, size_t n, float* out) const {
    for (size_t i = 0; i < n; ++i) {
        const std::byte* row = rows.data + (list ? list[i] : i) * rows.stride;
        float* vector = out + i * dim_;
        for (size_t d = 0; d < dim_; ++d) {
            float value = 0;
            for (size_t t = 0; t < signs_.planes; ++t) {
                value += scale(t) * signs_of(row[t * plane_bytes() + d / 8])[d % 8];
            }
            vector[d] = is_bit_metric(metric_) ? (value + 1) / 2 : value + (threshold_.empty() ? 0.0f : threshold_[d]);
        }
        if (rotation_.empty()) continue;
        std::vector<double> back(dim_);  // the inverse of a rotation is its transpose
        for (size_t r = 0; r < dim_; ++r) {
            for (size_t d = 0; d < dim_; ++d) {
                back[d] += static_cast<double>(vector[r]) * static_cast<double>(rotation_[r * dim_ + d]);
            }
        }
        std::copy(back.begin(), back.end(), vector);
    }
}

bool BitsCodec::valid(Rows rows, size_t n) const {
    const auto padding = static_cast<std::byte>(dim_ % 8 == 0 ? 0 : 0xffu >> dim_ % 8);
    for (size_t i = 0; i < n; ++i) {
        for (size_t t = 1; t <= signs_.planes; ++t) {
            if ((rows.data[i * rows.stride + t * plane_bytes() - 1] & padding) != std::byte{0}) return false;
        }
    }
    return true;
}

}  // namespace nearfield
