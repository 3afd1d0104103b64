#include "codecs/scalar.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "codecs/groups.hpp"
#include "codecs/parameters.hpp"
#include "codecs/rotation.hpp"
#include "codecs/tiles.hpp"
#include "kernels/dispatch.hpp"

namespace nearfield {

using kernels::kGroup;
using kernels::kTile;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Standard deviations that a residual may be off.
constexpr double kDeviations = 4;
// Lengths whose squares estimates can be made of.
constexpr float kLargest = 1e18f;
// A bound is rounded up by this.
constexpr double kUp = 1 + 0x1p-20;

// out = { <a, b>, <b, b>, sum of (a - b)^2 } in float64.
std::array<double, 3> products(const float* a, const float* b, size_t n) {
    std::array<double, 3> out{};
    kernels::active().dense[kernels::kF32].settle(a, reinterpret_cast<const uint8_t*>(b), 1.0f, n, out.data());
    return out;
}

// The same in float32: { <a, b>, <b, b> }.
std::pair<float, float> dots(const float* a, const float* b, size_t n) {
    std::pair<float, float> out;
    kernels::active().dense[kernels::kF32].dot(a, reinterpret_cast<const uint8_t*>(b), 0, nullptr, 1, n, &out.first,
                                               &out.second);
    return out;
}

double length(const float* values, size_t n) { return std::sqrt(products(values, values, n)[1]); }

// ---------------------------------------------------------------------------------------------------------------------
// Codes
// ---------------------------------------------------------------------------------------------------------------------

// Bits [shift, shift + bits) of all codes of a row, in units from byte `at` on; see put_code for their order.
struct Plane {
    size_t bits, shift, at, units;
    std::array<uint8_t, 16> levels{};  // what the code kernels add up

    size_t bytes() const { return units * 4; }
    size_t codes() const { return units * (32 / bits); }
};

Plane make_plane(size_t bits, size_t shift, size_t at, size_t size) {
    Plane out{bits, shift, at, (size * bits + 31) / 32};
    for (size_t code = 0; code < 16; ++code) {
        out.levels[code] = static_cast<uint8_t>((code & ((size_t{1} << std::min<size_t>(bits, 4)) - 1)) << shift);
    }
    return out;
}

template <size_t kBits>
void write_codes(const uint8_t* codes, const Plane& plane, uint8_t* out) {
    constexpr size_t kPlaces = 8 / kBits;
    constexpr unsigned kMask = (1u << kBits) - 1;
    for (size_t u = 0; u < plane.units; ++u) {
        for (size_t j = 0; j < 4; ++j) {
            unsigned byte = 0;
            for (size_t p = 0; p < kPlaces; ++p) {
                byte |= (unsigned{codes[(u * kPlaces + p) * 4 + j]} >> plane.shift & kMask) << (p * kBits);
            }
            out[u * 4 + j] = static_cast<uint8_t>(byte);
        }
    }
}

template <size_t kBits>
void add_codes(const uint8_t* in, const Plane& plane, uint8_t* codes) {
    constexpr size_t kPlaces = 8 / kBits;
    constexpr unsigned kMask = (1u << kBits) - 1;
    for (size_t u = 0; u < plane.units; ++u) {
        for (size_t p = 0; p < kPlaces; ++p) {
            for (size_t j = 0; j < 4; ++j) {
                const unsigned code = (unsigned{in[u * 4 + j]} >> (p * kBits) & kMask) << plane.shift;
                codes[(u * kPlaces + p) * 4 + j] |= static_cast<uint8_t>(code);
            }
        }
    }
}

// Codes to the plane of a row, and the plane's bits added to codes; there are plane.codes() of them, zeros beyond the
// last.
void write_plane(const uint8_t* codes, const Plane& plane, std::byte* row) {
    auto* out = reinterpret_cast<uint8_t*>(row + plane.at);
    if (plane.bits == 8) {
        std::memcpy(out, codes, plane.bytes());
    } else {
        (plane.bits == 4 ? write_codes<4> : write_codes<2>)(codes, plane, out);
    }
}

void add_plane(const std::byte* row, const Plane& plane, uint8_t* codes) {
    const auto* in = reinterpret_cast<const uint8_t*>(row + plane.at);
    if (plane.bits == 8) {
        std::memcpy(codes, in, plane.bytes());
    } else {
        (plane.bits == 4 ? add_codes<4> : add_codes<2>)(in, plane, codes);
    }
}

// Levels that are codes themselves.
void levels_to_codes(const float* levels, size_t n, uint8_t* codes) {
    for (size_t d = 0; d < n; ++d) codes[d] = static_cast<uint8_t>(static_cast<int32_t>(levels[d]));
}

// The least and the greatest of some numbers, a lane for every eighth of them.
std::pair<float, float> extremes(const float* values, size_t n) {
    constexpr size_t kLanes = 8;
    float least[kLanes], most[kLanes];
    for (size_t j = 0; j < kLanes; ++j) least[j] = most[j] = values[j % n];
    size_t d = 0;
    for (; d + kLanes <= n; d += kLanes) {
        for (size_t j = 0; j < kLanes; ++j) {
            least[j] = std::min(least[j], values[d + j]);
            most[j] = std::max(most[j], values[d + j]);
        }
    }
    for (; d < n; ++d) {
        least[0] = std::min(least[0], values[d]);
        most[0] = std::max(most[0], values[d]);
    }
    return {*std::min_element(least, least + kLanes), *std::max_element(most, most + kLanes)};
}

double sum_of(const float* values, size_t n) {
    double sums[4] = {};
    for (size_t d = 0; d < n; ++d) sums[d % 4] += static_cast<double>(values[d]);
    return sums[0] + sums[1] + sums[2] + sums[3];
}

// The most codes that the planes of `size` coordinates hold.
size_t padded(size_t size) { return (size + 15) / 16 * 16; }

// What a vector's coordinates become.
struct Coded {
    explicit Coded(size_t size)
        : codes(padded(size)), fine(padded(size)), levels(size), residual(size), tried(size), decoded(size) {}

