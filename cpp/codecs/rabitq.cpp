// RaBitQ (Gao and Long 2024, arXiv 2405.12497; with several bits Gao et al. 2024, arXiv 2409.09913).
//
// With c the centre and P a random rotation, a vector x is coded by its direction o = P(x - c) / |x - c|: each
// dimension by a code u of B bits, such that v = u - (2^B - 1) / 2 points where o points as nearly as possible. For a
// vector y, <o, P y> is estimated by <v, P y> / <o, v>: over random rotations without bias, and with a nearly normal
// error.
//
// The first bits of the codes are the signs of o. Alone, as v = +-1/2, they give the estimate that a scan compares; the
// estimate from all bits is what counts.
#include "codecs/rabitq.hpp"

#include <algorithm>
#include <array>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <optional>

#include "codecs/groups.hpp"
#include "codecs/parameters.hpp"
#include "codecs/rotation.hpp"
#include "kernels/dispatch.hpp"

namespace nearfield {

namespace {

// By how many standard deviations the estimate from the first bits may miss that from all bits before a row is lost: as
// published. The error is smaller for rows that are near to the query, so this loses one in a thousand of ten
// neighbours at most on real data, and one in 250 among random vectors; 3 would have two to three times as many rows
// read.
constexpr double kEpsilon = 1.9;

// The steps of the uniform quantizers of 1 to 8 bits that suit a normal distribution best (Max, "Quantizing for Minimum
// Distortion", 1960, table II; for 6 to 8 bits found in the same way).
constexpr double kSteps[] = {1.5958, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308};

// The sum of term(0) .. term(n - 1), in an order that lets the compiler use SIMD.
template <class Term>
double sum_of(size_t n, const Term& term) {
    constexpr size_t kLanes = 8;
    double lanes[kLanes] = {}, out = 0;
    for (size_t i = 0; i + kLanes <= n; i += kLanes) {
        for (size_t j = 0; j < kLanes; ++j) lanes[j] += term(i + j);
    }
    for (size_t i = n / kLanes * kLanes; i < n; ++i) out += term(i);
    for (const double lane : lanes) out += lane;
    return out;
}

double dot(const float* a, const float* b, size_t n) {
    return sum_of(n, [=](size_t i) { return static_cast<double>(a[i]) * static_cast<double>(b[i]); });
}

// Some bits of all codes of a row, side by side from byte `at` of the row on: those of dimension p * bytes + j in place
// p of byte j. Four bytes are handled at once; there are always a multiple of them.
struct Plane {
    size_t bits, shift, at, bytes;

    uint32_t mask() const { return ((1u << bits) - 1) * 0x01010101u; }

    void put(const uint8_t* codes, std::byte* row) const {
        std::memset(row + at, 0, bytes);
        for (size_t p = 0; p < 8; p += bits) {
            for (size_t j = 0; j < bytes; j += 4, codes += 4) {
                uint32_t to, from;
                std::memcpy(&to, row + at + j, 4);
                std::memcpy(&from, codes, 4);
                to |= (from >> shift & mask()) << p;
                std::memcpy(row + at + j, &to, 4);
            }
        }
    }
    // Adds the bits to codes.
    void get(const std::byte* row, uint8_t* codes) const {
        for (size_t p = 0; p < 8; p += bits) {
            for (size_t j = 0; j < bytes; j += 4, codes += 4) {
                uint32_t to, from;
                std::memcpy(&from, row + at + j, 4);
                std::memcpy(&to, codes, 4);
                to |= (from >> p & mask()) << shift;
                std::memcpy(codes, &to, 4);
            }
        }
    }
};

// Where things lie in a row: the first bits as units of codes of four bits, the factors, then the fine bytes: planes of
// the other bits, and a float32.
struct Shape {
    // Factors: |x - c|^2 for l2 and <x - c, c> otherwise; the scale of the first bits' estimate; how far, in terms of
    // the query's length and in standard deviations, it may miss the estimate from all bits.
    enum : int { kOffset, kScale, kError };
    static constexpr size_t kMultiple = 32;  // dimensions in a unit

