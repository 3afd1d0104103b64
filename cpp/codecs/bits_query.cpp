// Queries against packed bits: how their distances follow from counts of ones, and the scans.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "codecs/bit_planes.hpp"
#include "codecs/bits.hpp"
#include "codecs/tiles.hpp"

namespace nearfield {

using kernels::kBitPlanes;
using kernels::kBitTile;
using kernels::kGroup;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kShortest = 1e-30f;  // squared length that float32 still tells
constexpr size_t kPiece = 256;       // rows counted per kernel call

class BitsQuery final : public Query {
  public:
    BitsQuery(const BitsCodec& codec, const Vectors& queries)
        : codec_(codec),
          dim_(codec.dim()),
          bytes_(codec.plane_bytes()),
          words_((bytes_ + 7) / 8),
          planes_(codec.signs().planes),
          width_(queries.n),
          metric_(codec.metric()),
          coded_(is_bit_metric(metric_) || codec.signs().coded_queries()) {
        const auto full = static_cast<std::byte>(0xff);
        all_ones_.assign(bytes_, full);
        if (coded_) {
            codes_.resize(width_ * codec.row_bytes());
            codec.encode(queries, codes_.data());
        } else {
            rotate(queries);
        }
        if (coded_ && (counted() || metric_ == Metric::jaccard)) {
            if (width_ >= kTileFrom) pack_tiles();
        } else {
            terms_.reserve(width_);
            for (size_t q = 0; q < width_; ++q) terms_.push_back(terms_of(q));
        }
    }

    std::optional<Counts> counts(size_t q) const override {
        if (!counted()) return std::nullopt;
        if (!coded_) return terms_[q].counts;
        const auto d = static_cast<double>(dim_), s = static_cast<double>(codec_.scale(0));
        switch (metric_) {
            case Metric::cosine:
                return Counts{dim_, 2 / d, -1};
            case Metric::ip:
                return Counts{dim_, 2 * s * s, -d * s * s};
            case Metric::l2:
                return Counts{dim_, 4 * s * s, 0};
            default:
                return Counts{dim_, 1, 0};
        }
    }

    void score_rows(Rows rows, const uint32_t* list, size_t n, float* out) const noexcept override {
        score(0, rows, list, n, out);
    }

    void score_block(Block block, float* out) const noexcept override {
        const Rows rows{block.data, codec_.row_bytes()};
        for (size_t q = 0; q < width_; ++q) score(q, rows, nullptr, block.n, out + q * block.n);
    }

    void settle(size_t query, Rows rows, const uint32_t* list, size_t n, double* out) const noexcept override {
        for (size_t start = 0; start < n; start += kPiece) {
            const size_t piece = std::min(kPiece, n - start);
            const Rows from{list ? rows.data : rows.data + start * rows.stride, rows.stride};
            settle_piece(query, from, list ? list + start : nullptr, piece, out + start);
        }
    }

    void scan(Block block, SurvivorSink& sink) const noexcept override {
        if (!terms_.empty()) {
            scan_planes(block, sink);
        } else if (width_ < kTileFrom) {
            for (size_t q = 0; q < width_; ++q) scan_rows(q, block, sink);
        } else if (metric_ == Metric::jaccard) {
            scan_jaccard(block, sink);
        } else {
            scan_tiles(block, sink);
        }
    }

  private:
    // From how many queries on it pays to interleave the rows.
    static constexpr size_t kTileFrom = 3;

    // A query as kernels::BitPlanes takes it: distances are mul[x] * (offset + sum of weight * count) + tilt * add[x],
    // off by at most slack * mul[x] and a rounding error relative to `magnitude`.
    struct Terms {
        std::vector<std::byte> bits;   // [query planes][bytes]
        std::vector<uint64_t> planes;  // the same, [words][query planes]
        std::vector<float> weight;     // [document planes][query planes]
        float offset, tilt, slack, magnitude;
        Counts counts;  // if these are counted
    };