    std::vector<uint8_t> codes, fine;
    std::vector<float> levels;          // of the codes
    std::vector<float> residual;        // what the fine codes add, from -1/2 to 1/2
    std::vector<float> tried, decoded;  // other levels, and what they decode to
    float mul = 1, off = 0;
};

// ---------------------------------------------------------------------------------------------------------------------
// Codecs
// ---------------------------------------------------------------------------------------------------------------------

class ScalarCodec : public GroupCodec {
  public:
    ScalarCodec(const CodecSpec& spec, size_t dim, Metric metric) : name_(spec.name), dim_(dim), metric_(metric) {}

    std::string_view name() const override { return name_; }
    Parameters parameters() const override { return parameters_; }
    size_t fine_bytes() const override { return fine_ ? fine_->bytes() : 0; }
    GroupLayout layout() const override { return {units_, factors_, true}; }
    CheckedVectors check(const Vectors& vectors, std::string_view name, size_t first) const override {
        return CheckedVectors::floats(vectors, dim_, name, first);
    }
    bool untrained() const override { return origin_.empty(); }
    void encode(const Vectors& vectors, std::byte* rows) const override;
    void decode(Rows rows, const uint32_t* list, size_t n, float* out) const override;
    bool valid(Rows rows, size_t n) const override;
    std::unique_ptr<Query> prepare(const Vectors& queries) const override;

  protected:
    friend class ScalarQuery;

    // Coordinates to codes.
    virtual void quantize(const float* z, Coded& out) const = 0;

    // For constructors: where the codes of `bits` bits, those of the residual and the factors stand.
    void lay_out(size_t bits, size_t residual = 0);
    // Once origin_, weight_, zero_ and center_ are known.
    void learn();

    // The vector that is coded, float32: under cosine the unit vector.
    void normalize(const float* vector, float* out) const;
    // The same from the origin.
    void center(const float* vector, float* out) const;
    void rotate(const float* vector, float* z) const;
    // Throws UnencodableVector for row i.
    void check_range(size_t i, const float* centered) const;
    // The mean of a sample as it is coded.
    std::vector<float> mean(const Vectors& sample) const;
    // z' of a row with its fine bytes.
    void coordinates(const std::byte* row, uint8_t* codes, float* z) const;

    std::string name_;
    Parameters parameters_;
    size_t dim_;
    Metric metric_;
    std::optional<HadamardRotation> rotation_;
    std::vector<Plane> planes_;
    std::optional<Plane> fine_;  // from the end of the layout's row on
    std::array<float, 256> level_{};
    bool linear_ = true;  // levels are the codes themselves
    size_t units_ = 0, factors_ = 0;
    struct {
        int add = -1, mul = -1, off = -1, err = -1;
    } roles_;  // of the factors, as for GroupQuery

