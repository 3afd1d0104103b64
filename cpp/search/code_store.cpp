#include "search/code_store.hpp"

#include <algorithm>
#include <cstring>

namespace nearfield {

namespace {

constexpr size_t kAlignment = 64;

constexpr size_t kLine = 64;

void prefetch_bytes([[maybe_unused]] const std::byte* data, [[maybe_unused]] size_t bytes) {
#if defined(__GNUC__)  // a hint that other compilers can do without
    for (size_t byte = 0; byte < bytes; byte += kLine) __builtin_prefetch(data + byte);
#endif
}

CodeStore::Tail make_tail(size_t bytes) {
    auto* data = static_cast<std::byte*>(::operator new(bytes, std::align_val_t{kAlignment}));
    return {data, [](std::byte* tail) { ::operator delete(tail, std::align_val_t{kAlignment}); }};
}

}  // namespace

CodeStore::CodeStore(const Codec& codec, Form form)
    : codec_(&codec),
      group_(form == Form::blocks ? codec.group() : 1),
      codes_(group_ > 1 ? codec.group_bytes() : codec.row_bytes()) {
    if (group_ > 1 && codec.fine_bytes() > 0) fine_.emplace(codec.fine_bytes());
}

CodeStore::CodeStore(const Codec& codec, Form form, const std::byte* data, const std::byte* fine, size_t n,
                     std::shared_ptr<const void> owner)
    : codec_(&codec),
      group_(form == Form::blocks ? codec.group() : 1),
      codes_(group_ > 1 ? codec.group_bytes() : codec.row_bytes(), data, n / group_, owner) {
    if (group_ > 1 && codec.fine_bytes() > 0) fine_.emplace(codec.fine_bytes(), fine, n, owner);
}

size_t CodeStore::nbytes(size_t count) const {
    return (count + group_ - 1) / group_ * codes_.row_bytes() + count * fine_bytes();
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading
// ---------------------------------------------------------------------------------------------------------------------

Block CodeStore::View::block(size_t first, size_t most) const {
    const size_t group = store->group_, whole = count / group;
    const Codec& codec = *store->codec_;
    if (group < codec.group()) {
        thread_local std::vector<float> packed;  // floats for their alignment
        const size_t n = std::min(most, store->codes_.contiguous(first));
        packed.resize((n + codec.group() - 1) / codec.group() * codec.group_bytes() / sizeof(float));
        auto* block = reinterpret_cast<std::byte*>(packed.data());
        codec.pack({store->codes_.row(first), store->row_bytes()}, n, block);
        return {block, n};
    }
    if (first / group >= whole) return {tail, std::min(most, count - first)};
    const size_t n = std::min(store->codes_.contiguous(first / group), whole - first / group) * group;
    return {store->codes_.row(first / group), std::min(most, n)};
}

void CodeStore::View::copy(const uint32_t* list, size_t n, std::byte* rows) const {
    const size_t stride = store->row_bytes();
    if (store->group_ == 1) {
        for (size_t i = 0; i < n; ++i) std::memcpy(rows + i * stride, store->codes_.row(list[i]), stride);
        return;
    }
    for (size_t i = 0; i < n; ++i) {
        const auto within = static_cast<uint32_t>(list[i] % store->group_);
        store->codec_->unpack({store->group_of(list[i], tail, count), store->group_}, &within, 1, rows + i * stride,
                              stride);
        if (!store->fine_) continue;
        std::memcpy(rows + i * stride + store->scanned_bytes(), store->fine_->row(list[i]), store->fine_bytes());
    }
}

void CodeStore::View::copy_to(const std::vector<uint32_t>& list, CodeStore& to, std::byte* tail_of_to) const {
    constexpr size_t kBatch = 256;  // ends with a group
    std::vector<std::byte> rows(kBatch * store->row_bytes());
    for (size_t first = 0; first < list.size(); first += kBatch) {
        const size_t n = std::min(kBatch, list.size() - first);
        copy(list.data() + first, n, rows.data());
        to.put(first, n, rows.data(), to.view({}, 0), tail_of_to);
    }
}

void CodeStore::View::prefetch_fine(size_t row) const {
    if (store->fine_) prefetch_bytes(store->fine_->row(row), store->fine_bytes());
}

void CodeStore::View::prefetch(size_t row) const { prefetch_bytes(store->codes_.row(row), store->row_bytes()); }

// ---------------------------------------------------------------------------------------------------------------------
// Writing
// ---------------------------------------------------------------------------------------------------------------------

CodeStore::Tail CodeStore::reserve(size_t n, size_t used) {
    codes_.reserve(n / group_, used / group_);
    if (fine_) fine_->reserve(n, used);
    return n % group_ == 0 ? Tail{} : make_tail(codes_.row_bytes());
}

void CodeStore::put(size_t row, size_t n, const std::byte* rows, const View& before, std::byte* tail) {
    const size_t stride = row_bytes();
    if (group_ == 1) {
        for (size_t done = 0; done < n;) {
            const size_t run = std::min(n - done, codes_.contiguous(row + done));
            std::memcpy(codes_.writable(row + done), rows + done * stride, run * stride);
            done += run;
        }
        return;
    }
    for (size_t i = 0; i < n && fine_; ++i) {
        std::memcpy(fine_->writable(row + i), rows + i * stride + scanned_bytes(), fine_bytes());
    }
    // The group that the first rows share with those of the old tail.
    std::vector<std::byte> joined;
    const size_t shared = row % group_;
    if (shared > 0) {
        joined.resize(group_ * stride);
        codec_->unpack({before.tail, shared}, nullptr, shared, joined.data(), stride);
        std::memcpy(joined.data() + shared * stride, rows, std::min(n, group_ - shared) * stride);
    }
    const size_t end = row + n;
    for (size_t first = row - shared; first < end; first += group_) {
        const std::byte* from = first < row ? joined.data() : rows + (first - row) * stride;
        const size_t count = std::min(group_, end - first);
        codec_->pack({from, stride}, count, count == group_ ? codes_.writable(first / group_) : tail);
    }
}

std::vector<std::span<const std::byte>> CodeStore::pieces(const Tail& tail, size_t n) const {
    std::vector<std::span<const std::byte>> out = codes_.pieces(n / group_);
    if (n % group_ != 0) out.emplace_back(tail.get(), codes_.row_bytes());
    return out;
}

std::vector<std::span<const std::byte>> CodeStore::fine_pieces(size_t n) const { return fine_->pieces(n); }

}  // namespace nearfield