    // Whether distances are counts: of bits that differ, for a rounded query with weights 1, 2, 4, 8.
    bool counted() const {
        return planes_ == 1 && metric_ != Metric::jaccard && codec_.scale(0) > 0 &&
               (coded_ || (rounded_bits() > 0 && !codec_.stores_length()));
    }
    // Bits to which each value of a query is rounded; 0: it is not.
    size_t rounded_bits() const {
        if (coded_) return 0;
        const Signs::Queries queries = codec_.signs().queries;
        return queries == Signs::Queries::int2 ? 2 : queries == Signs::Queries::int4 ? 4 : 0;
    }
    const std::byte* code(size_t q) const { return codes_.data() + q * codec_.row_bytes(); }
    const float* rotated(size_t q) const { return rotated_.data() + q * dim_; }

    // Queries in the coded space, rounded if they are to be: to 2^bits evenly spaced levels, half of them positive, at
    // the distance that suits a normal distribution best (Max, "Quantizing for Minimum Distortion", 1960, table II).
    void rotate(const Vectors& queries) {
        rotated_.resize(width_ * dim_);
        fill_rotated(queries);
        const size_t bits = rounded_bits();
        if (bits == 0) return;
        const auto half = static_cast<float>(1 << (bits - 1));
        levels_.resize(width_ * dim_);
        for (size_t q = 0; q < width_; ++q) {
            float* query = rotated_.data() + q * dim_;
            const double deviation = std::sqrt(squared_query(q) / static_cast<double>(dim_));
            // A query of signs (times a constant) lies on two levels already.
            const float magnitude = std::abs(query[0]);
            const bool signs = std::all_of(query, query + dim_, [=](float x) { return std::abs(x) == magnitude; });
            const auto step = signs ? 2 * magnitude : static_cast<float>((bits == 2 ? 0.9957 : 0.3352) * deviation);
            steps_.push_back(step);
            for (size_t d = 0; d < dim_; ++d) {
                const float level = step > 0 ? std::clamp(std::floor(query[d] / step), -half, half - 1) : 0.0f;
                levels_[q * dim_ + d] = static_cast<uint8_t>(level + half);
                query[d] = step * (level + 0.5f);
            }
        }
    }

    void fill_rotated(const Vectors& queries) {
        if (queries.type == kernels::kBits) {  // the vector of signs
            for (size_t q = 0; q < width_; ++q) {
                const std::byte* row = queries.data + q * queries.stride;
                for (size_t d = 0; d < dim_; ++d) rotated_[q * dim_ + d] = signs_of(row[d / 8])[d % 8];
            }
            return;
        }
        for (size_t q = 0; q < width_; ++q) codec_.rotate(queries.floats() + q * dim_, rotated_.data() + q * dim_);
    }

    // Inner product and squared length of query q in float64.
    double squared_query(size_t q) const {
        if (coded_) return codec_.squared_length(code(q));
        double sum = 0;
        for (size_t d = 0; d < dim_; ++d)
            sum += static_cast<double>(rotated(q)[d]) * static_cast<double>(rotated(q)[d]);
        return sum;
    }
    double threshold_dot(size_t q) const {
        double sum = 0;
        for (size_t d = 0; d < codec_.threshold().size(); ++d) {
            sum += static_cast<double>(rotated(q)[d]) * static_cast<double>(codec_.threshold()[d]);
        }
        return sum;
    }

    // -- one distance after the other ------------------------------------------------------------------------

    void score(size_t q, Rows rows, const uint32_t* list, size_t n, float* out) const noexcept {
        double exact[kPiece];
        for (size_t start = 0; start < n; start += kPiece) {
            const size_t piece = std::min(kPiece, n - start);
            const Rows from{list ? rows.data : rows.data + start * rows.stride, rows.stride};
            settle_piece(q, from, list ? list + start : nullptr, piece, exact);
            for (size_t i = 0; i < piece; ++i) out[start + i] = static_cast<float>(exact[i]);
        }
    }