    std::vector<float> origin_, weight_, zero_;
    // Estimates are made about this level of each coordinate, which makes what the query's rounding may be off small;
    // `middle` is the vector that it decodes to, before the rotation. Differs from zero where nothing is rotated only.
    std::vector<float> center_, middle_;
    float widest_ = 0;                       // of the weights
    double least_ = 0, least_of_scale_ = 0;  // reach of a row, see encode
};

void ScalarCodec::lay_out(size_t bits, size_t residual) {
    if (bits == 6) {
        planes_.push_back(make_plane(4, 0, 0, dim_));
        planes_.push_back(make_plane(2, 4, planes_[0].bytes(), dim_));
    } else {
        planes_.push_back(make_plane(bits, 0, 0, dim_));
    }
    units_ = (planes_.back().at + planes_.back().bytes()) / 4;
    for (size_t code = 0; code < level_.size(); ++code) level_[code] = static_cast<float>(code);
    const auto next = [this] { return static_cast<int>(factors_++); };
    if (metric_ == Metric::l2) roles_.add = next();
    if (name_ != "sq") roles_.mul = next();
    if (name_ == "lvq") roles_.off = next();
    if (residual == 0) return;
    roles_.err = next();
    fine_ = make_plane(residual, 0, layout().row_bytes(), dim_);
}

void ScalarCodec::learn() {
    widest_ = *std::max_element(weight_.begin(), weight_.end());
    middle_ = origin_;
    if (!rotation_) {
        for (size_t d = 0; d < dim_; ++d) middle_[d] += weight_[d] * (center_[d] - zero_[d]);
    }
    // Float32 sums of terms that nearly cancel are off by parts of these.
    least_of_scale_ = length(center_.data(), dim_) / 16;
    least_ = widest_ > 0
                 ? (length(origin_.data(), dim_) + length(middle_.data(), dim_)) / 16 / static_cast<double>(widest_)
                 : 0.0;
}

void ScalarCodec::normalize(const float* vector, float* out) const {
    if (metric_ != Metric::cosine) {
        std::copy_n(vector, dim_, out);
        return;
    }
    const double norm = length(vector, dim_), inverse = norm > 0 ? 1 / norm : 0;
    for (size_t d = 0; d < dim_; ++d) out[d] = static_cast<float>(static_cast<double>(vector[d]) * inverse);
}

void ScalarCodec::center(const float* vector, float* out) const {
    const float* from = vector;
    if (metric_ == Metric::cosine) normalize(vector, out), from = out;
    for (size_t d = 0; d < dim_; ++d) out[d] = from[d] - origin_[d];
}

void ScalarCodec::rotate(const float* vector, float* z) const {
    if (rotation_) {
        rotation_->apply(vector, z);
    } else {
        std::copy_n(vector, dim_, z);
    }
}

std::vector<float> ScalarCodec::mean(const Vectors& sample) const {
    std::vector<double> sum(dim_);
    std::vector<float> vector(dim_);
    for (size_t i = 0; i < sample.n; ++i) {
        normalize(sample.floats() + i * dim_, vector.data());
        for (size_t d = 0; d < dim_; ++d) sum[d] += static_cast<double>(vector[d]);
    }
    for (size_t d = 0; d < dim_; ++d) vector[d] = static_cast<float>(sum[d] / static_cast<double>(sample.n));
    return vector;
}

void ScalarCodec::check_range(size_t i, const float* centered) const {
    if (dots(centered, centered, dim_).first < kLargest * kLargest) return;
    throw UnencodableVector(i,
                            "is too far from the mean for codec \"" + name_ + "\", which takes distances up to 1e18");
}

void ScalarCodec::encode(const Vectors& vectors, std::byte* rows) const {
    const size_t n = dim_;
    const GroupLayout form = layout();
    const double root = std::sqrt(static_cast<double>(n)), residual_part = std::min(1.0, kDeviations / root);
    Coded coded(n);
    // A bound of lengths that are computed in float32.
    const double up = kUp * (1 + static_cast<double>(n) * 0x1p-23);
    std::vector<float> vector(rotation_ ? n : 0), z(n);
    for (size_t i = 0; i < vectors.n; ++i) {
        std::byte* row = rows + i * row_bytes();
        float* centered = rotation_ ? vector.data() : z.data();
        center(vectors.floats() + i * n, centered);
        if (roles_.mul >= 0) check_range(i, centered);
        if (rotation_) rotation_->apply(centered, z.data());
        quantize(z.data(), coded);
        for (const Plane& plane : planes_) write_plane(coded.codes.data(), plane, row);
        if (fine_) write_plane(coded.fine.data(), *fine_, row);

        const auto set = [&](int which, double value) {
            if (which >= 0) form.set_factor(row, static_cast<size_t>(which), static_cast<float>(value));
        };
        set(roles_.mul, coded.mul);
        set(roles_.off, coded.off);
        const auto scale = static_cast<double>(std::abs(coded.mul));
        if (fine_) set(roles_.err, scale * length(coded.residual.data(), n) * residual_part * kUp);
        // |query - rounded| is multiplied by the length of mul * (level - center); that all other parts of z' are not
        // much longer is what bounds the rounding errors of float32.
        for (size_t d = 0; d < n; ++d) z[d] = coded.levels[d] - center_[d];
        const double far = std::sqrt(static_cast<double>(dots(z.data(), z.data(), n).first)) + (fine_ ? root / 2 : 0);
        const double off = static_cast<double>(std::abs(coded.off)) * root / 2;
        form.set_factor(row, factors_,
                        static_cast<float>(std::max({scale * far, scale * least_of_scale_, off, least_}) * up));
        if (metric_ != Metric::l2) continue;
        if (fine_) {
            for (size_t d = 0; d < n; ++d) z[d] += coded.residual[d];
        }
        for (size_t d = 0; d < n; ++d) z[d] = coded.off + coded.mul * (weight_[d] * z[d]);
        set(roles_.add, products(z.data(), z.data(), n)[1]);
    }
}

void ScalarCodec::coordinates(const std::byte* row, uint8_t* codes, float* z) const {
    const size_t n = dim_;
    const GroupLayout form = layout();
    std::memset(codes, 0, padded(n));
    for (const Plane& plane : planes_) add_plane(row, plane, codes);
    for (size_t d = 0; d < n; ++d) z[d] = level_[codes[d]] - zero_[d];
    if (fine_) {
        std::memset(codes, 0, padded(n));
        add_plane(row, *fine_, codes);
        const float step = 1.0f / static_cast<float>((1u << fine_->bits) - 1);
        for (size_t d = 0; d < n; ++d) z[d] += static_cast<float>(codes[d]) * step - 0.5f;
    }
    const float mul = roles_.mul < 0 ? 1 : form.factor(row, static_cast<size_t>(roles_.mul));
    const float off = roles_.off < 0 ? 0 : form.factor(row, static_cast<size_t>(roles_.off));
    for (size_t d = 0; d < n; ++d) z[d] = off + mul * (weight_[d] * z[d]);
}

void ScalarCodec::decode(Rows rows, const uint32_t* list, size_t n, float* out) const {
    std::vector<uint8_t> codes(padded(dim_));
    std::vector<float> z(dim_);
    for (size_t i = 0; i < n; ++i, out += dim_) {
        coordinates(rows.data + (list ? list[i] : i) * rows.stride, codes.data(), z.data());
        if (rotation_) {
            rotation_->inverse(z.data(), out);
        } else {
            std::copy_n(z.data(), dim_, out);
        }
        for (size_t d = 0; d < dim_; ++d) out[d] += origin_[d];
    }
}

bool ScalarCodec::valid(Rows rows, size_t n) const {
    const GroupLayout form = layout();
    for (size_t i = 0; i < n; ++i) {
        for (size_t f = 0; f <= factors_; ++f) {
            if (std::isnan(form.factor(rows.data + i * rows.stride, f))) return false;
        }
    }
    return true;
}

// Scalar quantization with a range learned from a sample; values outside of it are taken to its ends.
class SQ final : public ScalarCodec {
  public:
    SQ(const CodecSpec& spec, size_t dim, Metric metric) : ScalarCodec(spec, dim, metric) {
        ParameterReader parameters(spec);
        const size_t bits = 8 - 2 * parameters.choice("bits", {"8", "6", "4"});
        global_ = parameters.choice("range", {"dimension", "global"}) == 1;
        clip_ = parameters.real("clip", 0, 0, 0.5);
        parameters_ = parameters.done();
        lay_out(bits);
        highest_ = static_cast<float>((1u << bits) - 1);
    }

