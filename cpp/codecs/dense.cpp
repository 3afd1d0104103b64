#include "codecs/dense.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <vector>

#include "codecs/tiles.hpp"
#include "kernels/dispatch.hpp"

namespace nearfield {

using kernels::ElementType;
using kernels::kGroup;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Lengths whose squares neither overflow nor vanish in float32; outside of them nothing is estimated, all is settled.
constexpr float kLongest = 1e18f, kShortest = 1e-17f;
constexpr size_t kPiece = 256;  // rows scored per kernel call

size_t element_bytes(ElementType type) {
    return type == kernels::kF32 ? 4 : type == kernels::kF16 || type == kernels::kBF16 ? 2 : 1;
}

bool is_integer(ElementType type) { return type == kernels::kI8 || type == kernels::kU8; }

// Terms of the estimate that belong to one document, in the sense of kernels::Tile.
struct DocumentTerms {
    float mul, add, err, norm;
};

// `squared` is the squared length of the elements; `rounding` the relative error of a dot product. Without branches, so
// that loops over rows become vector code.
template <Metric metric>
DocumentTerms document_terms(float squared, float row_scale, float rounding, bool integer) {
    const float length = std::sqrt(squared), full = length * row_scale;
    const bool known = full < kLongest && full > kShortest;
    // Next to nothing: its inner products are within the error. Its direction is unknown, and so is all of a very long
    // one.
    const float unknown = full <= kShortest && metric != Metric::cosine ? 2 * kShortest : kInfinity;
    if constexpr (metric == Metric::cosine) {
        return {known ? 1 / length : 0, 0, known ? rounding : unknown, known && integer ? 1.0f : 0.0f};
    }
    const float norm = full * (1 + rounding);
    const float add = metric == Metric::l2 ? full * full * (1 - TiledQueries::kRelative) : 0.0f;
    return {known ? row_scale : 0, known ? add : 0, known ? norm * rounding : unknown, known && integer ? norm : 0.0f};
}

DocumentTerms document_terms(Metric metric, float squared, float row_scale, float rounding, bool integer) {
    switch (metric) {
        case Metric::cosine:
            return document_terms<Metric::cosine>(squared, row_scale, rounding, integer);
        case Metric::ip:
            return document_terms<Metric::ip>(squared, row_scale, rounding, integer);
        default:
            return document_terms<Metric::l2>(squared, row_scale, rounding, integer);
    }
}

class DenseQuery final : public Query {
  public:
    DenseQuery(ElementType type, size_t dim, Metric metric, RowScale row_scale, size_t stride, const float* queries,
               size_t n)
        : type_(type),
          dim_(dim),
          stride_(stride),
          width_(n),
          metric_(metric),
          row_scale_(row_scale),
          queries_(queries, queries + n * dim),
          terms_(n) {
        // Distances under l2 are taken from the first query on, so that their size is that of the differences, wherever
        // the vectors lie.
        if (metric == Metric::l2 && !is_integer(type)) center_.assign(queries, queries + std::min(n, size_t{1}) * dim);
        // The worst case of a float32 sum of dim products (Higham, section 3.1), doubled for the division by a computed
        // length under cosine; 2^-15 more where a product of bfloat16 halves may be used.
        rounding_ = 2 * static_cast<float>(dim + 16) * 0x1p-24f + (type == kernels::kBF16 ? 0x1p-15f : 0.0f);
        for (size_t q = 0; q < n; ++q) terms_[q] = query_terms(q);
        if (n >= kTileFrom) pack_tiles();
    }

    void score_rows(Rows rows, const uint32_t* list, size_t n, float* out) const noexcept override {
        estimate(0, rows, list, n, out);
    }

    void score_block(Block block, float* out) const noexcept override {
        // Tiles take an l2 distance apart into terms that nearly cancel between close vectors; fine for a bound, not
        // for a score.
        if (tiles_ && metric_ != Metric::l2) {
            tiles_->score(interleave(block), block.n, out);
            return;
        }
        for (size_t q = 0; q < width_; ++q) estimate(q, {block.data, stride_}, nullptr, block.n, out + q * block.n);
    }