    void settle_piece(size_t q, Rows rows, const uint32_t* list, size_t n, double* out) const noexcept {
        const auto row_of = [&](size_t i) { return rows.data + (list ? list[i] : i) * rows.stride; };
        uint32_t counts[kPiece];
        if (metric_ == Metric::jaccard) {
            uint32_t ones[kPiece], query_ones;
            count_ones(false, code(q), rows, list, n, bytes_, counts);
            count_ones(false, all_ones_.data(), rows, list, n, bytes_, ones);
            count_ones(false, all_ones_.data(), {code(q), bytes_}, nullptr, 1, bytes_, &query_ones);
            for (size_t i = 0; i < n; ++i) {
                const uint32_t joined = query_ones + ones[i] - counts[i];
                out[i] = joined == 0 ? -1.0 : -static_cast<double>(counts[i]) / static_cast<double>(joined);
            }
            return;
        }
        if (const auto scale = this->counts(q)) {
            if (coded_) {
                count_ones(true, code(q), rows, list, n, bytes_, counts);
            } else {
                count_steps(terms_[q], rows, list, n, counts);
            }
            for (size_t i = 0; i < n; ++i) out[i] = scale->offset + scale->scale * static_cast<double>(counts[i]);
            return;
        }
        if (coded_) {
            std::fill_n(out, n, 0.0);
            for (size_t t = 0; t < planes_; ++t) {
                for (size_t p = 0; p < planes_; ++p) {
                    const double weight = static_cast<double>(codec_.scale(t)) * static_cast<double>(codec_.scale(p));
                    count_ones(true, code(q) + p * bytes_, {rows.data + t * bytes_, rows.stride}, list, n, bytes_,
                               counts);
                    for (size_t i = 0; i < n; ++i) {
                        out[i] += weight * (static_cast<double>(dim_) - 2 * static_cast<double>(counts[i]));
                    }
                }
            }
        } else {
            const double shift = threshold_dot(q);
            for (size_t i = 0; i < n; ++i) out[i] = codec_.dot(rotated(q), row_of(i)) + shift;
        }
        if (metric_ == Metric::ip) {
            for (size_t i = 0; i < n; ++i) out[i] = -out[i];
            return;
        }
        const double squared = squared_query(q);
        for (size_t i = 0; i < n; ++i) {
            const double length = codec_.squared_length(row_of(i));
            if (metric_ == Metric::l2) {
                out[i] = std::max(0.0, squared + length - 2 * out[i]);
            } else {
                const double lengths = std::sqrt(squared * length);
                out[i] = lengths > 0 ? -std::clamp(out[i] / lengths, -1.0, 1.0) : 0.0;
            }
        }
    }

    // The counts of a rounded query, from those of its planes.
    void count_steps(const Terms& t, Rows rows, const uint32_t* list, size_t n, uint32_t* out) const noexcept {
        uint32_t ones[kPiece];
        float sums[kPiece];
        std::fill_n(sums, n, t.offset);
        for (size_t p = 0; p < t.weight.size(); ++p) {
            count_ones(true, t.bits.data() + p * bytes_, rows, list, n, bytes_, ones);
            for (size_t i = 0; i < n; ++i) sums[i] += t.weight[p] * static_cast<float>(ones[i]);
        }
        for (size_t i = 0; i < n; ++i) out[i] = static_cast<uint32_t>(sums[i]);
    }

    // -- few queries: row after row --------------------------------------------------------------------------

    void scan_rows(size_t q, Block block, SurvivorSink& sink) const noexcept {
        uint32_t counts[kPiece];
        double exact[kPiece];
        Survivor survivors[kPiece];
        const auto query = static_cast<uint32_t>(q);
        for (size_t start = 0; start < block.n; start += kPiece) {
            const size_t n = std::min(kPiece, block.n - start);
            const Rows rows{block.data + start * codec_.row_bytes(), codec_.row_bytes()};
            const float bound = sink.bounds[q];
            size_t kept = 0;
            if (metric_ == Metric::jaccard) {
                settle_piece(q, rows, nullptr, n, exact);
                for (size_t i = 0; i < n; ++i) {
                    const auto low = std::nextafter(static_cast<float>(exact[i]), -kInfinity);
                    if (low > bound) continue;
                    survivors[kept++] = {query, static_cast<uint32_t>(start + i), low,
                                         std::nextafter(static_cast<float>(exact[i]), kInfinity)};
                }
            } else {
                count_ones(true, code(q), rows, nullptr, n, bytes_, counts);
                uint32_t at[kPiece + kGroup];
                kept = kernels::active().bits.select(counts, n, most_of(bound), at);
                for (size_t i = 0; i < kept; ++i) {
                    const auto distance = static_cast<float>(counts[at[i]]);
                    survivors[i] = {query, static_cast<uint32_t>(start) + at[i], distance, distance};
                }
            }
            if (kept > 0) sink.take({survivors, kept});
        }
    }

