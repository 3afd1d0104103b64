// XXH64 with seed 0, the published 64-bit hash, so that any xxHash tool can check a stored array. It needs only 64-bit
// multiplications, is bound by them (4 bytes per cycle, about the speed of memory) and is the same on every CPU.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace nearfield::storage {

class Checksum {
  public:
    void update(std::span<const std::byte> bytes);
    uint64_t digest() const;

  private:
    static constexpr size_t kStripe = 32;

    std::array<uint64_t, 4> lanes_ = initial_lanes();
    std::array<std::byte, kStripe> pending_;  // the first total_ % kStripe bytes wait for the rest of their stripe
    uint64_t total_ = 0;

    static std::array<uint64_t, 4> initial_lanes();
};

uint64_t checksum(std::span<const std::byte> bytes);

}  // namespace nearfield::storage
