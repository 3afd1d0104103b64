#include "search/flat.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <charconv>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "codecs/dense.hpp"
#include "codecs/screen.hpp"
#include "search/top_k.hpp"
#include "storage/id_map.hpp"
#include "storage/row_store.hpp"

namespace nearfield {

using kernels::kGroup;

namespace {

// Below this many rows a plain scan is over before a screen could pay. The screen's centre is the mean of this many first
// rows, so that it does not depend on how the rows were added.
constexpr size_t kScreenFrom = 4096;
// A scan works through blocks whose codes fit the second-level cache beside the queries.
constexpr size_t kBlockBytes = size_t{192} << 10;
constexpr size_t kBatchRows = 256;           // rows converted and encoded at a time
constexpr size_t kPartQueries = 1020;        // queries per part of a search: a multiple of the tile width
constexpr size_t kPartRows = size_t{1} << 15;  // rows per part, when one query is split over threads
constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::string id_text(int64_t id) { return std::to_string(id); }

}  // namespace

// What a reader sees. Rows are only ever appended, and die at most once; what would move rows makes a new state.
struct Flat::State {
    State(const Codec& codec, const Codec* finer, uint64_t number) : rows(codec.row_bytes()), version(number) {
        if (finer != nullptr) rerank.emplace(finer->row_bytes());
    }
    State(size_t row_bytes, const std::byte* data, size_t n, std::shared_ptr<const void> owner)
        : rows(row_bytes, data, n, std::move(owner)) {}