    size_t dim, bits;
    Metric metric;

    size_t padded() const { return (dim + kMultiple - 1) / kMultiple * kMultiple; }
    GroupLayout layout() const { return {padded() / kMultiple, bits == 1 ? size_t{2} : size_t{3}, true}; }
    size_t fine_bytes() const { return bits == 1 ? 0 : padded() * (bits - 1) / 8 + sizeof(float); }
    std::vector<Plane> planes() const {
        std::vector<Plane> out{{1, bits - 1, 0, padded() / 8}};
        size_t at = layout().row_bytes();
        for (size_t left = bits - 1; left > 0; at += out.back().bytes) {
            const size_t taken = left >= 4 ? 4 : left >= 2 ? 2 : 1;
            left -= taken;
            out.push_back({taken, left, at, padded() * taken / 8});
        }
        return out;
    }
    // What makes codes symmetric: v = u - middle.
    double middle() const { return (std::exp2(static_cast<double>(bits)) - 1) / 2; }
    // The scale of the estimate from all bits.
    float scale(const std::byte* row) const {
        if (bits == 1) return layout().factor(row, kScale);
        float value;
        std::memcpy(&value, row + layout().row_bytes() + fine_bytes() - sizeof(value), sizeof(value));
        return value;
    }
    void set_scale(std::byte* row, float value) const {
        if (bits > 1) std::memcpy(row + layout().row_bytes() + fine_bytes() - sizeof(value), &value, sizeof(value));
    }
};

// What rows are measured from.
struct Center {
    std::vector<float> vector;
    double squared;

    explicit Center(std::vector<float> values)
        : vector(std::move(values)), squared(dot(vector.data(), vector.data(), vector.size())) {}
};

// A vector as it is compared: under cosine of unit length, zeros stay zeros.
void load(const float* vector, size_t dim, Metric metric, float* out) {
    if (metric != Metric::cosine) {
        std::copy_n(vector, dim, out);
        return;
    }
    const double squared = dot(vector, vector, dim);
    const double inverse = squared > 0 ? 1 / std::sqrt(squared) : 0;
    for (size_t d = 0; d < dim; ++d) out[d] = static_cast<float>(static_cast<double>(vector[d]) * inverse);
}

// The length of vector - times * c; out becomes its rotated direction, zeros for the zero vector. `direction` is room
// for it unrotated.
double rotated_direction(const float* vector, const Center& center, double times, const HadamardRotation& rotation,
                         std::vector<float>& direction, float* out) {
    const auto rest = [&](size_t d) {
        return static_cast<double>(vector[d]) - times * static_cast<double>(center.vector[d]);
    };
    const double squared = sum_of(rotation.dim(), [&](size_t d) { return rest(d) * rest(d); });
    const double length = std::sqrt(squared), inverse = length > 0 ? 1 / length : 0;
    for (size_t d = 0; d < rotation.dim(); ++d) direction[d] = static_cast<float>(rest(d) * inverse);
    rotation.apply(direction.data(), out);
    return length;
}

// ---------------------------------------------------------------------------------------------------------------------
// Queries
// ---------------------------------------------------------------------------------------------------------------------

// The distances of rows from a query q, in terms of y = q - t c:
//     l2 (t = 1):            |q - c|^2 + |x - c|^2 - 2 <x - c, y>
//     ip (t = <q, c> / |c|^2): -<q, c> - t <x - c, c> - <x - c, y>
// where <x - c, y> = |x - c| |y| <o, P y / |y|> is estimated and all else is known. Any t is right; this one makes y,
// and with it the error, as short as possible, and makes the estimate linear in q, so that there is a vector which has
// it as its inner product with every q (see RabitqCodec::decode).
class RabitqQuery final : public GroupQuery {
  public:
    RabitqQuery(const Shape& shape, const Center& center, const HadamardRotation& rotation, const Vectors& queries)
        : GroupQuery(shape.layout(),
                     shape.bits == 1 ? Roles{-1, Shape::kScale, Shape::kOffset, -1}
                                     : Roles{-1, Shape::kScale, Shape::kOffset, Shape::kError},
                     queries.n, tile_of(shape)),
          shape_(shape),
          planes_(shape.planes()),
          rotated_(new float[queries.n * shape.padded()]),
          rounded_(queries.n),
          tables_(new Line[queries.n * table_bytes(shape) / sizeof(Line)]) {
        scan_tables({kernels::active().codes.sum4, reinterpret_cast<const uint8_t*>(tables_.get()), 8 * 16});
        std::vector<float> query(shape.dim), unrotated(shape.dim);
        for (size_t q = 0; q < queries.n; ++q) {
            load(queries.floats() + q * shape.dim, shape.dim, shape.metric, query.data());
            float* rotated = rotated_.get() + q * shape.padded();
            Exact exact{};
            if (shape.metric == Metric::l2) {
                exact.tilt = 1;
                exact.length = rotated_direction(query.data(), center, 1, rotation, unrotated, rotated);
                exact.base = exact.length * exact.length;
            } else {
                const double with_center = dot(query.data(), center.vector.data(), shape.dim);
                const double times = center.squared > FLT_MIN ? with_center / center.squared : 0;
                exact.tilt = -times;
                exact.length = rotated_direction(query.data(), center, times, rotation, unrotated, rotated);
                exact.base = -with_center;
            }
            exact.sum = sum_of(shape.padded(), [=](size_t d) { return static_cast<double>(rotated[d]); });
            exact_.push_back(exact);
            set_terms(q, std::sqrt(center.squared));
        }
    }

