// Sets of rows: the live rows of an index, and the rows that a filter allows.
#pragma once

#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "storage/row_store.hpp"

namespace nearfield {

// A set of rows that one caller owns.
class Bitmap {
  public:
    explicit Bitmap(size_t n) : words_((n + 63) / 64) {}
    void set(size_t row) { words_[row / 64] |= uint64_t{1} << (row % 64); }
    // Rows beyond the size are not in the set.
    bool contains(size_t row) const { return row / 64 < words_.size() && (words_[row / 64] >> (row % 64) & 1) != 0; }
    size_t count() const {
        size_t n = 0;
        for (const uint64_t word : words_) n += static_cast<size_t>(std::popcount(word));
        return n;
    }
    const std::vector<uint64_t>& words() const { return words_; }

  private:
    std::vector<uint64_t> words_;
};

// The live rows: a row becomes live when it is published and dies at most once, so a reader needs no lock.
class LiveRows {
  public:
    LiveRows() : words_(sizeof(uint64_t)) {}
    // For the writer: room for rows [0, n), of which those from `used` on become live.
    void append(size_t used, size_t n) {
        words_.reserve((n + 63) / 64, (used + 63) / 64);
        for (size_t row = used; row < n; ++row) {
            if (row % 64 == 0) word(row).store(0, std::memory_order_relaxed);
            word(row).fetch_or(uint64_t{1} << (row % 64), std::memory_order_relaxed);
        }
    }
    void kill(size_t row) { word(row).fetch_and(~(uint64_t{1} << (row % 64)), std::memory_order_release); }
    bool contains(size_t row) const {
        return (const_cast<LiveRows*>(this)->word(row).load(std::memory_order_acquire) >> (row % 64) & 1) != 0;
    }

  private:
    static_assert(sizeof(std::atomic<uint64_t>) == sizeof(uint64_t) && std::atomic<uint64_t>::is_always_lock_free);
    std::atomic<uint64_t>& word(size_t row) {
        return *reinterpret_cast<std::atomic<uint64_t>*>(words_.writable(row / 64));
    }
    RowStore words_;
};

}  // namespace nearfield