    Learned learned() const override { return {{"lower", origin_}, {"step", weight_}, {"mean", mean_}}; }

    std::unique_ptr<Codec> with(Learned learned) const override {
        auto out = std::make_unique<SQ>(*this);
        out->origin_ = take_learned(learned, "lower", dim_);
        out->weight_ = take_learned(learned, "step", dim_);
        out->mean_ = take_learned(learned, "mean", dim_);
        out->zero_.assign(dim_, 0.0f);
        out->center_.assign(dim_, 0.0f);
        out->inverse_.assign(dim_, 0.0f);
        for (size_t d = 0; d < dim_; ++d) {
            const float step = out->weight_[d];
            if (step < 0) throw InvalidInput("step: " + std::to_string(step) + " given, expected no negative number");
            if (step < std::numeric_limits<float>::min()) continue;
            out->inverse_[d] = 1 / step;
            out->center_[d] = std::clamp((out->mean_[d] - out->origin_[d]) / step, 0.0f, highest_);
        }
        out->learn();
        return out;
    }

    std::unique_ptr<Codec> trained(const Vectors& sample, Learned /*given*/) const override {
        std::vector<float> values(sample.n * (global_ ? dim_ : 1)), lower(dim_), step(dim_);
        std::vector<double> inverse(sample.n, 1.0);
        if (metric_ == Metric::cosine) {
            for (size_t i = 0; i < sample.n; ++i) {
                const double norm = length(sample.floats() + i * dim_, dim_);
                inverse[i] = norm > 0 ? 1 / norm : 0;
            }
        }
        for (size_t d = 0; d < dim_; ++d) {
            float* column = values.data() + (global_ ? d * sample.n : 0);
            for (size_t i = 0; i < sample.n; ++i) {
                column[i] = static_cast<float>(static_cast<double>(sample.floats()[i * dim_ + d]) * inverse[i]);
            }
            if (!global_) std::tie(lower[d], step[d]) = range(values);
        }
        if (global_) {
            const auto [least, width] = range(values);
            std::fill(lower.begin(), lower.end(), least);
            std::fill(step.begin(), step.end(), width);
        }
        return with({{"lower", lower}, {"step", step}, {"mean", mean(sample)}});
    }

  private:
    // The least level for these values, and the step between levels. Half a step on either side is within the range,
    // which is margin enough for values beyond those of a sample.
    std::pair<float, float> range(std::vector<float>& values) const {
        constexpr float kMost = 1e38f;  // so that no level is infinite
        const auto cut = static_cast<std::ptrdiff_t>(clip_ * static_cast<double>(values.size() - 1));
        std::nth_element(values.begin(), values.begin() + cut, values.end());
        const float least = std::clamp(values[static_cast<size_t>(cut)], -kMost, kMost);
        std::nth_element(values.begin(), values.end() - 1 - cut, values.end());
        const float most = std::clamp(*(values.end() - 1 - cut), -kMost, kMost);
        const float step = (most - least) / highest_;
        return {least, step < std::numeric_limits<float>::min() ? 0.0f : step};
    }

    void quantize(const float* z, Coded& out) const override {
        const float* inverse = inverse_.data();
        float* levels = out.levels.data();
        const float highest = highest_;
        for (size_t d = 0; d < dim_; ++d) {
            const float scaled = z[d] * inverse[d] + 0.5f;
            const float inside = scaled > 0 ? scaled : 0.0f;  // also for 0 * infinity
            levels[d] = static_cast<float>(static_cast<int32_t>(inside < highest ? inside : highest));
        }
        levels_to_codes(levels, dim_, out.codes.data());
    }

