// Rows in chunks that never move: what readers see stays where it is while a writer appends.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace nearfield {

// One writer appends; readers may read every row below a count that the writer published with release order after the
// rows were written. A chunk may be a read-only piece of a mapped file; the last one is copied when rows are added to
// it.
class RowStore {
  public:
    // Rows per chunk are a power of two, at least 64.
    explicit RowStore(size_t row_bytes);
    // Rows that lie in `data`, kept alive by `owner` and never written to.
    RowStore(size_t row_bytes, const std::byte* data, size_t n, std::shared_ptr<const void> owner);
    ~RowStore();
    RowStore(const RowStore&) = delete;
    RowStore& operator=(const RowStore&) = delete;

    size_t row_bytes() const { return row_bytes_; }
    size_t chunk_rows() const { return size_t{1} << chunk_shift_; }
    const std::byte* row(size_t index) const { return chunk(index >> chunk_shift_) + offset(index); }
    // How many rows lie side by side from `index` on.
    size_t contiguous(size_t index) const { return chunk_rows() - (index & (chunk_rows() - 1)); }

    // For the writer. Makes room for rows [0, n) of which the first `used` hold data; throws std::bad_alloc and changes
    // nothing that a reader sees.
    void reserve(size_t n, size_t used);
    std::byte* writable(size_t index) { return const_cast<std::byte*>(chunk(index >> chunk_shift_)) + offset(index); }

    // The first n rows as pieces side by side in memory, for writing a file.
    std::vector<std::span<const std::byte>> pieces(size_t n) const;

  private:
    struct Slot {
        std::atomic<const std::byte*> data{nullptr};
        bool owned = false;
    };
    // Slots come in segments of 1, 2, 4, ... so that adding one never moves another.
    static size_t segment_of(size_t chunk) { return static_cast<size_t>(std::bit_width(chunk + 1) - 1) & 63; }
    Slot& slot(size_t chunk) const;
    const std::byte* chunk(size_t index) const { return slot(index).data.load(std::memory_order_acquire); }
    size_t offset(size_t index) const { return (index & (chunk_rows() - 1)) * row_bytes_; }
    // `filled` of its rows are about to be written.
    std::byte* allocate_chunk(size_t filled) const;

    size_t row_bytes_;
    unsigned chunk_shift_;
    size_t chunks_ = 0;
    std::array<std::unique_ptr<Slot[]>, 64> segments_;
    std::vector<std::shared_ptr<const void>> owners_;
};

}  // namespace nearfield