    // -- many queries: groups of rows, interleaved -----------------------------------------------------------

    // The largest count within a bound; -1 if there is none.
    int32_t most_of(float bound) const {
        if (bound >= static_cast<float>(dim_)) return std::numeric_limits<int32_t>::max();
        return bound >= 0 ? static_cast<int32_t>(bound) : -1;
    }

    void pack_tiles() {
        packed_.resize(width_ * words_);
        for (size_t q = 0; q < width_; ++q) {
            const size_t first = q / kBitTile * kBitTile, tile = std::min(kBitTile, width_ - first);
            for (size_t w = 0; w < words_; ++w) {
                uint64_t word = 0;
                std::memcpy(&word, code(q) + w * 8, std::min<size_t>(8, bytes_ - w * 8));
                packed_[first * words_ + w * tile + (q - first)] = word;
            }
        }
    }

    // Every plane of the rows of a block, group after group; valid until the thread's next call.
    const uint64_t* interleave(Block block) const noexcept {
        thread_local std::vector<uint64_t> buffer;
        const size_t group_words = planes_ * words_ * kGroup;
        buffer.resize((block.n + kGroup - 1) / kGroup * group_words);
        for (size_t start = 0; start < block.n; start += kGroup) {
            for (size_t t = 0; t < planes_; ++t) {
                kernels::active().bits.interleave(bytes_of(block.data + start * codec_.row_bytes() + t * bytes_),
                                                  codec_.row_bytes(), std::min(kGroup, block.n - start), bytes_,
                                                  buffer.data() + start / kGroup * group_words + t * words_ * kGroup);
            }
        }
        return buffer.data();
    }

    static uint32_t present(size_t left) { return left >= kGroup ? ~0u : (1u << left) - 1; }

    void scan_tiles(Block block, SurvivorSink& sink) const noexcept {
        const uint64_t* groups = interleave(block);
        const auto kernel = kernels::active().bits.hamming_tile;
        uint32_t masks[kBitTile], counts[kBitTile * kGroup];
        int32_t most[kBitTile];
        Survivor survivors[kBitTile * kGroup];
        for (size_t first = 0; first < width_; first += kBitTile) {
            const size_t width = std::min(kBitTile, width_ - first);
            const auto refresh = [&] {
                for (size_t q = 0; q < width; ++q) most[q] = most_of(sink.bounds[first + q]);
            };
            refresh();
            for (size_t start = 0; start < block.n; start += kGroup) {
                const uint32_t hit = kernel(groups + start * words_, words_, packed_.data() + first * words_, width,
                                            most, masks, counts);
                if (hit == 0) continue;
                size_t kept = 0;
                for (uint32_t left = hit; left != 0; left &= left - 1) {
                    const auto q = static_cast<size_t>(std::countr_zero(left));
                    for (uint32_t docs = masks[q] & present(block.n - start); docs != 0; docs &= docs - 1) {
                        const auto i = static_cast<size_t>(std::countr_zero(docs));
                        const auto distance = static_cast<float>(counts[q * kGroup + i]);
                        survivors[kept++] = {static_cast<uint32_t>(first + q), static_cast<uint32_t>(start + i),
                                             distance, distance};
                    }
                }
                if (kept == 0) continue;
                sink.take({survivors, kept});
                refresh();
            }
        }
    }

