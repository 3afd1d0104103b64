#include "search/flat.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "codecs/dense.hpp"
#include "search/flat_state.hpp"

namespace nearfield {

using kernels::kGroup;

namespace {

constexpr size_t kBatchRows = 256;  // rows converted and encoded at a time

}  // namespace

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
    if (n > 0 && sorted[0] < 0) throw InvalidInput("ids: " + std::to_string(sorted[0]) + " is negative");
    const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
    if (twice != sorted.end()) throw InvalidInput("ids: " + std::to_string(*twice) + " is repeated");
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
            if (now->ids->find(ids[i], now->live, now->count)) throw IdError("ids: " + std::to_string(ids[i]) + " exists");
        }
        std::copy_n(ids, vectors.n, given.begin());
    } else {
        if (now->next_id > std::numeric_limits<int64_t>::max() - static_cast<int64_t>(vectors.n)) {
            throw InvalidInput("ids: none left after " + std::to_string(now->next_id - 1));
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
        if (!row) throw IdError("ids: " + std::to_string(ids[i]) + " is not in the index");
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

}  // namespace nearfield
