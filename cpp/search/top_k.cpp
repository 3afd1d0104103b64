#include "search/top_k.hpp"

#include <algorithm>
#include <cmath>

namespace nearfield {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Candidates kept per query before the list is shrunk, beyond twice k; and before they are settled because the
// estimates do not tell them apart.
constexpr size_t kSpare = 64, kUndecided = 256;

}  // namespace

void Candidate::settle(double distance) {
    exact = distance;
    const auto rounded = static_cast<float>(distance);
    low = std::nextafter(rounded, -kInfinity);
    high = std::nextafter(rounded, kInfinity);
}

void Settler::operator()(size_t q, const uint32_t* list, size_t n, double* out) const {
    constexpr size_t kRun = 256;
    uint32_t local[kRun];
    for (size_t start = 0; start < n;) {  // runs of rows that lie in one chunk
        const size_t chunk = list[start] / rows_->chunk_rows();
        size_t end = start;
        while (end < n && end - start < kRun && list[end] / rows_->chunk_rows() == chunk) {
            local[end - start] = static_cast<uint32_t>(list[end] % rows_->chunk_rows());
            ++end;
        }
        query_->settle(q, {rows_->row(chunk * rows_->chunk_rows()), rows_->row_bytes()}, local, end - start,
                       out + start);
        start = end;
    }
}

size_t Settler::operator()(size_t q, std::vector<Candidate>& candidates) const {
    std::vector<uint32_t> rows;
    for (const Candidate& c : candidates) {
        if (std::isnan(c.exact)) rows.push_back(c.row);
    }
    std::vector<double> exact(rows.size());
    (*this)(q, rows.data(), rows.size(), exact.data());
    size_t next = 0;
    for (Candidate& c : candidates) {
        if (!std::isnan(c.exact)) continue;
        c.settle(exact[next++]);
    }
    return rows.size();
}

void keep_best(std::vector<Candidate>& candidates, size_t k, const IdMap& ids) {
    const auto better = [&](const Candidate& a, const Candidate& b) {
        return a.exact != b.exact ? a.exact < b.exact : ids.id_of(a.row) < ids.id_of(b.row);
    };
    const size_t kept = std::min(k, candidates.size());
    const auto middle = candidates.begin() + static_cast<std::ptrdiff_t>(kept);
    std::partial_sort(candidates.begin(), middle, candidates.end(), better);
    candidates.resize(kept);
}

TopK::TopK(size_t queries, size_t k, Admission admission, Settler settler, const IdMap& ids)
    : k_(k),
      admission_(admission),
      settler_(settler),
      ids_(&ids),
      bounds_(queries),
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
        const size_t row = base_ + s.at;
        if (s.low > bounds_[s.query] || !admission_(row)) continue;
        offer(s.query, {static_cast<uint32_t>(row), s.low, s.high});
    }
}

void TopK::offer_settled(size_t q, uint32_t row, double exact) {
    Candidate candidate{row, 0, 0};
    candidate.settle(exact);
    if (candidate.low <= bounds_[q]) offer(q, candidate);
}

void TopK::offer(size_t q, const Candidate& candidate) {
    lists_[q].push_back(candidate);
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
    settled_early_ += settler_(q, list);
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
        lists_[q].insert(lists_[q].end(), other.lists_[q].begin(), other.lists_[q].end());
        bounds_[q] = std::min(bounds_[q], other.bounds_[q]);
    }
}

std::vector<Candidate>& TopK::finish(size_t q) {
    capacity_[q] = lists_[q].size() * 2;  // the last shrink settles nothing by itself
    shrink(q);
    settler_(q, lists_[q]);
    keep_best(lists_[q], k_, *ids_);
    return lists_[q];
}

CountingTopK::CountingTopK(size_t queries, size_t k, Admission admission, Counts counts, const IdMap& ids)
    : k_(k),
      admission_(admission),
      counts_(counts),
      ids_(&ids),
      bounds_(queries, static_cast<float>(counts.largest)),
      lists_(queries) {
    bounds = bounds_.data();
}

void CountingTopK::take(std::span<const Survivor> survivors) noexcept {
    for (const Survivor& s : survivors) {
        const size_t row = base_ + s.at;
        if (s.low > bounds_[s.query] || !admission_(row)) continue;
        lists_[s.query].push_back({static_cast<uint32_t>(row), static_cast<uint32_t>(s.low)});
        if (lists_[s.query].size() >= 2 * k_ + kSpare) shrink(s.query);
    }
}

// Keeps the k best. Later rows have to be better than the last of them, or, where ids do not grow with the rows, as
// good.
void CountingTopK::shrink(size_t q) {
    auto& list = lists_[q];
    if (list.size() <= k_) return;
    uint32_t last = 0;  // the k-th smallest count
    size_t before = 0;  // how many are smaller
    if (list.size() > counts_.largest / 8) {
        histogram_.assign(counts_.largest + 1, 0);
        for (const Hit& hit : list) ++histogram_[hit.count];
        while (before + histogram_[last] < k_) before += histogram_[last++];
    } else {
        const auto kth = list.begin() + static_cast<std::ptrdiff_t>(k_ - 1);
        std::nth_element(list.begin(), kth, list.end(), [](Hit a, Hit b) { return a.count < b.count; });
        last = kth->count;
        before = static_cast<size_t>(std::count_if(list.begin(), kth, [last](Hit h) { return h.count < last; }));
    }
    std::erase_if(list, [last](Hit hit) { return hit.count > last; });
    if (list.size() > k_) {  // the lowest ids of those at the last count
        const auto ties =
            std::partition(list.begin(), list.end(), [last](Hit hit) { return hit.count < last; });
        const auto end = ties + static_cast<std::ptrdiff_t>(k_ - before);
        std::nth_element(ties, end, list.end(),
                         [this](Hit a, Hit b) { return ids_->id_of(a.row) < ids_->id_of(b.row); });
        list.erase(end, list.end());
    }
    bounds_[q] = static_cast<float>(last) - (ids_->is_explicit() ? 0.0f : 1.0f);
}

void CountingTopK::merge(Collector& part) {
    auto& other = static_cast<CountingTopK&>(part);
    for (size_t q = 0; q < lists_.size(); ++q) {
        lists_[q].insert(lists_[q].end(), other.lists_[q].begin(), other.lists_[q].end());
        shrink(q);
    }
}

std::vector<Candidate>& CountingTopK::finish(size_t q) {
    shrink(q);
    auto& list = lists_[q];
    std::sort(list.begin(), list.end(), [this](Hit a, Hit b) {
        return a.count != b.count ? a.count < b.count : ids_->id_of(a.row) < ids_->id_of(b.row);
    });
    finished_.clear();
    for (const Hit hit : list) {
        Candidate candidate{hit.row, 0, 0};
        candidate.settle(counts_.offset + counts_.scale * static_cast<double>(hit.count));
        finished_.push_back(candidate);
    }
    return finished_;
}

Within::Within(size_t queries, float bound, Admission admission)
    : admission_(admission), bounds_(queries, bound), lists_(queries) {
    bounds = bounds_.data();
}

void Within::take(std::span<const Survivor> survivors) noexcept {
    for (const Survivor& s : survivors) {
        const size_t row = base_ + s.at;
        if (admission_(row)) lists_[s.query].push_back({static_cast<uint32_t>(row), s.low, s.high});
    }
}

}  // namespace nearfield
