#include "codecs/transforms.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <locale>
#include <numeric>
#include <sstream>

#include "codecs/parameters.hpp"
#include "codecs/rotation.hpp"
#include "kernels/dispatch.hpp"

namespace nearfield {

namespace {

constexpr std::string_view kPrefix = "transform.";

enum class Role { document, query };

// One step: a map of vectors, and for documents the way back.
class Transform {
  public:
    virtual ~Transform() = default;
    virtual size_t dims() const = 0;  // of what comes out
    // Whether what comes out is normalised under cosine.
    virtual bool renormalised() const { return false; }
    // What it has to learn: names and sizes.
    virtual std::vector<std::pair<std::string_view, size_t>> arrays() const { return {}; }
    virtual bool untrained() const { return false; }
    virtual std::unique_ptr<Transform> with(Learned /*learned*/) const { return nullptr; }
    virtual Learned learned() const { return {}; }
    // n vectors side by side to as many others.
    virtual void apply(Role role, const float* in, size_t n, float* out) const = 0;
    // Codes of documents to vectors: inner products of queries with these are those of mapped queries with the codes.
    virtual void inverse(const float* in, size_t n, float* out) const = 0;
};

void normalize(float* vectors, size_t n, size_t dim) {
    for (size_t i = 0; i < n; ++i) {
        float* vector = vectors + i * dim;
        double squared = 0;
        for (size_t d = 0; d < dim; ++d) squared += static_cast<double>(vector[d]) * static_cast<double>(vector[d]);
        const double inverse = squared > 0 ? 1 / std::sqrt(squared) : 0;
        for (size_t d = 0; d < dim; ++d) vector[d] = static_cast<float>(static_cast<double>(vector[d]) * inverse);
    }
}

// Inner products of vectors with the rows of a matrix: out (n, rows). The matrix is read in pieces that stay in the
// cache, each for all vectors; a vector's products are the same whatever others there are.
void multiply(const std::vector<float>& matrix, size_t rows, size_t dim, const float* in, size_t n, float* out) {
    const auto dot = kernels::active().dense[kernels::kF32].dot;
    const size_t piece = std::max<size_t>(16, (size_t{64} << 10) / (dim * sizeof(float)) / 16 * 16);
    for (size_t first = 0; first < rows; first += piece) {
        const size_t count = std::min(piece, rows - first);
        const auto* part = reinterpret_cast<const uint8_t*>(matrix.data() + first * dim);
        for (size_t i = 0; i < n; ++i) {
            dot(in + i * dim, part, dim * sizeof(float), nullptr, count, dim, out + i * rows + first, nullptr);
        }
    }
}

// One matrix for documents and, where there is a second one, that for queries.
class Linear final : public Transform {
  public:
    enum class Shape { shared, paired, shifted, whitened };

    Linear(size_t in, size_t dims, Shape shape) : in_(in), dims_(dims), shape_(shape) {}

    size_t dims() const override { return dims_; }
    bool renormalised() const override { return shape_ == Shape::whitened; }
    std::vector<std::pair<std::string_view, size_t>> arrays() const override {
        std::vector<std::pair<std::string_view, size_t>> out{{"matrix", dims_ * in_}};
        if (shape_ == Shape::paired) out.emplace_back("query_matrix", dims_ * in_);
        if (shifted()) out.emplace_back("shift", in_);
        return out;
    }
    bool untrained() const override { return matrix_.empty(); }
    std::unique_ptr<Transform> with(Learned learned) const override {
        auto out = std::make_unique<Linear>(in_, dims_, shape_);
        out->matrix_ = std::move(learned["matrix"]);
        out->query_matrix_ = std::move(learned["query_matrix"]);
        out->shift_ = std::move(learned["shift"]);
        return out;
    }
    Learned learned() const override {
        Learned out;
        if (!matrix_.empty()) out["matrix"] = matrix_;
        if (!query_matrix_.empty()) out["query_matrix"] = query_matrix_;
        if (!shift_.empty()) out["shift"] = shift_;
        return out;
    }

