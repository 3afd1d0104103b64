#include "search/index.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "search/index_state.hpp"

namespace nearfield {

namespace {

constexpr std::string_view kRerankPrefix = "rerank.";  // of what is given for the finer codec

uint64_t new_version() {
    static std::atomic<uint64_t> last{0};
    return ++last;
}

}  // namespace

SearchResult::SearchResult(size_t queries, size_t places) : k(places), counts(queries) {
    if (queries != 0 && k > std::numeric_limits<size_t>::max() / 16 / queries) throw std::bad_alloc();
    ids.assign(queries * k, -1);
    scores.assign(queries * k, std::numeric_limits<float>::quiet_NaN());
}

RangeResult::RangeResult(const std::vector<std::vector<std::pair<int64_t, float>>>& found) : offsets{0} {
    for (const auto& hits : found) {
        for (const auto& [id, score] : hits) {
            ids.push_back(id);
            scores.push_back(score);
        }
        offsets.push_back(static_cast<int64_t>(ids.size()));
    }
}

Index::Index(IndexOptions options, std::shared_ptr<const Codec> codec)
    : options_(std::move(options)), codec_(std::move(codec)) {
    options_.codec = {std::string(codec_->name()), codec_->parameters()};
    if (!(options_.oversample >= 1)) {
        throw InvalidInput("oversample: " + std::to_string(options_.oversample) + " given, expected at least 1");
    }
    if (options_.rerank.name.empty()) return;
    if (is_bit_metric(options_.metric)) {
        throw InvalidInput("rerank: \"" + options_.rerank.name + "\" given, but packed bits are compared exactly");
    }
    try {
        rerank_ = make_codec(options_.rerank, options_.dim, options_.metric);
    } catch (const InvalidInput& e) {
        const std::string why = e.what();
        throw InvalidInput("rerank" + (why.starts_with("codec") ? why.substr(std::strlen("codec")) : ": " + why));
    }
    options_.rerank = {std::string(rerank_->name()), rerank_->parameters()};
}

Index::~Index() = default;

Index::Snapshot Index::without_rows(std::shared_ptr<const Codes> codes) const {
    return {.state = std::make_shared<State>(rerank_.get()),
            .live = {},
            .versions = std::make_shared<Versions>(),
            .codes = std::move(codes),
            .tuning = std::make_shared<Tuning>(),
            .version = new_version()};
}

Index::Snapshot Index::snapshot() const {
    const std::lock_guard lock(published_);
    return *newest_;
}

void Index::publish(Snapshot next) const {
    auto newest = std::make_unique<Snapshot>(std::move(next));
    const std::lock_guard lock(published_);
    newest_.swap(newest);  // the old one is let go after the lock
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing
// ---------------------------------------------------------------------------------------------------------------------

void Index::encode_batch(const Codec& codec, const Vectors& vectors, size_t first, std::byte* codes) {
    const CheckedVectors batch = codec.check(vectors, "vectors", first);
    try {
        codec.encode(batch.view(), codes);
    } catch (const UnencodableVector& e) {
        throw InvalidInput("vectors: row " + std::to_string(first + e.row) + " " + e.what());
    }
}

void Index::encode(const Codec& codec, const Vectors& vectors, size_t used, const Put& put, const Run& run) const {
    constexpr size_t kRowsPerItem = 1024;
    static_assert(kRowsPerItem % kBatchRows == 0 && kBatchRows % kernels::kGroup == 0);
    const size_t count = used + vectors.n, base = used / kRowsPerItem * kRowsPerItem;
    parallel_for((count - base + kRowsPerItem - 1) / kRowsPerItem, run, [&](size_t item) {
        thread_local std::vector<std::byte> codes;
        const size_t last = std::min(count, base + (item + 1) * kRowsPerItem);
        for (size_t row = std::max(used, base + item * kRowsPerItem); row < last;) {
            const size_t n = std::min(kBatchRows - row % kBatchRows, last - row);  // ends with a group
            codes.resize(n * codec.row_bytes());
            encode_batch(codec, vectors.part(row - used, n), row - used, codes.data());
            put(row, n, codes.data());
            row += n;
        }
    });
}

// Appends rows to the stores and returns the snapshot that shows them, which the caller publishes.
Index::Snapshot Index::append(const Snapshot& now, const Vectors& vectors, const int64_t* ids, size_t version,
                              const Run& run) const {
    State& state = *now.state;
    const size_t used = now.live.count, count = used + vectors.n;
    if (count > std::numeric_limits<uint32_t>::max()) {
        throw InvalidInput("vectors: an index holds at most 4294967295 rows");
    }
    const double coded = state.rerank ? 0.75 : 1.0;  // share of the work
    Snapshot next = now;
    next.codes = append_codes(now, vectors, version, part_of(run, 0, coded));
    if (state.rerank) {
        state.rerank->reserve(count, used);
        const auto put = [&](size_t row, size_t n, const std::byte* codes) {
            state.rerank->put(row, n, codes, now.rerank(), nullptr);
        };
        encode(*now.versions->all[version].rerank, vectors, used, put, part_of(run, coded, 1));
    }
    state.ids->append(ids, used, vectors.n);
    next.live.count = count;
    auto versions = std::make_shared<Versions>(*now.versions);
    versions->append(used, version);
    next.versions = std::move(versions);
    return next;
}

namespace {

// Throws InvalidInput for an id that is negative or stands twice.
void check_ids(const int64_t* ids, size_t n) {
    std::vector<int64_t> sorted(ids, ids + n);
    std::sort(sorted.begin(), sorted.end());
    if (n > 0 && sorted[0] < 0) throw InvalidInput("ids: " + std::to_string(sorted[0]) + " is negative");
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice != sorted.end()) throw InvalidInput("ids: " + std::to_string(*twice) + " is repeated");
}

}  // namespace

// The finer codec takes numbers only.
void Index::check_reranked(const Vectors& vectors, std::string_view name) const {
    if (vectors.type != kernels::kBits || !rerank_) return;
    throw InvalidInput(std::string(name) + ": packed bits given, but rerank codec \"" + options_.rerank.name +
                       "\" needs numbers");
}

// The place of a version among those of `next`, which it joins, after learning, if it is new.
size_t Index::version_for(Snapshot& next, const std::string& name, const Vectors& sample, Learned given,
                          const Run& run) const {
    const size_t place = next.versions->find(name);
    if (place < next.versions->all.size()) return place;
    constexpr size_t kVersions = 65535;
    if (place == kVersions) throw InvalidInput("version: an index holds at most 65535 versions");
    Version made{name, codec_, rerank_};
    if (learns()) {
        for (size_t first = 0; first < sample.n; first += kBatchRows) {
            codec_->check(sample.part(first, std::min(kBatchRows, sample.n - first)), "vectors", first);
        }
        learn(next, made, sample, std::move(given), run);
    } else if (!given.empty()) {
        throw InvalidInput("codec: \"" + std::string(codec_->name()) + "\" has nothing to learn");
    }
    auto versions = std::make_shared<Versions>(*next.versions);
    versions->all.push_back(std::move(made));
    next.versions = std::move(versions);
    return place;
}

Vectors Index::sample_of(const Vectors& vectors, size_t enough, size_t part) {
    const size_t most = std::max(std::min(enough, vectors.n / part), size_t{1} << 14);
    const size_t step = std::max<size_t>(1, (vectors.n + most - 1) / most);
    return {vectors.data, vectors.type, (vectors.n + step - 1) / step, vectors.dim, vectors.stride * step};
}

void Index::learn(Snapshot& /*next*/, Version& made, const Vectors& vectors, Learned given, const Run& /*run*/) const {
    const size_t enough = std::max(codec_->sample(), rerank_ ? rerank_->sample() : 0);
    const CheckedVectors checked = codec_->check(sample_of(vectors, enough), "vectors");
    Learned finer = take_finer(given);
    if (codec_->untrained()) made.codec = codec_->trained(checked.view(), std::move(given));
    if (rerank_ && rerank_->untrained()) made.rerank = rerank_->trained(checked.view(), std::move(finer));
}

Learned Index::take_finer(Learned& given) {
    Learned out;
    for (auto at = given.lower_bound(kRerankPrefix); at != given.end() && at->first.starts_with(kRerankPrefix);) {
        out[at->first.substr(kRerankPrefix.size())] = std::move(at->second);
        at = given.erase(at);
    }
    return out;
}

void Index::train(const Vectors& sample, const std::string& version, Learned given, const Run& run) {
    check_dim(sample, options_.dim, "vectors");
    if (!learns()) throw InvalidInput("codec: \"" + std::string(codec_->name()) + "\" has nothing to learn");
    if (sample.n == 0) throw InvalidInput("vectors: none given to learn from");
    const std::lock_guard lock(writer_);
    Snapshot next = snapshot();
    if (next.versions->find(version) < next.versions->all.size()) {
        throw InvalidInput("version: \"" + version + "\" has been trained already");
    }
    version_for(next, version, sample, std::move(given), run);
    publish(std::move(next));
}

std::vector<int64_t> Index::add(const Vectors& vectors, const int64_t* ids, const std::string& version, Learned learned,
                                const Run& run) {
    check_dim(vectors, options_.dim, "vectors");
    check_reranked(vectors, "vectors");
    const std::lock_guard lock(writer_);
    Snapshot now = snapshot();
    State& state = *now.state;
    std::vector<int64_t> given(vectors.n);
    if (ids != nullptr) {
        check_ids(ids, vectors.n);
        for (size_t i = 0; i < vectors.n; ++i) {
            if (state.ids->find(ids[i], now.live, now.live.count)) {
                throw IdError("ids: " + std::to_string(ids[i]) + " exists");
            }
        }
        std::copy_n(ids, vectors.n, given.begin());
    } else {
        if (state.next_id > std::numeric_limits<int64_t>::max() - static_cast<int64_t>(vectors.n)) {
            throw InvalidInput("ids: none left after " + std::to_string(state.next_id - 1));
        }
        std::iota(given.begin(), given.end(), state.next_id);
    }
    if (vectors.n == 0) return given;
    const auto [least, largest] = std::minmax_element(given.begin(), given.end());
    const double trained = learns() && now.versions->find(version) == now.versions->all.size() ? 0.5 : 0.0;
    const size_t place = version_for(now, version, vectors, std::move(learned), part_of(run, 0, trained));
    Snapshot next = append(now, vectors, given.data(), place, part_of(run, trained, 1));
    if (*least < state.next_id) next.version = new_version();  // an id may be back, in another row
    publish(std::move(next));
    constexpr int64_t kLast = std::numeric_limits<int64_t>::max();
    state.next_id = std::max(state.next_id, *largest == kLast ? kLast : *largest + 1);
    return given;
}

std::vector<uint32_t> Index::rows_of(const Snapshot& now, const int64_t* ids, size_t n) const {
    std::vector<uint32_t> rows(n);
    for (size_t i = 0; i < n; ++i) {
        const auto row = now.state->ids->find(ids[i], now.live, now.live.count);
        if (!row) throw IdError("ids: " + std::to_string(ids[i]) + " is not in the index");
        rows[i] = *row;
    }
    return rows;
}

void Index::update(const int64_t* ids, const Vectors& vectors, const Run& run) {
    check_dim(vectors, options_.dim, "vectors");
    check_reranked(vectors, "vectors");
    const std::lock_guard lock(writer_);
    const Snapshot now = snapshot();
    check_ids(ids, vectors.n);
    const std::vector<uint32_t> rows = rows_of(now, ids, vectors.n);
    if (vectors.n == 0) return;
    const size_t version = now.versions->of_row(rows[0]);
    for (const uint32_t row : rows) {
        if (now.versions->of_row(row) != version) {
            throw InvalidInput("ids: vectors of several versions given; update those of one version at a time");
        }
    }
    Snapshot next = append(now, vectors, ids, version, run);
    next.live = next.live.without(rows);
    next.version = new_version();
    publish(compacted_if_sparse(std::move(next)));
}

void Index::remove(const int64_t* ids, size_t n) {
    const std::lock_guard lock(writer_);
    Snapshot next = snapshot();
    check_ids(ids, n);
    if (n == 0) return;
    next.live = next.live.without(rows_of(next, ids, n));
    publish(compacted_if_sparse(std::move(next)));
}

Index::Snapshot Index::compacted_if_sparse(Snapshot now) const {
    constexpr size_t kFewest = 1024;
    return now.live.dead_count >= kFewest && now.live.dead_count * 4 > now.live.count ? compacted(now) : now;
}

// The live rows in stores of their own; readers of the old ones finish there.
Index::Snapshot Index::compacted(const Snapshot& old) const {
    const State& from = *old.state;
    auto fresh = std::make_shared<State>(rerank_.get());
    auto versions = std::make_shared<Versions>();
    versions->all = old.versions->all;
    std::vector<int64_t> ids;
    std::vector<uint32_t> rows;
    rows.reserve(old.live.size());
    for (size_t row = 0; row < old.live.count; ++row) {
        if (!old.live.contains(row)) continue;
        if (!old.versions->rows.empty()) versions->append(rows.size(), old.versions->of_row(row));
        ids.push_back(from.ids->id_of(row));
        rows.push_back(static_cast<uint32_t>(row));
    }
    Snapshot out = old;
    out.codes = compacted_codes(old, rows);
    if (fresh->rerank) {
        fresh->rerank->reserve(rows.size(), 0);
        old.rerank().copy_to(rows, *fresh->rerank, nullptr);
    }
    if (!rows.empty()) fresh->ids->append(ids.data(), 0, rows.size());
    fresh->next_id = from.next_id;
    out.state = std::move(fresh);
    out.live = {rows.size(), 0, nullptr};
    out.versions = std::move(versions);
    out.version = new_version();
    return out;
}

// ---------------------------------------------------------------------------------------------------------------------
// Looking
// ---------------------------------------------------------------------------------------------------------------------

std::shared_ptr<Filter> Index::filter_of_mask(const bool* mask, size_t n) const {
    const Snapshot now = snapshot();
    if (n != now.live.size()) {
        throw InvalidInput("filter: a mask of length " + std::to_string(n) + " given, the index holds " +
                           std::to_string(now.live.size()) + " vectors");
    }
    auto filter = std::make_shared<Filter>();
    filter->version_ = now.version;
    filter->rows_.emplace(now.live.count);
    for (size_t row = 0, at = 0; row < now.live.count; ++row) {
        if (!now.live.contains(row) || !mask[at++]) continue;
        filter->rows_->set(row);
        filter->ids_.push_back(now.state->ids->id_of(row));
    }
    return filter;
}

std::shared_ptr<Filter> Index::filter_of_ids(const int64_t* ids, size_t n) const {
    const Snapshot now = snapshot();
    auto filter = std::make_shared<Filter>();
    filter->version_ = now.version;
    filter->rows_.emplace(now.live.count);
    for (size_t i = 0; i < n; ++i) {
        const auto row = now.state->ids->find(ids[i], now.live, now.live.count);
        if (!row || filter->rows_->contains(*row)) continue;
        filter->rows_->set(*row);
        filter->ids_.push_back(ids[i]);
    }
    return filter;
}

size_t Index::size() const { return snapshot().live.size(); }

size_t Index::nbytes() const {
    const Snapshot now = snapshot();
    const size_t count = now.live.count;
    size_t bytes = now.codes->nbytes() + now.state->ids->nbytes(count);
    const auto learned_bytes = [](const Codec& codec) {
        size_t sum = 0;
        for (const auto& [name, values] : codec.learned()) sum += values.size() * sizeof(float);
        return sum;
    };
    for (const auto& version : now.versions->all) {
        bytes += learned_bytes(*version.codec) + (version.rerank ? learned_bytes(*version.rerank) : 0);
    }
    if (now.live.dead) bytes += now.live.dead->words().size() * sizeof(uint64_t);
    if (now.state->rerank) bytes += now.state->rerank->nbytes(count);
    return bytes;
}

std::vector<int64_t> Index::ids() const {
    const Snapshot now = snapshot();
    std::vector<int64_t> out;
    out.reserve(now.live.size());
    for (size_t row = 0; row < now.live.count; ++row) {
        if (now.live.contains(row)) out.push_back(now.state->ids->id_of(row));
    }
    return out;
}

std::vector<std::pair<std::string, size_t>> Index::versions() const {
    const Snapshot now = snapshot();
    std::vector<std::pair<std::string, size_t>> out;
    for (const auto& version : now.versions->all) out.emplace_back(version.name, 0);
    now.versions->for_each(now.live.count, [&](size_t version, size_t first, size_t last) {
        for (size_t row = first; row < last; ++row) out[version].second += now.live.contains(row) ? 1 : 0;
    });
    return out;
}

bool Index::untrained(const std::string& version) const {
    const Snapshot now = snapshot();
    return learns() && now.versions->find(version) == now.versions->all.size();
}

void Index::set_tuning(Tuning tuning) {
    for (size_t i = 0; i < tuning.table.size(); ++i) {
        const Tuning::Entry& entry = tuning.table[i];
        const bool ordered = i == 0 || entry.recall > tuning.table[i - 1].recall;
        if (!(entry.recall > 0 && entry.recall <= 1) || !ordered || !(entry.oversample >= 1)) {
            throw InvalidInput("tuning: entries must have growing recalls in (0, 1] and values of at least 1");
        }
    }
    const std::lock_guard lock(writer_);
    Snapshot next = snapshot();
    next.tuning = std::make_shared<Tuning>(std::move(tuning));
    publish(std::move(next));
}

Tuning Index::tuning() const { return *snapshot().tuning; }

bool Index::contains(int64_t id) const {
    const Snapshot now = snapshot();
    return now.state->ids->find(id, now.live, now.live.count).has_value();
}

const Bitmap* Index::rows_of(const Snapshot& now, const SearchOptions& options, std::optional<Bitmap>& made) const {
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

Version Index::version_of(const Snapshot& now, const std::optional<std::string>& version) const {
    const Versions& versions = *now.versions;
    if (!version) return versions.all.empty() ? Version{"", codec_, rerank_} : versions.all.back();
    const size_t place = versions.find(*version);
    if (place < versions.all.size()) return versions.all[place];
    std::string known;
    for (const auto& one : versions.all) known.append(known.empty() ? "\"" : ", \"").append(one.name).append("\"");
    throw InvalidInput("version: \"" + *version + "\" is not one of those in the index (" + known + ")");
}

std::vector<float> Index::score(const Vectors& queries, const int64_t* ids, size_t m, bool per_query,
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
    if (rows.empty()) return out;
    const size_t threads = run.threads != 0 ? run.threads : queries.n == 1 ? 1 : usable_cpus();
    parallel_for(queries.n, {threads, run.poll}, [&](size_t q) {
        const size_t list = per_query ? q : 0, n = begin[list + 1] - begin[list];
        std::vector<double> exact(n);
        now.finest(coded_as, vectors.part(q, 1))->settle(0, rows.data() + begin[list], n, exact.data());
        for (size_t i = 0, at = 0; i < m; ++i) {
            if (ids[list * m + i] != -1) out[q * m + i] = api_score(options_.metric, exact[at++]);
        }
    });
    return out;
}

std::vector<float> Index::reconstruct(const int64_t* ids, size_t n) const {
    const Snapshot now = snapshot();
    const std::vector<uint32_t> rows = rows_of(now, ids, n);
    std::vector<float> out(n * options_.dim);
    std::vector<std::byte> row(rerank_ ? rerank_->row_bytes() : 0);
    for (size_t i = 0; i < n; ++i) {
        const Version& version = now.versions->all[now.versions->of_row(rows[i])];
        float* vector = out.data() + i * options_.dim;
        if (!rerank_) {
            now.codes->decode(*version.codec, &rows[i], 1, vector);
            continue;
        }
        now.rerank().copy(&rows[i], 1, row.data());
        version.rerank->decode({row.data(), row.size()}, nullptr, 1, vector);
    }
    return out;
}

std::vector<uint8_t> Index::codes(const int64_t* ids, size_t n) const {
    const Snapshot now = snapshot();
    const std::vector<uint32_t> rows = rows_of(now, ids, n);
    std::vector<uint8_t> out(n * code_bytes());
    now.codes->copy(rows.data(), n, reinterpret_cast<std::byte*>(out.data()));
    return out;
}

// ---------------------------------------------------------------------------------------------------------------------
// For searches
// ---------------------------------------------------------------------------------------------------------------------

void Index::take_tuned(const Snapshot& now, SearchOptions& options) const {
    if (!options.recall) return;
    const char* given = options.oversample ? "oversample" : options.probes ? "probes" : nullptr;
    if (given) throw InvalidInput("recall: given together with " + std::string(given) + ", which it stands for");
    const Tuning::Entry& entry = now.tuning->entry_for(*options.recall);
    if (rerank_) options.oversample = entry.oversample;
    if (entry.probes > 0) options.probes = entry.probes;
}

double Index::oversample_of(const SearchOptions& options) const {
    if (!options.oversample) return options_.oversample;
    if (!(*options.oversample >= 1)) {
        throw InvalidInput("oversample: " + std::to_string(*options.oversample) + " given, expected at least 1");
    }
    if (!rerank_) {
        throw InvalidInput("oversample: " + std::to_string(*options.oversample) +
                           " given to an index without a rerank codec");
    }
    return *options.oversample;
}

std::vector<Candidate> Index::refined(const Snapshot& now, const Version& version, const Vectors& query,
                                      const std::vector<uint32_t>& candidates, size_t k) const {
    const StoreSettler settler(version.rerank->prepare(query), now.rerank());
    TopK best(1, k, {&now.live, nullptr}, settler, *now.state->ids);
    for (const Candidate& c : settler.bounded(0, candidates)) best.offer(0, c);
    return std::move(best.finish(0));
}

void Index::report(SearchResult& out, size_t query, const std::vector<Candidate>& hits, const Snapshot& now) const {
    for (size_t i = 0; i < hits.size(); ++i) {
        out.ids[query * out.k + i] = now.state->ids->id_of(hits[i].row);
        out.scores[query * out.k + i] = api_score(options_.metric, hits[i].exact);
    }
    out.counts[query] = static_cast<int64_t>(hits.size());
}

}  // namespace nearfield
