// What the codec of bits and its queries share: planes of packed bits and their counts.
#pragma once

#include <array>

#include "codecs/codec.hpp"
#include "kernels/dispatch.hpp"

namespace nearfield {

inline const uint8_t* bytes_of(const std::byte* data) { return reinterpret_cast<const uint8_t*>(data); }

// Signs of the eight bits of a byte: +1 for a one.
inline const std::array<float, 8>& signs_of(std::byte byte) {
    static const auto all = [] {
        std::array<std::array<float, 8>, 256> out;
        for (size_t value = 0; value < 256; ++value) {
            for (size_t j = 0; j < 8; ++j) out[value][j] = (value >> (7 - j) & 1) != 0 ? 1.0f : -1.0f;
        }
        return out;
    }();
    return all[static_cast<size_t>(byte)];
}

// Binary place `place` of eight bytes, the first one highest: a multiplication moves the bits to where they belong.
template <class Byte>
std::byte gathered(const Byte* eight, size_t place) {
    uint64_t word = 0;
    for (size_t j = 0; j < 8; ++j) word |= uint64_t{static_cast<uint8_t>(eight[j])} << 8 * j;
    return static_cast<std::byte>((word >> place & 0x0101010101010101u) * 0x8040201008040201u >> 56);
}

// Ones that plane-sized pieces of rows share with a query, or in which they differ.
inline void count_ones(bool exclusive, const std::byte* query, Rows rows, const uint32_t* list, size_t n, size_t bytes,
                       uint32_t* out) {
    const kernels::BitKernels& kernel = kernels::active().bits;
    (exclusive ? kernel.xor_counts : kernel.and_counts)(bytes_of(query), bytes_of(rows.data), rows.stride, list, n,
                                                        bytes, out);
}

}  // namespace nearfield