    // Whether sim = both / (query_ones + ones - both) reaches a threshold s is linear in the counts:
    // (1 + s) * both >= s * (query_ones + ones).
    void scan_jaccard(Block block, SurvivorSink& sink) const noexcept {
        const uint64_t* groups = interleave(block);
        thread_local std::vector<uint32_t> ones;
        ones.resize((block.n + kGroup - 1) / kGroup * kGroup);
        count_ones(false, all_ones_.data(), {block.data, codec_.row_bytes()}, nullptr, block.n, bytes_, ones.data());
        std::vector<uint64_t> planes(words_);
        float factors[2 * kGroup], low[kGroup];
        std::fill_n(factors, kGroup, 1.0f);
        for (size_t q = 0; q < width_; ++q) {
            uint32_t query_ones;
            count_ones(false, all_ones_.data(), {code(q), bytes_}, nullptr, 1, bytes_, &query_ones);
            std::memset(planes.data(), 0, words_ * 8);
            std::memcpy(planes.data(), code(q), bytes_);
            const auto magnitude = static_cast<float>(2 * dim_);
            for (size_t start = 0; start < block.n; start += kGroup) {
                for (size_t i = 0; i < kGroup; ++i) factors[kGroup + i] = static_cast<float>(ones[start + i]);
                const float least = std::clamp(-sink.bounds[q], 0.0f, 1.0f), weight = -(1 + least);
                const kernels::BitPlanes query{words_,  1,
                                               1,       planes.data(),
                                               &weight, least * static_cast<float>(query_ones),
                                               least,   4 * TiledQueries::kRelative * magnitude,
                                               false};
                const uint32_t hit = kernels::active().bits.planes(groups + start * words_, factors, &query, low) &
                                     present(block.n - start);
                if (hit != 0) take_settled(q, block, start, hit, sink);
            }
        }
    }

    // Hands over the documents of a group with their canonical distances.
    void take_settled(size_t q, Block block, size_t start, uint32_t docs, SurvivorSink& sink) const noexcept {
        uint32_t list[kGroup];
        double exact[kGroup];
        Survivor survivors[kGroup];
        size_t n = 0;
        for (; docs != 0; docs &= docs - 1) {
            list[n++] = static_cast<uint32_t>(start + static_cast<size_t>(std::countr_zero(docs)));
        }
        settle_piece(q, {block.data, codec_.row_bytes()}, list, n, exact);
        for (size_t i = 0; i < n; ++i) {
            const auto rounded = static_cast<float>(exact[i]);
            survivors[i] = {static_cast<uint32_t>(q), list[i], std::nextafter(rounded, -kInfinity),
                            std::nextafter(rounded, kInfinity)};
        }
        sink.take({survivors, n});
    }

    // -- planes with weights ---------------------------------------------------------------------------------

