// Product quantization (Jegou, Douze, Schmid 2011), scanned by tables of bytes in registers (Andre, Kermarrec, Le
// Scouarnec 2015); the anisotropic loss is that of ScaNN (Guo et al. 2020, arXiv 1908.10396).
#include "codecs/pq.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <optional>

#include "codecs/groups.hpp"
#include "codecs/kmeans.hpp"
#include "codecs/parameters.hpp"
#include "kernels/dispatch.hpp"

namespace nearfield {

using kernels::kGroup;

namespace {

// Where the dimensions of a vector lie: `subspaces` of `subdim` dimensions each. Dimensions beyond `dim` are zeros.
struct Split {
    size_t dim, bits, subspaces;

    size_t subdim() const { return (dim + subspaces - 1) / subspaces; }
    size_t padded() const { return subspaces * subdim(); }
    size_t centroids() const { return size_t{1} << bits; }
    // Dimensions of subspace m that are not padding.
    size_t used(size_t m) const { return std::min(dim, (m + 1) * subdim()) - std::min(dim, m * subdim()); }
    // Code of subspace m; a number of bits that is known when compiling makes it shifts in place of divisions.
    unsigned code(const std::byte* row, size_t m) const {
        return bits == 4 ? get_code(row, 4, m) : get_code(row, 8, m);
    }
    // A row has no factors: its distance is a sum of table entries.
    GroupLayout layout() const { return {(subspaces * bits + 31) / 32, 0, false}; }
};

// The centroids of all subspaces (subspaces, centroids, subdim).
class Codebook {
  public:
    Codebook(const Split& split, std::vector<float> values) : split_(split), values_(std::move(values)) {
        const size_t subdim = split.subdim(), count = split.centroids();
        for (size_t i = 0; i < values_.size(); ++i) {  // padding is not compared
            if (i / (count * subdim) * subdim + i % subdim >= split.dim) values_[i] = 0;
        }
        for (size_t m = 0; m < split.subspaces; ++m) {
            for (size_t c = 0; c < count; c += kLanes) {
                for (size_t d = 0; d < subdim; ++d) {
                    for (size_t j = 0; j < kLanes; ++j) lanes_.push_back(centroid(m, c + j)[d]);
                }
            }
        }
    }

    const std::vector<float>& values() const { return values_; }
    const float* subspace(size_t m) const { return values_.data() + m * split_.centroids() * split_.subdim(); }
    const float* centroid(size_t m, size_t c) const { return subspace(m) + c * split_.subdim(); }

    // Inner products of a padded vector with all centroids, or squared distances to them: out (subspaces, centroids).
    void dots(const double* vector, double* out) const {
        fill(vector, out, [](double x, double c) { return x * c; });
    }
    void distances(const double* vector, double* out) const {
        fill(vector, out, [](double x, double c) { return (x - c) * (x - c); });
    }

  private:
    static constexpr size_t kLanes = 16;

    template <class Term>
    void fill(const double* vector, double* out, const Term& term) const {
        const size_t subdim = split_.subdim(), blocks = split_.centroids() / kLanes;
        const float* lanes = lanes_.data();
        for (size_t m = 0; m < split_.subspaces; ++m) {
            for (size_t block = 0; block < blocks; ++block) {
                double sums[kLanes];
                for (size_t d = 0; d < subdim; ++d, lanes += kLanes) {
                    const double x = vector[m * subdim + d];
                    for (size_t j = 0; j < kLanes; ++j) {
                        const double value = term(x, static_cast<double>(lanes[j]));
                        sums[j] = d == 0 ? value : sums[j] + value;
                    }
                }
                out = std::copy_n(sums, kLanes, out);
            }
        }
    }

