#include "codecs/bits.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "codecs/tiles.hpp"
#include "kernels/dispatch.hpp"

namespace nearfield {

using kernels::kBitPlanes;
using kernels::kBitTile;
using kernels::kGroup;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kShortest = 1e-30f;                               // squared length that float32 still tells
constexpr uint32_t kNever = std::numeric_limits<int32_t>::max();  // as a count: survives nothing
constexpr size_t kPiece = 256;                                    // rows counted per kernel call

const uint8_t* bytes_of(const std::byte* data) { return reinterpret_cast<const uint8_t*>(data); }

// Signs of the eight bits of a byte: +1 for a one.
const std::array<float, 8>& signs_of(std::byte byte) {
    static const auto all = [] {
        std::array<std::array<float, 8>, 256> out;
        for (size_t value = 0; value < 256; ++value) {
            for (size_t j = 0; j < 8; ++j) out[value][j] = (value >> (7 - j) & 1) != 0 ? 1.0f : -1.0f;
        }
        return out;
    }();
    return all[static_cast<size_t>(byte)];
}

// Binary place `place` of eight bytes, the first one highest: a multiplication moves the bits to where they belong.
template <class Byte>
std::byte gathered(const Byte* eight, size_t place) {
    uint64_t word = 0;
    for (size_t j = 0; j < 8; ++j) word |= uint64_t{static_cast<uint8_t>(eight[j])} << 8 * j;
    return static_cast<std::byte>((word >> place & 0x0101010101010101u) * 0x8040201008040201u >> 56);
}

// Whether any of n counts is at most `most`: its difference to the next number is negative. Written for vector code.
template <size_t n>
bool any_within(const uint32_t* counts, int32_t most) {
    const uint32_t next = static_cast<uint32_t>(most) + 1;
    uint32_t any = 0;
    for (size_t i = 0; i < n; ++i) any |= counts[i] - next;
    return any >> 31 != 0;
}

// Ones that plane-sized pieces of rows share with a query, or in which they differ.
void count(bool exclusive, const std::byte* query, Rows rows, const uint32_t* list, size_t n, size_t bytes,
           uint32_t* out) {
    const kernels::BitKernels& kernel = kernels::active().bits;
    (exclusive ? kernel.xor_counts : kernel.and_counts)(bytes_of(query), bytes_of(rows.data), rows.stride, list, n,
                                                        bytes, out);
}

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
            const auto step = static_cast<float>((bits == 2 ? 0.9957 : 0.3352) * deviation);
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

    // -- one distance after the other
    // ----------------------------------------------------------------------------------

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
            count(false, code(q), rows, list, n, bytes_, counts);
            count(false, all_ones_.data(), rows, list, n, bytes_, ones);
            count(false, all_ones_.data(), {code(q), bytes_}, nullptr, 1, bytes_, &query_ones);
            for (size_t i = 0; i < n; ++i) {
                const uint32_t joined = query_ones + ones[i] - counts[i];
                out[i] = joined == 0 ? -1.0 : -static_cast<double>(counts[i]) / static_cast<double>(joined);
            }
            return;
        }
        if (const auto scale = this->counts(q)) {
            if (coded_) {
                count(true, code(q), rows, list, n, bytes_, counts);
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
                    count(true, code(q) + p * bytes_, {rows.data + t * bytes_, rows.stride}, list, n, bytes_, counts);
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
            count(true, t.bits.data() + p * bytes_, rows, list, n, bytes_, ones);
            for (size_t i = 0; i < n; ++i) sums[i] += t.weight[p] * static_cast<float>(ones[i]);
        }
        for (size_t i = 0; i < n; ++i) out[i] = static_cast<uint32_t>(sums[i]);
    }

    // -- few queries: row after row
    // --------------------------------------------------------------------------------------

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
                count(true, code(q), rows, nullptr, n, bytes_, counts);
                const int32_t most = most_of(bound);
                // Most pieces hold none, and then most runs of a piece.
                constexpr size_t kRun = 16;
                std::fill(counts + n, counts + kPiece, kNever);
                if (!any_within<kPiece>(counts, most)) continue;
                for (size_t run = 0; run < n; run += kRun) {
                    if (!any_within<kRun>(counts + run, most)) continue;
                    for (size_t i = run; i < run + kRun; ++i) {
                        if (static_cast<int32_t>(counts[i]) > most) continue;
                        const auto distance = static_cast<float>(counts[i]);
                        survivors[kept++] = {query, static_cast<uint32_t>(start + i), distance, distance};
                    }
                }
            }
            if (kept > 0) sink.take({survivors, kept});
        }
    }

    // -- many queries: groups of rows, interleaved
    // ---------------------------------------------------------------------

    // The largest count within a bound; -1 if there is none.
    int32_t most_of(float bound) const {
        if (bound >= static_cast<float>(dim_)) return static_cast<int32_t>(kNever) - 1;
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
        count(false, all_ones_.data(), {block.data, codec_.row_bytes()}, nullptr, block.n, bytes_, ones.data());
        std::vector<uint64_t> planes(words_);
        float factors[2 * kGroup], low[kGroup];
        std::fill_n(factors, kGroup, 1.0f);
        for (size_t q = 0; q < width_; ++q) {
            uint32_t query_ones;
            count(false, all_ones_.data(), {code(q), bytes_}, nullptr, 1, bytes_, &query_ones);
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

    // -- planes with weights
    // --------------------------------------------------------------------------------------------

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
    const auto take = [&](std::string_view name, bool wanted, size_t size) {
        const auto found = learned.find(name);
        const size_t given = found == learned.end() ? 0 : found->second.size();
        if (given != (wanted ? size : 0)) {
            throw InvalidInput(std::string(name) + ": " + std::to_string(given) + " numbers given, expected " +
                               std::to_string(wanted ? size : 0));
        }
        std::vector<float> values = given == 0 ? std::vector<float>{} : std::move(found->second);
        check_finite(values.data(), 1, values.size(), name, 0);
        return values;
    };
    auto out = std::make_unique<BitsCodec>(*this);
    out->scales_ = take("scale", signs_.learn(), signs_.planes);
    out->threshold_ = take("threshold", signs_.threshold != Signs::Threshold::zero, dim_);
    out->rotation_ = take("rotation", signs_.rotated, dim_ * dim_);
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
                count(true, row + s * plane_bytes(), {row + t * plane_bytes(), 0}, nullptr, 1, plane_bytes(), &differ);
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

void BitsCodec::pack(Rows rows, size_t n, std::byte* block) const {
    for (size_t i = 0; i < n; ++i) std::memcpy(block + i * row_bytes(), rows.data + i * rows.stride, row_bytes());
}

std::unique_ptr<Query> BitsCodec::prepare(const Vectors& queries) const {
    return std::make_unique<BitsQuery>(*this, queries);
}

}  // namespace nearfield