    void bound_rows(size_t query, Rows rows, const uint32_t* list, size_t n, float* low,
                    float* high) const noexcept override {
        for (size_t start = 0; start < n; start += kPiece) {
            const size_t count = std::min(kPiece, n - start);
            const Rows piece{list ? rows.data : rows.data + start * rows.stride, rows.stride};
            bound_piece(query, piece, list ? list + start : nullptr, count, low + start, high + start);
            for (size_t i = start; i < start + count; ++i) {
                if (!std::isfinite(low[i]) || !std::isfinite(high[i])) low[i] = -kInfinity, high[i] = kInfinity;
            }
        }
    }

    void settle(size_t query, Rows rows, const uint32_t* list, size_t n, double* out) const noexcept override {
        const float* vector = queries_.data() + query * dim_;
        const auto kernel = kernels::active().dense[type_].settle;
        for (size_t i = 0; i < n; ++i) {
            const std::byte* row = rows.data + (list ? list[i] : i) * rows.stride;
            double sums[3];
            kernel(vector, reinterpret_cast<const uint8_t*>(row), scale_of(row), dim_, sums);
            if (metric_ == Metric::l2) {
                out[i] = sums[2];
            } else if (metric_ == Metric::ip) {
                out[i] = -sums[0];
            } else {
                const double lengths = std::sqrt(sums[1]) * terms_[query].norm;
                out[i] = lengths > 0 ? -std::clamp(sums[0] / lengths, -1.0, 1.0) : 0.0;
            }
        }
    }

    void scan(Block block, SurvivorSink& sink) const noexcept override {
        if (tiles_) {
            tiles_->scan(interleave(block), block.n, sink);
        } else {
            for (size_t q = 0; q < width_; ++q) scan_rows(q, block, sink);
        }
    }

  private:
    struct QueryTerms {
        double norm;           // length of the query (from the centre, where there is one)
        double offset;         // part of the distance that belongs to the query alone
        float scale, slack;    // as in kernels::Tile
        IntegerQuery rounded;  // for integer elements
        float rounded_scale() const { return rounded.code.empty() ? 1.0f : rounded.scale; }
    };

    QueryTerms query_terms(size_t q) const {
        const float* vector = queries_.data() + q * dim_;
        const float* other = center_.empty() ? vector : center_.data();
        double sums[3];
        kernels::active().dense[kernels::kF32].settle(vector, reinterpret_cast<const uint8_t*>(other), 1, dim_, sums);
        const double squared = center_.empty() ? sums[1] : sums[2];
        QueryTerms out{std::sqrt(squared), 0, 1, 1, {}};
        if (is_integer(type_)) out.rounded = round_query(vector, dim_);
        if (!(out.norm < kLongest && (out.norm > kShortest || out.norm == 0))) {
            out.slack = kInfinity;
            return out;
        }
        const auto norm = static_cast<float>(out.norm);
        if (metric_ == Metric::cosine) {
            out.scale = norm > 0 ? 1 / norm : 0.0f;
        } else if (metric_ == Metric::ip) {
            out.slack = norm;
        } else {
            out.scale = 2;
            out.slack = 2 * norm;
            out.offset = squared;
        }
        return out;
    }

    void pack_tiles() {
        tiles_.emplace(is_integer(type_) ? TileCodes::u8 : TileCodes::f32, dim_, width_);
        for (size_t q = 0; q < width_; ++q) {
            const QueryTerms& t = terms_[q];
            if (is_integer(type_)) {
                const float code_offset = type_ == kernels::kI8 ? 128.0f : 0.0f;
                tiles_->set_u8(q, t.rounded, static_cast<float>(t.norm), code_offset, t.scale, t.slack, t.offset);
            } else {
                std::vector<float> vector(queries_.begin() + static_cast<std::ptrdiff_t>(q * dim_),
                                          queries_.begin() + static_cast<std::ptrdiff_t>((q + 1) * dim_));
                for (size_t d = 0; d < center_.size(); ++d) vector[d] -= center_[d];
                tiles_->set_f32(q, vector.data(), t.scale, t.slack, t.offset);
            }
        }
    }

    float scale_of(const std::byte* row) const noexcept {
        if (row_scale_ == RowScale::none) return 1.0f;
        float scale;
        std::memcpy(&scale, row + dim_ * element_bytes(type_), sizeof(scale));
        return scale;
    }

