#include "search/flat.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "codecs/bits.hpp"
#include "codecs/dense.hpp"
#include "search/flat_state.hpp"

namespace nearfield {

using kernels::kGroup;

namespace {

constexpr size_t kBatchRows = 256;                     // rows converted and encoded at a time
constexpr std::string_view kRerankPrefix = "rerank.";  // of what is given for the finer codec

uint64_t new_version() {
    static std::atomic<uint64_t> last{0};
    return ++last;
}

}  // namespace

Flat::Flat(FlatOptions options) : Flat(options, make_codec(options.codec, options.dim, options.metric)) {}

Flat::Flat(FlatOptions options, std::shared_ptr<const Codec> codec)
    : options_(std::move(options)), codec_(std::move(codec)) {
    options_.codec = {std::string(codec_->name()), codec_->parameters()};
    if (!(options_.oversample >= 1)) {
        throw InvalidInput("oversample: " + std::to_string(options_.oversample) + " given, expected at least 1");
    }
    if (!options_.rerank.name.empty()) {
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
    // A screen is an image of floats; other codes are no larger than it would be.
    const std::string& name = options_.codec.name;
    const bool floats = name == "f32" || name == "f16" || name == "bf16";
    if (!floats || options_.codec.parameters.size() > 0) options_.screen = false;
    newest_ = std::make_unique<Snapshot>(Snapshot{.state = std::make_shared<State>(*codec_, rerank_.get()),
                                                  .live = {},
                                                  .versions = std::make_shared<Versions>(),
                                                  .tail = {},
                                                  .tuning = std::make_shared<Tuning>(),
                                                  .version = new_version()});
}

Flat::~Flat() = default;

std::unique_ptr<Flat> Flat::over(const Vectors& vectors, Metric metric) {
    FlatOptions options;
    options.dim = vectors.dim;
    options.metric = metric;
    options.screen = false;
    std::unique_ptr<Codec> codec;
    if (is_bit_metric(metric)) {
        codec = std::make_unique<BitsCodec>(vectors.dim, metric);
    } else {
        codec = std::make_unique<DenseCodec>(vectors.type, vectors.dim, metric);
    }
    if (vectors.type <= kernels::kBF16) {
        std::vector<float> batch(std::min(vectors.n, kBatchRows) * vectors.dim);
        for (size_t first = 0; first < vectors.n; first += kBatchRows) {
            const size_t n = std::min(kBatchRows, vectors.n - first);
            vectors.to_f32(first, n, batch.data());
            check_finite(batch.data(), n, vectors.dim, "vectors", first);
        }
    }
    std::unique_ptr<Flat> index(new Flat(options, std::move(codec)));
    Snapshot all = index->snapshot();
    all.state = std::make_shared<State>(*index->codec_, vectors.data, nullptr, vectors.n, nullptr);
    all.live.count = vectors.n;
    index->publish(std::move(all));
    return index;
}

Flat::Snapshot Flat::snapshot() const {
    const std::lock_guard lock(published_);
    return *newest_;
}

void Flat::publish(Snapshot next) const {
    auto newest = std::make_unique<Snapshot>(std::move(next));
    const std::lock_guard lock(published_);
    newest_.swap(newest);  // the old one is let go after the lock
}

// ---------------------------------------------------------------------------------------------------------------------
// Writing
// ---------------------------------------------------------------------------------------------------------------------

// Tails for rows that are about to be added.
struct Flat::Tails {
    CodeStore::Tail rows, rerank;
};

// Encodes vectors [first, first + count) to the rows behind those of `now`.
void Flat::encode_rows(const Snapshot& now, const Tails& tails, size_t version, const Vectors& vectors, size_t first,
                       size_t count) const {
    State& state = *now.state;
    const Version& codecs = now.versions->all[version];
    thread_local std::vector<std::byte> coded;
    const auto put = [&](const Codec& codec, CodeStore& store, const CodeStore::Tail& tail,
                         const CodeStore::View& before, const Vectors& batch, size_t row) {
        coded.resize(batch.n * codec.row_bytes());
        codec.encode(batch, coded.data());
        store.put(row, batch.n, coded.data(), before, tail.get());
    };
    for (size_t at = first; at < first + count;) {
        const size_t row = now.live.count + at;
        const size_t n = std::min(kBatchRows - row % kBatchRows, first + count - at);  // ends with a group
        const CheckedVectors batch = codecs.codec->check(vectors.part(at, n), "vectors", at);
        try {
            put(*codecs.codec, state.rows, tails.rows, now.rows(), batch.view(), row);
            if (rerank_) put(*codecs.rerank, *state.rerank, tails.rerank, now.rerank(), batch.view(), row);
        } catch (const UnencodableVector& e) {
            throw InvalidInput("vectors: row " + std::to_string(at + e.row) + " " + e.what());
        }
        at += n;
    }
}

void Flat::extend_screen(State& state, size_t screened, size_t count, const Run& run) const {
    const size_t dim = options_.dim;
    const auto decode = [&](size_t first, size_t n, float* out) {
        for (size_t i = 0; i < n; ++i) {
            codec_->decode({state.rows.row(first + i), state.rows.row_bytes()}, nullptr, 1, out + i * dim);
        }
    };
    std::unique_ptr<Screen> made;  // kept only once it is complete
    if (screened == 0) {
        std::vector<float> sample(kScreenFrom * dim);
        decode(0, kScreenFrom, sample.data());
        ScreenCodec codec(dim, options_.metric,
                          ScreenCodec::center_of(sample.data(), kScreenFrom, dim, options_.metric));
        const size_t group_bytes = codec.group_bytes();
        made.reset(new Screen{std::move(codec), RowStore(group_bytes)});
    }
    Screen& screen = made ? *made : *state.screen;
    const size_t first = screened / kGroup, last = count / kGroup;
    screen.groups.reserve(last, first);
    constexpr size_t kGroupsPerItem = 32;
    parallel_for((last - first + kGroupsPerItem - 1) / kGroupsPerItem, run, [&](size_t item) {
        std::vector<float> vectors(kGroup * dim);
        const size_t begin = first + item * kGroupsPerItem, end = std::min(last, begin + kGroupsPerItem);
        for (size_t group = begin; group < end; ++group) {
            decode(group * kGroup, kGroup, vectors.data());
            screen.codec.encode_group(vectors.data(), screen.groups.writable(group));
        }
    });
    if (made) state.screen = std::move(made);
}

// Appends rows to the stores and returns the snapshot that shows them, which the caller publishes.
Flat::Snapshot Flat::append(const Snapshot& now, const Vectors& vectors, const int64_t* ids, size_t version,
                            const Run& run) const {
    State& state = *now.state;
    const size_t used = now.live.count, count = used + vectors.n;
    if (count > std::numeric_limits<uint32_t>::max()) {
        throw InvalidInput("vectors: an index holds at most 4294967295 rows");
    }
    Tails tails{state.rows.reserve(count, used), {}};
    if (state.rerank) tails.rerank = state.rerank->reserve(count, used);
    constexpr size_t kRowsPerItem = 1024;
    static_assert(kRowsPerItem % kBatchRows == 0 && kBatchRows % kGroup == 0);
    const size_t base = used / kRowsPerItem * kRowsPerItem;
    const bool screens = options_.screen && count >= kScreenFrom;
    const double encoded = screens ? 0.5 : 1.0;  // share of the work
    parallel_for((count - base + kRowsPerItem - 1) / kRowsPerItem, part_of(run, 0, encoded), [&](size_t item) {
        const size_t first = std::max(used, base + item * kRowsPerItem);
        const size_t last = std::min(count, base + (item + 1) * kRowsPerItem);
        encode_rows(now, tails, version, vectors, first - used, last - first);
    });
    if (screens) extend_screen(state, now.screened, count, part_of(run, encoded, 1));
    state.ids->append(ids, used, vectors.n);
    Snapshot next = now;
    next.live.count = count;
    next.tail = std::move(tails.rows);
    auto versions = std::make_shared<Versions>(*now.versions);
    versions->append(used, version);
    next.versions = std::move(versions);
    if (screens) next.screened = count / kGroup * kGroup;
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
void Flat::check_reranked(const Vectors& vectors, std::string_view name) const {
    if (vectors.type != kernels::kBits || !rerank_) return;
    throw InvalidInput(std::string(name) + ": packed bits given, but rerank codec \"" + options_.rerank.name +
                       "\" needs numbers");
}

// The place of a version among those of `next`, which it joins, after learning, if it is new.
size_t Flat::version_for(Snapshot& next, const std::string& name, const Vectors& sample, Learned given) const {
    const size_t place = next.versions->find(name);
    if (place < next.versions->all.size()) return place;
    constexpr size_t kVersions = 65535;
    if (place == kVersions) throw InvalidInput("version: an index holds at most 65535 versions");
    Version made{name, codec_, rerank_};
    const bool finer = rerank_ && rerank_->untrained();
    if (codec_->untrained() || finer) {
        for (size_t first = 0; first < sample.n; first += kBatchRows) {
            codec_->check(sample.part(first, std::min(kBatchRows, sample.n - first)), "vectors", first);
        }
        // Evenly spread; many of them only where they are a small part of all, since they are copied.
        const size_t enough = std::max(codec_->sample(), rerank_ ? rerank_->sample() : 0);
        const size_t most = std::max(std::min(enough, sample.n / 8), size_t{1} << 14);
        const size_t step = (sample.n + most - 1) / most;
        const Vectors some{sample.data, sample.type, (sample.n + step - 1) / step, sample.dim, sample.stride * step};
        const CheckedVectors checked = codec_->check(some, "vectors");
        Learned given_finer;
        for (auto at = given.lower_bound(kRerankPrefix); at != given.end() && at->first.starts_with(kRerankPrefix);) {
            given_finer[at->first.substr(kRerankPrefix.size())] = std::move(at->second);
            at = given.erase(at);
        }
        if (codec_->untrained()) made.codec = codec_->trained(checked.view(), std::move(given));
        if (finer) made.rerank = rerank_->trained(checked.view(), std::move(given_finer));
    } else if (!given.empty()) {
        throw InvalidInput("codec: \"" + std::string(codec_->name()) + "\" has nothing to learn");
    }
    auto versions = std::make_shared<Versions>(*next.versions);
    versions->all.push_back(std::move(made));
    next.versions = std::move(versions);
    return place;
}

void Flat::train(const Vectors& sample, const std::string& version, Learned given) {
    check_dim(sample, options_.dim, "vectors");
    if (!codec_->untrained() && !(rerank_ && rerank_->untrained())) {
        throw InvalidInput("codec: \"" + std::string(codec_->name()) + "\" has nothing to learn");
    }
    if (sample.n == 0) throw InvalidInput("vectors: none given to learn from");
    const std::lock_guard lock(writer_);
    Snapshot next = snapshot();
    if (next.versions->find(version) < next.versions->all.size()) {
        throw InvalidInput("version: \"" + version + "\" has been trained already");
    }
    version_for(next, version, sample, std::move(given));
    publish(std::move(next));
}

std::vector<int64_t> Flat::add(const Vectors& vectors, const int64_t* ids, const std::string& version, Learned learned,
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
    const size_t place = version_for(now, version, vectors, std::move(learned));
    Snapshot next = append(now, vectors, given.data(), place, run);
    if (*least < state.next_id) next.version = new_version();  // an id may be back, in another row
    publish(std::move(next));
    constexpr int64_t kLast = std::numeric_limits<int64_t>::max();
    state.next_id = std::max(state.next_id, *largest == kLast ? kLast : *largest + 1);
    return given;
}

std::vector<uint32_t> Flat::rows_of(const Snapshot& now, const int64_t* ids, size_t n) const {
    std::vector<uint32_t> rows(n);
    for (size_t i = 0; i < n; ++i) {
        const auto row = now.state->ids->find(ids[i], now.live, now.live.count);
        if (!row) throw IdError("ids: " + std::to_string(ids[i]) + " is not in the index");
        rows[i] = *row;
    }
    return rows;
}

void Flat::update(const int64_t* ids, const Vectors& vectors, const Run& run) {
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

void Flat::remove(const int64_t* ids, size_t n) {
    const std::lock_guard lock(writer_);
    Snapshot next = snapshot();
    check_ids(ids, n);
    if (n == 0) return;
    next.live = next.live.without(rows_of(next, ids, n));
    publish(compacted_if_sparse(std::move(next)));
}

Flat::Snapshot Flat::compacted_if_sparse(Snapshot now) const {
    constexpr size_t kFewest = 1024;
    return now.live.dead_count >= kFewest && now.live.dead_count * 4 > now.live.count ? compacted(now) : now;
}

// The live rows in stores of their own; readers of the old ones finish there.
Flat::Snapshot Flat::compacted(const Snapshot& old) const {
    const State& from = *old.state;
    const size_t left = old.live.size();
    auto fresh = std::make_shared<State>(*codec_, rerank_.get());
    Snapshot out = old;
    out.tail = fresh->rows.reserve(left, 0);
    if (fresh->rerank) fresh->rerank->reserve(left, 0);
    auto versions = std::make_shared<Versions>();
    versions->all = old.versions->all;
    std::vector<int64_t> ids;
    ids.reserve(left);
    std::vector<uint32_t> batch;
    std::vector<std::byte> rows;
    const auto move_batch = [&](const CodeStore::View& view, CodeStore& to, std::byte* tail) {
        rows.resize(batch.size() * view.store->row_bytes());
        view.copy(batch.data(), batch.size(), rows.data());
        to.put(ids.size() - batch.size(), batch.size(), rows.data(), to.view({}, 0), tail);
    };
    for (size_t row = 0; row < old.live.count; ++row) {
        if (!old.live.contains(row)) continue;
        if (!old.versions->rows.empty()) versions->append(ids.size(), old.versions->of_row(row));
        ids.push_back(from.ids->id_of(row));
        batch.push_back(static_cast<uint32_t>(row));
        if (batch.size() < kBatchRows && ids.size() < left) continue;
        move_batch(old.rows(), fresh->rows, out.tail.get());
        if (fresh->rerank) move_batch(old.rerank(), *fresh->rerank, nullptr);
        batch.clear();
    }
    if (options_.screen && left >= kScreenFrom) extend_screen(*fresh, 0, left, Run{});
    if (left > 0) fresh->ids->append(ids.data(), 0, left);
    fresh->next_id = from.next_id;
    out.screened = fresh->screen ? left / kGroup * kGroup : 0;
    out.state = std::move(fresh);
    out.live = {left, 0, nullptr};
    out.versions = std::move(versions);
    out.version = new_version();
    return out;
}

// ---------------------------------------------------------------------------------------------------------------------
// Looking
// ---------------------------------------------------------------------------------------------------------------------

std::shared_ptr<Filter> Flat::filter_of_mask(const bool* mask, size_t n) const {
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

std::shared_ptr<Filter> Flat::filter_of_ids(const int64_t* ids, size_t n) const {
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

size_t Flat::size() const { return snapshot().live.size(); }

size_t Flat::nbytes() const {
    const Snapshot now = snapshot();
    const size_t count = now.live.count;
    size_t bytes = now.state->rows.nbytes(count) + now.state->ids->nbytes(count);
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
    if (now.screened > 0) {
        bytes += now.screened / kGroup * now.state->screen->groups.row_bytes() + options_.dim * sizeof(float);
    }
    return bytes;
}

std::vector<int64_t> Flat::ids() const {
    const Snapshot now = snapshot();
    std::vector<int64_t> out;
    out.reserve(now.live.size());
    for (size_t row = 0; row < now.live.count; ++row) {
        if (now.live.contains(row)) out.push_back(now.state->ids->id_of(row));
    }
    return out;
}

std::vector<std::pair<std::string, size_t>> Flat::versions() const {
    const Snapshot now = snapshot();
    std::vector<std::pair<std::string, size_t>> out;
    for (const auto& version : now.versions->all) out.emplace_back(version.name, 0);
    now.versions->for_each(now.live.count, [&](size_t version, size_t first, size_t last) {
        for (size_t row = first; row < last; ++row) out[version].second += now.live.contains(row) ? 1 : 0;
    });
    return out;
}

bool Flat::untrained(const std::string& version) const {
    const Snapshot now = snapshot();
    return (codec_->untrained() || (rerank_ && rerank_->untrained())) &&
           now.versions->find(version) == now.versions->all.size();
}

void Flat::set_tuning(Tuning tuning) {
    for (size_t i = 0; i < tuning.table.size(); ++i) {
        const Tuning::Entry& entry = tuning.table[i];
        const bool ordered = i == 0 || entry.recall > tuning.table[i - 1].recall;
        if (!(entry.recall > 0 && entry.recall <= 1) || !ordered || !(entry.value >= 1)) {
            throw InvalidInput("tuning: entries must have growing recalls in (0, 1] and values of at least 1");
        }
    }
    const std::lock_guard lock(writer_);
    Snapshot next = snapshot();
    next.tuning = std::make_shared<Tuning>(std::move(tuning));
    publish(std::move(next));
}

Tuning Flat::tuning() const { return *snapshot().tuning; }

bool Flat::contains(int64_t id) const {
    const Snapshot now = snapshot();
    return now.state->ids->find(id, now.live, now.live.count).has_value();
}

}  // namespace nearfield
