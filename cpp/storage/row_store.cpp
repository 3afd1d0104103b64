#include "storage/row_store.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace nearfield {
namespace {

constexpr size_t kChunkBytes = size_t{8} << 20;
// Chunks begin on a boundary of huge pages, which a scan of all rows needs: with small pages it waits for the
// page tables.
constexpr size_t kAlignment = size_t{2} << 20;

}  // namespace

RowStore::RowStore(size_t row_bytes)
    : row_bytes_(row_bytes),
      chunk_shift_(static_cast<unsigned>(
          std::bit_width(std::max<size_t>(64, std::bit_floor(kChunkBytes / std::max<size_t>(row_bytes, 1)))) - 1)) {}

RowStore::RowStore(size_t row_bytes, const std::byte* data, size_t n, std::shared_ptr<const void> owner)
    : RowStore(row_bytes) {
    for (size_t first = 0; first < n; first += chunk_rows()) {
        const size_t index = chunks_++;
        auto& segment = segments_[segment_of(index)];
        if (!segment) segment = std::make_unique<Slot[]>(std::bit_floor(index + 1));
        slot(index).data.store(data + first * row_bytes, std::memory_order_relaxed);
    }
    owners_.push_back(std::move(owner));
}

RowStore::~RowStore() {
    for (size_t i = 0; i < chunks_; ++i) {
        if (slot(i).owned) {
            ::operator delete(const_cast<std::byte*>(slot(i).data.load(std::memory_order_relaxed)),
                              std::align_val_t{kAlignment});
        }
    }
}

RowStore::Slot& RowStore::slot(size_t chunk) const {
    const size_t segment = segment_of(chunk);
    return segments_[segment][chunk + 1 - (size_t{1} << segment)];
}

std::byte* RowStore::allocate_chunk(size_t filled) const {
    const size_t bytes = chunk_rows() * row_bytes_;
    auto* data = static_cast<std::byte*>(::operator new(bytes, std::align_val_t{kAlignment}));
#if defined(__linux__)
    // A store's first chunk may stay almost empty; from the second on, rows are many. (Advice: nothing depends on it.)
    const size_t huge = chunks_ > 0 ? bytes : std::min(bytes, filled * row_bytes_) / kAlignment * kAlignment;
    if (huge > 0) madvise(data, huge, MADV_HUGEPAGE);
#else
    static_cast<void>(filled);
#endif
    return data;
}

void RowStore::reserve(size_t n, size_t used) {
    if (used % chunk_rows() != 0 && n > used) {  // the last chunk is about to be written to
        Slot& last = slot(used / chunk_rows());
        if (!last.owned) {
            std::byte* copy = allocate_chunk(n - used / chunk_rows() * chunk_rows());
            std::memcpy(copy, last.data.load(std::memory_order_relaxed), (used % chunk_rows()) * row_bytes_);
            last.data.store(copy, std::memory_order_release);  // the owner of the old piece stays alive
            last.owned = true;
        }
    }
    while (chunks_ * chunk_rows() < n) {
        auto& segment = segments_[segment_of(chunks_)];
        if (!segment) segment = std::make_unique<Slot[]>(std::bit_floor(chunks_ + 1));
        std::byte* data = allocate_chunk(n - chunks_ * chunk_rows());
        Slot& next = slot(chunks_);
        next.data.store(data, std::memory_order_release);
        next.owned = true;
        ++chunks_;
    }
}

std::vector<std::span<const std::byte>> RowStore::pieces(size_t n) const {
    std::vector<std::span<const std::byte>> out;
    for (size_t first = 0; first < n; first += chunk_rows()) {
        out.emplace_back(row(first), std::min(chunk_rows(), n - first) * row_bytes_);
    }
    return out;
}

}  // namespace nearfield