    Split split_;
    std::vector<float> values_;
    std::vector<float> lanes_;  // the same, as blocks of kLanes centroids: (subspaces, blocks, subdim, kLanes)
};

double length_of(const float* vector, size_t dim) {
    double squared = 0;
    for (size_t d = 0; d < dim; ++d) squared += static_cast<double>(vector[d]) * static_cast<double>(vector[d]);
    return std::sqrt(squared);
}

// The value that comes before all others in an order; `count` is a multiple of kLanes. In lanes, so that it becomes
// vector code.
template <class Before>
double extreme(const double* values, size_t count, const Before& before) {
    constexpr size_t kLanes = 8;
    double first[kLanes];
    std::copy_n(values, kLanes, first);
    for (size_t c = kLanes; c < count; c += kLanes) {
        for (size_t j = 0; j < kLanes; ++j) first[j] = before(values[c + j], first[j]) ? values[c + j] : first[j];
    }
    return *std::min_element(first, first + kLanes, before);
}

// The anisotropic loss of coding y as c: |y - c|^2 + weight * <y, y - c>^2. Errors along y count more than others,
// because inner products with queries near to y are the ones that matter.
class Anisotropy {
  public:
    Anisotropy(const Split& split, const Codebook& codebook, double threshold)
        : split_(split),
          codebook_(codebook),
          threshold_(threshold),
          vector_(split.padded()),
          dots_(split.subspaces * split.centroids()) {
        for (size_t i = 0; i < dots_.size(); ++i) {
            const double length = length_of(codebook.values().data() + i * split.subdim(), split.subdim());
            squared_.push_back(length * length);
        }
    }

    // With eta times the weight for errors along y: eta = (dim - 1) t / (1 - t), t = threshold^2, and at least 1. The
    // threshold is a cosine, so that the length of y does not matter.
    double weight(const float* vector) const {
        const double length = length_of(vector, split_.dim), t = threshold_ * threshold_;
        const double eta = static_cast<double>(split_.dim - 1) * t / (1 - t);
        return length > 0 ? std::max(eta - 1, 0.0) / (length * length) : 0;
    }

    // Lowers the loss of a padded vector's codes by coordinate descent; returns <y, y - c>.
    double improve(const float* vector, uint8_t* codes) {
        const size_t count = split_.centroids();
        std::copy_n(vector, split_.padded(), vector_.begin());
        codebook_.dots(vector_.data(), dots_.data());
        double along = std::inner_product(vector_.begin(), vector_.end(), vector_.begin(), 0.0);
        for (size_t m = 0; m < split_.subspaces; ++m) along -= dots_[m * count + codes[m]];
        const double weight_of_along = weight(vector);
        bool changed = weight_of_along > 0;
        for (size_t sweep = 0; changed && sweep < kSweeps; ++sweep) {
            changed = false;
            for (size_t m = 0; m < split_.subspaces; ++m) {
                const double *dots = dots_.data() + m * count, *squared = squared_.data() + m * count;
                const double others = along + dots[codes[m]];
                double loss[size_t{1} << 8];
                for (size_t c = 0; c < count; ++c) {
                    loss[c] = squared[c] - 2 * dots[c] + weight_of_along * (others - dots[c]) * (others - dots[c]);
                }
                const double least = extreme(loss, count, std::less<>());
                if (!(least < loss[codes[m]])) continue;
                codes[m] = static_cast<uint8_t>(std::find(loss, loss + count, least) - loss);
                along = others - dots[codes[m]];
                changed = true;
            }
        }
        return along;
    }

  private:
    static constexpr size_t kSweeps = 10;

    const Split& split_;
    const Codebook& codebook_;
    double threshold_;
    std::vector<double> vector_, dots_;  // of the vector at hand
    std::vector<double> squared_;        // squared length of each centroid
};

// Solves a x = b for a symmetric positive definite matrix (n, n) of which the lower half is given, by Cholesky's
// decomposition; x replaces b.
void solve(std::vector<double>& a, std::vector<double>& b) {
    const size_t n = b.size();
    const auto dot = [&](size_t i, size_t j, size_t length) {
        return std::inner_product(a.begin() + static_cast<std::ptrdiff_t>(i * n),
                                  a.begin() + static_cast<std::ptrdiff_t>(i * n + length),
                                  a.begin() + static_cast<std::ptrdiff_t>(j * n), 0.0);
    };
    for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < i; ++j) a[i * n + j] = (a[i * n + j] - dot(i, j, j)) / a[j * n + j];
        a[i * n + i] = std::sqrt(a[i * n + i] - dot(i, i, i));
    }
    for (size_t i = 0; i < n; ++i) {
        for (size_t j = 0; j < i; ++j) b[i] -= a[i * n + j] * b[j];
        b[i] /= a[i * n + i];
    }
    for (size_t i = n; i-- > 0;) {
        for (size_t j = i + 1; j < n; ++j) b[i] -= a[j * n + i] * b[j];
        b[i] /= a[i * n + i];
    }
}