    void apply(Role role, const float* in, size_t n, float* out) const override {
        const std::vector<float>& matrix = role == Role::query ? for_queries() : matrix_;
        if (!shifted()) return multiply(matrix, dims_, in_, in, n, out);
        std::vector<float> moved(in, in + n * in_);
        for (size_t i = 0; i < n; ++i) {
            for (size_t d = 0; d < in_; ++d) moved[i * in_ + d] -= shift_[d];
        }
        multiply(matrix, dims_, in_, moved.data(), n, out);
    }

    // B^T y, summed row after row of B. The rows of a whitening matrix are orthogonal, but not of unit length.
    void inverse(const float* in, size_t n, float* out) const override {
        const std::vector<float>& matrix = for_queries();
        for (size_t i = 0; i < n; ++i, in += dims_, out += in_) {
            std::vector<double> sums(in_);
            for (size_t r = 0; r < dims_; ++r) {
                const float* row = matrix.data() + r * in_;
                auto value = static_cast<double>(in[r]);
                if (shape_ == Shape::whitened) {
                    const double squared = std::inner_product(row, row + in_, row, 0.0);
                    value = squared > 0 ? value / squared : 0;
                }
                for (size_t d = 0; d < in_; ++d) sums[d] += value * static_cast<double>(row[d]);
            }
            for (size_t d = 0; d < in_; ++d) {
                out[d] = static_cast<float>(sums[d] + (shifted() ? static_cast<double>(shift_[d]) : 0.0));
            }
        }
    }

  private:
    bool shifted() const { return shape_ == Shape::shifted || shape_ == Shape::whitened; }
    const std::vector<float>& for_queries() const { return query_matrix_.empty() ? matrix_ : query_matrix_; }

    size_t in_, dims_;
    Shape shape_;
    std::vector<float> matrix_, query_matrix_;  // (dims, in)
    std::vector<float> shift_;                  // (in)
};

class Prefix final : public Transform {
  public:
    Prefix(size_t in, size_t dims) : in_(in), dims_(dims) {}
    size_t dims() const override { return dims_; }
    bool renormalised() const override { return true; }
    void apply(Role, const float* in, size_t n, float* out) const override {
        for (size_t i = 0; i < n; ++i) std::copy_n(in + i * in_, dims_, out + i * dims_);
    }
    void inverse(const float* in, size_t n, float* out) const override {
        std::fill_n(out, n * in_, 0.0f);
        for (size_t i = 0; i < n; ++i) std::copy_n(in + i * dims_, dims_, out + i * in_);
    }

  private:
    size_t in_, dims_;
};

class RandomRotation final : public Transform {
  public:
    RandomRotation(size_t in, uint32_t seed) : rotation_(in, seed, 1) {}
    size_t dims() const override { return rotation_.padded(); }
    void apply(Role, const float* in, size_t n, float* out) const override {
        for (size_t i = 0; i < n; ++i) rotation_.apply(in + i * rotation_.dim(), out + i * dims());
    }
    void inverse(const float* in, size_t n, float* out) const override {
        for (size_t i = 0; i < n; ++i) rotation_.inverse(in + i * dims(), out + i * rotation_.dim());
    }

  private:
    HadamardRotation rotation_;
};

// Parts of vectors, each scaled by the root of its weight; under cosine normalised by themselves first.
class Blocks final : public Transform {
  public:
    Blocks(std::vector<size_t> sizes, std::vector<double> weights, bool cosine)
        : sizes_(std::move(sizes)), roots_(std::move(weights)), cosine_(cosine) {
        const double total = cosine ? std::accumulate(roots_.begin(), roots_.end(), 0.0) : 1;
        for (double& root : roots_) root = std::sqrt(root / total);
    }
    size_t dims() const override { return std::accumulate(sizes_.begin(), sizes_.end(), size_t{0}); }
    void apply(Role, const float* in, size_t n, float* out) const override {
        std::copy_n(in, n * dims(), out);
        for (size_t i = 0; i < n; ++i) {
            for (size_t b = 0; b < sizes_.size(); out += sizes_[b++]) {
                if (cosine_) normalize(out, 1, sizes_[b]);
                scale(out, sizes_[b], roots_[b]);
            }
        }
    }
    void inverse(const float* in, size_t n, float* out) const override {
        std::copy_n(in, n * dims(), out);
        for (size_t i = 0; i < n; ++i) {
            for (size_t b = 0; b < sizes_.size(); out += sizes_[b++]) {
                scale(out, sizes_[b], roots_[b] > 0 ? 1 / roots_[b] : 0);
            }
        }
    }

