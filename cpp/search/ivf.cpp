#include "search/ivf.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "search/ivf_codes.hpp"

namespace nearfield {

namespace {

constexpr size_t kAlignment = 64;

// Lists that an index gets unless it is told: so many times the square root of the number of vectors.
constexpr double kListsPerRoot = 4;
// Of them, the share that a search visits unless it is told.
constexpr size_t kListsPerProbe = 32;
// Rounds of k-means.
constexpr size_t kRounds = 12;

// Codes of residuals are for inner products; lists of a prefix have no centroids to code vectors beside.
std::shared_ptr<const Codec> make_list_codec(const IvfOptions& options) {
    if (is_bit_metric(options.metric)) {
        throw InvalidInput("metric: \"" + std::string(metric_name(options.metric)) +
                           "\" given, expected \"cosine\", \"ip\" or \"l2\"");
    }
    std::shared_ptr<const Codec> codec = make_codec(options.codec, options.dim, options.metric);
    const bool residual = codec->codes_residuals() && options.list_dims == 0;
    return residual ? make_codec(options.codec, options.dim, Metric::ip) : codec;
}

size_t round_up(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

void load_compared(const Vectors& vectors, size_t dims, Metric metric, float* out) {
    thread_local std::vector<float> whole;
    for (size_t i = 0; i < vectors.n; ++i, out += dims) {
        if (dims == vectors.dim) {
            vectors.to_f32(i, 1, out);
        } else {
            whole.resize(vectors.dim);
            vectors.to_f32(i, 1, whole.data());
            std::copy_n(whole.data(), dims, out);
        }
        if (metric != Metric::cosine) continue;
        double squared = 0;
        for (size_t d = 0; d < dims; ++d) squared += static_cast<double>(out[d]) * static_cast<double>(out[d]);
        const double factor = squared > 0 ? 1 / std::sqrt(squared) : 0;
        for (size_t d = 0; d < dims; ++d) out[d] = static_cast<float>(static_cast<double>(out[d]) * factor);
    }
}

ByList::ByList(const std::vector<uint32_t>& labels, size_t lists) : starts(lists + 1), order(labels.size()) {
    for (const uint32_t list : labels) ++starts[list + 1];
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    std::vector<size_t> next(starts.begin(), starts.end() - 1);
    for (size_t i = 0; i < labels.size(); ++i) order[next[labels[i]]++] = static_cast<uint32_t>(i);
}

// ---------------------------------------------------------------------------------------------------------------------
// Lists
// ---------------------------------------------------------------------------------------------------------------------

std::shared_ptr<const Ivf::List> Ivf::IvfCodes::appended(const List& old, const NewRows& added) const {
    const size_t group = layout->group(), stride = layout->row_bytes(), fine_bytes = layout->fine_bytes();
    const size_t size = old.size + added.numbers.size(), whole = old.size / group;
    auto out = std::make_shared<List>();
    out->size = size;
    const size_t groups = (size + group - 1) / group, padded = groups * group;
    const size_t codes_size = round_up(groups * layout->group_bytes());
    const size_t corrections_size = residual ? round_up(padded * sizeof(float)) : 0;
    const size_t fine_size = round_up(size * fine_bytes);
    const size_t total = std::max(kAlignment, codes_size + corrections_size + fine_size + size * sizeof(uint32_t));
    auto* data = static_cast<std::byte*>(::operator new(total, std::align_val_t{kAlignment}));
    out->owner = {data, [](void* memory) { ::operator delete(memory, std::align_val_t{kAlignment}); }};
    out->codes = data;
    if (whole > 0) std::memcpy(data, old.codes, whole * layout->group_bytes());
    // The rows of the old list that fill no group lie in one with the first of the new ones.
    const size_t shared = old.size % group, left = shared + added.numbers.size();
    std::vector<std::byte> joined(shared == 0 ? 0 : left * stride);
    const std::byte* rows = added.rows.data();
    if (shared > 0) {
        layout->unpack({old.codes + whole * layout->group_bytes(), shared}, nullptr, shared, joined.data(), stride);
        std::copy(added.rows.begin(), added.rows.end(), joined.begin() + static_cast<std::ptrdiff_t>(shared * stride));
        rows = joined.data();
    }
    if (left > 0) layout->pack({rows, stride}, left, data + whole * layout->group_bytes());
    data += codes_size;
    out->largest = old.largest;
    if (residual) {
        auto* corrections = reinterpret_cast<float*>(data);
        if (old.size > 0) std::copy_n(old.corrections, old.size, corrections);
        std::fill(std::copy(added.corrections.begin(), added.corrections.end(), corrections + old.size),
                  corrections + padded, 0.0f);
        for (const float value : added.corrections) out->largest = std::max(out->largest, std::abs(value));
        out->corrections = corrections;
    }
    data += corrections_size;
    if (fine_bytes > 0) {
        out->fine = data;
        if (old.size > 0) std::memcpy(data, old.fine, old.size * fine_bytes);
        for (size_t i = 0; i < added.numbers.size(); ++i) {
            std::memcpy(data + (old.size + i) * fine_bytes, added.rows.data() + (i + 1) * stride - fine_bytes,
                        fine_bytes);
        }
    }
    auto* numbers = reinterpret_cast<uint32_t*>(data + fine_size);
    if (old.size > 0) std::copy_n(old.rows, old.size, numbers);
    std::copy(added.numbers.begin(), added.numbers.end(), numbers + old.size);
    out->rows = numbers;
    return out;
}

void Ivf::IvfCodes::encode(const Codec& codec, size_t list, const float* vectors, size_t n, NewRows& out) const {
    const size_t stride = layout->row_bytes(), first = out.rows.size() / stride;
    out.rows.resize((first + n) * stride);
    std::byte* rows = out.rows.data() + first * stride;
    const auto view = [&](const float* from) {
        return Vectors{reinterpret_cast<const std::byte*>(from), kernels::kF32, n, dim, dim * sizeof(float)};
    };
    if (!residual) {
        codec.encode(codec.check(view(vectors), "vectors").view(), rows);
        return;
    }
    const float* center = coarse->centroid(list);
    std::vector<float> residuals(n * dim), decoded(n * dim);
    for (size_t i = 0; i < n * dim; ++i) residuals[i] = vectors[i] - center[i % dim];
    codec.encode(view(residuals.data()), rows);
    codec.decode({rows, stride}, nullptr, n, decoded.data());
    // With x = c + r and r^ what is left of r in the code: <q, x> = <q, c> + <q, r^> + <q, r - r^>, the last of which
    // is <c, r - r^> for queries near c; and |q - x|^2 = |q - c|^2 + |r|^2 - 2 <q - c, r>.
    for (size_t i = 0; i < n; ++i) {
        double squared = 0, with_rest = 0, with_decoded = 0;
        for (size_t d = 0; d < dim; ++d) {
            const auto r = static_cast<double>(residuals[i * dim + d]), c = static_cast<double>(center[d]);
            const auto kept = static_cast<double>(decoded[i * dim + d]);
            squared += r * r;
            with_rest += c * (r - kept);
            with_decoded += c * kept;
        }
        const double correction = metric == Metric::l2 ? squared + 2 * with_decoded : -with_rest;
        if (!(std::abs(correction) <= static_cast<double>(std::numeric_limits<float>::max()))) {
            throw UnencodableVector(i, "is too far from the centroids: squared distances must be finite in float32");
        }
        out.corrections.push_back(static_cast<float>(correction));
    }
}

Block Ivf::IvfCodes::block(const List& list, float center, float rounding) const {
    constexpr float kSums = 0x1p-21f;  // what two sums lose
    return {list.codes, list.size, residual ? center : 0, list.corrections,
            residual ? rounding + kSums * (std::abs(center) + list.largest) : 0};
}

void Ivf::IvfCodes::ask_for(const List& list) const {
    if (!mapped || list.size == 0) return;
    const size_t padded = groups(list) * layout->group();
    mapped->advise_needed(list.codes, groups(list) * layout->group_bytes());
    mapped->advise_needed(reinterpret_cast<const std::byte*>(list.rows), list.size * sizeof(uint32_t));
    if (residual) mapped->advise_needed(reinterpret_cast<const std::byte*>(list.corrections), padded * sizeof(float));
}

size_t Ivf::IvfCodes::list_bytes(const List& list) const {
    const size_t padded = groups(list) * layout->group();
    return groups(list) * layout->group_bytes() + (residual ? padded * sizeof(float) : 0) +
           list.size * (layout->fine_bytes() + sizeof(uint32_t));
}

size_t Ivf::IvfCodes::nbytes() const {
    size_t bytes = coarse ? coarse->nbytes() : 0;
    for (const auto& list : lists) bytes += list_bytes(*list);
    return bytes + (places ? count * sizeof(Place) : 0);
}

void Ivf::IvfCodes::unpack(const List& list, const uint32_t* at, size_t n, std::byte* rows) const {
    const size_t stride = layout->row_bytes(), fine_bytes = layout->fine_bytes();
    layout->unpack({list.codes, list.size}, at, n, rows, stride);
    for (size_t i = 0; i < n && fine_bytes > 0; ++i) {
        std::memcpy(rows + (i + 1) * stride - fine_bytes, list.fine + at[i] * fine_bytes, fine_bytes);
    }
}

std::vector<Ivf::IvfCodes::Place> Ivf::IvfCodes::find(const uint32_t* rows, size_t n) const {
    std::vector<Place> out(n, {kNowhere, 0});
    if (places) {
        for (size_t i = 0; i < n; ++i) {
            std::memcpy(&out[i], places->row(rows[i]), sizeof(Place));
            if (!exists(out[i])) out[i] = some_place();
        }
        return out;
    }
    std::vector<uint32_t> order(n);
    std::iota(order.begin(), order.end(), 0u);
    std::sort(order.begin(), order.end(), [rows](uint32_t a, uint32_t b) { return rows[a] < rows[b]; });
    for (uint32_t list = 0; list < lists.size(); ++list) {
        for (uint32_t at = 0; at < lists[list]->size; ++at) {
            const uint32_t row = lists[list]->rows[at];
            auto found = std::lower_bound(order.begin(), order.end(), row,
                                          [rows](uint32_t i, uint32_t wanted) { return rows[i] < wanted; });
            for (; found != order.end() && rows[*found] == row; ++found) {
                if (out[*found].list == kNowhere) out[*found] = {list, at};
            }
        }
    }
    for (Place& place : out) {
        if (place.list == kNowhere) place = some_place();
    }
    return out;
}

void Ivf::IvfCodes::copy(const uint32_t* list, size_t n, std::byte* rows) const {
    const std::vector<Place> found = find(list, n);
    for (size_t i = 0; i < n; ++i) unpack(*lists[found[i].list], &found[i].at, 1, rows + i * layout->row_bytes());
}

void Ivf::IvfCodes::decode(const Codec& codec, const uint32_t* list, size_t n, float* out) const {
    std::vector<std::byte> row(layout->row_bytes());
    for (const Place& place : find(list, n)) {
        unpack(*lists[place.list], &place.at, 1, row.data());
        codec.decode({row.data(), row.size()}, nullptr, 1, out);
        for (size_t d = 0; d < dim && residual; ++d) out[d] += coarse->centroid(place.list)[d];
        out += dim;
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Queries
// ---------------------------------------------------------------------------------------------------------------------

IvfQueries::IvfQueries(const Vectors& queries, Metric metric, bool residual) : coded(queries) {
    if (!residual) return;
    compared_.resize(queries.n * queries.dim);
    load_compared(queries, queries.dim, metric, compared_.data());
    const float* values = compared_.data();
    if (metric == Metric::l2) {
        coded_.resize(compared_.size());
        std::transform(compared_.begin(), compared_.end(), coded_.begin(), [](float x) { return 2 * x; });
        values = coded_.data();
    }
    coded = {reinterpret_cast<const std::byte*>(values), kernels::kF32, queries.n, queries.dim,
             queries.dim * sizeof(float)};
}

template <class Take>
void ListSettler::for_each(size_t q, const uint32_t* list, size_t n, const Take& take) const {
    std::vector<std::byte> row(codes_.layout->row_bytes());
    const auto found = codes_.find(list, n);
    for (size_t i = 0; i < n; ++i) {
        const Ivf::List& from = *codes_.lists[found[i].list];
        codes_.unpack(from, &found[i].at, 1, row.data());
        double added = 0;
        if (codes_.residual) {
            added = codes_.coarse->distance(queries_.compared(q), found[i].list) +
                    static_cast<double>(from.corrections[found[i].at]);
        }
        take(i, Rows{row.data(), row.size()}, added);
    }
}

void ListSettler::settle(size_t q, const uint32_t* list, size_t n, double* out) const {
    for_each(q, list, n, [&](size_t i, Rows row, double added) {
        query_->settle(q, row, nullptr, 1, &out[i]);
        out[i] += added;
        if (codes_.residual && codes_.metric == Metric::l2) out[i] = std::max(out[i], 0.0);
    });
}

void ListSettler::bound(size_t q, const uint32_t* list, size_t n, float* low, float* high) const {
    constexpr double kRounding = 0x1p-22;
    for_each(q, list, n, [&](size_t i, Rows row, double added) {
        query_->bound_rows(q, row, nullptr, 1, &low[i], &high[i]);
        if (!codes_.residual) return;
        const double least = static_cast<double>(low[i]) + added, most = static_cast<double>(high[i]) + added;
        low[i] = static_cast<float>(least - kRounding * std::abs(least));
        high[i] = static_cast<float>(most + kRounding * std::abs(most));
    });
}

std::unique_ptr<Settler> Ivf::IvfCodes::settler(const Codec& codec, const Vectors& queries) const {
    return std::make_unique<ListSettler>(*this, codec, queries);
}

// ---------------------------------------------------------------------------------------------------------------------
// The index
// ---------------------------------------------------------------------------------------------------------------------

Ivf::Ivf(const IvfOptions& options) : Index(options, make_list_codec(options)), own_(options) {
    if (own_.list_dims > options_.dim) {
        throw InvalidInput("list_dims: " + std::to_string(own_.list_dims) + " given, expected at most the dimension, " +
                           std::to_string(options_.dim));
    }
    if (!(own_.soar >= 0) || !std::isfinite(own_.soar)) {
        throw InvalidInput("soar: " + std::to_string(own_.soar) + " given, expected a number of at least 0");
    }
    auto codes = std::make_shared<IvfCodes>();
    codes->layout = codec_.get();
    codes->residual = codec_->codes_residuals() && own_.list_dims == 0;
    codes->metric = options_.metric;
    codes->dim = options_.dim;
    // Rows are read one by one where results are settled or narrowed by their codes.
    if (!rerank_ || codec_->fine_bytes() > 0) codes->places = std::make_shared<RowStore>(sizeof(IvfCodes::Place));
    publish(without_rows(std::move(codes)));
}

const Ivf::IvfCodes& Ivf::codes_of(const Snapshot& now) { return static_cast<const IvfCodes&>(*now.codes); }

size_t Ivf::lists() const { return codes_of(snapshot()).lists.size(); }

std::vector<size_t> Ivf::list_sizes() const {
    const Snapshot now = snapshot();
    std::vector<size_t> out;
    for (const auto& list : codes_of(now).lists) out.push_back(list->size);
    return out;
}

std::vector<float> Ivf::centroids() const {
    const Snapshot now = snapshot();
    return codes_of(now).coarse ? codes_of(now).coarse->values() : std::vector<float>{};
}

size_t Ivf::probes() const { return probes_of(codes_of(snapshot())); }

size_t Ivf::probes_of(const IvfCodes& codes) const {
    const size_t lists = codes.lists.size();
    return own_.probes != 0 ? own_.probes : std::min(lists, std::max<size_t>(8, lists / kListsPerProbe));
}

size_t Ivf::lists_for(size_t n) const {
    const auto usual = static_cast<size_t>(kListsPerRoot * std::sqrt(static_cast<double>(n)));
    const size_t lists = own_.lists != 0 ? own_.lists : std::min(n, std::max<size_t>(1, usual));
    if (lists <= n) return lists;
    throw InvalidInput("lists: " + std::to_string(lists) + " given, but there are " + std::to_string(n) +
                       " vectors to learn from");
}

KMeansOptions Ivf::clustering(size_t lists) const {
    KMeansOptions out;
    out.k = lists;
    out.iterations = kRounds;
    out.seed = own_.seed;
    out.labels = false;
    return out;
}

void Ivf::learn(Snapshot& next, Version& made, const Vectors& vectors, Learned given, const Run& run) const {
    if (!next.versions->all.empty()) {
        throw InvalidInput("version: \"" + made.name + "\" given, but the lists are those of version \"" +
                           next.versions->all[0].name + "\", the only one that they can hold");
    }
    const size_t lists = lists_for(vectors.n), dims = own_.list_dims != 0 ? own_.list_dims : options_.dim;
    const Vectors sample = sample_of(vectors, lists * kPointsPerList, 1);
    std::vector<float> points(sample.n * dims);
    constexpr size_t kPart = 1024;
    parallel_for((sample.n + kPart - 1) / kPart, {run.threads, nullptr}, [&](size_t item) {
        const size_t first = item * kPart, n = std::min(kPart, sample.n - first);
        load_compared(sample.part(first, n), dims, options_.metric, points.data() + first * dims);
    });
    std::vector<float> centroids =
        kmeans_cluster(points.data(), sample.n, dims, clustering(lists), part_of(run, 0, 0.9)).centroids;
    const size_t enough = std::max(codec_->sample(), rerank_ ? rerank_->sample() : 0);
    learn_codecs(next, made, std::move(centroids), sample_of(vectors, enough), std::move(given), part_of(run, 0.9, 1));
}

void Ivf::learn_codecs(Snapshot& next, Version& made, std::vector<float> centroids, const Vectors& sample,
                       Learned given, const Run& run) const {
    const size_t dim = options_.dim, dims = own_.list_dims != 0 ? own_.list_dims : dim;
    auto codes = std::make_shared<IvfCodes>(codes_of(next));
    codes->lists.assign(centroids.size() / dims, std::make_shared<const List>());
    codes->coarse =
        std::make_shared<const Coarse>(std::move(centroids), dims, options_.metric, std::vector<uint32_t>{}, run);
    Learned finer = take_finer(given);
    if (codes->residual && !given.empty()) {
        throw InvalidInput("codec: \"" + std::string(codec_->name()) +
                           "\" codes what is left of vectors beside their centroids here, so that nothing that was "
                           "learned elsewhere fits it");
    }
    const CheckedVectors checked = codec_->check(sample, "vectors");
    if (codec_->untrained() && codes->residual) {
        std::vector<float> residuals(sample.n * dim);
        load_compared(checked.view(), dim, options_.metric, residuals.data());
        std::vector<uint32_t> labels(sample.n);
        codes->coarse->assign(residuals.data(), sample.n, 0, labels.data());
        for (size_t i = 0; i < residuals.size(); ++i) {
            residuals[i] -= codes->coarse->centroid(labels[i / dim])[i % dim];
        }
        const auto* data = reinterpret_cast<const std::byte*>(residuals.data());
        made.codec = codec_->trained({data, kernels::kF32, sample.n, dim, dim * sizeof(float)}, std::move(given));
    } else if (codec_->untrained()) {
        made.codec = codec_->trained(checked.view(), std::move(given));
    }
    if (rerank_ && rerank_->untrained()) made.rerank = rerank_->trained(checked.view(), std::move(finer));
    next.codes = std::move(codes);
}

std::shared_ptr<const Index::Codes> Ivf::append_codes(const Snapshot& now, const Vectors& vectors, size_t version,
                                                      const Run& run) const {
    const IvfCodes& old = codes_of(now);
    const Codec& codec = *now.versions->all[version].codec;
    const Coarse& coarse = *old.coarse;
    const size_t dim = options_.dim, dims = coarse.dims(), copies = own_.soar != 0 ? 2 : 1;
    constexpr double kAssigned = 0.5;  // share of the work
    std::vector<uint32_t> labels(vectors.n * copies);
    parallel_for((vectors.n + kBatchRows - 1) / kBatchRows, part_of(run, 0, kAssigned), [&](size_t item) {
        const size_t first = item * kBatchRows, n = std::min(kBatchRows, vectors.n - first);
        CheckedVectors::floats(vectors.part(first, n), dim, "vectors", first);
        const CheckedVectors batch = codec.check(vectors.part(first, n), "vectors", first);
        std::vector<float> compared(n * dims);
        load_compared(batch.view(), dims, options_.metric, compared.data());
        coarse.assign(compared.data(), n, own_.soar, labels.data() + first * copies);
    });
    const ByList by_list(labels, coarse.lists());
    auto codes = std::make_shared<IvfCodes>(old);
    codes->count = old.count + vectors.n;
    if (codes->places) codes->places->reserve(codes->count, old.count);
    std::vector<uint32_t> touched;
    for (uint32_t list = 0; list < coarse.lists(); ++list) {
        if (by_list.starts[list] < by_list.starts[list + 1]) touched.push_back(list);
    }
    parallel_for(touched.size(), part_of(run, kAssigned, 1), [&](size_t item) {
        const uint32_t list = touched[item];
        IvfCodes::NewRows added;
        std::vector<float> batch(kBatchRows * dim);
        const size_t last = by_list.starts[list + 1];
        for (size_t first = by_list.starts[list]; first < last; first += kBatchRows) {
            const size_t n = std::min(kBatchRows, last - first);
            for (size_t i = 0; i < n; ++i) {
                const size_t place = by_list.order[first + i], row = place / copies;
                const Metric loaded_for = old.residual ? options_.metric : Metric::ip;
                load_compared(vectors.part(row, 1), dim, loaded_for, batch.data() + i * dim);
                if (codes->places && place % copies == 0) {
                    const IvfCodes::Place where{list,
                                                static_cast<uint32_t>(old.lists[list]->size + added.numbers.size())};
                    std::memcpy(codes->places->writable(old.count + row), &where, sizeof(where));
                }
                added.numbers.push_back(static_cast<uint32_t>(old.count + row));
            }
            try {
                old.encode(codec, list, batch.data(), n, added);
            } catch (const UnencodableVector& e) {
                throw InvalidInput("vectors: row " + std::to_string(by_list.order[first + e.row] / copies) + " " +
                                   e.what());
            }
        }
        codes->lists[list] = old.appended(*old.lists[list], added);
    });
    return codes;
}

std::shared_ptr<const Index::Codes> Ivf::compacted_codes(const Snapshot& old, const std::vector<uint32_t>& rows) const {
    const IvfCodes& from = codes_of(old);
    std::vector<uint32_t> number(from.count, IvfCodes::kNowhere);  // of each row, afterwards
    for (size_t i = 0; i < rows.size(); ++i) number[rows[i]] = static_cast<uint32_t>(i);
    auto codes = std::make_shared<IvfCodes>(from);
    codes->count = rows.size();
    if (codes->places) {
        codes->places = std::make_shared<RowStore>(sizeof(IvfCodes::Place));
        codes->places->reserve(rows.size(), 0);
        const IvfCodes::Place nowhere{IvfCodes::kNowhere, 0};
        for (size_t row = 0; row < rows.size(); ++row)
            std::memcpy(codes->places->writable(row), &nowhere, sizeof(nowhere));
    }
    for (uint32_t list = 0; list < from.lists.size(); ++list) {
        const List& before = *from.lists[list];
        std::vector<uint32_t> kept;
        IvfCodes::NewRows moved;
        for (uint32_t at = 0; at < before.size; ++at) {
            const uint32_t row = before.rows[at] < from.count ? number[before.rows[at]] : IvfCodes::kNowhere;
            if (row == IvfCodes::kNowhere) continue;
            if (codes->places) {
                IvfCodes::Place where;
                std::memcpy(&where, from.places->row(before.rows[at]), sizeof(where));
                if (where.list == list && where.at == at) {
                    where.at = static_cast<uint32_t>(kept.size());
                    std::memcpy(codes->places->writable(row), &where, sizeof(where));
                }
            }
            kept.push_back(at);
            moved.numbers.push_back(row);
            if (from.residual) moved.corrections.push_back(before.corrections[at]);
        }
        moved.rows.resize(kept.size() * codec_->row_bytes());
        from.unpack(before, kept.data(), kept.size(), moved.rows.data());
        codes->lists[list] = from.appended(List{}, moved);
    }
    return codes;
}

}  // namespace nearfield