    // Dot products with query q (of its rounded form for integer elements) and squared lengths of the elements.
    void dots(size_t q, Rows rows, const uint32_t* list, size_t n, float* dot, float* squared) const noexcept {
        const kernels::DenseKernels& kernel = kernels::active().dense[type_];
        const auto* data = reinterpret_cast<const uint8_t*>(rows.data);
        if (!is_integer(type_)) {
            kernel.dot(queries_.data() + q * dim_, data, rows.stride, list, n, dim_, dot, squared);
            return;
        }
        int32_t products[kPiece];
        uint32_t squares[kPiece];
        kernel.integer_dot(terms_[q].rounded.code.data(), data, rows.stride, list, n, dim_, products, squares);
        for (size_t i = 0; i < n; ++i) {
            dot[i] = static_cast<float>(products[i]);
            squared[i] = static_cast<float>(squares[i]);
        }
    }

    void estimate(size_t q, Rows rows, const uint32_t* list, size_t n, float* out) const noexcept {
        float dot[kPiece], squared[kPiece];
        const QueryTerms& t = terms_[q];
        for (size_t start = 0; start < n; start += kPiece) {
            const size_t count = std::min(kPiece, n - start);
            const Rows piece{list ? rows.data : rows.data + start * rows.stride, rows.stride};
            const uint32_t* piece_list = list ? list + start : nullptr;
            if (metric_ == Metric::l2 && !is_integer(type_)) {
                kernels::active().dense[type_].l2(queries_.data() + q * dim_,
                                                  reinterpret_cast<const uint8_t*>(piece.data), piece.stride,
                                                  piece_list, count, dim_, out + start);
                continue;
            }
            dots(q, piece, piece_list, count, dot, squared);
            for (size_t i = 0; i < count; ++i) {
                const std::byte* row = piece.data + (piece_list ? piece_list[i] : i) * piece.stride;
                const DocumentTerms x =
                    document_terms(metric_, squared[i], scale_of(row), rounding_, is_integer(type_));
                out[start + i] = x.add + static_cast<float>(t.offset) - t.scale * t.rounded_scale() * x.mul * dot[i];
            }
        }
    }

    void scan_rows(size_t q, Block block, SurvivorSink& sink) const noexcept {
        float low[kPiece], high[kPiece];
        Survivor survivors[kPiece];
        for (size_t start = 0; start < block.n; start += kPiece) {
            const size_t count = std::min(kPiece, block.n - start);
            bound_piece(q, {block.data + start * stride_, stride_}, nullptr, count, low, high);
            const float bound = sink.bounds[q];
            size_t kept = 0;
            for (size_t i = 0; i < count; ++i) {
                if (low[i] > bound) continue;  // a NaN is kept
                const bool known = std::isfinite(low[i]) && std::isfinite(high[i]);
                survivors[kept++] = {static_cast<uint32_t>(q), static_cast<uint32_t>(start + i),
                                     known ? low[i] : -kInfinity, known ? high[i] : kInfinity};
            }
            if (kept > 0) sink.take({survivors, kept});
        }
    }

    // Bounds of the distances from query q to up to kPiece rows; not finite where nothing is known.
    void bound_piece(size_t q, Rows rows, const uint32_t* list, size_t n, float* low, float* high) const noexcept {
        float dot[kPiece], squared[kPiece], scales[kPiece];
        const QueryTerms& t = terms_[q];
        if (metric_ == Metric::l2 && !is_integer(type_)) {
            // A sum of squares is off by a relative error only.
            kernels::active().dense[type_].l2(queries_.data() + q * dim_, reinterpret_cast<const uint8_t*>(rows.data),
                                              rows.stride, list, n, dim_, dot);
            const float unknown = t.slack == kInfinity ? kInfinity : 0;
            for (size_t i = 0; i < n; ++i) {
                const float rounding = dot[i] * rounding_ + 0x1p-100f + (dot[i] < 1e36f ? unknown : kInfinity);
                low[i] = dot[i] - rounding;
                high[i] = dot[i] + rounding;
            }
            return;
        }
        dots(q, rows, list, n, dot, squared);
        for (size_t i = 0; i < n; ++i) scales[i] = scale_of(rows.data + (list ? list[i] : i) * rows.stride);
        if (metric_ == Metric::cosine) {
            bound_products<Metric::cosine>(t, dot, squared, scales, n, low, high);
        } else if (metric_ == Metric::ip) {
            bound_products<Metric::ip>(t, dot, squared, scales, n, low, high);
        } else {
            bound_products<Metric::l2>(t, dot, squared, scales, n, low, high);
        }
    }

