// What one core of this machine can do at an instruction-set level: the loops that every kernel is measured against.
//
// Like the kernel table's header this one is included by files with special instruction-set flags, and holds
// declarations only.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace nearfield::bench {

// Ways through memory: plainly in order; in order with prefetches of what comes kPrefetchAhead bytes later; and like
// a kernel that scores four neighbouring rows at a time, four places kStreamBytes apart advancing together.
enum ReadPattern : int { kInOrder = 0, kPrefetched = 1, kFourStreams = 2, kReadPatterns = 3 };
inline constexpr size_t kPrefetchAhead = 4096;
inline constexpr size_t kStreamBytes = 1536;
// Every read loop covers whole multiples of this many bytes.
inline constexpr size_t kReadUnit = 4 * kStreamBytes;

// Arithmetic whose peak bounds a kernel.
enum Unit : int { kUnitF32 = 0, kUnitF64 = 1, kUnitBF16 = 2, kUnitInt8 = 3, kUnitBits = 4, kUnits = 5 };
inline constexpr const char* kUnitNames[kUnits] = {"f32", "f64", "bf16", "int8", "bits"};
// The operands of a multiply-add loop are this many bytes, read from the buffer once.
inline constexpr size_t kOperandBytes = 128;

struct Limits {
    // Reads every byte once; the result depends on all of them.
    uint64_t (*read[kReadPatterns])(const uint8_t* buffer, size_t bytes);
    // Multiply-adds in registers; returns how many operations a round is (one product added to a sum counts two). With
    // bits, XOR, the count of ones and its addition are three operations for each 64-bit word. `sink` receives a number
    // that depends on all of them.
    size_t (*multiply_add[kUnits])(const uint8_t* operands, size_t rounds, uint64_t* sink);
};

}  // namespace nearfield::bench