    Terms terms_of(size_t q) const {
        const double squared = squared_query(q);
        const auto d = static_cast<double>(dim_);
        const size_t rounded = rounded_bits(), query_planes = coded_ ? planes_ : rounded > 0 ? rounded : kBitPlanes;
        double longest = 0;  // a bound of the lengths of what codes stand for, without the threshold
        for (size_t t = 0; t < planes_; ++t) longest += static_cast<double>(codec_.scale(t)) * std::sqrt(d);

        Terms out{};
        out.bits.resize(query_planes * bytes_);
        std::vector<double> weight(planes_ * query_planes);  // of the inner product
        double offset = 0, error = 0;
        if (coded_) {
            std::memcpy(out.bits.data(), code(q), out.bits.size());
            for (size_t t = 0; t < planes_; ++t) {
                for (size_t p = 0; p < planes_; ++p) {
                    const double both = static_cast<double>(codec_.scale(t)) * static_cast<double>(codec_.scale(p));
                    offset += d * both;
                    weight[t * planes_ + p] = -2 * both;
                }
            }
        } else {
            // The query as whole numbers, each binary place a plane.
            std::vector<uint8_t> numbers(bytes_ * 8);
            float lengths[3];
            if (rounded > 0) {
                std::copy_n(levels_.data() + q * dim_, dim_, numbers.data());
            } else {  // in two's complement
                auto* steps = reinterpret_cast<int8_t*>(numbers.data());
                kernels::active().quantize(rotated(q), dim_, 127, steps, lengths);
                error = static_cast<double>(lengths[1]) * longest;
            }
            for (size_t byte = 0; byte < bytes_; ++byte) {
                for (size_t p = 0; p < query_planes; ++p) {
                    out.bits[p * bytes_ + byte] = gathered(numbers.data() + byte * 8, p);
                }
            }
            double sum = 0;
            for (const uint8_t number : numbers) sum += static_cast<double>(static_cast<int8_t>(number));
            offset = threshold_dot(q);
            for (size_t t = 0; t < planes_; ++t) {
                const auto scale = static_cast<double>(codec_.scale(t));
                if (rounded >
                    0) {  // step / 2 times the sum of 2^p times (+1 where the bits agree, -1 where they differ)
                    const double step = scale * static_cast<double>(steps_[q]);
                    offset += step / 2 * d * static_cast<double>((1 << rounded) - 1);
                    for (size_t p = 0; p < rounded; ++p) weight[t * rounded + p] = -step * static_cast<double>(1 << p);
                    continue;
                }
                const double step = scale * static_cast<double>(lengths[0]);  // sums at the ones of the code
                offset -= step * sum;
                for (size_t p = 0; p < kBitPlanes; ++p) {
                    const double place = static_cast<double>(1 << p);
                    weight[t * kBitPlanes + p] = 2 * step * (p + 1 == kBitPlanes ? -place : place);
                }
            }
        }
        out.planes.resize(words_ * query_planes);
        for (size_t w = 0; w < words_; ++w) {
            for (size_t p = 0; p < query_planes; ++p) {
                std::memcpy(&out.planes[w * query_planes + p], out.bits.data() + p * bytes_ + w * 8,
                            std::min<size_t>(8, bytes_ - w * 8));
            }
        }

        double factor = -1;  // of the inner product in the distance
        if (metric_ == Metric::cosine) {
            factor = squared > 0 ? -1 / std::sqrt(squared) : 0;
        } else if (metric_ == Metric::l2) {
            factor = -2;
            out.tilt = 1;
        }
        double base = metric_ == Metric::l2 ? squared : 0;
        if (counted()) {
            // The inner product is step * (most / 2 - count).
            const auto scale = static_cast<double>(codec_.scale(0));
            const double step = scale * static_cast<double>(steps_[q]), length = d * scale * scale;
            const size_t most = ((size_t{1} << rounded) - 1) * dim_;
            if (metric_ == Metric::cosine) factor /= std::sqrt(length);
            if (metric_ == Metric::l2) base += length;
            out.counts = {most, -factor * step, base + factor * step * static_cast<double>(most) / 2};
            // A query of zeros is equally far from all.
            for (size_t p = 0; p < rounded; ++p) out.weight.push_back(step > 0 ? static_cast<float>(1 << p) : 0.0f);
            return out;
        }
        double magnitude = base + std::abs(factor * offset);
        for (const double w : weight) {
            out.weight.push_back(static_cast<float>(factor * w));
            magnitude += std::abs(factor * w) * d;
        }
        out.offset = static_cast<float>(base + factor * offset);
        out.slack = static_cast<float>(std::abs(factor) * error * (1 + TiledQueries::kRelative));
        out.magnitude = static_cast<float>(magnitude);
        return out;
    }

    // The factors mul and add of a group's documents.
    void set_factors(const std::byte* rows, size_t n, float* factors) const noexcept {
        std::fill_n(factors, kGroup, 1.0f);
        std::fill_n(factors + kGroup, kGroup, 0.0f);
        if (metric_ == Metric::ip || counted()) return;
        float* to = metric_ == Metric::cosine ? factors : factors + kGroup;
        const auto factor_of = [&](float squared) {  // nothing is known of the direction of a vector that vanishes
            return metric_ == Metric::l2 ? squared
                   : squared > kShortest ? 1 / std::sqrt(squared)
                                         : std::numeric_limits<float>::quiet_NaN();
        };
        if (!codec_.stores_length()) {
            std::fill_n(to, kGroup, factor_of(static_cast<float>(dim_) * codec_.scale(0) * codec_.scale(0)));
            return;
        }
        for (size_t i = 0; i < n; ++i) {
            float squared;
            std::memcpy(&squared, rows + i * codec_.row_bytes() + planes_ * bytes_, sizeof(squared));
            to[i] = factor_of(squared);
        }
    }