    RowStore rows;
    std::optional<RowStore> rerank;
    std::optional<ScreenCodec> screen;   // both set before screened becomes positive
    std::optional<RowStore> groups;
    std::atomic<size_t> screened{0};     // rows in whole groups of the screen
    LiveRows live;
    std::unique_ptr<IdMap> ids = std::make_unique<IdMap>();
    std::atomic<size_t> count{0};        // rows, dead ones included
    std::atomic<size_t> dead{0};
    int64_t next_id = 0;
    std::atomic<uint64_t> version{0};    // grows when an id moves to another row
};

// How a search reads the rows.
struct Plan {
    size_t k;                 // results of the scan
    Admission admission;
    const Codec* codec;       // scanned codec and its rows
    const RowStore* rows;
    bool screen;
    bool listed;              // settle the filter's rows one by one instead of scanning
    size_t count;             // rows that exist
};

// A share of a search: some queries against some rows.
struct Flat::Part {
    std::unique_ptr<Query> query;
    std::unique_ptr<Scanner> screen;
    size_t first_query, queries;
    size_t first_row, last_row;
    std::optional<TopK> best;
};

Flat::Flat(FlatOptions options) : Flat(options, make_codec(options.codec, options.dim, options.metric)) {}

Flat::Flat(FlatOptions options, std::unique_ptr<Codec> codec) : options_(std::move(options)), codec_(std::move(codec)) {
    if (options_.dim == 0 || options_.dim > 65535) {
        throw InvalidInput("dim: " + std::to_string(options_.dim) + " given, expected 1 to 65535");
    }
    if (!(options_.oversample >= 1)) {
        throw InvalidInput("oversample: " + std::to_string(options_.oversample) + " given, expected at least 1");
    }
    if (!options_.rerank.empty()) {
        try {
            rerank_ = make_codec(options_.rerank, options_.dim, options_.metric);
        } catch (const InvalidInput& e) {
            throw InvalidInput("rerank" + std::string(e.what()).substr(std::strlen("codec")));
        }
    }
    // Integer codes are already what a screen would make of them.
    if (options_.codec == "int8" || options_.codec == "uint8") options_.screen = false;
    state_ = std::make_shared<State>(*codec_, rerank_.get(), 0);
}

Flat::~Flat() = default;

std::unique_ptr<Flat> Flat::over(const Vectors& vectors, Metric metric) {
    FlatOptions options;
    options.dim = vectors.dim;
    options.metric = metric;
    options.screen = false;
    auto codec = std::make_unique<DenseCodec>(vectors.type, vectors.dim, metric);
    if (vectors.type <= kernels::kBF16) {
        std::vector<float> batch(std::min(vectors.n, kBatchRows) * vectors.dim);
        for (size_t first = 0; first < vectors.n; first += kBatchRows) {
            const size_t n = std::min(kBatchRows, vectors.n - first);
            vectors.to_f32(first, n, batch.data());
            check_finite(batch.data(), n, vectors.dim, "vectors", first);
        }
    }
    const size_t row_bytes = codec->row_bytes();
    std::unique_ptr<Flat> index(new Flat(options, std::move(codec)));
    auto state = std::make_shared<State>(row_bytes, vectors.data, vectors.n, nullptr);
    state->live.append(0, vectors.n);
    state->count = vectors.n;
    index->state_ = std::move(state);
    return index;
}

std::shared_ptr<Flat::State> Flat::state() const {
    const std::lock_guard lock(state_mutex_);
    return state_;
}

void Flat::publish(std::shared_ptr<State> state) const {
    const std::lock_guard lock(state_mutex_);
    state_ = std::move(state);
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing
// ---------------------------------------------------------------------------------------------------------------------

void Flat::encode_rows(State& state, const Vectors& vectors, size_t first, size_t count) const {
    const size_t used = state.count.load(std::memory_order_relaxed);
    std::vector<float> batch(std::min(count, kBatchRows) * options_.dim);
    for (size_t at = first; at < first + count;) {
        const size_t row = used + at;
        size_t n = std::min({kBatchRows, first + count - at, state.rows.contiguous(row)});
        if (state.rerank) n = std::min(n, state.rerank->contiguous(row));
        vectors.to_f32(at, n, batch.data());
        check_finite(batch.data(), n, options_.dim, "vectors", at);
        try {
            codec_->encode(batch.data(), n, state.rows.writable(row));
            if (rerank_) rerank_->encode(batch.data(), n, state.rerank->writable(row));
        } catch (const UnencodableVector& e) {
            throw InvalidInput("vectors: row " + std::to_string(at + e.row) + " " + e.what());
        }
        at += n;
    }
}

void Flat::extend_screen(State& state, size_t count, const Run& run) const {
    if (!options_.screen || count < kScreenFrom) return;
    const size_t dim = options_.dim, done = state.screened.load(std::memory_order_relaxed);
    const auto decode = [&](size_t first, size_t n, float* out) {
        for (size_t i = 0; i < n; ++i) {
            codec_->decode({state.rows.row(first + i), state.rows.row_bytes()}, nullptr, 1, out + i * dim);
        }
    };
    if (!state.screen) {
        std::vector<float> sample(kScreenFrom * dim);
        decode(0, kScreenFrom, sample.data());
        state.screen.emplace(dim, options_.metric,
                             ScreenCodec::center_of(sample.data(), kScreenFrom, dim, options_.metric));
        state.groups.emplace(state.screen->group_bytes());
    }
    const size_t first = done / kGroup, last = count / kGroup;
    state.groups->reserve(last, first);
    constexpr size_t kGroupsPerItem = 32;
    parallel_for((last - first + kGroupsPerItem - 1) / kGroupsPerItem, run, [&](size_t item) {
        std::vector<float> vectors(kGroup * dim);
        const size_t begin = first + item * kGroupsPerItem, end = std::min(last, begin + kGroupsPerItem);
        for (size_t group = begin; group < end; ++group) {
            decode(group * kGroup, kGroup, vectors.data());
            state.screen->encode_group(vectors.data(), state.groups->writable(group));
        }
    });
}

void Flat::append(State& state, const Vectors& vectors, const int64_t* ids, const Run& run,
                  const std::function<void()>& before_publishing) const {
    const size_t used = state.count.load(std::memory_order_relaxed), count = used + vectors.n;
    if (count > std::numeric_limits<uint32_t>::max()) {
        throw InvalidInput("vectors: an index holds at most 4294967295 rows");
    }
    state.rows.reserve(count, used);
    if (state.rerank) state.rerank->reserve(count, used);
    constexpr size_t kRowsPerItem = 1024;
    parallel_for((vectors.n + kRowsPerItem - 1) / kRowsPerItem, run, [&](size_t item) {
        encode_rows(state, vectors, item * kRowsPerItem, std::min(kRowsPerItem, vectors.n - item * kRowsPerItem));
    });
    extend_screen(state, count, run);
    state.live.append(used, count);
    state.ids->append(ids, used, vectors.n);
    before_publishing();
    state.count.store(count, std::memory_order_release);
    if (state.screen) state.screened.store(count / kGroup * kGroup, std::memory_order_release);
}

namespace {

// Throws InvalidInput for an id that is negative or stands twice.
void check_ids(const int64_t* ids, size_t n) {
    std::vector<int64_t> sorted(ids, ids + n);
    std::sort(sorted.begin(), sorted.end());
    if (n > 0 && sorted[0] < 0) throw InvalidInput("ids: " + id_text(sorted[0]) + " is negative");
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice != sorted.end()) throw InvalidInput("ids: " + id_text(*twice) + " is repeated");
}

}  // namespace

std::vector<int64_t> Flat::add(const Vectors& vectors, const int64_t* ids, const Run& run) {
    check_dim(vectors.dim, options_.dim, "vectors");
    const std::lock_guard lock(writer_);
    const auto now = state();
    std::vector<int64_t> given(vectors.n);
    if (ids != nullptr) {
        check_ids(ids, vectors.n);
        for (size_t i = 0; i < vectors.n; ++i) {
            if (now->ids->find(ids[i], now->live, now->count)) throw IdError("ids: " + id_text(ids[i]) + " exists");
        }
        std::copy_n(ids, vectors.n, given.begin());
    } else {
        if (now->next_id > std::numeric_limits<int64_t>::max() - static_cast<int64_t>(vectors.n)) {
            throw InvalidInput("ids: none left after " + id_text(now->next_id - 1));
        }
        std::iota(given.begin(), given.end(), now->next_id);
    }
    if (vectors.n == 0) return given;
    append(*now, vectors, given.data(), run, [] {});
    const int64_t largest = *std::max_element(given.begin(), given.end());
    now->next_id = std::max(now->next_id, largest == std::numeric_limits<int64_t>::max() ? largest : largest + 1);
    return given;
}

std::vector<uint32_t> Flat::rows_of(const State& state, const int64_t* ids, size_t n) const {
    std::vector<uint32_t> rows(n);
    for (size_t i = 0; i < n; ++i) {
        const auto row = state.ids->find(ids[i], state.live, state.count.load(std::memory_order_acquire));
        if (!row) throw IdError("ids: " + id_text(ids[i]) + " is not in the index");
        rows[i] = *row;
    }
    return rows;
}

void Flat::update(const int64_t* ids, const Vectors& vectors, const Run& run) {
    check_dim(vectors.dim, options_.dim, "vectors");
    const std::lock_guard lock(writer_);
    const auto now = state();
    check_ids(ids, vectors.n);
    const std::vector<uint32_t> rows = rows_of(*now, ids, vectors.n);
    if (vectors.n == 0) return;
    append(*now, vectors, ids, run, [&] {
        for (const uint32_t row : rows) now->live.kill(row);
        now->dead += rows.size();
        ++now->version;
    });
    compact_if_sparse(now);
}

void Flat::remove(const int64_t* ids, size_t n) {
    const std::lock_guard lock(writer_);
    const auto now = state();
    check_ids(ids, n);
    for (const uint32_t row : rows_of(*now, ids, n)) now->live.kill(row);
    now->dead += n;
    compact_if_sparse(now);
}

void Flat::compact_if_sparse(const std::shared_ptr<State>& now) const {
    constexpr size_t kFewest = 1024;
    if (now->dead >= kFewest && now->dead * 4 > now->count) compact(now);
}

// Copies the live rows into a new state; readers of the old one finish on it.
void Flat::compact(const std::shared_ptr<State>& old) const {
    const size_t count = old->count, left = count - old->dead;
    auto fresh = std::make_shared<State>(*codec_, rerank_.get(), old->version + 1);
    fresh->rows.reserve(left, 0);
    if (fresh->rerank) fresh->rerank->reserve(left, 0);
    std::vector<int64_t> ids;
    ids.reserve(left);
    for (size_t row = 0; row < count; ++row) {
        if (!old->live.contains(row)) continue;
        std::memcpy(fresh->rows.writable(ids.size()), old->rows.row(row), old->rows.row_bytes());
        if (old->rerank) {
            std::memcpy(fresh->rerank->writable(ids.size()), old->rerank->row(row), old->rerank->row_bytes());
        }
        ids.push_back(old->ids->id_of(row));
    }
    extend_screen(*fresh, left, Run{});
    fresh->live.append(0, left);
    if (left > 0) fresh->ids->append(ids.data(), 0, left);
    fresh->next_id = old->next_id;
    fresh->count = left;
    if (fresh->screen) fresh->screened = left / kGroup * kGroup;
    publish(std::move(fresh));
}

// ---------------------------------------------------------------------------------------------------------------------
// Searching
// ---------------------------------------------------------------------------------------------------------------------

namespace {

// Scans rows [first, last) in blocks; a block's codes lie side by side, `per_code` rows in each code of the store.
template <class Collector, class Between>
void scan_range(const Scanner& scanner, const RowStore& store, size_t per_code, size_t first, size_t last,
                Collector& collector, const Between& go_on) {
    const size_t codes = std::max<size_t>(1, kBlockBytes / store.row_bytes());
    const size_t block_rows = std::max(kGroup, codes * per_code / kGroup * kGroup);
    while (first < last && go_on(first)) {
        const size_t code = first / per_code;
        const size_t n = std::min({block_rows, last - first, store.contiguous(code) * per_code});
        collector.start_block(first);
        scanner.scan({store.row(code), n}, collector);
        first += n;
    }
}

}  // namespace

void Flat::search_part(const State& state, const Part& part, const Plan& plan) const {
    TopK& best = const_cast<TopK&>(*part.best);
    const auto always = [](size_t) { return true; };
    size_t first = part.first_row;
    if (plan.screen && part.screen) {
        const size_t screened = std::min(part.last_row, state.screened.load(std::memory_order_acquire));
        // The first rows show whether the bounds tell vectors apart. Where they do not, the scan starts again without
        // the screen, and has lost little; where that turns out later, the rest goes on without it.
        const size_t probe = std::min<size_t>(1024, (screened - first) / 16 / kGroup * kGroup);
        scan_range(*part.screen, *state.groups, kGroup, first, first + probe, best, always);
        if (probe > 0 && best.open() > static_cast<double>(probe) / 4 + 2.0 * static_cast<double>(plan.k)) {
            best.reset();
        } else {
            size_t at = first + probe;
            scan_range(*part.screen, *state.groups, kGroup, at, screened, best, [&](size_t row) {
                at = row;
                return best.settled_early() * 50 <= (row - first) * part.queries + 50 * 1024;
            });
            first = best.settled_early() * 50 > (at - first) * part.queries + 50 * 1024 ? at : screened;
        }
    }
    scan_range(*part.query, *plan.rows, 1, first, part.last_row, best, always);
}

const Bitmap* Flat::rows_of(const State& state, const Filter* filter, std::optional<Bitmap>& rebuilt) const {
    if (filter == nullptr) return nullptr;
    if (filter->rows_ && filter->index_ == this && filter->version_ == state.version) return &*filter->rows_;
    const size_t count = state.count.load(std::memory_order_acquire);
    rebuilt.emplace(count);
    for (const int64_t id : filter->ids_) {
        if (const auto row = state.ids->find(id, state.live, count)) rebuilt->set(*row);
    }
    return &*rebuilt;
}

SearchResult Flat::search(const Vectors& queries, size_t k, const Filter* filter, std::optional<double> oversample,
                          bool exhaustive, const Run& run) const {
    check_dim(queries.dim, options_.dim, "queries");
    if (oversample && !(*oversample >= 1)) {
        throw InvalidInput("oversample: " + std::to_string(*oversample) + " given, expected at least 1");
    }
    std::vector<float> vectors(queries.n * queries.dim);
    queries.to_f32(0, queries.n, vectors.data());
    check_finite(vectors.data(), queries.n, queries.dim, "queries", 0);

    const auto now = state();
    const size_t count = now->count.load(std::memory_order_acquire);
    SearchResult out{k, {}, {}, std::vector<int64_t>(queries.n), ""};
    if (queries.n != 0 && k > std::numeric_limits<size_t>::max() / 16 / queries.n) throw std::bad_alloc();
    out.ids.assign(queries.n * k, -1);
    out.scores.assign(queries.n * k, std::numeric_limits<float>::quiet_NaN());

    std::optional<Bitmap> rebuilt;
    const Bitmap* allowed = rows_of(*now, filter, rebuilt);
    const size_t candidates = allowed ? std::min(allowed->count(), count) : count;
    const bool rerank = rerank_ && !exhaustive;
    const bool finest = rerank_ && exhaustive;
    const double wanted = static_cast<double>(k) * (rerank ? oversample.value_or(options_.oversample) : 1.0);
    Plan plan{};
    plan.k = static_cast<size_t>(std::min(std::ceil(wanted), static_cast<double>(candidates)));
    plan.admission = {&now->live, allowed};
    plan.codec = finest ? rerank_.get() : codec_.get();
    plan.rows = finest ? &*now->rerank : &now->rows;
    plan.screen = !finest && options_.screen && now->screened.load(std::memory_order_acquire) > 0;
    plan.listed = allowed != nullptr && candidates * 16 < count;
    plan.count = count;
    out.plan = plan.listed ? "filtered rows, " + std::string(plan.codec->name())
                           : std::string(plan.screen ? "screened scan, " : "scan, ") + std::string(plan.codec->name());
    if (rerank) out.plan += ", rerank " + std::string(rerank_->name());
    if (queries.n == 0 || plan.k == 0) return out;

    std::vector<uint32_t> listed;
    if (plan.listed) {
        const auto& words = allowed->words();
        for (size_t w = 0; w < words.size(); ++w) {
            for (uint64_t left = words[w]; left != 0; left &= left - 1) {
                const size_t row = w * 64 + static_cast<size_t>(std::countr_zero(left));
                if (row < count && now->live.contains(row)) listed.push_back(static_cast<uint32_t>(row));
            }
        }
    }

    // Queries are split over the threads; where they are fewer than a tile for each, rows are.
    const size_t threads = run.threads != 0 ? run.threads : queries.n == 1 ? 1 : usable_cpus();
    const size_t tile = kernels::kTile;
    size_t part_queries = std::min(kPartQueries, (queries.n + threads - 1) / threads);
    size_t row_parts = 1;
    if (queries.n >= threads * tile) {
        part_queries = (part_queries + tile - 1) / tile * tile;
    } else if (!plan.listed) {
        part_queries = std::min(queries.n, kPartQueries);
        row_parts = std::min(threads, std::max<size_t>(1, count / kPartRows));
    }
    const size_t query_parts = (queries.n + part_queries - 1) / part_queries;
    const size_t rows_per_part = ((count + row_parts - 1) / row_parts + kGroup - 1) / kGroup * kGroup;

    std::mutex merging;
    std::vector<std::unique_ptr<Part>> waiting(query_parts);  // parts that wait for the others of their queries
    std::vector<size_t> missing(query_parts, row_parts);
    const auto finish = [&](Part& part) {
        std::unique_ptr<Query> finer;
        if (rerank) finer = rerank_->prepare(vectors.data() + part.first_query * queries.dim, part.queries);
        for (size_t q = 0; q < part.queries; ++q) {
            std::vector<Candidate>& hits = part.best->finish(q);
            if (rerank) {
                for (Candidate& c : hits) c.exact = std::numeric_limits<double>::quiet_NaN();
                Settler(*finer, *now->rerank)(q, hits);
                keep_best(hits, k, *now->ids);
            }
            const size_t at = (part.first_query + q) * k;
            for (size_t i = 0; i < hits.size(); ++i) {
                out.ids[at + i] = now->ids->id_of(hits[i].row);
                out.scores[at + i] = api_score(options_.metric, hits[i].exact);
            }
            out.counts[part.first_query + q] = static_cast<int64_t>(hits.size());
        }
    };
    Run parts_run{threads, run.poll};
    parallel_for(query_parts * row_parts, parts_run, [&](size_t item) {
        auto part = std::make_unique<Part>();
        part->first_query = item / row_parts * part_queries;
        part->queries = std::min(part_queries, queries.n - part->first_query);
        part->first_row = item % row_parts * rows_per_part;
        part->last_row = std::min(count, part->first_row + rows_per_part);
        const float* own = vectors.data() + part->first_query * queries.dim;
        part->query = plan.codec->prepare(own, part->queries);
        if (plan.screen && !plan.listed) part->screen = now->screen->prepare(own, part->queries);
        part->best.emplace(part->queries, plan.k, plan.admission, Settler(*part->query, *plan.rows), *now->ids);
        if (plan.listed) {
            const Settler settler(*part->query, *plan.rows);
            std::vector<double> exact(listed.size());
            for (size_t q = 0; q < part->queries; ++q) {
                settler(q, listed.data(), listed.size(), exact.data());
                for (size_t i = 0; i < listed.size(); ++i) part->best->offer_settled(q, listed[i], exact[i]);
            }
        } else if (part->first_row < part->last_row) {
            search_part(*now, *part, plan);
        }
        {
            const std::lock_guard lock(merging);
            std::unique_ptr<Part>& first = waiting[item / row_parts];
            if (first) {
                first->best->merge(*part->best);
            } else {
                first = std::move(part);
            }
            if (--missing[item / row_parts] > 0) return;
            part = std::move(first);
        }
        finish(*part);
    });
    return out;
}

RangeResult Flat::range_search(const Vectors& queries, double radius, const Filter* filter, const Run& run) const {
    check_dim(queries.dim, options_.dim, "queries");
    if (std::isnan(radius)) throw InvalidInput("radius: NaN given, expected a number");
    std::vector<float> vectors(queries.n * queries.dim);
    queries.to_f32(0, queries.n, vectors.data());
    check_finite(vectors.data(), queries.n, queries.dim, "queries", 0);
    const auto now = state();
    const size_t count = now->count.load(std::memory_order_acquire);
    std::optional<Bitmap> rebuilt;
    const Admission admission{&now->live, rows_of(*now, filter, rebuilt)};
    const bool finest = rerank_ != nullptr;
    const Codec& codec = finest ? *rerank_ : *codec_;
    const RowStore& rows = finest ? *now->rerank : now->rows;
    const size_t screened = finest ? 0 : now->screened.load(std::memory_order_acquire);

    // Scores are compared as the user sees them, in float32; the bound is a little wider.
    const auto limit = static_cast<float>(radius);
    const double distance = core_distance(options_.metric, limit);
    const auto bound = static_cast<float>(distance + std::abs(distance) * 1e-6 + 1e-37);
    const auto within = [&](float score) {
        return options_.metric == Metric::l2 ? score <= limit : score >= limit;
    };

    std::vector<std::vector<std::pair<int64_t, float>>> found(queries.n);
    const size_t threads = run.threads != 0 ? run.threads : queries.n == 1 ? 1 : usable_cpus();
    constexpr size_t kQueries = 4 * kernels::kTile;
    const size_t part_queries = std::max<size_t>(1, std::min(kQueries, (queries.n + threads - 1) / threads));
    parallel_for((queries.n + part_queries - 1) / part_queries, {threads, run.poll}, [&](size_t item) {
        const size_t first = item * part_queries, n = std::min(part_queries, queries.n - first);
        const float* own = vectors.data() + first * queries.dim;
        const auto query = codec.prepare(own, n);
        Within inside(n, bound, admission);
        const auto always = [](size_t) { return true; };
        if (screened > 0) {
            scan_range(*now->screen->prepare(own, n), *now->groups, kGroup, 0, std::min(screened, count), inside,
                       always);
        }
        scan_range(*query, rows, 1, std::min(screened, count), count, inside, always);
        const Settler settler(*query, rows);
        for (size_t q = 0; q < n; ++q) {
            std::vector<Candidate>& list = inside.list(q);
            settler(q, list);
            keep_best(list, list.size(), *now->ids);
            for (const Candidate& c : list) {
                const float score = api_score(options_.metric, c.exact);
                if (within(score)) found[first + q].emplace_back(now->ids->id_of(c.row), score);
            }
        }
    });
    RangeResult out{{}, {}, {0}};
    for (const auto& hits : found) {
        for (const auto& [id, score] : hits) {
            out.ids.push_back(id);
            out.scores.push_back(score);
        }
        out.offsets.push_back(static_cast<int64_t>(out.ids.size()));
    }
    return out;
}

std::vector<float> Flat::score(const Vectors& queries, const int64_t* ids, size_t m, bool per_query,
                               const Run& run) const {
    check_dim(queries.dim, options_.dim, "queries");
    std::vector<float> vectors(queries.n * queries.dim);
    queries.to_f32(0, queries.n, vectors.data());
    check_finite(vectors.data(), queries.n, queries.dim, "queries", 0);
    const auto now = state();
    const size_t lists = per_query ? queries.n : 1;
    std::vector<int64_t> wanted;
    for (size_t i = 0; i < lists * m; ++i) {
        if (ids[i] != -1) wanted.push_back(ids[i]);
    }
    const std::vector<uint32_t> rows = rows_of(*now, wanted.data(), wanted.size());
    std::vector<size_t> begin{0};  // of each list in `rows`
    for (size_t list = 0; list < lists; ++list) {
        const auto n = std::count_if(ids + list * m, ids + (list + 1) * m, [](int64_t id) { return id != -1; });
        begin.push_back(begin.back() + static_cast<size_t>(n));
    }
    std::vector<float> out(queries.n * m, std::numeric_limits<float>::quiet_NaN());
    const Codec& codec = rerank_ ? *rerank_ : *codec_;
    const RowStore& store = rerank_ ? *now->rerank : now->rows;
    const size_t threads = run.threads != 0 ? run.threads : queries.n == 1 ? 1 : usable_cpus();
    parallel_for(queries.n, {threads, run.poll}, [&](size_t q) {
        const auto query = codec.prepare(vectors.data() + q * queries.dim, 1);
        const size_t list = per_query ? q : 0, n = begin[list + 1] - begin[list];
        std::vector<double> exact(n);
        Settler(*query, store)(0, rows.data() + begin[list], n, exact.data());
        for (size_t i = 0, at = 0; i < m; ++i) {
            if (ids[list * m + i] != -1) out[q * m + i] = api_score(options_.metric, exact[at++]);
        }
    });
    return out;
}

std::vector<float> Flat::reconstruct(const int64_t* ids, size_t n) const {
    const auto now = state();
    const std::vector<uint32_t> rows = rows_of(*now, ids, n);
    std::vector<float> out(n * options_.dim);
    const Codec& codec = rerank_ ? *rerank_ : *codec_;
    const RowStore& store = rerank_ ? *now->rerank : now->rows;
    for (size_t i = 0; i < n; ++i) {
        codec.decode({store.row(rows[i]), store.row_bytes()}, nullptr, 1, out.data() + i * options_.dim);
    }
    return out;
}

// ---------------------------------------------------------------------------------------------------------------------
// Looking
// ---------------------------------------------------------------------------------------------------------------------

std::shared_ptr<Filter> Flat::filter_of_mask(const bool* mask, size_t n) const {
    const auto now = state();
    const size_t count = now->count.load(std::memory_order_acquire);
    auto filter = std::make_shared<Filter>();
    filter->index_ = this;
    filter->version_ = now->version;
    filter->rows_.emplace(count);
    size_t at = 0;
    for (size_t row = 0; row < count; ++row) {
        if (!now->live.contains(row)) continue;
        if (at < n && mask[at]) {
            filter->rows_->set(row);
            filter->ids_.push_back(now->ids->id_of(row));
        }
        ++at;
    }
    if (at != n) {
        throw InvalidInput("filter: a mask of length " + std::to_string(n) + " given, the index holds " +
                           std::to_string(at) + " vectors");
    }
    return filter;
}

std::shared_ptr<Filter> Flat::filter_of_ids(const int64_t* ids, size_t n) const {
    const auto now = state();
    const size_t count = now->count.load(std::memory_order_acquire);
    auto filter = std::make_shared<Filter>();
    filter->index_ = this;
    filter->version_ = now->version;
    filter->rows_.emplace(count);
    for (size_t i = 0; i < n; ++i) {
        const auto row = now->ids->find(ids[i], now->live, count);
        if (!row || filter->rows_->contains(*row)) continue;
        filter->rows_->set(*row);
        filter->ids_.push_back(ids[i]);
    }
    return filter;
}

size_t Flat::size() const {
    const auto now = state();
    return now->count.load(std::memory_order_acquire) - now->dead.load(std::memory_order_acquire);
}

size_t Flat::nbytes() const {
    const auto now = state();
    const size_t count = now->count.load(std::memory_order_acquire);
    size_t bytes = count * now->rows.row_bytes() + (count + 63) / 64 * sizeof(uint64_t) + now->ids->nbytes(count);
    if (now->rerank) bytes += count * now->rerank->row_bytes();
    if (const size_t screened = now->screened.load(std::memory_order_acquire)) {
        bytes += screened / kGroup * now->groups->row_bytes() + options_.dim * sizeof(float);
    }
    return bytes;
}

std::vector<int64_t> Flat::ids() const {
    const auto now = state();
    std::vector<int64_t> out;
    const size_t count = now->count.load(std::memory_order_acquire);
    for (size_t row = 0; row < count; ++row) {
        if (now->live.contains(row)) out.push_back(now->ids->id_of(row));
    }
    return out;
}

bool Flat::contains(int64_t id) const {
    const auto now = state();
    return now->ids->find(id, now->live, now->count.load(std::memory_order_acquire)).has_value();
}

// ---------------------------------------------------------------------------------------------------------------------
// Files
// ---------------------------------------------------------------------------------------------------------------------

namespace {

constexpr uint64_t kFormatVersion = 1;

// The shortest decimal that reads back as the same number, whatever the locale.
std::string shortest(double value) {
    char text[32];
    return {text, std::to_chars(text, text + sizeof(text), value).ptr};
}

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
    return std::as_bytes(std::span(values));
}

TensorType stored_type(std::string_view codec) {
    if (codec == "f32") return TensorType::f32;
    if (codec == "f16") return TensorType::f16;
    return codec == "bf16" ? TensorType::u16 : TensorType::u8;
}

// The tensor of a codec's rows: (n, dim) elements where a row is nothing else, (n, stride) bytes otherwise.
TensorSource rows_tensor(const std::string& name, const Codec& codec, const RowStore& rows, size_t n) {
    const TensorType type = stored_type(codec.name());
    return {name, type, {n, rows.row_bytes() / element_bytes(type)}, rows.pieces(n)};
}

// A tensor of an index file with the shape it must have.
const Tensor& expect(const Container& file, std::string_view name, TensorType type, std::vector<uint64_t> shape) {
    const Tensor& tensor = file.tensor(name);
    if (tensor.type != type || tensor.shape != shape) {
        std::string wanted;
        for (const uint64_t size : shape) wanted += (wanted.empty() ? "" : ", ") + std::to_string(size);
        throw FileFormatError(file.name() + ": tensor \"" + std::string(name) + "\" is not " +
                              std::string(type_name(type)) + " (" + wanted + ")");
    }
    return tensor;
}

uint64_t number(const Container& file, std::string_view key) {
    const std::string& text = file.metadata(key);
    uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size()) {
        throw FileFormatError(file.name() + ": metadata \"" + std::string(key) + "\" is \"" + text +
                              "\", expected a number");
    }
    return value;
}

}  // namespace