    bool global_;
    double clip_;
    float highest_;                      // level
    std::vector<float> mean_, inverse_;  // 1 / step
};

// Locally-adaptive vector quantization.
class LVQ final : public ScalarCodec {
  public:
    LVQ(const CodecSpec& spec, size_t dim, Metric metric) : ScalarCodec(spec, dim, metric) {
        ParameterReader parameters(spec);
        const size_t bits = parameters.choice("bits", {"8", "4"}) == 0 ? 8 : 4;
        const size_t residual = parameters.choice("residual", {"0", "4", "8"}) * 4;
        parameters_ = parameters.done();
        if (bits == 8 && residual == 4) throw InvalidInput("residual: 4 given, expected 0 or 8 for 8 bits");
        lay_out(bits, residual);
        highest_ = static_cast<float>((1u << bits) - 1);
        finest_ = static_cast<float>((1u << residual) - 1);
    }

    Learned learned() const override { return {{"mean", origin_}}; }

    std::unique_ptr<Codec> with(Learned learned) const override {
        auto out = std::make_unique<LVQ>(*this);
        out->origin_ = take_learned(learned, "mean", dim_);
        out->weight_.assign(dim_, 1.0f);
        out->zero_.assign(dim_, highest_ / 2);
        out->center_ = out->zero_;
        out->learn();
        return out;
    }

    std::unique_ptr<Codec> trained(const Vectors& sample, Learned /*given*/) const override {
        return with({{"mean", mean(sample)}});
    }

  private:
    void quantize(const float* z, Coded& out) const override {
        const auto [least, most] = extremes(z, dim_);
        const float step = (most - least) / highest_, lower = least, highest = highest_;
        out.off = least + (most - least) / 2;
        out.mul = step < std::numeric_limits<float>::min() ? 0.0f : step;
        const float inverse = out.mul > 0 ? 1 / out.mul : 0.0f;
        float *levels = out.levels.data(), *residual = out.residual.data();
        for (size_t d = 0; d < dim_; ++d) {
            const float scaled = (z[d] - lower) * inverse, rounded = scaled + 0.5f;
            levels[d] = static_cast<float>(static_cast<int32_t>(rounded < highest ? rounded : highest));
            residual[d] = scaled - levels[d];
        }
        levels_to_codes(levels, dim_, out.codes.data());
        if (!fine_) return;
        const float finest = finest_;
        for (size_t d = 0; d < dim_; ++d) {
            const float inside = std::min(std::max(residual[d] + 0.5f, 0.0f), 1.0f);
            residual[d] = static_cast<float>(static_cast<int32_t>(inside * finest + 0.5f));
        }
        levels_to_codes(residual, dim_, out.fine.data());
        for (size_t d = 0; d < dim_; ++d) residual[d] = residual[d] / finest - 0.5f;
    }

    float highest_, finest_;
};

// Levels of Lloyd and Max for the normal distribution, above its mean; the others are their negatives. Times a factor
// at which integers fit them: their mean squared error is within 0.06 % of that of the real numbers.
struct NormalLevels {
    std::array<uint8_t, 8> level;
    size_t count;  // a power of two
    float factor;
};
constexpr NormalLevels kNormal4{{5, 15, 25, 36, 48, 62, 79, 104}, 8, 38.14f};
constexpr NormalLevels kNormal2{{30, 100}, 2, 66.21f};

class Lloyd final : public ScalarCodec {
  public:
    bool codes_residuals() const override { return true; }
    Lloyd(const CodecSpec& spec, size_t dim, Metric metric) : ScalarCodec(spec, dim, metric) {
        ParameterReader parameters(spec);
        const size_t bits = parameters.choice("bits", {"4", "2"}) == 0 ? 4 : 2;
        calibrated_ = parameters.choice("calibrated", {"true", "false"}) == 0;
        const size_t seed = parameters.number("seed", 0, 0, std::numeric_limits<uint32_t>::max());
        parameters_ = parameters.done();
        rotation_.emplace(dim, static_cast<uint32_t>(seed), 1);
        lay_out(bits);
        normal_ = bits == 4 ? kNormal4 : kNormal2;
        linear_ = false;
        factors_ = bits == 4 ? std::vector<float>{1.0f, 1.1f} : std::vector<float>{1.0f};
        border_.fill(kInfinity);
        for (size_t k = 0; k < normal_.count; ++k) {
            const float below = k > 0 ? normal_.level[k - 1] : 0.0f, level = normal_.level[k];
            border_[k] = (below + level) / 2;
            step_[k] = level - below;
        }
        for (size_t i = 0; i < 16; ++i) {
            const size_t code = i % (2 * normal_.count);
            const unsigned level = code < normal_.count ? kZero - normal_.level[normal_.count - 1 - code]
                                                        : kZero + normal_.level[code - normal_.count];
            planes_[0].levels[i] = static_cast<uint8_t>(level);
            level_[i] = static_cast<float>(level);
            code_[level] = static_cast<uint8_t>(code);
        }
    }

    Learned learned() const override {
        if (!calibrated_) return {{"mean", origin_}};
        return {{"mean", origin_}, {"shift", shift_}, {"scale", scale_}};
    }

    std::unique_ptr<Codec> with(Learned learned) const override {
        auto out = std::make_unique<Lloyd>(*this);
        out->origin_ = take_learned(learned, "mean", dim_);
        out->shift_ = calibrated_ ? take_learned(learned, "shift", dim_) : std::vector<float>(dim_, 0.0f);
        out->scale_ = calibrated_ ? take_learned(learned, "scale", dim_) : std::vector<float>(dim_, 1.0f);
        out->weight_.resize(dim_);
        out->zero_.resize(dim_);
        out->inverse_.resize(dim_);
        for (size_t d = 0; d < dim_; ++d) {
            if (!(out->scale_[d] > 0)) {
                throw InvalidInput("scale: " + std::to_string(out->scale_[d]) + " given, expected a positive number");
            }
            out->weight_[d] = out->scale_[d] / normal_.factor;
            out->inverse_[d] = 1 / out->weight_[d];
            out->zero_[d] = static_cast<float>(kZero) - out->shift_[d] / out->weight_[d];
        }
        out->center_ = out->zero_;
        out->learn();
        return out;
    }

