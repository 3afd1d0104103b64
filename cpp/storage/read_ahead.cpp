#include "storage/read_ahead.hpp"

#include <algorithm>
#include <chrono>

#ifndef _WIN32
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace nearfield::storage {
namespace {

// Pages that were asked for may be dropped again. Asking for one that was not costs a tenth of a microsecond; finding
// by a page fault that one was costs a read of the disk, which the whole range then waits for page by page.
constexpr int64_t kForgetSeconds = 10;

// Linux reads no more for one call than its read-ahead window, which is usually this.
constexpr uint64_t kWindow = 128 << 10;

int64_t seconds_now() {
    const auto now = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

#ifdef _WIN32
enum class Advice { random, needed };
uint64_t system_page_bytes() { return 4096; }
void advise(const std::byte*, uint64_t, Advice) {}
#else
enum class Advice { random = MADV_RANDOM, needed = MADV_WILLNEED };
uint64_t system_page_bytes() { return static_cast<uint64_t>(sysconf(_SC_PAGESIZE)); }
void advise(const std::byte* page, uint64_t bytes, Advice advice) {
    // Without const, as the call is declared; it changes nothing there.
    madvise(const_cast<std::byte*>(page), bytes, static_cast<int>(advice));
}
#endif

}  // namespace

ReadAhead::ReadAhead(const std::byte* start, uint64_t bytes)
    : start_(start),
      bytes_(bytes),
      page_bytes_(system_page_bytes()),
      asked_((bytes / page_bytes_ + 64) / 64),
      forgotten_(seconds_now()) {}

ReadAhead::Pages ReadAhead::pages(const std::byte* data, size_t bytes) const {
    const auto at = reinterpret_cast<uintptr_t>(data), start = reinterpret_cast<uintptr_t>(start_);
    if (bytes == 0 || at < start || at - start >= bytes_ || bytes > bytes_ - (at - start)) return {0, 0};
    return {(at - start) / page_bytes_, (at - start + bytes - 1) / page_bytes_ + 1};
}

void ReadAhead::expect_random(const std::byte* data, size_t bytes) const {
    const Pages range = pages(data, bytes);
    if (range.first < range.last) {
        advise(start_ + range.first * page_bytes_, (range.last - range.first) * page_bytes_, Advice::random);
    }
}

void ReadAhead::expect_all(const std::byte* data, size_t bytes) {
    const Pages range = pages(data, bytes);
    forget();
    if (mark(range)) return;
    const uint64_t end = range.last * page_bytes_;
    for (uint64_t at = range.first * page_bytes_; at < end; at += kWindow) {
        advise(start_ + at, std::min(kWindow, end - at), Advice::needed);
    }
}

void ReadAhead::forget() {
    const int64_t now = seconds_now();
    int64_t last = forgotten_.load(std::memory_order_relaxed);
    if (now - last < kForgetSeconds || !forgotten_.compare_exchange_strong(last, now, std::memory_order_relaxed))
        return;
    for (auto& word : asked_) word.store(0, std::memory_order_relaxed);
}

bool ReadAhead::mark(Pages range) {
    bool all = true;
    for (uint64_t page = range.first; page < range.last;) {
        const uint64_t word_end = std::min(range.last, (page / 64 + 1) * 64);
        const uint64_t bits = (~uint64_t{0} >> (64 - (word_end - page))) << (page % 64);
        auto& word = asked_[page / 64];
        if ((word.load(std::memory_order_relaxed) & bits) != bits) {
            word.fetch_or(bits, std::memory_order_relaxed);
            all = false;
        }
        page = word_end;
    }
    return all;
}

}  // namespace nearfield::storage
