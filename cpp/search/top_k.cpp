#include "search/top_k.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace nearfield {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Candidates kept per query before the list is shrunk, beyond twice k; and before they are settled because the
// estimates do not tell them apart.
constexpr size_t kSpare = 64, kUndecided = 256;
// Rows whose fine bytes are read together.
constexpr size_t kNarrowed = 32;

}  // namespace

void Candidate::settle(double distance) {
    exact = distance;
    const auto rounded = static_cast<float>(distance);
    low = std::nextafter(rounded, -kInfinity);
    high = std::nextafter(rounded, kInfinity);
}

std::vector<Candidate> Settler::bounded(size_t q, const std::vector<uint32_t>& list) const {
    std::vector<Candidate> out(list.size());
    std::vector<float> low(list.size()), high(list.size());
    bound(q, list.data(), list.size(), low.data(), high.data());
    for (size_t i = 0; i < list.size(); ++i) out[i] = {list[i], low[i], high[i]};
    return out;
}

size_t Settler::settle(size_t q, std::vector<Candidate>& candidates) const {
    std::vector<uint32_t> rows;
    for (const Candidate& c : candidates) {
        if (std::isnan(c.exact)) rows.push_back(c.row);
    }
    if (rows.empty()) return 0;
    std::vector<double> exact(rows.size());
    settle(q, rows.data(), rows.size(), exact.data());
    size_t next = 0;
    for (Candidate& c : candidates) {
        if (!std::isnan(c.exact)) continue;
        c.settle(exact[next++]);
    }
    return rows.size();
}

void StoreSettler::settle(size_t q, const uint32_t* list, size_t n, double* out) const {
    rows_.for_each_run(list, n, [&](Rows rows, const uint32_t* local, size_t first, size_t count) {
        query_->settle(q, rows, local, count, out + first);
    });
}

void StoreSettler::bound(size_t q, const uint32_t* list, size_t n, float* low, float* high) const {
    rows_.for_each_run(list, n, [&](Rows rows, const uint32_t* local, size_t first, size_t count) {
        query_->bound_rows(q, rows, local, count, low + first, high + first);
    });
}

void keep_best(std::vector<Candidate>& candidates, size_t k, const IdMap& ids) {
    const auto better = [&](const Candidate& a, const Candidate& b) {
        return a.exact != b.exact ? a.exact < b.exact : ids.id_of(a.row) < ids.id_of(b.row);
    };
    const size_t kept = std::min(k, candidates.size());
    const auto middle = candidates.begin() + static_cast<std::ptrdiff_t>(kept);
    if (kept < candidates.size()) std::nth_element(candidates.begin(), middle, candidates.end(), better);
    candidates.resize(kept);
    std::sort(candidates.begin(), candidates.end(), better);
}

TopK::TopK(size_t queries, size_t k, Admission admission, const Settler& settler, const IdMap& ids,
           Comparison comparison)
    : k_(k),
      admission_(admission),
      settler_(&settler),
      ids_(&ids),
      comparison_(comparison),
      bounds_(queries),
      open_(comparison.narrow ? queries : 0),
      capacity_(queries),
      lists_(queries) {
    bounds = bounds_.data();
    reset();
}

void TopK::reset() {
    settled_early_ = 0;
    std::fill(bounds_.begin(), bounds_.end(), kInfinity);
    std::fill(capacity_.begin(), capacity_.end(), 2 * k_ + kSpare);
    for (auto& list : lists_) list.clear();
}

void TopK::take(std::span<const Survivor> survivors) noexcept {
    for (const Survivor& s : survivors) {
        const size_t row = row_of(s);
        if (s.low > bounds_[s.query] || !admission_(row)) continue;
        if (!comparison_.narrow) {
            offer(s.query, {static_cast<uint32_t>(row), s.low, s.high});
            continue;
        }
        auto& open = open_[s.query];
        open.push_back(static_cast<uint32_t>(row));
        settler_->prefetch(row);
        if (open.size() >= kNarrowed) narrow(s.query);
    }
}