    template <Metric metric>
    void bound_products(const QueryTerms& t, const float* dot, const float* squared, const float* scales, size_t n,
                        float* low, float* high) const noexcept {
        const bool integer = is_integer(type_);
        const float scale = t.scale * t.rounded_scale(), slack = t.slack, rounding = rounding_;
        const auto offset = static_cast<float>(t.offset);
        const float error =
            integer && t.norm > 0 ? t.rounded.error / static_cast<float>(t.norm) * (1 + TiledQueries::kRelative) : 0.0f;
        for (size_t i = 0; i < n; ++i) {
            const DocumentTerms x = document_terms<metric>(squared[i], scales[i], rounding, integer);
            const float estimate = x.add + offset - scale * x.mul * dot[i];
            const float spread =
                slack * (x.err + error * x.norm) + 4 * TiledQueries::kRelative * (std::abs(estimate) + offset + x.add);
            low[i] = estimate - spread;
            high[i] = estimate + spread;
        }
    }

    // The rows of a block interleaved into groups, once for all tiles of queries; valid until the thread's next call.
    const std::byte* interleave(Block block) const noexcept {
        const TileCodes codes = is_integer(type_) ? TileCodes::u8 : TileCodes::f32;
        const size_t code_bytes = tile_code_bytes(codes, dim_), group_bytes = tile_group_bytes(codes, dim_);
        thread_local std::vector<float> buffer;  // floats for their alignment
        buffer.resize((block.n + kGroup - 1) / kGroup * group_bytes / sizeof(float));
        auto* groups = reinterpret_cast<std::byte*>(buffer.data());
        for (size_t start = 0; start < block.n; start += kGroup) {
            const size_t count = std::min(kGroup, block.n - start);
            std::byte* group = groups + start / kGroup * group_bytes;
            const Rows rows{block.data + start * stride_, stride_};
            if (codes == TileCodes::f32) {
                interleave_floats(rows, count, reinterpret_cast<float*>(group));
            } else {
                interleave_bytes(rows, count, reinterpret_cast<uint8_t*>(group));
            }
            set_factors(rows, count, reinterpret_cast<float*>(group + code_bytes));
        }
        return groups;
    }

    void interleave_floats(Rows rows, size_t count, float* out) const noexcept {
        // Eight rows at a time: their decoded pieces stay in the first-level cache while they are written side by side.
        constexpr size_t kRun = 64;
        const auto decode = kernels::active().dense[type_].decode;
        float piece[8][kRun];
        for (size_t r = 0; r < kGroup; r += 8) {
            for (size_t d = 0; d < dim_; d += kRun) {
                const size_t run = std::min(kRun, dim_ - d);
                for (size_t i = 0; i < 8; ++i) {
                    if (r + i >= count) {
                        std::fill_n(piece[i], run, 0.0f);
                        continue;
                    }
                    const std::byte* at = rows.data + (r + i) * rows.stride + d * element_bytes(type_);
                    decode(reinterpret_cast<const uint8_t*>(at), run, piece[i]);
                }
                for (size_t i = 0; i < 8 && !center_.empty(); ++i) {
                    for (size_t j = 0; j < run; ++j) piece[i][j] -= center_[d + j];
                }
                for (size_t j = 0; j < run; ++j) {
                    float* to = out + (d + j) * kGroup + r;
                    for (size_t i = 0; i < 8; ++i) to[i] = piece[i][j];
                }
            }
        }
    }

    void interleave_bytes(Rows rows, size_t count, uint8_t* out) const noexcept {
        const uint32_t flip = type_ == kernels::kI8 ? 0x80808080u : 0u;  // signed codes are shifted to unsigned ones
        for (size_t d = 0; d < dim_; d += 4) {
            for (size_t i = 0; i < kGroup; ++i) {
                uint32_t four = 0;
                if (i < count) std::memcpy(&four, rows.data + i * rows.stride + d, std::min<size_t>(4, dim_ - d));
                four ^= flip;
                std::memcpy(out + (d / 4 * kGroup + i) * 4, &four, 4);
            }
        }
    }

