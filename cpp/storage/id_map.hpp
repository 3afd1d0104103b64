// External ids and the rows that hold them.
#pragma once

#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "storage/bitmap.hpp"
#include "storage/row_store.hpp"

namespace nearfield {

// While every id equals its row number the map is empty and costs nothing. After that a column holds the id of each
// row, and look-ups go through the rows sorted by id (saved with the index) and an overlay of rows added since it was
// sorted. An id may stand for several rows, of which at most one is live. `id_of` needs no lock; look-ups by id take
// one, which the writer holds only to change the overlay or to swap in a new sorted permutation.
class IdMap {
  public:
    IdMap() : column_(sizeof(int64_t)) {}
    // A saved map: ids (n) and the rows sorted by them (n), both kept alive by `owner`.
    IdMap(const int64_t* ids, const uint32_t* sorted, size_t n, const std::shared_ptr<const void>& owner);

    int64_t id_of(size_t row) const { return is_explicit() ? stored_id(row) : static_cast<int64_t>(row); }
    // The live row of an id among rows [0, rows).
    std::optional<uint32_t> find(int64_t id, const LiveRows& live, size_t rows) const;

    // For the writer: rows [used, used + n) get these ids. Look-ups see them as soon as they ask for that many rows; if
    // none ever does, because the writer failed later on, the next append gives these rows other ids.
    void append(const int64_t* ids, size_t used, size_t n);

    bool is_explicit() const { return explicit_.load(std::memory_order_acquire); }
    const RowStore& column() const { return column_; }
    // Rows [0, n) of an explicit map sorted by id, rows of equal id by age.
    std::vector<uint32_t> sorted_rows(size_t n) const;
    // The largest id of rows [0, rows), all of which are live; right after opening.
    int64_t largest(size_t rows) const;
    size_t nbytes(size_t rows) const;

  private:
    int64_t stored_id(size_t row) const {
        int64_t id;
        std::memcpy(&id, column_.row(row), sizeof(id));
        return id;
    }

    // Takes rows from `row` on, which were appended but never published, out of the permutation.
    void forget_from(size_t row);

    RowStore column_;
    std::atomic<bool> explicit_{false};
    mutable std::mutex mutex_;  // guards what follows
    std::shared_ptr<const uint32_t[]> sorted_;
    size_t sorted_count_ = 0;
    std::unordered_multimap<int64_t, uint32_t> overlay_;
};

}  // namespace nearfield
