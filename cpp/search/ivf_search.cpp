// Ivf's searches: which lists a query visits, and what becomes of what it finds there.
#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>

#include "kernels/dispatch.hpp"
#include "search/ivf_codes.hpp"
#include "search/scan.hpp"

namespace nearfield {

namespace {

// Queries of one work item, which visit lists together.
constexpr size_t kPartQueries = 80 * kernels::kTile;

// And how many of their nearest lists are ranked at once.
constexpr size_t kPartProbes = size_t{1} << 20;

// The nearest lists of a query, which are visited before the others, after the very nearest.
constexpr size_t kNear = 4;

// Where a filter allows a share s of all rows, the neighbours looked for are of ranks up to k / s: how many times as
// many lists have to be visited to find as large a part of them. Measured, for filters that have to do with the vectors
// too.
double growth(double share) { return std::pow(share, -0.6) * (1 + 1.8 * share * (1 - share)); }

// And as many more candidates are kept.
constexpr double kMore = 1.5;

// As many more lists than a filter makes likely are ranked at once.
constexpr double kSpareLists = 1.25;

// About how long a row takes, in nanoseconds, of which only the ratios matter: to see whether a filter allows it, to
// scan its code, and to fetch and score it by the finest codec.
struct Costs {
    double look = 3, scan, score;
    Costs(size_t code_bytes, size_t finest_bytes)
        : scan(0.5 + static_cast<double>(code_bytes) / 40), score(10 + static_cast<double>(finest_bytes) / 15) {}
};

// The rows with the least estimated distances; of equal ones, those with the lowest numbers.
class Nearest {
  public:
    explicit Nearest(size_t most)
        : most_(most), limit_(2 * most + kSpare), distances_(limit_ + 2 * kernels::kGroup), rows_(distances_.size()) {}

    // What later ones must not exceed.
    float bound() const { return bound_; }
    // Takes those of n rows (at most kGroup) that may be among them; kNoTag stands for none.
    void offer(const float* distances, const uint32_t* rows, size_t n) noexcept {
        size_ +=
            kernels::active().select.keep(distances, rows, n, bound_, distances_.data() + size_, rows_.data() + size_);
        if (size_ > limit_) shrink(most_ + kSpare / 2);
    }
    // Appends the rows.
    void take(std::vector<uint32_t>& rows) {
        shrink(most_);
        rows.insert(rows.end(), rows_.begin(), rows_.begin() + static_cast<std::ptrdiff_t>(size_));
    }

  private:
    static constexpr size_t kSpare = 64;

    // Drops those that are not among the best, but for some, so that not more than `goal` are left.
    void shrink(size_t goal) noexcept {
        if (size_ <= most_) return;
        const kernels::SelectKernels& select = kernels::active().select;
        const float bound = select.threshold(distances_.data(), size_, most_, goal);
        bound_ = std::min(bound_, bound);
        size_ = select.keep(distances_.data(), rows_.data(), size_, bound, distances_.data(), rows_.data());
        if (size_ <= goal) return;
        // Too many lie at the bound itself.
        const auto end = static_cast<std::ptrdiff_t>(size_);
        size_t less = 0;
        for (size_t i = 0; i < size_; ++i) {
            if (!(distances_[i] < bound)) continue;
            std::swap(distances_[i], distances_[less]);
            std::swap(rows_[i], rows_[less++]);
        }
        std::nth_element(rows_.begin() + static_cast<std::ptrdiff_t>(less),
                         rows_.begin() + static_cast<std::ptrdiff_t>(most_ - 1), rows_.begin() + end);
        size_ = most_;
    }

    size_t most_, limit_, size_ = 0;
    float bound_ = std::numeric_limits<float>::infinity();
    std::vector<float> distances_;
    std::vector<uint32_t> rows_;
};

// The candidates of queries in one list after the other.
class Candidates final : public EstimateSink {
  public:
    Candidates(size_t queries, size_t most, Admission admission)
        : admission_(admission),
          bounds_(queries, std::numeric_limits<float>::infinity()),
          best_(queries, Nearest(most)) {
        bounds = bounds_.data();
    }
    // Rows of a list, kNoTag in place of those that may not be returned.
    void start_list(const uint32_t* rows) { rows_ = rows; }
    void take(size_t query, size_t at, const float* distances, size_t n) noexcept override {
        best_[query].offer(distances, rows_ + at, n);
        bounds_[query] = best_[query].bound();
    }
    // Adds the best rows of a query to others; they are then in order and each there once.
    void finish(size_t query, std::vector<uint32_t>& rows) {
        best_[query].take(rows);
        std::sort(rows.begin(), rows.end());
        rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
        // (A damaged file may name rows that do not exist.)
        rows.erase(std::remove_if(rows.begin(), rows.end(), [&](uint32_t row) { return !admission_(row); }),
                   rows.end());
    }