class PqQuery final : public GroupQuery {
  public:
    PqQuery(const Split& split, const Codebook& codebook, Metric metric, const Vectors& queries)
        : GroupQuery(split.layout(), {}, queries.n, tile_of(split), 1),
          split_(split),
          codebook_(codebook),
          metric_(metric),
          units_(split.layout().units),
          table_bytes_(table_bytes(split)),
          queries_(queries.n * split.padded()),
          tables_(queries.n * table_bytes_) {
        const kernels::CodeKernels& kernels = kernels::active().codes;
        scan_tables({split.bits == 4 ? kernels.sum4 : kernels.sum8, tables_.data(), table_bytes_ / units_});
        std::vector<double> exact(split.subspaces * split.centroids());
        for (size_t q = 0; q < queries.n; ++q) {
            const float* query = queries.floats() + q * split.dim;
            const double length = metric == Metric::cosine ? length_of(query, split.dim) : 1;
            double* vector = queries_.data() + q * split.padded();
            for (size_t d = 0; d < split.dim && length > 0; ++d) vector[d] = static_cast<double>(query[d]) / length;
            if (metric == Metric::l2) {
                codebook.distances(vector, exact.data());
            } else {
                codebook.dots(vector, exact.data());
                for (double& value : exact) value = -value;
            }
            round_tables(q, exact.data());
        }
    }

    void settle(size_t query, Rows rows, const uint32_t* list, size_t n, double* out) const noexcept override {
        const double* vector = queries_.data() + query * split_.padded();
        for (size_t i = 0; i < n; ++i) {
            const std::byte* row = rows.data + (list ? list[i] : i) * rows.stride;
            out[i] = metric_ == Metric::l2 ? sum_over(row, vector, [](double x, double c) { return (x - c) * (x - c); })
                                           : 0.0 - sum_over(row, vector, [](double x, double c) { return x * c; });
        }
    }

  private:
    // The sum of a term over all dimensions of a padded vector and of what a row stands for.
    template <class Term>
    double sum_over(const std::byte* row, const double* vector, const Term& term) const {
        const size_t subdim = split_.subdim();
        double sums[4] = {};
        for (size_t m = 0; m < split_.subspaces; ++m) {
            const double* x = vector + m * subdim;
            const float* centroid = codebook_.centroid(m, split_.code(row, m));
            size_t d = 0;
            for (; d + 4 <= subdim; d += 4) {
                for (size_t j = 0; j < 4; ++j) sums[j] += term(x[d + j], static_cast<double>(centroid[d + j]));
            }
            for (; d < subdim; ++d) sums[d % 4] += term(x[d], static_cast<double>(centroid[d]));
        }
        return (sums[0] + sums[1]) + (sums[2] + sums[3]);
    }

    static size_t table_bytes(const Split& split) { return split.layout().units * 32 / split.bits * split.centroids(); }
    // The tables of a tile stay in the first-level cache.
    static size_t tile_of(const Split& split) {
        return std::clamp<size_t>((size_t{24} << 10) / table_bytes(split), 1, kernels::kTile);
    }

