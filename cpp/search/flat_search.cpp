// Flat's searches: how the rows are scanned, and by which threads.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <mutex>

#include "search/flat_codes.hpp"
#include "search/scan.hpp"

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
    std::optional<StoreSettler> settler;
    std::unique_ptr<Scanner> screen;
    size_t first_query, queries;
    size_t first_row, last_row;
    std::optional<TopK> best;
    std::optional<CountingTopK> counted;  // in place of `best` where distances are counts
    Collector& collector() { return counted ? static_cast<Collector&>(*counted) : *best; }
};

namespace {

constexpr size_t kPartQueries = 1020;  // queries per part of a search: a multiple of the tile width
// Rows that a screened search settles early without doubting the screen; beyond that, one in so many that it has
// scanned.
constexpr size_t kPatience = 512, kWorth = 500;
constexpr size_t kPartRows = size_t{1} << 15;  // rows per part, when one query is split over threads

// The screen's blocks are groups.
template <class Collector, class Between>
void scan_screen(const Scanner& scanner, const RowStore& groups, size_t first, size_t last, Collector& collector,
                 const Between& go_on) {
    const auto block_at = [&](size_t row, size_t most) {
        return Block{groups.row(row / kGroup), std::min(most, groups.contiguous(row / kGroup) * kGroup)};
    };
    scan_range(scanner, groups.row_bytes() / kGroup, block_at, first, last, collector, go_on);
}

}  // namespace

void Flat::search_part(const FlatCodes& codes, Part& part, const Plan& plan) const {
    size_t first = part.first_row;
    if (plan.screen && part.screen) {
        TopK& best = *part.best;
        const RowStore& groups = codes.store->screen->groups;
        const size_t screened = std::min(part.last_row, codes.screened);
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
    scan_rows(part.settler->query(), plan.rows, first, part.last_row, part.collector(), kAlways);
}

SearchResult Flat::search(const Vectors& queries, size_t k, const SearchOptions& options, const Run& run) const {
    SearchOptions wanted_options = options;
    const Snapshot now = snapshot();
    take_tuned(now, wanted_options);
    const double oversample = oversample_of(wanted_options);
    const Version version = version_of(now, options.version);
    const Codec& codec = *version.codec;
    check_reranked(queries, "queries");
    const CheckedVectors vectors = codec.check(queries, "queries");
    const IdMap& ids = *now.state->ids;
    const FlatCodes& codes = codes_of(now);
    const size_t count = now.live.count;
    SearchResult out(queries.n, k);

    std::optional<Bitmap> rebuilt;
    const Bitmap* allowed = rows_of(now, options, rebuilt);
    const size_t candidates = allowed ? std::min(allowed->count(), count) : count;
    const bool rerank = rerank_ && !options.exhaustive;
    const bool finest = rerank_ && options.exhaustive;
    const double wanted = static_cast<double>(k) * (rerank ? oversample : 1.0);
    Plan plan{};
    plan.k = static_cast<size_t>(std::min(std::ceil(wanted), static_cast<double>(candidates)));
    plan.admission = {&now.live, allowed};
    plan.codec = finest ? version.rerank.get() : &codec;
    plan.rows = finest ? now.rerank() : codes.view();
    plan.screen = !finest && codes.screened > 0;
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
        allowed->for_each([&](size_t row) {
            if (row < count && now.live.contains(row)) listed.push_back(static_cast<uint32_t>(row));
        });
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
            const size_t query = part.first_query + q;
            const std::vector<Candidate>& hits = part.collector().finish(q);
            if (!rerank) {
                report(out, query, hits, now);
                continue;
            }
            rows.clear();
            for (const Candidate& c : hits) rows.push_back(c.row);
            std::sort(rows.begin(), rows.end());
            report(out, query, refined(now, version, vectors.part(query, 1), rows, k), now);
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
        const StoreSettler& settler = part->settler.emplace(plan.codec->prepare(own), plan.rows);
        if (plan.screen && !plan.listed) part->screen = codes.store->screen->codec.prepare(own.floats(), own.n);
        if (settler.query().counts(0) && !plan.listed) {
            part->counted.emplace(settler.query(), part->queries, plan.k, plan.admission, ids);
        } else {
            const Comparison comparison{plan.codec->fine_bytes() > 0 && !plan.listed,
                                        rerank && settler.query().stable()};
            part->best.emplace(part->queries, plan.k, plan.admission, settler, ids, comparison);
        }
        if (plan.listed) {
            std::vector<double> exact(listed.size());
            for (size_t q = 0; q < part->queries; ++q) {
                checkpoint();
                settler.settle(q, listed.data(), listed.size(), exact.data());
                for (size_t i = 0; i < listed.size(); ++i) part->best->offer_settled(q, listed[i], exact[i]);
            }
        } else if (part->first_row < part->last_row) {
            search_part(codes, *part, plan);
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
    const FlatCodes& codes = codes_of(now);
    const size_t count = now.live.count;
    std::vector<std::vector<std::pair<int64_t, float>>> found(queries.n);
    if (count == 0) return RangeResult(found);
    std::optional<Bitmap> rebuilt;
    const Admission admission{&now.live, rows_of(now, options, rebuilt)};
    const bool finest = rerank_ != nullptr;
    const Codec& codec = finest ? *version.rerank : *version.codec;
    const CodeStore::View rows = finest ? now.rerank() : codes.view();
    const size_t screened = finest ? 0 : codes.screened;

    // Scores are compared as the user sees them, in float32; the bound is a little wider.
    const auto limit = static_cast<float>(radius);
    const double distance = core_distance(options_.metric, limit);
    const auto bound = static_cast<float>(distance + std::abs(distance) * 1e-6 + 1e-37);
    const bool similarity = is_similarity(options_.metric);
    const auto within = [&](float score) { return similarity ? score >= limit : score <= limit; };

    const size_t threads = run.threads != 0 ? run.threads : queries.n == 1 ? 1 : usable_cpus();
    constexpr size_t kQueries = 4 * kernels::kTile;
    const size_t part_queries = std::max<size_t>(1, std::min(kQueries, (queries.n + threads - 1) / threads));
    parallel_for((queries.n + part_queries - 1) / part_queries, {threads, run.poll}, [&](size_t item) {
        const size_t first = item * part_queries, n = std::min(part_queries, queries.n - first);
        const Vectors own = vectors.part(first, n);
        const StoreSettler settler(codec.prepare(own), rows);
        std::vector<float> bounds(n, bound);
        for (size_t q = 0; q < n; ++q) {
            const auto counts = settler.query().counts(q);
            if (!counts) break;
            const double most = (static_cast<double>(bound) - counts->offset) / counts->scale;
            bounds[q] = counts->scale > 0 ? static_cast<float>(most + 1e-3) : std::numeric_limits<float>::infinity();
        }
        Within inside(std::move(bounds), admission);
        if (screened > 0) {
            const Screen& screen = *codes.store->screen;
            scan_screen(*screen.codec.prepare(own.floats(), n), screen.groups, 0, std::min(screened, count), inside,
                        kAlways);
        }
        scan_rows(settler.query(), rows, std::min(screened, count), count, inside, kAlways);
        for (size_t q = 0; q < n; ++q) {
            std::vector<Candidate>& list = inside.list(q);
            settler.settle(q, list);
            keep_best(list, list.size(), *now.state->ids);
            for (const Candidate& c : list) {
                const float score = api_score(options_.metric, c.exact);
                if (within(score)) found[first + q].emplace_back(now.state->ids->id_of(c.row), score);
            }
        }
    });
    return RangeResult(found);
}

}  // namespace nearfield