  private:
    static void scale(float* values, size_t n, double factor) {
        for (size_t d = 0; d < n; ++d) values[d] = static_cast<float>(static_cast<double>(values[d]) * factor);
    }

    std::vector<size_t> sizes_;
    std::vector<double> roots_;
    bool cosine_;
};

// ---------------------------------------------------------------------------------------------------------------------
// From parameters
// ---------------------------------------------------------------------------------------------------------------------

// Numbers with commas between them.
std::vector<double> numbers(const std::string& text, const std::string& name) {
    std::vector<double> out;
    std::istringstream in(text);
    in.imbue(std::locale::classic());
    double value = 0;
    char comma = ',';
    while (comma == ',' && in >> value && value >= 0 && value <= 1e30) {
        out.push_back(value);
        if (!(in >> comma)) return out;
    }
    throw InvalidInput(name + ": " + quoted(text) + " given, expected numbers from 0 on, with commas between them");
}

std::unique_ptr<Transform> make_blocks(ParameterReader& parameters, const std::string& prefix, size_t in,
                                       Metric metric) {
    const std::string name = prefix + "sizes";
    std::vector<size_t> sizes;
    for (const double size : numbers(parameters.take(name, ""), name)) {
        if (!(size >= 1 && size <= 65535 && size == std::floor(size))) {
            throw InvalidInput(name + ": " + std::to_string(size) + " given, expected whole numbers from 1 on");
        }
        sizes.push_back(static_cast<size_t>(size));
    }
    const size_t total = std::accumulate(sizes.begin(), sizes.end(), size_t{0});
    if (total != in) {
        throw InvalidInput(name + ": " + std::to_string(total) + " dimensions given in all, expected " +
                           std::to_string(in));
    }
    std::vector<double> weights = numbers(parameters.take(prefix + "weights", ""), prefix + "weights");
    if (weights.size() != sizes.size() || *std::max_element(weights.begin(), weights.end()) <= 0) {
        throw InvalidInput(prefix + "weights: " + std::to_string(weights.size()) + " given, expected " +
                           std::to_string(sizes.size()) + ", not all of them 0");
    }
    return std::make_unique<Blocks>(std::move(sizes), std::move(weights), metric == Metric::cosine);
}

std::unique_ptr<Transform> make_transform(ParameterReader& parameters, const std::string& name, size_t in,
                                          Metric metric) {
    using Shape = Linear::Shape;
    const std::string stem = name + ".";
    const auto choice = [&](std::string_view which, std::initializer_list<std::string_view> choices) {
        return parameters.choice(stem + std::string(which), choices);
    };
    const auto dims = [&] { return parameters.number(stem + "dims", in, 1, in); };
    const auto paired = [&] {
        const bool queries = choice("queries", {"none", "given"}) == 1;
        if (queries && metric == Metric::l2) {
            throw InvalidInput(stem + "queries: given with metric \"l2\", expected \"ip\" or \"cosine\"");
        }
        return queries ? Shape::paired : Shape::shared;
    };
    enum class Kind { pca, leanvec, rotation, prefix, random_rotation, blocks };
    switch (static_cast<Kind>(
        parameters.choice(name, {"pca", "leanvec", "rotation", "prefix", "random_rotation", "blocks"}))) {
        case Kind::pca: {
            const size_t kept = dims();
            if (choice("whiten", {"false", "true"}) == 1) return std::make_unique<Linear>(in, kept, Shape::whitened);
            return std::make_unique<Linear>(in, kept, metric == Metric::l2 ? Shape::shifted : Shape::shared);
        }
        case Kind::leanvec: {
            if (metric == Metric::l2) {
                throw InvalidInput(name + ": leanvec given with metric \"l2\", expected \"ip\" or \"cosine\"");
            }
            const size_t kept = dims();
            return std::make_unique<Linear>(in, kept, paired());
        }
        case Kind::rotation:
            choice("rotation", {"none", "opq", "random", "given"});  // how it is learned, elsewhere
            return std::make_unique<Linear>(in, in, paired());
        case Kind::prefix:
            return std::make_unique<Prefix>(in, dims());
        case Kind::random_rotation: {
            const size_t seed = parameters.number(stem + "seed", 0, 0, std::numeric_limits<uint32_t>::max());
            return std::make_unique<RandomRotation>(in, static_cast<uint32_t>(seed));
        }
        case Kind::blocks:
            break;
    }
    return make_blocks(parameters, stem, in, metric);
}

// ---------------------------------------------------------------------------------------------------------------------
// The codec
// ---------------------------------------------------------------------------------------------------------------------

using Steps = std::vector<std::shared_ptr<const Transform>>;

std::string array_name(size_t step, std::string_view name) {
    return std::string(kPrefix).append(std::to_string(step)).append(".").append(name);
}

class TransformedCodec final : public Codec {
  public:
    TransformedCodec(size_t dim, Metric metric, Steps steps, Parameters parameters, std::shared_ptr<const Codec> inner)
        : dim_(dim),
          metric_(metric),
          steps_(std::move(steps)),
          parameters_(std::move(parameters)),
          inner_(std::move(inner)) {}