void TopK::narrow(size_t q) {
    for (const Candidate& candidate : settler_->bounded(q, open_[q])) {
        if (candidate.low <= bounds_[q]) offer(q, candidate);
    }
    open_[q].clear();
    shrink(q);  // at once: every row that a looser bound lets through is one more to be read
}

void TopK::offer_settled(size_t q, uint32_t row, double exact) {
    Candidate candidate{row, 0, 0};
    candidate.settle(exact);
    if (candidate.low <= bounds_[q]) offer(q, candidate);
}

void TopK::offer(size_t q, const Candidate& candidate) {
    const float middle = (candidate.low + candidate.high) / 2;
    if (comparison_.estimates && std::isnan(candidate.exact) && std::isfinite(middle)) {
        if (middle > bounds_[q]) return;
        lists_[q].push_back({candidate.row, middle, middle, static_cast<double>(middle)});
    } else {
        lists_[q].push_back(candidate);
    }
    if (lists_[q].size() >= capacity_[q]) shrink(q);
}

void TopK::shrink(size_t q) {
    auto& list = lists_[q];
    if (list.size() < k_) return;
    const auto kth = list.begin() + static_cast<std::ptrdiff_t>(k_ - 1);
    std::nth_element(list.begin(), kth, list.end(), [](const auto& a, const auto& b) { return a.high < b.high; });
    const float bound = bounds_[q] = std::min(bounds_[q], kth->high);
    std::erase_if(list, [bound](const Candidate& c) { return c.low > bound; });
    if (list.size() <= capacity_[q] / 4 * 3) return;
    if (capacity_[q] < 8 * k_ + kUndecided) {
        capacity_[q] *= 2;
        return;
    }
    settled_early_ += settler_->settle(q, list);
    keep_best(list, k_, *ids_);
    bounds_[q] = std::min(bounds_[q], list.back().high);
}

double TopK::open() {
    size_t total = 0;
    for (size_t q = 0; q < lists_.size(); ++q) {
        shrink(q);
        total += lists_[q].size();
    }
    return static_cast<double>(total) / static_cast<double>(lists_.size());
}

void TopK::merge(Collector& part) {
    auto& other = static_cast<TopK&>(part);
    for (size_t q = 0; q < lists_.size(); ++q) {
        if (comparison_.narrow) other.narrow(q);
        lists_[q].insert(lists_[q].end(), other.lists_[q].begin(), other.lists_[q].end());
        bounds_[q] = std::min(bounds_[q], other.bounds_[q]);
    }
}

std::vector<Candidate>& TopK::finish(size_t q) {
    if (comparison_.narrow) narrow(q);
    capacity_[q] = lists_[q].size() * 2;  // the last shrink settles nothing by itself
    shrink(q);
    settler_->settle(q, lists_[q]);
    keep_best(lists_[q], k_, *ids_);
    return lists_[q];
}

CountingTopK::CountingTopK(const Query& query, size_t queries, size_t k, Admission admission, const IdMap& ids)
    : query_(&query),
      k_(k),
      largest_(query.counts(0)->largest),
      admission_(admission),
      ids_(&ids),
      bounds_(queries, kInfinity),
      lists_(queries) {
    bounds = bounds_.data();
}

void CountingTopK::take(std::span<const Survivor> survivors) noexcept {
    for (const Survivor& s : survivors) {
        const size_t row = row_of(s);
        if (s.low > bounds_[s.query] || !admission_(row)) continue;
        // More ones than there are bits: in the padding of a damaged file.
        const auto count = std::min(static_cast<uint32_t>(s.low), static_cast<uint32_t>(largest_));
        lists_[s.query].push_back({static_cast<uint32_t>(row), count});
        if (lists_[s.query].size() >= 2 * k_ + kSpare) shrink(s.query);
    }
}

// How often each count occurs in a list.
void CountingTopK::fill_histogram(const std::vector<Hit>& list) {
    histogram_.assign(largest_ + 1, 0);
    for (const Hit& hit : list) ++histogram_[hit.count];
}

