// Sets of rows: the live rows of an index, and the rows that a filter allows.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

namespace nearfield {

// A set of rows that one caller owns.
class Bitmap {
  public:
    explicit Bitmap(size_t n) : words_((n + 63) / 64) {}
    void set(size_t row) { words_[row / 64] |= uint64_t{1} << (row % 64); }
    void set(size_t first, size_t last) {  // rows [first, last)
        for (; first < last && first % 64 != 0; ++first) set(first);
        for (; first + 64 <= last; first += 64) words_[first / 64] = ~uint64_t{0};
        for (; first < last; ++first) set(first);
    }
    // Rows beyond the size are not in the set.
    bool contains(size_t row) const { return row / 64 < words_.size() && (words_[row / 64] >> (row % 64) & 1) != 0; }
    size_t count() const {
        size_t n = 0;
        for (const uint64_t word : words_) n += static_cast<size_t>(std::popcount(word));
        return n;
    }
    // Calls take(row) for all of them, in order.
    template <class Take>
    void for_each(const Take& take) const {
        for (size_t w = 0; w < words_.size(); ++w) {
            for (uint64_t left = words_[w]; left != 0; left &= left - 1) {
                take(w * 64 + static_cast<size_t>(std::countr_zero(left)));
            }
        }
    }
    // Adds a set that is not larger.
    Bitmap& operator|=(const Bitmap& other) {
        for (size_t w = 0; w < other.words_.size(); ++w) words_[w] |= other.words_[w];
        return *this;
    }
    // Keeps what is in both sets.
    Bitmap& operator&=(const Bitmap& other) {
        for (size_t w = 0; w < words_.size(); ++w) words_[w] &= w < other.words_.size() ? other.words_[w] : 0;
        return *this;
    }
    // Drops what is in the other set.
    Bitmap& operator-=(const Bitmap& other) {
        for (size_t w = 0; w < std::min(words_.size(), other.words_.size()); ++w) words_[w] &= ~other.words_[w];
        return *this;
    }
    const std::vector<uint64_t>& words() const { return words_; }

  private:
    std::vector<uint64_t> words_;
};

// The rows of an index at one moment: rows [0, count) without the dead ones. A writer makes a new set and publishes it;
// a reader keeps the one it began with, so it needs no lock while it searches.
struct LiveRows {
    size_t count = 0;
    size_t dead_count = 0;
    std::shared_ptr<const Bitmap> dead;  // null: none

    bool contains(size_t row) const { return row < count && !(dead && dead->contains(row)); }
    size_t size() const { return count - dead_count; }
    // The same rows without some that are live.
    LiveRows without(const std::vector<uint32_t>& rows) const {
        auto more = std::make_shared<Bitmap>(count);
        if (dead) *more |= *dead;
        for (const uint32_t row : rows) more->set(row);
        return {count, dead_count + rows.size(), std::move(more)};
    }
};

}  // namespace nearfield