  private:
    Admission admission_;
    const uint32_t* rows_ = nullptr;
    std::vector<float> bounds_;
    std::vector<Nearest> best_;
};

// Rows of a list, kNoTag in place of those that a filter does not allow.
struct AllowedRows {
    std::vector<uint32_t> rows;
    size_t count = 0;  // allowed ones

    void set(std::span<const uint32_t> list, const Bitmap& filter) {
        rows.resize(list.size());
        count = 0;
        for (size_t at = 0; at < list.size(); ++at) {  // without branches, which nobody could foresee
            const bool contained = filter.contains(list[at]);
            rows[at] = contained ? list[at] : kernels::kNoTag;
            count += contained ? 1 : 0;
        }
    }
};

void append_allowed(std::span<const uint32_t> rows, std::vector<uint32_t>& out) {
    std::copy_if(rows.begin(), rows.end(), std::back_inserter(out),
                 [](uint32_t row) { return row != kernels::kNoTag; });
}

}  // namespace

// What the queries of one search have in common.
struct Ivf::Search {
    const Snapshot& now;
    const Version& version;
    const IvfCodes& codes;
    Admission admission;
    Costs costs;
    size_t candidates = 0;  // rows that may be returned
    size_t copies = 1;      // lists of a row, at most
    size_t k = 0;
    size_t probes = 0, kept = 0;  // lists that are visited in any case, and rows that are kept of them
    size_t ranked = 0;            // lists that will probably do: at least `probes`, in `nearest` for each query
    double seen = 0;              // rows that may be returned and must have been seen
    std::span<const AllowedRows> allowed_rows = {};  // of all lists, where many queries share the work; or empty
    bool rerank = false;