template <class Write>
void Flat::write(const Write& write) const {
    const std::lock_guard lock(writer_);
    if (state()->dead > 0) compact(state());
    const auto now = state();
    const size_t count = now->count;
    const size_t screened = now->screened;
    Metadata metadata{
        {"format_version", std::to_string(kFormatVersion)},
        {"library_version", NEARFIELD_VERSION},
        {"kind", "flat"},
        {"metric", std::string(metric_name(options_.metric))},
        {"dim", std::to_string(options_.dim)},
        {"rows", std::to_string(count)},
        {"codec", options_.codec},
        {"rerank", options_.rerank},
        {"oversample", shortest(options_.oversample)},
        {"screen", options_.screen ? "true" : "false"},
        {"next_id", std::to_string(now->next_id)},
    };
    if (options_.codec == "int8" || options_.rerank == "int8") {
        metadata["int8_row"] = "I8 at 0, F32 scale at " + std::to_string(options_.dim);
    }
    std::vector<TensorSource> tensors{rows_tensor("vectors", *codec_, now->rows, count)};
    if (now->rerank) tensors.push_back(rows_tensor("rerank", *rerank_, *now->rerank, count));
    if (screened > 0) {
        const size_t groups = screened / kGroup;
        tensors.push_back({"screen", TensorType::u8, {groups, now->groups->row_bytes()}, now->groups->pieces(groups)});
        tensors.push_back({"screen_center", TensorType::f32, {options_.dim}, {bytes_of(now->screen->center())}});
    }
    std::vector<uint32_t> sorted;
    if (now->ids->is_explicit()) {
        sorted = now->ids->sorted_rows(count);
        tensors.push_back({"ids", TensorType::i64, {count}, now->ids->column().pieces(count)});
        tensors.push_back({"ids_order", TensorType::u32, {count}, {bytes_of(sorted)}});
    }
    write(tensors, metadata);
}