    std::string_view name() const override { return inner_->name(); }
    Parameters parameters() const override {
        Parameters out = inner_->parameters();
        out.insert(parameters_.begin(), parameters_.end());
        return out;
    }
    size_t row_bytes() const override { return inner_->row_bytes(); }
    size_t fine_bytes() const override { return inner_->fine_bytes(); }
    size_t group() const override { return inner_->group(); }
    size_t group_bytes() const override { return inner_->group_bytes(); }
    CheckedVectors check(const Vectors& vectors, std::string_view name, size_t first) const override {
        return CheckedVectors::floats(vectors, dim_, name, first);
    }

    bool untrained() const override {
        const auto missing = [](const auto& step) { return step->untrained(); };
        return inner_->untrained() || std::any_of(steps_.begin(), steps_.end(), missing);
    }
    std::unique_ptr<Codec> trained(const Vectors& sample, Learned given) const override {
        auto out = with_steps(given);
        if (inner_->untrained()) {
            std::vector<float> buffer;
            const Vectors coded = out->transformed(Role::document, sample, buffer);
            if (first_infinite(coded) < coded.n) throw InvalidInput(std::string("vectors: one of them ") + kTooLarge);
            out->inner_ = inner_->trained(coded, std::move(given));
        }
        return out;
    }
    Learned learned() const override {
        Learned out;
        if (untrained()) return out;
        out = inner_->learned();
        for (size_t i = 0; i < steps_.size(); ++i) {
            for (auto& [name, values] : steps_[i]->learned()) out[array_name(i, name)] = values;
        }
        return out;
    }
    std::unique_ptr<Codec> with(Learned learned) const override {
        auto out = with_steps(learned);
        if (inner_->untrained()) out->inner_ = inner_->with(std::move(learned));
        return out;
    }

