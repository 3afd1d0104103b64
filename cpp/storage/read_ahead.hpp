// Advice to the system about what is read from a mapped file. It is never an error, and where the system takes none it
// has no effect.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace nearfield::storage {

// For a whole mapped file; bytes that are not in it are ignored. Threads may share it.
class ReadAhead {
  public:
    ReadAhead(const std::byte* start, uint64_t bytes);

    // A touch of these bytes says nothing about what is read next: each reads its page alone.
    void expect_random(const std::byte* data, size_t bytes) const;

    // All of these bytes are needed soon: reading them begins. Asking again is cheap, because pages that were asked for
    // in the last seconds are taken to be in memory.
    void expect_all(const std::byte* data, size_t bytes);

  private:
    struct Pages {
        uint64_t first, last;
    };
    Pages pages(const std::byte* data, size_t bytes) const;
    // Clears the marks from time to time.
    void forget();
    // Marks pages as asked for; true if all of them were.
    bool mark(Pages range);

    const std::byte* start_;
    uint64_t bytes_;
    uint64_t page_bytes_;
    std::vector<std::atomic<uint64_t>> asked_;  // a bit per page
    std::atomic<int64_t> forgotten_;            // when the marks were last cleared, in seconds
};

}  // namespace nearfield::storage