    // Sets the tables and terms of query q: an entry is least + step * byte, off by at most step / 2, where `least` is
    // the smallest of its table and the step is common to all tables, so that sums of bytes stand for distances.
    void round_tables(size_t q, const double* exact) {
        const size_t count = split_.centroids(), places = 32 / split_.bits;
        std::vector<double> least(split_.subspaces);
        double base = 0, widest = 0, total = 0;
        size_t varied = 0;  // tables whose entries are not all the same
        for (size_t m = 0; m < split_.subspaces; ++m) {
            const double low = extreme(exact + m * count, count, std::less<>());
            const double high = extreme(exact + m * count, count, std::greater<>());
            least[m] = low;
            base += low;
            total += high - low;
            widest = std::max(widest, high - low);
            varied += high > low ? 1 : 0;
        }
        Terms& terms = terms_[q];
        terms.base = static_cast<float>(base);
        const auto step = static_cast<float>(widest / 255);
        if (!(step >= FLT_MIN && step <= FLT_MAX)) {  // nothing to tell apart, or more than float32 can hold
            terms.error = static_cast<float>(total) + FLT_MIN;
            return;
        }
        terms.scale = step;
        terms.error = step * 0.5001f * static_cast<float>(varied);
        terms.norm = step * 128 * static_cast<float>(varied);
        const size_t first = q / tile() * tile(), in_tile = std::min(tile(), width() - first);
        uint8_t* tables = tables_.data() + first * table_bytes_ + (q - first) * places * count;
        const double inverse = 1 / static_cast<double>(step);
        for (size_t u = 0; u < units_; ++u, tables += in_tile * places * count) {
            for (size_t m = u * places; m < std::min(split_.subspaces, (u + 1) * places); ++m) {
                const double* from = exact + m * count;
                uint8_t* to = tables + m % places * count;
                for (size_t c = 0; c < count; ++c) {
                    to[c] = static_cast<uint8_t>(static_cast<int32_t>((from[c] - least[m]) * inverse + 0.5));
                }
            }
        }
    }

    const Split& split_;
    const Codebook& codebook_;
    Metric metric_;
    size_t units_, table_bytes_;
    std::vector<double> queries_;  // as they are compared, padded
    std::vector<uint8_t> tables_;  // of tile after tile, as the kernels take them
};

class PqCodec final : public GroupCodec {
  public:
    PqCodec(const Split& split, Metric metric, double anisotropic, uint64_t seed, Parameters parameters)
        : split_(split), metric_(metric), anisotropic_(anisotropic), seed_(seed), parameters_(std::move(parameters)) {}

    std::string_view name() const override { return "pq"; }
    Parameters parameters() const override { return parameters_; }
    GroupLayout layout() const override { return split_.layout(); }
    // Balanced codebooks are learned elsewhere, from whole vectors.
    bool codes_residuals() const override { return parameters_.at("assignment") == "nearest"; }
    CheckedVectors check(const Vectors& vectors, std::string_view name, size_t first) const override {
        return CheckedVectors::floats(vectors, split_.dim, name, first);
    }

    bool untrained() const override { return !codebook_; }
    size_t sample() const override { return std::max(split_.centroids() * 256, GroupCodec::sample()); }

    std::unique_ptr<Codec> trained(const Vectors& sample, Learned given) const override {
        if (given.contains("codebook")) return with(std::move(given));
        const size_t n = sample.n, count = split_.centroids(), subdim = split_.subdim();
        if (n < count) {
            throw InvalidInput("vectors: " + std::to_string(n) + " given to learn " + std::to_string(count) +
                               " centroids from, expected at least " + std::to_string(count));
        }
        std::vector<float> values, part;
        const std::vector<double> lengths = lengths_of(sample);
        for (size_t m = 0; m < split_.subspaces; ++m) {
            subspace_of(sample, lengths, m, part);
            const std::vector<float> centroids = kmeans(part.data(), subdim, n, subdim, count, seed_ + m);
            values.insert(values.end(), centroids.begin(), centroids.end());
        }
        auto out = std::make_unique<PqCodec>(*this);
        out->codebook_.emplace(split_, std::move(values));
        for (size_t round = 0; anisotropic_ > 0 && round < kAnisotropicRounds; ++round) out->refit(sample, lengths);
        return out;
    }

    Learned learned() const override { return codebook_ ? Learned{{"codebook", codebook_->values()}} : Learned{}; }