    void encode(const Vectors& vectors, std::byte* rows) const override {
        std::vector<float> buffer;
        const Vectors coded = transformed(Role::document, vectors, buffer);
        const size_t bad = first_infinite(coded);
        if (bad < coded.n) throw UnencodableVector(bad, kTooLarge);
        inner_->encode(coded, rows);
    }
    void decode(Rows rows, const uint32_t* list, size_t n, float* out) const override {
        std::vector<float> coded(n * (steps_.back()->dims())), back;
        inner_->decode(rows, list, n, coded.data());
        for (size_t i = steps_.size(); i-- > 0; coded.swap(back)) {
            back.resize(n * (i == 0 ? dim_ : steps_[i - 1]->dims()));
            steps_[i]->inverse(coded.data(), n, back.data());
        }
        std::copy(coded.begin(), coded.end(), out);
    }
    bool valid(Rows rows, size_t n) const override { return inner_->valid(rows, n); }
    size_t sample() const override { return inner_->sample(); }
    void pack(Rows rows, size_t n, std::byte* block) const override { inner_->pack(rows, n, block); }
    void unpack(Block block, const uint32_t* list, size_t n, std::byte* rows, size_t stride) const override {
        inner_->unpack(block, list, n, rows, stride);
    }
    std::unique_ptr<Query> prepare(const Vectors& queries) const override {
        std::vector<float> buffer;
        const Vectors coded = transformed(Role::query, queries, buffer);
        if (first_infinite(coded) < coded.n) throw InvalidInput(std::string("queries: one of them ") + kTooLarge);
        return inner_->prepare(coded);
    }

  private:
    static constexpr const char* kTooLarge = "is beyond the range of float32 when it is transformed";

    // The rows of `vectors` as the inner codec takes them, in `buffer`.
    Vectors transformed(Role role, const Vectors& vectors, std::vector<float>& buffer) const {
        buffer.assign(vectors.floats(), vectors.floats() + vectors.n * dim_);
        if (metric_ == Metric::cosine) normalize(buffer.data(), vectors.n, dim_);
        std::vector<float> next;
        for (const auto& step : steps_) {
            next.resize(vectors.n * step->dims());
            step->apply(role, buffer.data(), vectors.n, next.data());
            if (metric_ == Metric::cosine && step->renormalised()) normalize(next.data(), vectors.n, step->dims());
            buffer.swap(next);
        }
        const size_t dims = steps_.back()->dims();
        const auto* data = reinterpret_cast<const std::byte*>(buffer.data());
        return {data, kernels::kF32, vectors.n, dims, dims * sizeof(float)};
    }

    static size_t first_infinite(const Vectors& vectors) {
        const float* values = vectors.floats();
        const float* end = values + vectors.n * vectors.dim;
        const float* bad = std::find_if(values, end, [](float x) { return !std::isfinite(x); });
        return static_cast<size_t>(bad - values) / vectors.dim;
    }

    // A copy whose steps have what was learned for them.
    std::unique_ptr<TransformedCodec> with_steps(Learned& learned) const {
        Steps steps;
        for (size_t i = 0; i < steps_.size(); ++i) {
            Learned own;
            for (const auto& [name, size] : steps_[i]->arrays()) {
                own[std::string(name)] = take_learned(learned, array_name(i, name), size);
            }
            steps.push_back(own.empty() ? steps_[i] : steps_[i]->with(std::move(own)));
        }
        return std::make_unique<TransformedCodec>(dim_, metric_, std::move(steps), parameters_, inner_);
    }

    size_t dim_;
    Metric metric_;
    Steps steps_;
    Parameters parameters_;  // of the steps
    std::shared_ptr<const Codec> inner_;
};

}  // namespace

bool has_transforms(const CodecSpec& spec) { return spec.parameters.contains("transform.0"); }

std::unique_ptr<Codec> make_transformed(const CodecSpec& spec, size_t dim, Metric metric) {
    CodecSpec own{spec.name, {}}, inner{spec.name, {}};
    for (const auto& [name, value] : spec.parameters) {
        (name.starts_with(kPrefix) ? own : inner).parameters[name] = value;
    }
    ParameterReader parameters(own);
    Steps steps;
    size_t dims = dim;
    for (size_t i = 0; i == 0 || own.parameters.contains(std::string(kPrefix) + std::to_string(i)); ++i) {
        steps.push_back(make_transform(parameters, std::string(kPrefix) + std::to_string(i), dims, metric));
        dims = steps.back()->dims();
    }
    // Vectors come out of the steps normalised where the metric wants it: cosines are inner products of these.
    std::unique_ptr<Codec> codec = make_codec(inner, dims, metric == Metric::cosine ? Metric::ip : metric);
    return std::make_unique<TransformedCodec>(dim, metric, std::move(steps), parameters.done(), std::move(codec));
}

}  // namespace nearfield
