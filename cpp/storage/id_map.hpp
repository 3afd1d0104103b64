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
// sorted. `id_of` needs no lock; look-ups by id take one, which the writer holds only to change the overlay or to swap
// in a new sorted permutation.
class IdMap {
  public:
    IdMap() : column_(sizeof(int64_t)) {}
    // A saved map: ids (n) and the rows sorted by them (n), both kept alive by `owner`.
    IdMap(const int64_t* ids, const uint32_t* sorted, size_t n, const std::shared_ptr<const void>& owner);

    int64_t id_of(size_t row) const {
        if (!explicit_.load(std::memory_order_acquire)) return static_cast<int64_t>(row);
        int64_t id;
        std::memcpy(&id, column_.row(row), sizeof(id));
        return id;
    }
    // The live row of an id.
    std::optional<uint32_t> find(int64_t id, const LiveRows& live, size_t rows) const;

    // For the writer: rows [used, used + n) get these ids, none of which may be live. Visible to look-ups at once, so
    // the rows must be published right after.
    void append(const int64_t* ids, size_t used, size_t n);

    bool is_explicit() const { return explicit_.load(std::memory_order_acquire); }
    const RowStore& column() const { return column_; }
    // Rows [0, n) sorted by id, rows of equal id by age.
    std::vector<uint32_t> sorted_rows(size_t n) const;
    size_t nbytes(size_t rows) const;

  private:
    RowStore column_;
    std::atomic<bool> explicit_{false};
    mutable std::mutex mutex_;  // guards what follows
    std::shared_ptr<const uint32_t[]> sorted_;
    size_t sorted_count_ = 0;
    std::unordered_map<int64_t, uint32_t> overlay_;
};

}  // namespace nearfield