// Keeps the k best, in the order of their rows. Later rows have to be better than the last of them, or, where ids do
// not grow with the rows, as good.
void CountingTopK::shrink(size_t q) {
    auto& list = lists_[q];
    if (list.size() <= k_) return;
    uint32_t last = 0;  // the k-th smallest count
    size_t before = 0;  // how many are smaller
    if (list.size() > largest_ / 8) {
        fill_histogram(list);
        while (before + histogram_[last] < k_) before += histogram_[last++];
    } else {
        std::vector<uint32_t> smallest(list.size());
        std::transform(list.begin(), list.end(), smallest.begin(), [](Hit hit) { return hit.count; });
        const auto kth = smallest.begin() + static_cast<std::ptrdiff_t>(k_ - 1);
        std::nth_element(smallest.begin(), kth, smallest.end());
        last = *kth;
        before = static_cast<size_t>(std::count_if(smallest.begin(), kth, [last](uint32_t c) { return c < last; }));
    }
    size_t ties = k_ - before;
    int64_t largest_id = std::numeric_limits<int64_t>::max();  // of the ties that are kept
    if (ids_->is_explicit()) {
        std::vector<int64_t> tied;
        for (const Hit hit : list) {
            if (hit.count == last) tied.push_back(ids_->id_of(hit.row));
        }
        const auto end = tied.begin() + static_cast<std::ptrdiff_t>(ties - 1);
        std::nth_element(tied.begin(), end, tied.end());
        largest_id = *end;
    }
    size_t kept = 0;
    const bool any_id = !ids_->is_explicit();
    for (const Hit hit : list) {  // without branches, which nobody could foresee
        const bool tied = (hit.count == last) & (ties > 0) & (any_id || ids_->id_of(hit.row) <= largest_id);
        list[kept] = hit;
        kept += static_cast<size_t>((hit.count < last) | tied);
        ties -= static_cast<size_t>(tied);
    }
    list.resize(kept);
    bounds_[q] = static_cast<float>(last) - (ids_->is_explicit() ? 0.0f : 1.0f);
}

void CountingTopK::merge(Collector& part) {
    auto& other = static_cast<CountingTopK&>(part);
    const auto by_row = [](Hit a, Hit b) { return a.row < b.row; };
    for (size_t q = 0; q < lists_.size(); ++q) {
        auto& list = lists_[q];
        const auto middle = static_cast<std::ptrdiff_t>(list.size());
        list.insert(list.end(), other.lists_[q].begin(), other.lists_[q].end());
        std::inplace_merge(list.begin(), list.begin() + middle, list.end(), by_row);
        shrink(q);
    }
}

std::vector<Candidate>& CountingTopK::finish(size_t q) {
    shrink(q);
    const auto& list = lists_[q];
    finished_.resize(list.size());
    const auto candidate = [counts = *query_->counts(q)](Hit hit) {
        Candidate out{hit.row, 0, 0};
        out.settle(counts.offset + counts.scale * static_cast<double>(hit.count));
        return out;
    };
    if (ids_->is_explicit() || list.size() < largest_ / 8) {
        std::transform(list.begin(), list.end(), finished_.begin(), candidate);
        keep_best(finished_, k_, *ids_);
        return finished_;
    }
    fill_histogram(list);
    uint32_t sum = 0;
    for (uint32_t& places : histogram_) sum += std::exchange(places, sum);
    for (const Hit hit : list) finished_[histogram_[hit.count]++] = candidate(hit);
    return finished_;
}

Within::Within(std::vector<float> given, Admission admission)
    : admission_(admission), bounds_(std::move(given)), lists_(bounds_.size()) {
    bounds = bounds_.data();
}

void Within::take(std::span<const Survivor> survivors) noexcept {
    for (const Survivor& s : survivors) {
        const size_t row = base_ + s.at;
        if (admission_(row)) lists_[s.query].push_back({static_cast<uint32_t>(row), s.low, s.high});
    }
}

}  // namespace nearfield