    std::unique_ptr<Codec> with(Learned learned) const override {
        auto out = std::make_unique<PqCodec>(*this);
        out->codebook_.emplace(split_, take_learned(learned, "codebook", split_.padded() * split_.centroids()));
        return out;
    }

    void encode(const Vectors& vectors, std::byte* rows) const override {
        std::memset(rows, 0, vectors.n * row_bytes());
        for_each_coded(vectors, [&](size_t i, const float*, const uint8_t* codes, double) {
            for (size_t m = 0; m < split_.subspaces; ++m) put_code(rows + i * row_bytes(), split_.bits, m, codes[m]);
        });
    }

    void decode(Rows rows, const uint32_t* list, size_t n, float* out) const override {
        for (size_t i = 0; i < n; ++i) {
            const std::byte* row = rows.data + (list ? list[i] : i) * rows.stride;
            for (size_t m = 0; m < split_.subspaces; ++m) {
                out = std::copy_n(codebook_->centroid(m, split_.code(row, m)), split_.used(m), out);
            }
        }
    }

    std::unique_ptr<Query> prepare(const Vectors& queries) const override {
        return std::make_unique<PqQuery>(split_, *codebook_, metric_, queries);
    }

  private:
    static constexpr size_t kAnisotropicRounds = 8;

    // Calls take(i, vector as it is coded, codes, <vector, what is left of it>) for each of the vectors.
    template <class Take>
    void for_each_coded(const Vectors& vectors, const Take& take) const {
        const size_t padded = split_.padded(), subdim = split_.subdim();
        const auto nearest = kernels::active().codes.nearest;
        std::optional<Anisotropy> anisotropy;
        if (anisotropic_ > 0) anisotropy.emplace(split_, *codebook_, anisotropic_);
        std::vector<float> coded(kGroup * padded), points(kGroup * padded);
        std::vector<uint8_t> codes(kGroup * split_.subspaces);
        for (size_t first = 0; first < vectors.n; first += kGroup) {
            const size_t count = std::min(kGroup, vectors.n - first);
            for (size_t i = 0; i < count; ++i) {
                load(vectors.floats() + (first + i) * split_.dim, coded.data() + i * padded);
            }
            interleave_points(coded.data(), padded, count, padded, points.data());
            for (size_t m = 0; m < split_.subspaces; ++m) {
                uint32_t index[kGroup];
                float squared[kGroup];
                nearest(points.data() + m * subdim * kGroup, codebook_->subspace(m), split_.centroids(), subdim, index,
                        squared);
                for (size_t i = 0; i < count; ++i) codes[i * split_.subspaces + m] = static_cast<uint8_t>(index[i]);
            }
            for (size_t i = 0; i < count; ++i) {
                const float* vector = coded.data() + i * padded;
                uint8_t* own = codes.data() + i * split_.subspaces;
                const double along = anisotropy ? anisotropy->improve(vector, own) : 0;
                take(first + i, vector, own, along);
            }
        }
    }

    // Moves the centroids to where the anisotropic loss of the sample is least, one subspace after the other: the loss
    // is quadratic in each centroid.
    void refit(const Vectors& sample, const std::vector<double>& lengths) {
        const size_t n = sample.n, count = split_.centroids(), subdim = split_.subdim();
        const Anisotropy anisotropy(split_, *codebook_, anisotropic_);
        std::vector<uint8_t> codes(n * split_.subspaces);
        std::vector<double> weights(n), along(n);
        for_each_coded(sample, [&](size_t i, const float* vector, const uint8_t* own, double left) {
            std::copy_n(own, split_.subspaces, codes.data() + i * split_.subspaces);
            weights[i] = anisotropy.weight(vector);
            along[i] = left;
        });
        std::vector<float> values = codebook_->values(), part;
        std::vector<double> matrix(subdim * subdim), right(subdim);
        std::vector<std::vector<size_t>> members(count);
        for (size_t m = 0; m < split_.subspaces; ++m) {
            subspace_of(sample, lengths, m, part);
            for (auto& list : members) list.clear();
            for (size_t i = 0; i < n; ++i) members[codes[i * split_.subspaces + m]].push_back(i);
            for (size_t c = 0; c < count; ++c) {
                if (members[c].empty()) continue;
                float* centroid = values.data() + (m * count + c) * subdim;
                std::fill(matrix.begin(), matrix.end(), 0.0);
                std::fill(right.begin(), right.end(), 0.0);
                for (const size_t i : members[c]) {
                    const float* x = part.data() + i * subdim;
                    along[i] += dot(x, centroid);
                    for (size_t d = 0; d < subdim; ++d) {
                        const double weighted = weights[i] * static_cast<double>(x[d]);
                        for (size_t e = 0; e <= d; ++e) matrix[d * subdim + e] += weighted * static_cast<double>(x[e]);
                        matrix[d * subdim + d] += 1;
                        right[d] += static_cast<double>(x[d]) + weighted * along[i];
                    }
                }
                solve(matrix, right);
                std::copy(right.begin(), right.end(), centroid);
                for (const size_t i : members[c]) along[i] -= dot(part.data() + i * subdim, centroid);
            }
        }
        codebook_.emplace(split_, std::move(values));
    }