void Flat::save(const std::filesystem::path& path) const {
    write([&](const auto& tensors, const auto& metadata) { write_container(path, tensors, metadata); });
}

void Flat::save(const std::function<void(const std::byte*, size_t)>& sink) const {
    write([&](const auto& tensors, const auto& metadata) { write_container(sink, tensors, metadata); });
}

std::unique_ptr<Flat> Flat::load(std::shared_ptr<const Container> file) {
    check_format_version(*file, kFormatVersion);
    if (file->metadata("kind") != "flat") {
        throw FileFormatError(file->name() + ": holds an index of kind \"" + file->metadata("kind") +
                              "\", expected \"flat\"");
    }
    std::unique_ptr<Flat> index;
    try {
        FlatOptions options;
        options.dim = number(*file, "dim");
        options.metric = parse_metric(file->metadata("metric"));
        options.codec = file->metadata("codec");
        options.rerank = file->metadata("rerank");
        options.oversample = std::stod(file->metadata("oversample"));
        options.screen = file->metadata("screen") == "true";
        index = std::make_unique<Flat>(options);
    } catch (const std::logic_error& e) {
        throw FileFormatError(file->name() + ": " + e.what());
    }
    const size_t count = number(*file, "rows"), dim = index->options_.dim;
    if (count > std::numeric_limits<uint32_t>::max()) throw FileFormatError(file->name() + ": too many rows");
    const auto rows_of = [&](std::string_view name, const Codec& codec) -> const Tensor& {
        const TensorType type = stored_type(codec.name());
        return expect(*file, name, type, {count, codec.row_bytes() / element_bytes(type)});
    };
    auto state = std::make_shared<State>(index->codec_->row_bytes(), rows_of("vectors", *index->codec_).data, count, file);
    if (index->rerank_) {
        state->rerank.emplace(index->rerank_->row_bytes(), rows_of("rerank", *index->rerank_).data, count, file);
    }
    state->live.append(0, count);
    if (file->find("ids") != nullptr) {
        const Tensor& ids = expect(*file, "ids", TensorType::i64, {count});
        const Tensor& sorted = expect(*file, "ids_order", TensorType::u32, {count});
        state->ids = std::make_unique<IdMap>(reinterpret_cast<const int64_t*>(ids.data),
                                             reinterpret_cast<const uint32_t*>(sorted.data), count, file);
    }
    state->next_id = static_cast<int64_t>(number(*file, "next_id"));
    if (index->options_.screen && count >= kScreenFrom) {
        const Tensor& center = expect(*file, "screen_center", TensorType::f32, {dim});
        const auto* values = reinterpret_cast<const float*>(center.data);
        state->screen.emplace(dim, index->options_.metric, std::vector<float>(values, values + dim));
        const size_t groups = count / kGroup, bytes = state->screen->group_bytes();
        state->groups.emplace(bytes, expect(*file, "screen", TensorType::u8, {groups, bytes}).data, groups, file);
        state->screened = groups * kGroup;
    }
    state->count = count;
    index->state_ = std::move(state);
    return index;
}

}  // namespace nearfield