    void scan_planes(Block block, SurvivorSink& sink) const noexcept {
        const uint64_t* groups = interleave(block);
        const auto kernel = kernels::active().bits.planes;
        const size_t group_words = planes_ * words_ * kGroup, n_groups = (block.n + kGroup - 1) / kGroup;
        // Groups share their factors where these do not depend on the document.
        const bool own = codec_.stores_length() && metric_ != Metric::ip;
        const size_t sets = own ? n_groups : 1;
        thread_local std::vector<float> factors, largest;  // mul and add of documents; the largest of each set
        factors.resize(sets * 2 * kGroup);
        largest.resize(sets * 2);
        for (size_t g = 0; g < sets; ++g) {
            float* mul = factors.data() + g * 2 * kGroup;
            set_factors(block.data + g * kGroup * codec_.row_bytes(), std::min(kGroup, block.n - g * kGroup), mul);
            largest[2 * g] = *std::max_element(mul, mul + kGroup);
            largest[2 * g + 1] = *std::max_element(mul + kGroup, mul + 2 * kGroup);
        }
        float low[kGroup];
        Survivor survivors[kGroup];
        for (size_t q = 0; q < width_; ++q) {
            const Terms& t = terms_[q];
            kernels::BitPlanes query{words_,          planes_,         t.planes.size() / words_,
                                     t.planes.data(), t.weight.data(), t.offset,
                                     t.tilt,          kInfinity,       coded_ || rounded_bits() > 0};
            for (size_t g = 0; g < n_groups; ++g) {
                const size_t set = own ? g : 0;
                const float* mul = factors.data() + set * 2 * kGroup;
                const float* add = mul + kGroup;
                // The bound, loosened for the document that gains most by it.
                query.bound = sink.bounds[q] + spread_of(t, largest[2 * set], largest[2 * set + 1]);
                const uint32_t hit = kernel(groups + g * group_words, mul, &query, low);
                size_t kept = 0;
                for (uint32_t docs = hit & present(block.n - g * kGroup); docs != 0; docs &= docs - 1) {
                    const auto i = static_cast<size_t>(std::countr_zero(docs));
                    const float off = spread_of(t, mul[i], add[i]);
                    const bool known = std::isfinite(low[i]) && std::isfinite(off);
                    survivors[kept++] = {static_cast<uint32_t>(q), static_cast<uint32_t>(g * kGroup + i),
                                         known ? low[i] - off : -kInfinity, known ? low[i] + off : kInfinity};
                }
                if (kept > 0) sink.take({survivors, kept});
            }
        }
    }

    static float spread_of(const Terms& t, float mul, float add) {
        return mul * (t.slack + 4 * TiledQueries::kRelative * t.magnitude) + 4 * TiledQueries::kRelative * t.tilt * add;
    }

    const BitsCodec& codec_;
    size_t dim_, bytes_, words_, planes_, width_;
    Metric metric_;
    bool coded_;
    std::vector<std::byte> codes_;  // rows of the codec, one per query
    std::vector<float> rotated_;    // queries that are not coded, in the coded space
    std::vector<uint8_t> levels_;   // their values as numbers of levels, where they are rounded,
    std::vector<float> steps_;      // and the distances between these
    std::vector<std::byte> all_ones_;
    std::vector<uint64_t> packed_;  // tile after tile
    std::vector<Terms> terms_;
};

}  // namespace

std::unique_ptr<Query> BitsCodec::prepare(const Vectors& queries) const {
    return std::make_unique<BitsQuery>(*this, queries);
}

}  // namespace nearfield