    double dot(const float* a, const float* b) const {
        double sum = 0;
        for (size_t d = 0; d < split_.subdim(); ++d) sum += static_cast<double>(a[d]) * static_cast<double>(b[d]);
        return sum;
    }

    // A vector as it is coded: under cosine of unit length (zeros stay zeros); the padding of `out` is left alone.
    void load(const float* vector, float* out) const {
        const double length = metric_ == Metric::cosine ? length_of(vector, split_.dim) : 1;
        for (size_t d = 0; d < split_.dim; ++d) out[d] = scaled(vector[d], length);
    }
    static float scaled(float value, double length) {
        return length > 0 ? static_cast<float>(static_cast<double>(value) / length) : 0.0f;
    }
    std::vector<double> lengths_of(const Vectors& vectors) const {
        std::vector<double> out(vectors.n, 1.0);
        for (size_t i = 0; i < vectors.n && metric_ == Metric::cosine; ++i) {
            out[i] = length_of(vectors.floats() + i * split_.dim, split_.dim);
        }
        return out;
    }
    // Subspace m of all vectors as they are coded.
    void subspace_of(const Vectors& vectors, const std::vector<double>& lengths, size_t m,
                     std::vector<float>& out) const {
        const size_t subdim = split_.subdim();
        out.assign(vectors.n * subdim, 0.0f);
        for (size_t i = 0; i < vectors.n; ++i) {
            const float* from = vectors.floats() + i * split_.dim + m * subdim;
            for (size_t d = 0; d < split_.used(m); ++d) out[i * subdim + d] = scaled(from[d], lengths[i]);
        }
    }

    Split split_;
    Metric metric_;
    double anisotropic_;
    uint64_t seed_;
    Parameters parameters_;
    std::optional<Codebook> codebook_;
};

}  // namespace

std::unique_ptr<Codec> make_pq(const CodecSpec& spec, size_t dim, Metric metric) {
    ParameterReader parameters(spec);
    const size_t bits = parameters.choice("bits", {"4", "8"}) == 0 ? 4 : 8;
    const size_t subspaces = parameters.number("subspaces", 0, 0, dim);
    const double anisotropic = parameters.real("anisotropic", 0, 0, 0.9);
    if (anisotropic > 0 && metric == Metric::l2) {
        throw InvalidInput("anisotropic: " + spec.parameters.at("anisotropic") +
                           " given with metric \"l2\", expected metric \"ip\" or \"cosine\"");
    }
    // How a rotation or a codebook came about means nothing here: it is learned and applied elsewhere.
    parameters.choice("rotation", {"none", "opq", "random", "given"});
    parameters.choice("assignment", {"nearest", "balanced"});
    const uint64_t seed = parameters.number("seed", 0, 0, std::numeric_limits<uint32_t>::max());
    const Split split{dim, bits, subspaces > 0 ? subspaces : (dim + bits - 1) / bits};
    return std::make_unique<PqCodec>(split, metric, anisotropic, seed, parameters.done());
}

}  // namespace nearfield