    void bound_rows(size_t query, Rows rows, const uint32_t* list, size_t n, float* low,
                    float* high) const noexcept override;
    void settle(size_t query, Rows rows, const uint32_t* list, size_t n, double* out) const noexcept override;

  private:
    struct Exact {
        double base, tilt, length;
        double sum;  // of the rotated direction
    };
    // The rotated direction is step * code + (something of length `error`).
    struct Rounded {
        std::vector<int8_t> code;
        double step, error;
        int32_t sum;
    };

    static size_t table_bytes(const Shape& shape) { return shape.layout().units * 8 * 16; }
    // The tables of a tile stay in the first-level cache.
    static size_t tile_of(const Shape& shape) {
        return std::clamp<size_t>((size_t{24} << 10) / table_bytes(shape), 1, kernels::kTile);
    }
    void set_terms(size_t q, double center);
    double distance(const Exact& exact, const std::byte* row, double product) const {
        return exact.base + exact.tilt * static_cast<double>(shape_.layout().factor(row, Shape::kOffset)) -
               static_cast<double>(shape_.scale(row)) * exact.length * product;
    }

    const Shape& shape_;
    std::vector<Plane> planes_;
    const std::unique_ptr<float[]> rotated_;  // directions
    std::vector<Rounded> rounded_;
    std::vector<Exact> exact_;
    // Of tile after tile, as the kernel takes them.
    struct alignas(64) Line {
        uint8_t bytes[64];
    };
    const std::unique_ptr<Line[]> tables_;
};

// Rounds the rotated query to integers of which any four add up to a byte, and makes tables of their sums.
void RabitqQuery::set_terms(size_t q, double center) {
    const size_t padded = shape_.padded(), bytes = padded / 8;
    const float* rotated = rotated_.get() + q * padded;
    // Code i of four bits stands for the signs of dimensions byte, bytes + byte, ... of one half (see Plane).
    float widest_sum = 0, largest_size = 0;
    for (size_t half = 0; half < 2; ++half) {
        const float* first = rotated + half * 4 * bytes;
        for (size_t byte = 0; byte < bytes; ++byte) {
            const float a = std::abs(first[byte]), b = std::abs(first[bytes + byte]);
            const float c = std::abs(first[2 * bytes + byte]), d = std::abs(first[3 * bytes + byte]);
            widest_sum = std::max(widest_sum, (a + b) + (c + d));
            largest_size = std::max(largest_size, std::max(std::max(a, b), std::max(c, d)));
        }
    }
    // (The sums of four are of float32: a little more room.)
    const double widest = static_cast<double>(widest_sum) * (1 + 1e-6);
    const auto largest = static_cast<double>(largest_size);
    // Rounding adds up to half a step to each of the four.
    const double step = std::max(widest / (255 - 3), largest / kernels::active().tile.query_limit);

    Rounded& rounded = rounded_[q];
    rounded = {std::vector<int8_t>(padded), static_cast<double>(static_cast<float>(step)), 0, 0};
    const double inverse = rounded.step > 0 ? 1 / rounded.step : 0;
    // What comes after the point of so large a number is rounded away. (std::nearbyint would not be vectorized.)
    constexpr double kLarge = 0x1.8p52;
    const double exact_step = rounded.step;
    constexpr size_t kLanes = 4;  // that sums do not wait for each other
    double squared_of[kLanes] = {}, absolute_of[kLanes] = {};
    int8_t* code = rounded.code.data();
    int32_t sum = 0, least = 0;  // of all numbers, and of all tables' lowest entries
    for (size_t d = 0; d < padded; d += kLanes) {
        for (size_t j = 0; j < kLanes; ++j) {
            const double value = static_cast<double>(rotated[d + j]);
            const double whole = value * inverse + kLarge - kLarge;
            const double error = value - whole * exact_step;
            const auto number = static_cast<int32_t>(whole);
            code[d + j] = static_cast<int8_t>(number);
            sum += number;
            least += std::min(number, 0);
            squared_of[j] += error * error;
            absolute_of[j] += std::abs(error);
        }
    }
    const double squared = (squared_of[0] + squared_of[1]) + (squared_of[2] + squared_of[3]);
    const double absolute = (absolute_of[0] + absolute_of[1]) + (absolute_of[2] + absolute_of[3]);
    rounded.sum = sum;
    rounded.error = std::sqrt(squared);
    const size_t first = q / tile() * tile(), in_tile = std::min(tile(), width() - first);
    uint8_t* tables = tables_[0].bytes + first * table_bytes(shape_) + (q - first) * 8 * 16;
    kernels::active().codes.sign_tables(code, bytes / 4, in_tile, tables);

    // <v, code> = (sum + least) - rounded.sum / 2.
    const Exact& exact = exact_[q];
    const double scale = exact.length * rounded.step, root = std::sqrt(static_cast<double>(padded));
    Terms& terms = terms_[q];
    terms.base = static_cast<float>(exact.base);
    terms.tilt = static_cast<float>(exact.tilt);
    terms.scale = static_cast<float>(-scale);
    terms.shift = static_cast<float>(scale * (rounded.sum / 2.0 - least));
    // Rounding moves <v, P y> by half the sum of all errors at most. Where the bound is one of chance anyway, the signs
    // of v make a sum of errors a matter of chance as well.
    terms.slack = static_cast<float>(kEpsilon * exact.length);
    terms.error = static_cast<float>(exact.length * (shape_.bits == 1 ? absolute : kEpsilon * rounded.error) / 2);
    // The reach is the largest scale; |x - c| is at most the scale of the estimate times the length of v, root / 2.
    terms.norm = static_cast<float>(root * exact.length);
    if (shape_.metric == Metric::l2) {
        terms.square = static_cast<float>(root * root / 16);
    } else {
        terms.norm += static_cast<float>(root / 2 * std::abs(exact.tilt) * center);
    }
}

void RabitqQuery::bound_rows(size_t query, Rows rows, const uint32_t* list, size_t n, float* low,
                             float* high) const noexcept {
    if (shape_.bits == 1) return GroupQuery::bound_rows(query, rows, list, n, low, high);
    constexpr size_t kPiece = 64;
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    const auto row_dot = kernels::active().codes.row_dot;
    const Exact& exact = exact_[query];
    const Rounded& rounded = rounded_[query];
    const double length_of_signs = std::sqrt(static_cast<double>(shape_.padded())) / 2;
    const double radius = exact.length * rounded.error * length_of_signs * (1 + 1e-5);
    for (size_t start = 0; start < n; start += kPiece) {
        const size_t count = std::min(kPiece, n - start);
        const std::byte* data = list ? rows.data : rows.data + start * rows.stride;
        const uint32_t* which = list ? list + start : nullptr;
        int32_t sums[kPiece];
        double products[kPiece];
        std::fill_n(products, count, -shape_.middle() * rounded.sum);
        for (const Plane& plane : planes_) {
            row_dot(reinterpret_cast<const uint8_t*>(data + plane.at), rows.stride, which, count, plane.bytes,
                    plane.bits, rounded.code.data(), sums);
            const auto weight = static_cast<double>(1u << plane.shift);
            for (size_t i = 0; i < count; ++i) products[i] += weight * sums[i];
        }
        for (size_t i = 0; i < count; ++i) {
            const std::byte* row = data + (which ? which[i] : i) * rows.stride;
            const double middle = distance(exact, row, rounded.step * products[i]);
            // v is no longer, once scaled, than the signs alone (see RabitqCodec::encode).
            const double off = radius * static_cast<double>(shape_.layout().factor(row, Shape::kScale));
            low[start + i] = std::nextafter(static_cast<float>(middle - off), -kInfinity);
            high[start + i] = std::nextafter(static_cast<float>(middle + off), kInfinity);
        }
    }
}

void RabitqQuery::settle(size_t query, Rows rows, const uint32_t* list, size_t n, double* out) const noexcept {
    const auto settle_codes = kernels::active().dense[kernels::kU8].settle;
    const float* rotated = rotated_.get() + query * shape_.padded();
    const Exact& exact = exact_[query];
    thread_local std::vector<uint8_t> codes;
    for (size_t i = 0; i < n; ++i) {
        const std::byte* row = rows.data + (list ? list[i] : i) * rows.stride;
        codes.assign(shape_.padded(), 0);
        for (const Plane& plane : planes_) plane.get(row, codes.data());
        double sums[3];
        settle_codes(rotated, codes.data(), 1.0f, shape_.padded(), sums);
        out[i] = distance(exact, row, sums[0] - shape_.middle() * exact.sum);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The codec
// ---------------------------------------------------------------------------------------------------------------------

class RabitqCodec final : public GroupCodec {
  public:
    RabitqCodec(const Shape& shape, uint32_t seed, Parameters parameters)
        : shape_(shape), parameters_(std::move(parameters)), rotation_(shape.dim, seed, Shape::kMultiple) {}

    std::string_view name() const override { return "rabitq"; }
    Parameters parameters() const override { return parameters_; }
    GroupLayout layout() const override { return shape_.layout(); }
    size_t fine_bytes() const override { return shape_.fine_bytes(); }
    bool codes_residuals() const override { return true; }
    CheckedVectors check(const Vectors& vectors, std::string_view name, size_t first) const override {
        return CheckedVectors::floats(vectors, shape_.dim, name, first);
    }

    bool untrained() const override { return !center_; }

    // The centre is the mean of the vectors as they are compared.
    std::unique_ptr<Codec> trained(const Vectors& sample, Learned /*given*/) const override {
        const size_t dim = shape_.dim;
        std::vector<double> sums(dim);
        std::vector<float> vector(dim), mean(dim);
        for (size_t i = 0; i < sample.n; ++i) {
            load(sample.floats() + i * dim, dim, shape_.metric, vector.data());
            for (size_t d = 0; d < dim; ++d) sums[d] += static_cast<double>(vector[d]);
        }
        const auto n = static_cast<double>(std::max<size_t>(1, sample.n));
        for (size_t d = 0; d < dim; ++d) mean[d] = static_cast<float>(sums[d] / n);
        return with({{"center", std::move(mean)}});
    }

    Learned learned() const override { return center_ ? Learned{{"center", center_->vector}} : Learned{}; }

    std::unique_ptr<Codec> with(Learned learned) const override {
        auto out = std::make_unique<RabitqCodec>(*this);
        out->center_.emplace(take_learned(learned, "center", shape_.dim));
        return out;
    }

    void encode(const Vectors& vectors, std::byte* rows) const override;
    void decode(Rows rows, const uint32_t* list, size_t n, float* out) const override;

    std::unique_ptr<Query> prepare(const Vectors& queries) const override {
        return std::make_unique<RabitqQuery>(shape_, *center_, rotation_, queries);
    }

  private:
    Shape shape_;
    Parameters parameters_;
    HadamardRotation rotation_;
    std::optional<Center> center_;
};

// Sums over the magnitudes m of codes v = +-m of a direction o.
struct Fit {
    double dot = 0, squared = 0, sum = 0;  // <|o|, m>, |m|^2, sum of m
    double squared_cosine() const { return dot * dot / squared; }
};

// The code of the magnitude |x| on a grid of the given step, as if `most` - 1/2 were the largest code.
inline int32_t magnitude(float x, float inverse_step, float most) {
    return static_cast<int32_t>(std::min(inverse_step * std::abs(x), most));
}

Fit fit(const float* direction, size_t n, float inverse_step, float most) {
    constexpr size_t kLanes = Shape::kMultiple;
    float dots[kLanes] = {}, squares[kLanes] = {}, sums[kLanes] = {};
    for (size_t d = 0; d < n; d += kLanes) {
        for (size_t j = 0; j < kLanes; ++j) {
            const float m = static_cast<float>(magnitude(direction[d + j], inverse_step, most)) + 0.5f;
            dots[j] += std::abs(direction[d + j]) * m;
            squares[j] += m * m;
            sums[j] += m;
        }
    }
    Fit out;
    for (size_t j = 0; j < kLanes; ++j) {
        out.dot += static_cast<double>(dots[j]);
        out.squared += static_cast<double>(squares[j]);
        out.sum += static_cast<double>(sums[j]);
    }
    return out;
}

// The steps (their inverses) that are worth trying for a direction: two about the one for a normal distribution, and
// the one at which nothing is beyond the largest code. In the mean over directions of 128 to 800 dimensions the best of
// them leaves up to 5 % more squared error than the very best step, which takes a hundred times as long to find.
std::array<float, 3> inverse_steps(const float* direction, size_t n, size_t bits) {
    float largest = FLT_MIN;
    for (size_t d = 0; d < n; ++d) largest = std::max(largest, std::abs(direction[d]));
    const auto usual = static_cast<float>(std::sqrt(static_cast<double>(n)) / kSteps[bits - 1]);
    return {0.94f * usual, 1.06f * usual, static_cast<float>(1 << (bits - 1)) / largest};
}

void RabitqCodec::encode(const Vectors& vectors, std::byte* rows) const {
    const size_t dim = shape_.dim, padded = shape_.padded();
    const GroupLayout layout = shape_.layout();
    const std::vector<Plane> planes = shape_.planes();
    const int32_t half = 1 << (shape_.bits - 1);
    const auto most = static_cast<float>(half) - 0.5f;
    const auto size = static_cast<double>(padded);
    std::vector<float> vector(dim), unrotated(dim), direction(padded);
    std::vector<uint8_t> codes(padded);
    for (size_t i = 0; i < vectors.n; ++i) {
        std::byte* row = rows + i * row_bytes();
        load(vectors.floats() + i * dim, dim, shape_.metric, vector.data());
        const double length = rotated_direction(vector.data(), *center_, 1, rotation_, unrotated, direction.data());

        const Fit first = fit(direction.data(), padded, 0, most);
        Fit all = first;
        float inverse_step = 0;
        if (shape_.bits > 1) {
            // A direction that is not at all normal is left to the signs: so no code is worse than them.
            for (const float tried : inverse_steps(direction.data(), padded, shape_.bits)) {
                const Fit found = fit(direction.data(), padded, tried, most);
                if (!(found.squared_cosine() > all.squared_cosine())) continue;
                all = found;
                inverse_step = tried;
            }
        }
        for (size_t d = 0; d < padded; ++d) {
            const int32_t k = magnitude(direction[d], inverse_step, most);
            codes[d] = static_cast<uint8_t>(direction[d] > 0 ? half + k : half - 1 - k);
        }
        for (const Plane& plane : planes) plane.put(codes.data(), row);

        const double times = shape_.metric == Metric::l2 ? 2 : 1;
        double offset = length * length;
        if (shape_.metric != Metric::l2) {
            offset = dot(vector.data(), center_->vector.data(), dim) - center_->squared;
        }
        const double first_scale = length > 0 ? times * length / first.dot : 0;
        const double scale = length > 0 ? times * length / all.dot : 0;
        const auto values = {offset, first_scale, scale};
        if (std::any_of(values.begin(), values.end(), [](double value) { return !(std::abs(value) <= FLT_MAX); })) {
            throw UnencodableVector(
                i, "is too far from the mean for codec \"rabitq\": squared distances must be finite in float32");
        }
        layout.set_factor(row, Shape::kOffset, static_cast<float>(offset));
        layout.set_factor(row, Shape::kScale, static_cast<float>(first_scale));
        layout.set_factor(row, layout.factors, static_cast<float>(first_scale));
        if (shape_.bits == 1) continue;
        // Both estimates err in directions at right angles to o; the length of their difference is that of
        // first_scale * v_1 - scale * v_B, and <v_1, v_B> half the sum of the magnitudes.
        const double difference =
            first_scale * first_scale * first.squared + scale * scale * all.squared - first_scale * scale * all.sum;
        layout.set_factor(row, Shape::kError, static_cast<float>(std::sqrt(std::max(0.0, difference) / (size - 1))));
        shape_.set_scale(row, static_cast<float>(scale));
    }
}

// c + P^-1(scale * v), and for inner products as much of c as makes its inner product with c that of the vector coded.
// A query's inner product with this is the estimate; its squared l2 distance from this differs from the estimate, which
// takes the length |x - c| as it was.
void RabitqCodec::decode(Rows rows, const uint32_t* list, size_t n, float* out) const {
    const size_t dim = shape_.dim, padded = shape_.padded();
    const std::vector<Plane> planes = shape_.planes();
    const float* center = center_->vector.data();
    std::vector<uint8_t> codes(padded);
    std::vector<float> rotated(padded);
    for (size_t i = 0; i < n; ++i, out += dim) {
        const std::byte* row = rows.data + (list ? list[i] : i) * rows.stride;
        std::fill(codes.begin(), codes.end(), uint8_t{0});
        for (const Plane& plane : planes) plane.get(row, codes.data());
        const double scale = static_cast<double>(shape_.scale(row)) / (shape_.metric == Metric::l2 ? 2 : 1);
        for (size_t d = 0; d < padded; ++d) rotated[d] = static_cast<float>(scale * (codes[d] - shape_.middle()));
        rotation_.inverse(rotated.data(), out);
        double centers = 1;
        if (shape_.metric != Metric::l2 && center_->squared > FLT_MIN) {
            const auto offset = static_cast<double>(shape_.layout().factor(row, Shape::kOffset));
            centers += (offset - dot(out, center, dim)) / center_->squared;
        }
        for (size_t d = 0; d < dim; ++d) {
            out[d] = static_cast<float>(static_cast<double>(out[d]) + centers * static_cast<double>(center[d]));
        }
    }
}

}  // namespace

std::unique_ptr<Codec> make_rabitq(const CodecSpec& spec, size_t dim, Metric metric) {
    ParameterReader parameters(spec);
    const size_t bits = parameters.number("bits", 4, 1, 8);
    const size_t seed = parameters.number("seed", 0, 0, std::numeric_limits<uint32_t>::max());
    return std::make_unique<RabitqCodec>(Shape{dim, bits, metric}, static_cast<uint32_t>(seed), parameters.done());
}

}  // namespace nearfield