    std::unique_ptr<Codec> trained(const Vectors& sample, Learned /*given*/) const override;

  private:
    static constexpr unsigned kZero = 128;

    void quantize(const float* z, Coded& out) const override;

    bool calibrated_;
    NormalLevels normal_;
    // What makes the coordinates' mean square 1.
    double unit_of(const float* z) const;
    // Levels of z * unit, and what these decode to, times a scale that is the row's.
    void round(const float* z, float unit, float* levels, float* decoded) const;

    std::vector<float> shift_, scale_, inverse_;  // of the weight
    // The borders between levels above the mean, and how much higher each level is than the one before.
    std::array<float, 8> border_{}, step_{};
    std::array<uint8_t, 256> code_{};  // of a level
    // What coordinates of deviation 1 are multiplied with; the codes that fit the row best are taken.
    std::vector<float> factors_;
};

// Calibration makes every coordinate of the rows, taken to equal length, one of mean 0 and deviation 1. Under ip and
// cosine it takes the place of the mean, so that a row's scale is that of the whole vector: lengths of decoded vectors
// that differ from the vectors' own disturb the order more than anything else.
std::unique_ptr<Codec> Lloyd::trained(const Vectors& sample, Learned /*given*/) const {
    constexpr size_t kLeast = 256;          // rows that calibration needs
    constexpr double kNarrowest = 0x1p-10;  // deviation of a coordinate that is calibrated
    std::vector<float> shift(dim_, 0.0f), scale(dim_, 1.0f);
    Learned learned{{"mean", mean(sample)}};
    if (!calibrated_) return with(std::move(learned));
    if (sample.n >= kLeast) {
        std::vector<float>& middle = learned["mean"];
        if (metric_ != Metric::l2) std::fill(middle.begin(), middle.end(), 0.0f);
        std::vector<float> vector(dim_), z(dim_);
        std::vector<double> sum(dim_), squares(dim_);
        for (size_t i = 0; i < sample.n; ++i) {
            normalize(sample.floats() + i * dim_, vector.data());
            for (size_t d = 0; d < dim_; ++d) vector[d] -= middle[d];
            rotate(vector.data(), z.data());
            const double unit = unit_of(z.data());
            for (size_t d = 0; d < dim_; ++d) {
                const double value = static_cast<double>(z[d]) * unit;
                sum[d] += value;
                squares[d] += value * value;
            }
        }
        const auto rows = static_cast<double>(sample.n);
        for (size_t d = 0; d < dim_; ++d) {
            const double average = sum[d] / rows;
            const double deviation = std::sqrt(std::max(squares[d] / rows - average * average, 0.0));
            if (deviation < kNarrowest) continue;
            shift[d] = static_cast<float>(average);
            scale[d] = static_cast<float>(deviation);
        }
    }
    learned["shift"] = std::move(shift);
    learned["scale"] = std::move(scale);
    return with(std::move(learned));
}

double Lloyd::unit_of(const float* z) const {
    const double norm = length(z, dim_);
    return norm > 0 ? std::sqrt(static_cast<double>(dim_)) / norm : 0.0;
}

void Lloyd::quantize(const float* z, Coded& out) const {
    const double unit = unit_of(z);
    float best = -kInfinity;
    for (const float factor : factors_) {
        round(z, static_cast<float>(unit) * factor, out.tried.data(), out.decoded.data());
        const auto [product, squared] = dots(z, out.decoded.data(), dim_);
        const float cosine = squared > 0 ? product * static_cast<float>(unit) / std::sqrt(squared) : 0.0f;
        if (cosine <= best) continue;  // not what is not a number: the first is always taken
        best = cosine;
        out.mul = unit > 0 && squared > 0
                      ? static_cast<float>(std::sqrt(static_cast<double>(dim_) / static_cast<double>(squared)) / unit)
                      : 0.0f;
        std::swap(out.levels, out.tried);
    }
    levels_to_codes(out.levels.data(), dim_, out.codes.data());
    uint8_t* codes = out.codes.data();
    for (size_t d = 0, n = dim_; d < n; ++d) codes[d] = code_[codes[d]];
}

void Lloyd::round(const float* z, float unit, float* levels, float* decoded) const {
    constexpr auto kMiddle = static_cast<float>(kZero);
    const float *inverse = inverse_.data(), *weight = weight_.data(), *zero = zero_.data();
    const std::array<float, 8> border = border_, step = step_;
    for (size_t d = 0; d < dim_; ++d) {
        const float value = z[d] * (unit * inverse[d]) + zero[d] - kMiddle, magnitude = std::abs(value);
        float level = step[0];
        for (size_t k = 1; k < 8; ++k) level += magnitude > border[k] ? step[k] : 0.0f;
        levels[d] = std::copysign(level, value) + kMiddle;
        decoded[d] = weight[d] * (levels[d] - zero[d]);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Queries
// ---------------------------------------------------------------------------------------------------------------------

class ScalarQuery final : public GroupQuery {
  public:
    ScalarQuery(const ScalarCodec& codec, const Vectors& queries)
        : GroupQuery(codec.layout(), {codec.roles_.add, codec.roles_.mul, codec.roles_.off, codec.roles_.err},
                     queries.n, kTile),
          codec_(codec),
          vectors_(queries.n * codec.dim_),
          exact_(queries.n),
          packed_(codec.planes_.size()) {
        for (size_t p = 0; p < packed_.size(); ++p) packed_[p].resize(queries.n * codec.planes_[p].codes());
        if (codec.linear_) {
            for (const Plane& plane : codec.planes_) by_row_.emplace_back(queries.n * plane.codes());
            if (codec.fine_) by_row_.emplace_back(queries.n * codec.fine_->codes());
        }
        for (size_t q = 0; q < queries.n; ++q) set(q, queries.floats() + q * codec.dim_);
    }

    void bound_rows(size_t query, Rows rows, const uint32_t* list, size_t n, float* low,
                    float* high) const noexcept override;
    void settle(size_t query, Rows rows, const uint32_t* list, size_t n, double* out) const noexcept override;

  private:
    void set(size_t q, const float* query);
    void sum(const uint8_t* codes, size_t first, size_t width, int32_t* sums) const noexcept override;

    // The canonical inner product is factor * (constant + <vector, what is decoded>).
    struct Exact {
        double constant, factor;
        int32_t sum;  // of the rounded query
    };

    const ScalarCodec& codec_;
    std::vector<float> vectors_;
    std::vector<Exact> exact_;
    std::vector<std::vector<int8_t>> packed_;  // tile after tile of every plane
    std::vector<std::vector<int8_t>> by_row_;  // for row_dot, of every plane and the fine one
};

// query: [units][kUnit] to one of `width` queries of a tile.
template <size_t kUnit>
void space_out(const int8_t* query, size_t units, size_t width, int8_t* out) {
    for (size_t u = 0; u < units; ++u) std::memcpy(out + u * width * kUnit, query + u * kUnit, kUnit);
}

// query: [units][32 / b] to the order of row_dot.
void order_by_row(const int8_t* query, const Plane& plane, int8_t* out) {
    const size_t places = 8 / plane.bits;
    for (size_t p = 0; p < places; ++p) {
        for (size_t u = 0; u < plane.units; ++u) {
            std::memcpy(out + p * plane.bytes() + u * 4, query + (u * places + p) * 4, 4);
        }
    }
}

void ScalarQuery::set(size_t q, const float* query) {
    const size_t dim = codec_.dim_;
    const bool l2 = codec_.metric_ == Metric::l2;
    std::vector<float> unit(dim), v(dim);
    codec_.normalize(query, unit.data());
    const double constant = products(unit.data(), codec_.middle_.data(), dim)[0];
    if (l2) {
        for (size_t d = 0; d < dim; ++d) unit[d] -= codec_.middle_[d];
    }
    codec_.rotate(unit.data(), v.data());
    const double norm = length(v.data(), dim);
    const double total = codec_.roles_.off >= 0 ? sum_of(v.data(), dim) : 0.0;

    Exact& exact = exact_[q];
    exact = {0, 1, 0};
    if (codec_.rotation_) {
        std::copy_n(v.data(), dim, vectors_.data() + q * dim);
        exact.constant = constant;
    } else {
        std::copy_n(query, dim, vectors_.data() + q * dim);
        if (codec_.metric_ == Metric::cosine) {
            const double whole = length(query, dim);
            exact.factor = whole > 0 ? 1 / whole : 0;
        }
    }

    for (size_t d = 0; d < dim; ++d) v[d] *= codec_.weight_[d];
    const IntegerQuery rounded = round_query(v.data(), dim);
    exact.sum = rounded.sum;
    std::copy(rounded.code.begin(), rounded.code.end(), v.begin());
    const double center = products(v.data(), codec_.center_.data(), dim)[0];
    const double scale = static_cast<double>(rounded.scale), twice = l2 ? 2 : 1;
    Terms& t = terms_[q];
    t.base = static_cast<float>(l2 ? norm * norm : -constant);
    t.scale = static_cast<float>(-twice * scale);
    t.shift = static_cast<float>(twice * scale * center);
    t.tilt = static_cast<float>(-twice * total);
    t.slack = static_cast<float>(twice * norm * kUp);
    t.error = static_cast<float>(twice * static_cast<double>(rounded.error) * kUp);
    // A row's coordinates from the middle are at most three times `reach` times the largest weight; see encode.
    t.norm = static_cast<float>(twice * norm) * codec_.widest_;
    t.square = l2 ? 32 * codec_.widest_ * codec_.widest_ : 0.0f;

    const size_t first = q / tile() * tile(), wide = std::min(tile(), width() - first);
    std::vector<int8_t> code(padded(dim));
    std::copy(rounded.code.begin(), rounded.code.end(), code.begin());
    for (size_t p = 0; p < packed_.size(); ++p) {
        const Plane& plane = codec_.planes_[p];
        const size_t in_unit = 32 / plane.bits;
        (plane.bits == 8   ? space_out<4>
         : plane.bits == 4 ? space_out<8>
                           : space_out<16>)(code.data(), plane.units, wide,
                                            packed_[p].data() + first * plane.codes() + (q - first) * in_unit);
    }
    for (size_t p = 0; p < by_row_.size(); ++p) {
        const Plane& plane = p < codec_.planes_.size() ? codec_.planes_[p] : *codec_.fine_;
        order_by_row(code.data(), plane, by_row_[p].data() + q * plane.codes());
    }
}

void ScalarQuery::sum(const uint8_t* codes, size_t first, size_t width, int32_t* sums) const noexcept {
    const kernels::CodeKernels& kernel = kernels::active().codes;
    alignas(64) int32_t more[kTile * kGroup];
    for (size_t p = 0; p < packed_.size(); ++p) {
        const Plane& plane = codec_.planes_[p];
        const uint8_t* from = codes + plane.at * kGroup;
        const int8_t* queries = packed_[p].data() + first * plane.codes();
        int32_t* out = p == 0 ? sums : more;
        if (plane.bits == 8) {
            kernel.dot8(from, plane.units, queries, width, out);
        } else {
            (plane.bits == 4 ? kernel.dot4 : kernel.dot2)(from, plane.units, plane.levels.data(), queries, width, out);
        }
        if (p == 0) continue;
        for (size_t i = 0; i < width * kGroup; ++i) sums[i] += more[i];
    }
}

void ScalarQuery::bound_rows(size_t query, Rows rows, const uint32_t* list, size_t n, float* low,
                             float* high) const noexcept {
    if (!codec_.linear_) {
        GroupQuery::bound_rows(query, rows, list, n, low, high);
        return;
    }
    constexpr size_t kPiece = 64;
    const auto row_dot = kernels::active().codes.row_dot;
    const GroupLayout form = codec_.layout();
    const auto factor = [&](const std::byte* row, int which, float otherwise) {
        return which < 0 ? otherwise : form.factor(row, static_cast<size_t>(which));
    };
    const Terms& t = terms_[query];
    int32_t sums[kPiece], more[kPiece];
    for (size_t start = 0; start < n; start += kPiece) {
        const size_t count = std::min(kPiece, n - start);
        const Rows piece{list ? rows.data : rows.data + start * rows.stride, rows.stride};
        const uint32_t* piece_list = list ? list + start : nullptr;
        const auto add_up = [&](size_t p, const Plane& plane, int32_t* out) {
            row_dot(reinterpret_cast<const uint8_t*>(piece.data + plane.at), piece.stride, piece_list, count,
                    plane.bytes(), plane.bits, by_row_[p].data() + query * plane.codes(), out);
        };
        std::fill_n(sums, count, 0);
        for (size_t p = 0; p < codec_.planes_.size(); ++p) {
            add_up(p, codec_.planes_[p], more);
            for (size_t i = 0; i < count; ++i) sums[i] += more[i] << codec_.planes_[p].shift;
        }
        float step = 0, half = 0;
        if (codec_.fine_) {
            add_up(codec_.planes_.size(), *codec_.fine_, more);
            step = 1 / static_cast<float>((1u << codec_.fine_->bits) - 1);
            half = static_cast<float>(exact_[query].sum) / 2;
        }
        for (size_t i = 0; i < count; ++i) {
            const std::byte* row = piece.data + (piece_list ? piece_list[i] : i) * piece.stride;
            const float whole = static_cast<float>(sums[i]) + (step * static_cast<float>(more[i]) - half);
            const float reach = form.factor(row, form.factors);
            const float estimate = t.base + factor(row, codec_.roles_.add, 0) +
                                   factor(row, codec_.roles_.mul, 1) * (t.scale * whole + t.shift) +
                                   t.tilt * factor(row, codec_.roles_.off, 0);
            const float spread = spread_of(t).at(reach);
            const bool known = std::isfinite(estimate) && std::isfinite(spread);
            low[start + i] = known ? estimate - spread : -kInfinity;
            high[start + i] = known ? estimate + spread : kInfinity;
        }
    }
}

void ScalarQuery::settle(size_t query, Rows rows, const uint32_t* list, size_t n, double* out) const noexcept {
    const Exact& exact = exact_[query];
    const float* vector = vectors_.data() + query * codec_.dim_;
    std::vector<uint8_t> codes(padded(codec_.dim_));
    std::vector<float> decoded(codec_.dim_);
    for (size_t i = 0; i < n; ++i) {
        const Rows row{rows.data + (list ? list[i] : i) * rows.stride, rows.stride};
        if (codec_.rotation_) {
            codec_.coordinates(row.data, codes.data(), decoded.data());
        } else {
            codec_.decode(row, nullptr, 1, decoded.data());
        }
        const auto [product, squared, difference] = products(vector, decoded.data(), codec_.dim_);
        out[i] = codec_.metric_ == Metric::l2 ? difference : 0.0 - exact.factor * (exact.constant + product);
    }
}

std::unique_ptr<Query> ScalarCodec::prepare(const Vectors& queries) const {
    return std::make_unique<ScalarQuery>(*this, queries);
}

}  // namespace

std::unique_ptr<Codec> make_scalar(const CodecSpec& spec, size_t dim, Metric metric) {
    if (spec.name == "sq") return std::make_unique<SQ>(spec, dim, metric);
    if (spec.name == "lvq") return std::make_unique<LVQ>(spec, dim, metric);
    return std::make_unique<Lloyd>(spec, dim, metric);
}

}  // namespace nearfield