    void set_factors(Rows rows, size_t count, float* factors) const noexcept {
        const auto settle = kernels::active().dense[type_].settle;
        for (size_t i = 0; i < kGroup; ++i) {
            DocumentTerms x{0, 0, 0, 0};
            if (i < count) {
                const std::byte* row = rows.data + i * rows.stride;
                double sums[3];
                const float* from = center_.empty() ? queries_.data() : center_.data();
                settle(from, reinterpret_cast<const uint8_t*>(row), 1.0f, dim_, sums);
                const auto squared = static_cast<float>(sums[center_.empty() ? 1 : 2]);
                x = document_terms(metric_, squared, scale_of(row), rounding_, is_integer(type_));
            }
            factors[i] = x.mul;
            factors[kGroup + i] = x.add;
            factors[2 * kGroup + i] = x.err;
            factors[3 * kGroup + i] = x.norm;
        }
    }

    ElementType type_;
    size_t dim_, stride_, width_;
    Metric metric_;
    RowScale row_scale_;
    float rounding_;
    std::vector<float> queries_;
    std::vector<float> center_;  // empty: the origin
    std::vector<QueryTerms> terms_;
    std::optional<TiledQueries> tiles_;
};

}  // namespace

DenseCodec::DenseCodec(ElementType type, size_t dim, Metric metric, RowScale scale)
    : type_(type), dim_(dim), metric_(metric), scale_(scale) {}

std::string_view DenseCodec::name() const {
    static constexpr std::string_view kNames[] = {"f32", "f16", "bf16", "int8", "uint8"};
    return kNames[type_];
}

size_t DenseCodec::row_bytes() const {
    return dim_ * element_bytes(type_) + (scale_ == RowScale::stored ? sizeof(float) : 0);
}

void DenseCodec::encode(const Vectors& vectors, std::byte* rows) const {
    const kernels::KernelTable& table = kernels::active();
    for (size_t i = 0; i < vectors.n; ++i) {
        const float* vector = vectors.floats() + i * dim_;
        auto* row = reinterpret_cast<uint8_t*>(rows + i * row_bytes());
        if (!is_integer(type_)) {
            // The largest values that do not round to infinity.
            const float largest = type_ == kernels::kF32   ? kInfinity
                                  : type_ == kernels::kF16 ? 65519.996f
                                                           : 3.3961775e38f;
            const auto bad = std::find_if(vector, vector + dim_, [&](float x) { return std::abs(x) > largest; });
            if (bad != vector + dim_) {
                throw UnencodableVector(
                    i, "holds " + std::to_string(*bad) + ", beyond the range of codec \"" + std::string(name()) + "\"");
            }
            table.dense[type_].encode(vector, dim_, row);
            continue;
        }
        const float lowest = type_ == kernels::kI8 ? -128.0f : 0.0f, highest = type_ == kernels::kI8 ? 127.0f : 255.0f;
        const auto bad = std::find_if(
            vector, vector + dim_, [&](float x) { return !(x >= lowest && x <= highest && x == std::nearbyint(x)); });
        float scale = 1.0f;
        if (bad == vector + dim_) {
            for (size_t d = 0; d < dim_; ++d) row[d] = static_cast<uint8_t>(static_cast<int>(vector[d]));
        } else if (scale_ == RowScale::stored) {
            float lengths[3];
            table.quantize(vector, dim_, 127, reinterpret_cast<int8_t*>(row), lengths);
            scale = lengths[0];
        } else {
            throw UnencodableVector(i, "holds " + std::to_string(*bad) + "; codec \"" + std::string(name()) +
                                           "\" keeps integers from " + std::to_string(static_cast<int>(lowest)) +
                                           " to " + std::to_string(static_cast<int>(highest)));
        }
        if (scale_ == RowScale::stored) std::memcpy(row + dim_, &scale, sizeof(scale));
    }
}

void DenseCodec::decode(Rows rows, const uint32_t* list, size_t n, float* out) const {
    const auto kernel = kernels::active().dense[type_].decode;
    for (size_t i = 0; i < n; ++i) {
        const std::byte* row = rows.data + (list ? list[i] : i) * rows.stride;
        kernel(reinterpret_cast<const uint8_t*>(row), dim_, out + i * dim_);
        if (scale_ == RowScale::none) continue;
        float scale;
        std::memcpy(&scale, row + dim_, sizeof(scale));
        for (size_t d = 0; d < dim_; ++d) out[i * dim_ + d] *= scale;
    }
}

std::unique_ptr<Query> DenseCodec::prepare(const Vectors& queries) const {
    return std::make_unique<DenseQuery>(type_, dim_, metric_, scale_, row_bytes(), queries.floats(), queries.n);
}

}  // namespace nearfield
