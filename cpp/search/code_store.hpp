// The codes of an index, in the form in which a codec's rows are scanned, or read one by one.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "codecs/codec.hpp"
#include "storage/row_store.hpp"

namespace nearfield {

// Rows are appended; readers see them through a View, which stays valid while more are appended.
//
// Where a codec packs rows into groups, only full groups are in the store. The last rows, too few for a group, are in a
// group of their own, the tail, which is replaced and never changed: groups are interleaved, so that a reader of one
// row could not be told apart from a writer of the next.
class CodeStore {
  public:
    enum class Form { rows, blocks };
    using Tail = std::shared_ptr<std::byte>;  // null: no rows are left over

    // What a reader sees.
    struct View {
        const CodeStore* store;
        const std::byte* tail;
        size_t count;

        // At most `most` codes that lie side by side from row `first` on, which is a group's first. Rows that lie as
        // they are, of a codec that scans groups, are packed; they are valid until the thread's next call.
        Block block(size_t first, size_t most) const;
        // Copies of rows, side by side.
        void copy(const uint32_t* list, size_t n, std::byte* rows) const;
        // The listed rows become the first rows of another store, which has room for them.
        void copy_to(const std::vector<uint32_t>& list, CodeStore& to, std::byte* tail_of_to) const;
        // Asks for what will be read soon: a row's fine bytes; a row, where rows lie as they are.
        void prefetch_fine(size_t row) const;
        void prefetch(size_t row) const;
        // Calls work(rows, their numbers or null, first place, how many) for runs of the list.
        template <class Work>
        void for_each_run(const uint32_t* list, size_t n, const Work& work) const;
    };

    // The codec is only asked for the layout, and must outlive the store.
    CodeStore(const Codec& codec, Form form);
    // Codes that lie in `data`, and their fine bytes in `fine`, kept alive by `owner` and never written to.
    CodeStore(const Codec& codec, Form form, const std::byte* data, const std::byte* fine, size_t n,
              std::shared_ptr<const void> owner);

    size_t row_bytes() const { return codec_->row_bytes(); }
    // Rows per group: 1 where rows lie as they are.
    size_t group() const { return group_; }
    View view(const Tail& tail, size_t count) const { return {this, tail.get(), count}; }
    // Row `index`, where rows lie as they are.
    const std::byte* row(size_t index) const { return codes_.row(index); }
    size_t nbytes(size_t count) const;

    // For the writer: room for rows [0, n) of which the first `used` hold data; returns an empty tail for n rows.
    Tail reserve(size_t n, size_t used);
    // Writes `n` rows from `row` on, which is a group's first or the first one after those of `before`; they end with a
    // group or are the last. Rows that are to lie in the tail go there.
    void put(size_t row, size_t n, const std::byte* rows, const View& before, std::byte* tail);

    // The first n rows as pieces side by side in memory, for writing a file: codes, and fine bytes.
    std::vector<std::span<const std::byte>> pieces(const Tail& tail, size_t n) const;
    std::vector<std::span<const std::byte>> fine_pieces(size_t n) const;
    size_t fine_bytes() const { return fine_ ? fine_->row_bytes() : 0; }
    // Bytes of one unit of `pieces`: a row, or a group.
    size_t unit_bytes() const { return codes_.row_bytes(); }

  private:
    // The group of a row, in the store or the tail.
    const std::byte* group_of(size_t row, const std::byte* tail, size_t count) const {
        return row / group_ < count / group_ ? codes_.row(row / group_) : tail;
    }
    size_t scanned_bytes() const { return row_bytes() - fine_bytes(); }

    const Codec* codec_;
    size_t group_;
    RowStore codes_;  // rows or groups
    std::optional<RowStore> fine_;
};

template <class Work>
void CodeStore::View::for_each_run(const uint32_t* list, size_t n, const Work& work) const {
    constexpr size_t kRun = 256;
    if (store->group_ > 1) {
        thread_local std::vector<std::byte> rows;
        const size_t stride = store->row_bytes();
        for (size_t start = 0; start < n; start += kRun) {
            const size_t run = std::min(kRun, n - start);
            rows.resize(run * stride);
            copy(list + start, run, rows.data());
            work(Rows{rows.data(), stride}, nullptr, start, run);
        }
        return;
    }
    const RowStore& codes = store->codes_;
    uint32_t local[kRun];
    for (size_t start = 0; start < n;) {
        const size_t chunk = list[start] / codes.chunk_rows();
        size_t end = start;
        while (end < n && end - start < kRun && list[end] / codes.chunk_rows() == chunk) {
            local[end - start] = static_cast<uint32_t>(list[end] % codes.chunk_rows());
            ++end;
        }
        work(Rows{codes.row(chunk * codes.chunk_rows()), codes.row_bytes()}, local, start, end - start);
        start = end;
    }
}

}  // namespace nearfield
