#include "storage/id_map.hpp"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace nearfield {

IdMap::IdMap(const int64_t* ids, const uint32_t* sorted, size_t n, const std::shared_ptr<const void>& owner)
    : column_(sizeof(int64_t), reinterpret_cast<const std::byte*>(ids), n, owner),
      explicit_(true),
      sorted_(owner, sorted),
      sorted_count_(n) {}

std::optional<uint32_t> IdMap::find(int64_t id, const LiveRows& live, size_t rows) const {
    if (id < 0) return std::nullopt;
    if (!is_explicit()) {
        const auto row = static_cast<size_t>(id);
        return row < rows && live.contains(row) ? std::optional(static_cast<uint32_t>(row)) : std::nullopt;
    }
    const std::lock_guard lock(mutex_);
    const auto [newer, newer_end] = overlay_.equal_range(id);
    for (auto entry = newer; entry != newer_end; ++entry) {
        const uint32_t row = entry->second;
        // Rows that were never published leave entries behind, so the row is asked for its id.
        if (row < rows && live.contains(row) && stored_id(row) == id) return row;
    }
    // The permutation may come from a file that nobody vouches for: a row beyond the end counts as no row.
    const auto id_at = [&](uint32_t row) { return row < sorted_count_ ? stored_id(row) : -1; };
    const uint32_t* end = sorted_.get() + sorted_count_;
    const uint32_t* at =
        std::lower_bound(sorted_.get(), end, id, [&](uint32_t row, int64_t wanted) { return id_at(row) < wanted; });
    for (; at != end && id_at(*at) == id; ++at) {
        if (*at < rows && live.contains(*at)) return *at;
    }
    return std::nullopt;
}

void IdMap::append(const int64_t* ids, size_t used, size_t n) {
    bool identity = !is_explicit();
    for (size_t i = 0; identity && i < n; ++i) identity = ids[i] == static_cast<int64_t>(used + i);
    if (identity) return;
    if (sorted_count_ > used) forget_from(used);
    const size_t first = is_explicit() ? used : 0;  // rows that no look-up knows yet
    column_.reserve(used + n, first);
    const auto write = [&](size_t row, int64_t id) { std::memcpy(column_.writable(row), &id, sizeof(id)); };
    for (size_t row = first; row < used; ++row) write(row, static_cast<int64_t>(row));
    for (size_t i = 0; i < n; ++i) write(used + i, ids[i]);
    constexpr size_t kOverlay = 1024;
    const bool sort = used + n - sorted_count_ > std::max(kOverlay, (used + n) / 8);
    std::shared_ptr<uint32_t[]> sorted;
    if (sort) {
        const std::vector<uint32_t> rows = sorted_rows(used + n);
        sorted = std::make_shared<uint32_t[]>(rows.size());
        std::copy(rows.begin(), rows.end(), sorted.get());
    }
    const std::lock_guard lock(mutex_);
    if (sort) {
        sorted_ = std::move(sorted);
        sorted_count_ = used + n;
        overlay_.clear();
    } else {
        for (size_t row = first; row < used + n; ++row) overlay_.emplace(stored_id(row), static_cast<uint32_t>(row));
    }
    explicit_.store(true, std::memory_order_release);  // last, so that no look-up misses an id
}

void IdMap::forget_from(size_t row) {
    auto sorted = std::make_shared<uint32_t[]>(row);
    std::copy_if(sorted_.get(), sorted_.get() + sorted_count_, sorted.get(),
                 [row](uint32_t each) { return each < row; });
    const std::lock_guard lock(mutex_);
    sorted_ = std::move(sorted);
    sorted_count_ = row;
}

std::vector<uint32_t> IdMap::sorted_rows(size_t n) const {
    std::vector<uint32_t> rows(n);
    std::iota(rows.begin(), rows.end(), 0u);
    std::stable_sort(rows.begin(), rows.end(), [&](uint32_t a, uint32_t b) { return stored_id(a) < stored_id(b); });
    return rows;
}

int64_t IdMap::largest(size_t rows) const {
    if (!is_explicit()) return static_cast<int64_t>(rows) - 1;
    const std::lock_guard lock(mutex_);
    const uint32_t last = sorted_[sorted_count_ - 1];
    return last < rows ? stored_id(last) : -1;
}

size_t IdMap::nbytes(size_t rows) const {
    if (!is_explicit()) return 0;
    const std::lock_guard lock(mutex_);
    constexpr size_t kOverlayEntry = 40;  // node, bucket and allocator's share
    return rows * sizeof(int64_t) + sorted_count_ * sizeof(uint32_t) + overlay_.size() * kOverlayEntry;
}

}  // namespace nearfield
