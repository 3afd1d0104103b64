#include "storage/checksum.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

namespace nearfield::storage {
namespace {

static_assert(std::endian::native == std::endian::little, "stored numbers are little-endian and are used in place");

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87, kPrime2 = 0xC2B2AE3D27D4EB4F, kPrime3 = 0x165667B19E3779F9,
                   kPrime4 = 0x85EBCA77C2B2AE63, kPrime5 = 0x27D4EB2F165667C5;

template <class Word>
uint64_t load(const std::byte* from) {
    Word word;
    std::memcpy(&word, from, sizeof(word));
    return word;
}

uint64_t mix(uint64_t lane, uint64_t word) { return std::rotl(lane + word * kPrime2, 31) * kPrime1; }

}  // namespace

std::array<uint64_t, 4> Checksum::initial_lanes() { return {kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1}; }

void Checksum::update(std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    const size_t pending = total_ % kStripe;
    total_ += bytes.size();
    auto lanes = lanes_;
    const auto absorb = [&lanes](const std::byte* stripe) {
        for (size_t i = 0; i < 4; ++i) lanes[i] = mix(lanes[i], load<uint64_t>(stripe + 8 * i));
    };
    if (pending != 0) {
        const size_t taken = std::min(kStripe - pending, bytes.size());
        std::memcpy(pending_.data() + pending, bytes.data(), taken);
        if (pending + taken < kStripe) return;
        absorb(pending_.data());
        bytes = bytes.subspan(taken);
    }
    for (; bytes.size() >= kStripe; bytes = bytes.subspan(kStripe)) absorb(bytes.data());
    if (!bytes.empty()) std::memcpy(pending_.data(), bytes.data(), bytes.size());
    lanes_ = lanes;
}

uint64_t Checksum::digest() const {
    uint64_t hash = kPrime5;
    if (total_ >= kStripe) {
        hash = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) + std::rotl(lanes_[3], 18);
        for (uint64_t lane : lanes_) hash = (hash ^ mix(0, lane)) * kPrime1 + kPrime4;
    }
    hash += total_;

    const std::byte* at = pending_.data();
    const std::byte* const end = at + total_ % kStripe;
    for (; end - at >= 8; at += 8) hash = std::rotl(hash ^ mix(0, load<uint64_t>(at)), 27) * kPrime1 + kPrime4;
    for (; end - at >= 4; at += 4) hash = std::rotl(hash ^ load<uint32_t>(at) * kPrime1, 23) * kPrime2 + kPrime3;
    for (; end - at >= 1; at += 1) hash = std::rotl(hash ^ load<uint8_t>(at) * kPrime5, 11) * kPrime1;

    hash = (hash ^ hash >> 33) * kPrime2;
    hash = (hash ^ hash >> 29) * kPrime3;
    return hash ^ hash >> 32;
}

uint64_t checksum(std::span<const std::byte> bytes) {
    Checksum sum;
    sum.update(bytes);
    return sum.digest();
}

}  // namespace nearfield::storage