    // Has rows of the finer codec read from a mapped file.
    void ask_for(const std::vector<uint32_t>& rows) const {
        if (!codes.mapped || !rerank) return;
        const CodeStore& finer = *now.state->rerank;
        for (const uint32_t row : rows) codes.mapped->advise_needed(finer.row(row), finer.row_bytes());
    }
    // Asks for rows from `first` on, which will be read soon.
    void fetch(const std::vector<uint32_t>& rows, size_t first, size_t n) const {
        if (!rerank) return;
        const CodeStore::View finer = now.rerank();
        for (size_t i = first; i < std::min(first + n, rows.size()); ++i) finer.prefetch(rows[i]);
    }
    // Whether so few rows of a list may be returned that they are not worth a scan.
    bool few(const List& list, size_t allowed) const {
        return allowed < list.size &&
               static_cast<double>(allowed) * costs.score < static_cast<double>(list.size) * costs.scan;
    }
    // Calls visit(probe, list, its rows, with kNoTag for those that may not be returned, how many may) until enough
    // have been seen.
    template <class Visit>
    void visit_lists(const float* query, const Probe* nearest, const Visit& visit) const;
    std::vector<Candidate> find(const float* coarse_query, const Probe* nearest, const Vectors& query) const;
    std::vector<Candidate> find_candidates(const float* coarse_query, const Probe* nearest, const Vectors& query) const;
    template <class Report>
    bool find_candidates_of_many(const Probe* nearest, const Vectors& own, const Report& report) const;
    std::vector<Candidate> find_among(const std::vector<uint32_t>& rows, const Vectors& query) const;
    // The k best of all rows of the finer codec for each query.
    template <class Report>
    void scan_all(const Vectors& queries, const Report& report) const;
};

template <class Visit>
void Ivf::Search::visit_lists(const float* query, const Probe* nearest, const Visit& visit) const {
    const size_t lists = codes.lists.size(), enough = copies * std::min(k, candidates);
    AllowedRows own;
    size_t found = 0;
    const auto visit_list = [&](const Probe& probe) {
        const List& list = *codes.lists[probe.list];
        if (admission.filter == nullptr) {
            found += list.size;
            visit(probe, list, list.rows, list.size);
            return;
        }
        if (allowed_rows.empty()) own.set({list.rows, list.size}, *admission.filter);
        const AllowedRows& allowed = allowed_rows.empty() ? own : allowed_rows[probe.list];
        found += allowed.count;
        visit(probe, list, allowed.rows.data(), allowed.count);
    };
    const auto done = [&] { return found >= enough && static_cast<double>(found) >= seen; };
    for (size_t p = 0; p < ranked; ++p) {
        visit_list(nearest[p]);
        if (p + 1 >= probes && done()) return;
    }
    if (ranked == lists) return;
    std::vector<bool> visited(lists);
    for (size_t p = 0; p < ranked; ++p) visited[nearest[p].list] = true;
    std::vector<Probe> all(lists);
    codes.coarse->nearest(query, 1, lists, all.data());
    for (const Probe& probe : all) {
        if (done()) return;
        if (!visited[probe.list]) visit_list(probe);
    }
}

// The k best of the rows in the lists that are visited, by estimates and the finer codec.
std::vector<Candidate> Ivf::Search::find_candidates(const float* coarse_query, const Probe* nearest,
                                                    const Vectors& query) const {
    const IvfQueries queries(query, codes.metric, codes.residual);
    const std::unique_ptr<Query> scanned = version.codec->prepare(queries.coded);
    Candidates best(1, kept, admission);
    std::vector<uint32_t> rows;
    visit_lists(coarse_query, nearest, [&](const Probe& probe, const List& list, const uint32_t* tags, size_t allowed) {
        if (few(list, allowed)) {
            append_allowed({tags, list.size}, rows);
            return;
        }
        best.start_list(tags);
        scanned->select(codes.block(list, probe.distance, 0), best);
    });
    best.finish(0, rows);
    return find_among(rows, query);
}

// The same for many queries without a filter, list by list: codes are read once for all queries that visit a list.
template <class Report>
bool Ivf::Search::find_candidates_of_many(const Probe* nearest, const Vectors& own, const Report& report) const {
    const IvfQueries queries(own, codes.metric, codes.residual);
    const std::unique_ptr<Query> scanned = version.codec->prepare(queries.coded);
    if (!scanned->picks()) return false;
    Candidates best(own.n, kept, admission);
    AllowedRows allowed;
    const auto scan = [&](uint32_t number, std::span<const uint32_t> which, const float* centers) {
        const List& list = *codes.lists[number];
        if (admission.filter) allowed.set({list.rows, list.size}, *admission.filter);
        best.start_list(admission.filter ? allowed.rows.data() : list.rows);
        scanned->pick(codes.block(list, 0, 0), which, centers, best);
    };
    const auto center = [&](const Probe& probe) { return codes.residual ? probe.distance : 0; };
    struct Visit {
        uint64_t order;  // by turn, list, query
        float center;
        uint32_t list() const { return static_cast<uint32_t>(order >> 24 & 0xffffffff); }
        uint32_t query() const { return static_cast<uint32_t>(order & 0xffffff); }
    };
    std::vector<Visit> visits;
    for (uint64_t q = 0; q < own.n; ++q) {
        for (size_t p = 0; p < probes; ++p) {
            const Probe& probe = nearest[q * probes + p];
            // The nearest lists come first, and leave bounds for the others: fewer rows are candidates for a while.
            const uint64_t turn = p == 0 ? 0 : p < kNear ? 1 : 2;
            visits.push_back({turn << 56 | uint64_t{probe.list} << 24 | q, center(probe)});
        }
    }
    std::sort(visits.begin(), visits.end(), [](const Visit& a, const Visit& b) { return a.order < b.order; });
    std::vector<uint32_t> which;
    std::vector<float> centers;
    for (size_t first = 0; first < visits.size(); first += which.size()) {
        checkpoint();
        which.clear();
        centers.clear();
        for (size_t v = first; v < visits.size() && visits[v].order >> 24 == visits[first].order >> 24; ++v) {
            which.push_back(visits[v].query());
            centers.push_back(visits[v].center);
        }
        scan(visits[first].list(), which, centers.data());
    }
    // While the candidates of one query are scored, those of the next are on their way from memory.
    std::vector<uint32_t> rows, next;
    const auto take = [&](size_t q) {
        next.clear();
        if (q == own.n) return;
        best.finish(q, next);
        ask_for(next);
        fetch(next, 0, next.size());
    };
    take(0);
    for (size_t q = 0; q < own.n; ++q) {
        rows.swap(next);
        take(q + 1);
        report(q, rows, rows.size() >= std::min(k, candidates));
    }
    return true;
}

// The k best of the rows in the lists that are visited, by bounds.
std::vector<Candidate> Ivf::Search::find(const float* coarse_query, const Probe* nearest, const Vectors& query) const {
    if (rerank && codes.layout->fine_bytes() == 0) return find_candidates(coarse_query, nearest, query);
    const ListSettler settler(codes, *version.codec, query);
    const Query& scanned = settler.query();
    const Comparison comparison{codes.layout->fine_bytes() > 0, rerank && scanned.stable()};
    TopK best(1, kept, admission, settler, *now.state->ids, comparison);
    const float rounding = codes.coarse->rounding(coarse_query);
    std::vector<uint32_t> rows;
    std::vector<float> distances;
    const auto visit = [&](const Probe& probe, const List& list, const uint32_t* tags, size_t allowed) {
        if (few(list, allowed)) {
            append_allowed({tags, list.size}, rows);
            return;
        }
        const Block block = codes.block(list, probe.distance, rounding);
        if (!scanned.counts(0)) {
            best.start_list(list.rows);
            scanned.scan(block, best);
            return;
        }
        // A scan would give counts in place of distances.
        distances.resize(list.size);
        scanned.score_block(block, distances.data());
        constexpr float kRounding = 0x1p-20f;
        for (size_t at = 0; at < list.size; ++at) {
            const float distance = distances[at], off = kRounding * std::abs(distance);
            if (!(distance - off > best.bounds[0]) && admission(list.rows[at])) {
                best.offer(0, {list.rows[at], distance - off, distance + off});
            }
        }
    };
    visit_lists(coarse_query, nearest, visit);
    std::vector<Candidate>& hits = best.finish(0);
    if (!rerank && rows.empty() && copies == 1) return std::move(hits);
    for (const Candidate& c : hits) rows.push_back(c.row);
    std::sort(rows.begin(), rows.end());
    rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
    return find_among(rows, query);
}

// The k best of rows by the finest codec.
std::vector<Candidate> Ivf::Search::find_among(const std::vector<uint32_t>& rows, const Vectors& query) const {
    constexpr size_t kPiece = 64;
    ask_for(rows);
    fetch(rows, 0, kPiece);
    const std::unique_ptr<Settler> settler = now.finest(version, query);
    TopK best(1, k, {&now.live, nullptr}, *settler, *now.state->ids);
    std::vector<uint32_t> piece;
    for (size_t first = 0; first < rows.size(); first += kPiece) {
        checkpoint();
        piece.assign(rows.begin() + static_cast<std::ptrdiff_t>(first),
                     rows.begin() + static_cast<std::ptrdiff_t>(std::min(first + kPiece, rows.size())));
        fetch(rows, first + kPiece, kPiece);
        for (const Candidate& c : settler->bounded(0, piece)) best.offer(0, c);
    }
    return std::move(best.finish(0));
}

template <class Report>
void Ivf::Search::scan_all(const Vectors& queries, const Report& report) const {
    const StoreSettler settler(version.rerank->prepare(queries), now.rerank());
    TopK best(queries.n, k, admission, settler, *now.state->ids, {version.rerank->fine_bytes() > 0, false});
    scan_rows(settler.query(), now.rerank(), 0, now.live.count, best, kAlways);
    for (size_t q = 0; q < queries.n; ++q) report(q, best.finish(q));
}

const Bitmap* Ivf::live_rows_of(const Snapshot& now, const SearchOptions& options, std::optional<Bitmap>& made) const {
    const Bitmap* allowed = rows_of(now, options, made);
    if (now.live.dead == nullptr) return allowed;
    Bitmap live(now.live.count);
    live.set(0, now.live.count);
    live -= *now.live.dead;
    if (allowed != nullptr) live &= *allowed;
    made = std::move(live);
    return &*made;
}

SearchResult Ivf::search(const Vectors& queries, size_t k, const SearchOptions& options, const Run& run) const {
    const Snapshot now = snapshot();
    SearchOptions taken = options;
    take_tuned(now, taken);
    const double oversample = oversample_of(taken);
    const IvfCodes& codes = codes_of(now);
    const size_t lists = codes.lists.size(), probes = std::min(lists, taken.probes.value_or(probes_of(codes)));
    if (taken.probes == size_t{0}) throw InvalidInput("probes: 0 given, expected at least 1");
    const Version version = version_of(now, options.version);
    check_reranked(queries, "queries");
    const CheckedVectors vectors = version.codec->check(queries, "queries");
    SearchResult out(queries.n, k);

    std::optional<Bitmap> rebuilt;
    const Bitmap* allowed = live_rows_of(now, options, rebuilt);
    const size_t live = now.live.size(), candidates = allowed ? allowed->count() : live;
    if (candidates == now.live.count) allowed = nullptr;
    const bool filtered = candidates < live;
    const bool reranks = rerank_ != nullptr;
    Search search{
        now, version, codes, {&now.live, allowed}, {codec_->row_bytes(), (rerank_ ? *rerank_ : *codec_).row_bytes()}};
    search.candidates = candidates;
    search.copies = own_.soar != 0 ? 2 : 1;
    search.k = std::min(k, candidates);
    search.rerank = reranks;
    search.probes = probes;
    const double share = live == 0 ? 1 : static_cast<double>(candidates) / static_cast<double>(live);
    const double visited = static_cast<double>(probes) / static_cast<double>(std::max<size_t>(1, lists));
    const double grown = std::min(1.0, visited * growth(std::max(share, 1e-9)));
    search.seen = filtered ? grown * static_cast<double>(candidates) : 0;
    const double ranked = filtered ? kSpareLists * grown * static_cast<double>(lists) : 0;
    search.ranked = std::clamp(static_cast<size_t>(ranked), probes, lists);
    const double kept =
        static_cast<double>(k * search.copies) * (reranks ? oversample * (filtered ? kMore : 1.0) : 1.0);
    search.kept = static_cast<size_t>(std::min(std::ceil(kept), static_cast<double>(live * search.copies)));
    // Rows are scored one by one where that takes less time, or all are wanted.
    const Costs& costs = search.costs;
    const double by_lists = grown * (costs.look + std::min(costs.scan, share * costs.score));
    const bool among = taken.exhaustive || (filtered && share * costs.score < by_lists);
    const std::string finest(reranks ? rerank_->name() : codec_->name());
    out.plan = among ? (filtered ? "filtered rows, " : "scan, ") + finest
                     : std::to_string(probes) + " of " + std::to_string(lists) + " lists, " +
                           std::string(codec_->name()) + (reranks ? ", rerank " + finest : "");
    if (queries.n == 0 || search.k == 0) return out;

    std::vector<uint32_t> rows;
    if (among && allowed != nullptr) {
        allowed->for_each([&](size_t row) { rows.push_back(static_cast<uint32_t>(row)); });
    } else if (among) {
        rows.resize(now.live.count);
        std::iota(rows.begin(), rows.end(), 0u);
    }
    const size_t dims = codes.coarse->dims(), ranked_lists = search.ranked;
    const size_t threads = run.threads != 0 ? run.threads : queries.n == 1 ? 1 : usable_cpus();
    std::vector<AllowedRows> allowed_rows(filtered && !among && queries.n * ranked_lists > lists ? lists : 0);
    parallel_for(allowed_rows.size(), {threads, run.poll}, [&](size_t list) {
        allowed_rows[list].set({codes.lists[list]->rows, codes.lists[list]->size}, *allowed);
    });
    search.allowed_rows = allowed_rows;
    const size_t most = std::min(kPartQueries, kPartProbes / ranked_lists + 1);
    const size_t part = std::min(most, (queries.n + threads - 1) / threads);
    parallel_for((queries.n + part - 1) / part, {threads, run.poll}, [&](size_t item) {
        const size_t first = item * part, n = std::min(part, queries.n - first);
        const Vectors own = vectors.part(first, n);
        if (among && reranks && rows.size() * 8 > now.live.count) {
            search.scan_all(own, [&](size_t q, const auto& hits) { report(out, first + q, hits, now); });
            return;
        }
        std::vector<float> compared(n * dims);
        std::vector<Probe> nearest(among ? 0 : n * ranked_lists);
        if (!among) {
            load_compared(own, dims, options_.metric, compared.data());
            codes.coarse->nearest(compared.data(), n, ranked_lists, nearest.data());
        }
        for (size_t i = 0; codes.mapped && i < nearest.size(); ++i) {
            if (i % ranked_lists < probes) codes.ask_for(*codes.lists[nearest[i].list]);
        }
        const auto find = [&](size_t q) {
            return search.find(compared.data() + q * dims, nearest.data() + q * ranked_lists, own.part(q, 1));
        };
        const bool listwise = !among && n > 1 && reranks && codec_->fine_bytes() == 0 && !filtered;
        if (listwise &&
            search.find_candidates_of_many(nearest.data(), own, [&](size_t q, const auto& found, bool enough) {
                checkpoint();
                report(out, first + q, enough ? search.find_among(found, own.part(q, 1)) : find(q), now);
            })) {
            return;
        }
        for (size_t q = 0; q < n; ++q) {
            checkpoint();
            report(out, first + q, among ? search.find_among(rows, own.part(q, 1)) : find(q), now);
        }
    });
    return out;
}

RangeResult Ivf::range_search(const Vectors& queries, double radius, const SearchOptions& options,
                              const Run& run) const {
    if (std::isnan(radius)) throw InvalidInput("radius: NaN given, expected a number");
    const Snapshot now = snapshot();
    const IvfCodes& codes = codes_of(now);
    const size_t lists = codes.lists.size(), probes = std::min(lists, options.probes.value_or(probes_of(codes)));
    if (options.probes == size_t{0}) throw InvalidInput("probes: 0 given, expected at least 1");
    const Version version = version_of(now, options.version);
    check_reranked(queries, "queries");
    const CheckedVectors vectors = version.codec->check(queries, "queries");
    std::vector<std::vector<std::pair<int64_t, float>>> found(queries.n);
    if (now.live.size() == 0) return RangeResult(found);
    std::optional<Bitmap> rebuilt;
    Search search{now,
                  version,
                  codes,
                  {&now.live, live_rows_of(now, options, rebuilt)},
                  {codec_->row_bytes(), (rerank_ ? *rerank_ : *codec_).row_bytes()}};
    search.probes = search.ranked = probes;

    // Scores are compared as the user sees them, in float32.
    const auto limit = static_cast<float>(radius);
    const bool similarity = is_similarity(options_.metric);
    const size_t dims = codes.coarse->dims();
    const size_t threads = run.threads != 0 ? run.threads : queries.n == 1 ? 1 : usable_cpus();
    parallel_for(queries.n, {threads, run.poll}, [&](size_t q) {
        const Vectors query = vectors.part(q, 1);
        std::vector<float> compared(dims);
        std::vector<Probe> nearest(probes);
        load_compared(query, dims, options_.metric, compared.data());
        codes.coarse->nearest(compared.data(), 1, probes, nearest.data());
        std::vector<Candidate> inside;
        std::vector<uint32_t> rows;
        search.visit_lists(compared.data(), nearest.data(),
                           [&](const Probe&, const List& list, const uint32_t* tags, size_t) {
                               append_allowed({tags, list.size}, rows);
                           });
        // (A damaged file may name rows that do not exist.)
        rows.erase(std::remove_if(rows.begin(), rows.end(), [&](uint32_t row) { return !now.live.contains(row); }),
                   rows.end());
        std::sort(rows.begin(), rows.end());
        rows.erase(std::unique(rows.begin(), rows.end()), rows.end());
        const std::unique_ptr<Settler> settler = now.finest(version, query);
        const double distance = core_distance(options_.metric, limit);
        const auto bound = static_cast<float>(distance + std::abs(distance) * 1e-6 + 1e-37);
        for (const Candidate& c : settler->bounded(0, rows)) {
            if (!(c.low > bound)) inside.push_back(c);
        }
        settler->settle(0, inside);
        keep_best(inside, inside.size(), *now.state->ids);
        for (const Candidate& c : inside) {
            const float score = api_score(options_.metric, c.exact);
            if (similarity ? score >= limit : score <= limit) {
                found[q].emplace_back(now.state->ids->id_of(c.row), score);
            }
        }
    });
    return RangeResult(found);
}

}  // namespace nearfield
