// Flat's searches: how the rows are scanned, and by which threads.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>

#include "search/flat.hpp"
#include "search/flat_state.hpp"
#include "search/top_k.hpp"

namespace nearfield {

using kernels::kGroup;

// How a search reads the rows.
struct Plan {
    size_t k;  // results of the scan
    Admission admission;
    const Codec* codec;  // scanned codec and its rows
    CodeStore::View rows;
    bool screen;
    bool listed;   // settle the filter's rows one by one instead of scanning
    size_t count;  // rows that exist
};

// A share of a search: some queries against some rows.
struct Flat::Part {
    std::unique_ptr<Query> query;
    std::unique_ptr<Scanner> screen;
    size_t first_query, queries;
    size_t first_row, last_row;
    std::optional<TopK> best;
    std::optional<CountingTopK> counted;  // in place of `best` where distances are counts
    Collector& collector() { return counted ? static_cast<Collector&>(*counted) : *best; }
};

namespace {

// A scan works through blocks whose codes fit the second-level cache beside the queries.
constexpr size_t kBlockBytes = size_t{192} << 10;
constexpr size_t kPartQueries = 1020;  // queries per part of a search: a multiple of the tile width
// Rows that a screened search settles early without doubting the screen; beyond that, one in so many that it has
// scanned.
constexpr size_t kPatience = 512, kWorth = 500;
constexpr size_t kPartRows = size_t{1} << 15;  // rows per part, when one query is split over threads

// Scans rows [first, last) in blocks of rows that lie side by side: block_at(first, most) gives the next one.
template <class Collector, class BlockAt, class Between>
void scan_range(const Scanner& scanner, size_t bytes_per_row, const BlockAt& block_at, size_t first, size_t last,
                Collector& collector, const Between& go_on) {
    const size_t block_rows = std::max(kGroup, kBlockBytes / std::max<size_t>(1, bytes_per_row) / kGroup * kGroup);
    while (first < last && go_on(first)) {
        checkpoint();
        const Block block = block_at(first, std::min(block_rows, last - first));
        collector.start_block(first);
        scanner.scan(block, collector);
        first += block.n;
    }
}

template <class Collector, class Between>
void scan_rows(const Scanner& scanner, const CodeStore::View& rows, size_t first, size_t last, Collector& collector,
               const Between& go_on) {
    const auto block_at = [&](size_t row, size_t most) { return rows.block(row, most); };
    scan_range(scanner, rows.store->unit_bytes() / rows.store->group(), block_at, first, last, collector, go_on);
}

// The screen's blocks are groups.
template <class Collector, class Between>
void scan_screen(const Scanner& scanner, const RowStore& groups, size_t first, size_t last, Collector& collector,
                 const Between& go_on) {
    const auto block_at = [&](size_t row, size_t most) {
        return Block{groups.row(row / kGroup), std::min(most, groups.contiguous(row / kGroup) * kGroup)};
    };
    scan_range(scanner, groups.row_bytes() / kGroup, block_at, first, last, collector, go_on);
}

constexpr auto kAlways = [](size_t) { return true; };

}  // namespace

void Flat::search_part(const Snapshot& now, Part& part, const Plan& plan) const {
    size_t first = part.first_row;
    if (plan.screen && part.screen) {
        TopK& best = *part.best;
        const RowStore& groups = now.state->screen->groups;
        const size_t screened = std::min(part.last_row, now.screened);
        // The first rows show whether the bounds tell vectors apart. Where they do not, the scan starts again without
        // the screen, and has lost little; where that turns out later, the rest goes on without it.
        const size_t probe = std::min<size_t>(1024, (screened - first) / 16 / kGroup * kGroup);
        scan_screen(*part.screen, groups, first, first + probe, best, kAlways);
        const auto undecided = [&] {
            return best.open() + static_cast<double>(best.settled_early()) / static_cast<double>(part.queries);
        };
        if (probe > 0 && undecided() > static_cast<double>(probe / 16 + 2 * plan.k + 32)) {
            best.reset();
        } else {
            size_t reached = screened;
            scan_screen(*part.screen, groups, first + probe, screened, best, [&](size_t row) {
                const bool pays = best.settled_early() * kWorth <= (row - first) * part.queries + kWorth * kPatience;
                if (!pays) reached = row;
                return pays;
            });
            first = reached;
        }
    }
    scan_rows(*part.query, plan.rows, first, part.last_row, part.collector(), kAlways);
}

// The rows that a search may return, null for all: those of the filter, as far as they are of the version.
const Bitmap* Flat::rows_of(const Snapshot& now, const SearchOptions& options, std::optional<Bitmap>& made) const {
    const Filter* filter = options.filter;
    const Bitmap* out = nullptr;
    if (filter != nullptr && filter->version_ == now.version) {
        out = &*filter->rows_;
    } else if (filter != nullptr) {
        made.emplace(now.live.count);
        for (const int64_t id : filter->ids_) {
            if (const auto row = now.state->ids->find(id, now.live, now.live.count)) made->set(*row);
        }
        out = &*made;
    }
    if (!options.version || now.versions->all.size() < 2) return out;
    Bitmap rows(now.live.count);
    const size_t wanted = now.versions->find(*options.version);
    now.versions->for_each(now.live.count, [&](size_t version, size_t first, size_t last) {
        if (version == wanted) rows.set(first, last);
    });
    if (out != nullptr) rows &= *out;
    made = std::move(rows);
    return &*made;
}

// The version that queries are coded as: the last one, if none is named.
Version Flat::version_of(const Snapshot& now, const std::optional<std::string>& version) const {
    const Versions& versions = *now.versions;
    if (!version) return versions.all.empty() ? Version{"", codec_, rerank_} : versions.all.back();
    const size_t place = versions.find(*version);
    if (place < versions.all.size()) return versions.all[place];
    std::string known;
    for (const auto& one : versions.all) known.append(known.empty() ? "\"" : ", \"").append(one.name).append("\"");
    throw InvalidInput("version: \"" + *version + "\" is not one of those in the index (" + known + ")");
}

SearchResult Flat::search(const Vectors& queries, size_t k, const SearchOptions& options, const Run& run) const {
    std::optional<double> oversample = options.oversample;
    if (oversample && !(*oversample >= 1)) {
        throw InvalidInput("oversample: " + std::to_string(*oversample) + " given, expected at least 1");
    }
    if (oversample && !rerank_) {
        throw InvalidInput("oversample: " + std::to_string(*oversample) + " given to an index without a rerank codec");
    }
    const Snapshot now = snapshot();
    if (options.recall) {
        if (oversample) throw InvalidInput("recall: given together with oversample, which it stands for");
        const double value = now.tuning->value_for(*options.recall);
        if (rerank_) oversample = value;
    }
    const Version version = version_of(now, options.version);
    const Codec& codec = *version.codec;
    check_reranked(queries, "queries");
    const CheckedVectors vectors = codec.check(queries, "queries");
    const State& state = *now.state;
    const size_t count = now.live.count;
    SearchResult out{k, {}, {}, std::vector<int64_t>(queries.n), ""};
    if (queries.n != 0 && k > std::numeric_limits<size_t>::max() / 16 / queries.n) throw std::bad_alloc();
    out.ids.assign(queries.n * k, -1);
    out.scores.assign(queries.n * k, std::numeric_limits<float>::quiet_NaN());

    std::optional<Bitmap> rebuilt;
    const Bitmap* allowed = rows_of(now, options, rebuilt);
    const size_t candidates = allowed ? std::min(allowed->count(), count) : count;
    const bool rerank = rerank_ && !options.exhaustive;
    const bool finest = rerank_ && options.exhaustive;
    const double wanted = static_cast<double>(k) * (rerank ? oversample.value_or(options_.oversample) : 1.0);
    Plan plan{};
    plan.k = static_cast<size_t>(std::min(std::ceil(wanted), static_cast<double>(candidates)));
    plan.admission = {&now.live, allowed};
    plan.codec = finest ? version.rerank.get() : &codec;
    plan.rows = finest ? now.rerank() : now.rows();
    plan.screen = !finest && options_.screen && now.screened > 0;
    // Settling a row by itself costs as much as scanning this many, more so where a batch shares the scan.
    const size_t rows_per_settled = queries.n < 4 ? 16 : 128;
    plan.listed = allowed != nullptr && candidates * rows_per_settled < count;
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
                if (row < count && now.live.contains(row)) listed.push_back(static_cast<uint32_t>(row));
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
        std::vector<uint32_t> rows;
        for (size_t q = 0; q < part.queries; ++q) {
            std::vector<Candidate>* hits = &part.collector().finish(q);
            std::optional<TopK> refined;
            if (rerank) {
                rows.clear();
                for (const Candidate& c : *hits) rows.push_back(c.row);
                std::sort(rows.begin(), rows.end());
                const std::unique_ptr<Query> finer = version.rerank->prepare(vectors.part(part.first_query + q, 1));
                const Settler settler(*finer, now.rerank());
                refined.emplace(1, k, plan.admission, settler, *state.ids);
                for (const Candidate& c : settler.bounded(0, rows)) refined->offer(0, c);
                hits = &refined->finish(0);
            }
            const size_t at = (part.first_query + q) * k;
            for (size_t i = 0; i < hits->size(); ++i) {
                out.ids[at + i] = state.ids->id_of((*hits)[i].row);
                out.scores[at + i] = api_score(options_.metric, (*hits)[i].exact);
            }
            out.counts[part.first_query + q] = static_cast<int64_t>(hits->size());
        }
    };
    Run parts_run{threads, run.poll};
    parallel_for(query_parts * row_parts, parts_run, [&](size_t item) {
        auto part = std::make_unique<Part>();
        part->first_query = item / row_parts * part_queries;
        part->queries = std::min(part_queries, queries.n - part->first_query);
        part->first_row = item % row_parts * rows_per_part;
        part->last_row = std::min(count, part->first_row + rows_per_part);
        const Vectors own = vectors.part(part->first_query, part->queries);
        part->query = plan.codec->prepare(own);
        if (plan.screen && !plan.listed) part->screen = state.screen->codec.prepare(own.floats(), own.n);
        if (part->query->counts(0) && !plan.listed) {
            part->counted.emplace(*part->query, part->queries, plan.k, plan.admission, *state.ids);
        } else {
            const Comparison comparison{plan.codec->fine_bytes() > 0 && !plan.listed, rerank && part->query->stable()};
            part->best.emplace(part->queries, plan.k, plan.admission, Settler(*part->query, plan.rows), *state.ids,
                               comparison);
        }
        if (plan.listed) {
            const Settler settler(*part->query, plan.rows);
            std::vector<double> exact(listed.size());
            for (size_t q = 0; q < part->queries; ++q) {
                checkpoint();
                settler(q, listed.data(), listed.size(), exact.data());
                for (size_t i = 0; i < listed.size(); ++i) part->best->offer_settled(q, listed[i], exact[i]);
            }
        } else if (part->first_row < part->last_row) {
            search_part(now, *part, plan);
        }
        {
            const std::lock_guard lock(merging);
            std::unique_ptr<Part>& first = waiting[item / row_parts];
            if (first) {
                first->collector().merge(part->collector());
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

RangeResult Flat::range_search(const Vectors& queries, double radius, const SearchOptions& options,
                               const Run& run) const {
    if (std::isnan(radius)) throw InvalidInput("radius: NaN given, expected a number");
    const Snapshot now = snapshot();
    const Version version = version_of(now, options.version);
    check_reranked(queries, "queries");
    const CheckedVectors vectors = version.codec->check(queries, "queries");
    const State& state = *now.state;
    const size_t count = now.live.count;
    if (count == 0) return {{}, {}, std::vector<int64_t>(queries.n + 1)};
    std::optional<Bitmap> rebuilt;
    const Admission admission{&now.live, rows_of(now, options, rebuilt)};
    const bool finest = rerank_ != nullptr;
    const Codec& codec = finest ? *version.rerank : *version.codec;
    const CodeStore::View rows = now.finest();
    const size_t screened = finest ? 0 : now.screened;

    // Scores are compared as the user sees them, in float32; the bound is a little wider.
    const auto limit = static_cast<float>(radius);
    const double distance = core_distance(options_.metric, limit);
    const auto bound = static_cast<float>(distance + std::abs(distance) * 1e-6 + 1e-37);
    const bool similarity = is_similarity(options_.metric);
    const auto within = [&](float score) { return similarity ? score >= limit : score <= limit; };

    std::vector<std::vector<std::pair<int64_t, float>>> found(queries.n);
    const size_t threads = run.threads != 0 ? run.threads : queries.n == 1 ? 1 : usable_cpus();
    constexpr size_t kQueries = 4 * kernels::kTile;
    const size_t part_queries = std::max<size_t>(1, std::min(kQueries, (queries.n + threads - 1) / threads));
    parallel_for((queries.n + part_queries - 1) / part_queries, {threads, run.poll}, [&](size_t item) {
        const size_t first = item * part_queries, n = std::min(part_queries, queries.n - first);
        const Vectors own = vectors.part(first, n);
        const auto query = codec.prepare(own);
        std::vector<float> bounds(n, bound);
        for (size_t q = 0; q < n; ++q) {
            const auto counts = query->counts(q);
            if (!counts) break;
            const double most = (static_cast<double>(bound) - counts->offset) / counts->scale;
            bounds[q] = counts->scale > 0 ? static_cast<float>(most + 1e-3) : std::numeric_limits<float>::infinity();
        }
        Within inside(std::move(bounds), admission);
        if (screened > 0) {
            scan_screen(*state.screen->codec.prepare(own.floats(), n), state.screen->groups, 0,
                        std::min(screened, count), inside, kAlways);
        }
        scan_rows(*query, rows, std::min(screened, count), count, inside, kAlways);
        const Settler settler(*query, rows);
        for (size_t q = 0; q < n; ++q) {
            std::vector<Candidate>& list = inside.list(q);
            settler(q, list);
            keep_best(list, list.size(), *state.ids);
            for (const Candidate& c : list) {
                const float score = api_score(options_.metric, c.exact);
                if (within(score)) found[first + q].emplace_back(state.ids->id_of(c.row), score);
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
                               const std::optional<std::string>& version, const Run& run) const {
    const Snapshot now = snapshot();
    const Version coded_as = version_of(now, version);
    check_reranked(queries, "queries");
    const CheckedVectors vectors = coded_as.codec->check(queries, "queries");
    const size_t lists = per_query ? queries.n : 1;
    std::vector<int64_t> wanted;
    for (size_t i = 0; i < lists * m; ++i) {
        if (ids[i] != -1) wanted.push_back(ids[i]);
    }
    const std::vector<uint32_t> rows = rows_of(now, wanted.data(), wanted.size());
    std::vector<size_t> begin{0};  // of each list in `rows`
    for (size_t list = 0; list < lists; ++list) {
        const auto n = std::count_if(ids + list * m, ids + (list + 1) * m, [](int64_t id) { return id != -1; });
        begin.push_back(begin.back() + static_cast<size_t>(n));
    }
    std::vector<float> out(queries.n * m, std::numeric_limits<float>::quiet_NaN());
    const Codec& codec = rerank_ ? *coded_as.rerank : *coded_as.codec;
    const size_t threads = run.threads != 0 ? run.threads : queries.n == 1 ? 1 : usable_cpus();
    parallel_for(queries.n, {threads, run.poll}, [&](size_t q) {
        const auto query = codec.prepare(vectors.part(q, 1));
        const size_t list = per_query ? q : 0, n = begin[list + 1] - begin[list];
        std::vector<double> exact(n);
        Settler(*query, now.finest())(0, rows.data() + begin[list], n, exact.data());
        for (size_t i = 0, at = 0; i < m; ++i) {
            if (ids[list * m + i] != -1) out[q * m + i] = api_score(options_.metric, exact[at++]);
        }
    });
    return out;
}

std::vector<float> Flat::reconstruct(const int64_t* ids, size_t n) const {
    const Snapshot now = snapshot();
    const std::vector<uint32_t> rows = rows_of(now, ids, n);
    std::vector<float> out(n * options_.dim);
    const CodeStore::View finest = now.finest();
    std::vector<std::byte> row(finest.store->row_bytes());
    for (size_t i = 0; i < n; ++i) {
        const Version& version = now.versions->all[now.versions->of_row(rows[i])];
        finest.copy(&rows[i], 1, row.data());
        (rerank_ ? *version.rerank : *version.codec)
            .decode({row.data(), row.size()}, nullptr, 1, out.data() + i * options_.dim);
    }
    return out;
}

std::vector<uint8_t> Flat::codes(const int64_t* ids, size_t n) const {
    const Snapshot now = snapshot();
    const std::vector<uint32_t> rows = rows_of(now, ids, n);
    std::vector<uint8_t> out(n * code_bytes());
    now.rows().copy(rows.data(), n, reinterpret_cast<std::byte*>(out.data()));
    return out;
}

}  // namespace nearfield
