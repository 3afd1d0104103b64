// Every kernel of every level as something to measure: over a buffer full of vectors, from cache or from memory.
// Shared by the Google Benchmark programs and by `python -m bench kernels`.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "machine_limits.h"

namespace nearfield::bench {

// Largest dimension of a case.
inline constexpr size_t kMaxDim = 4096;

struct Case {
    std::string family, kernel, level;
    Unit unit;          // whose peak bounds the operations
    double bytes;       // read per vector
    double operations;  // per vector; 0 where none are multiplications or additions
    // Puts valid vectors into the buffer, and returns how many fit.
    std::function<size_t(uint8_t* buffer, size_t bytes)> fill;
    // Goes over `vectors` of them once.
    std::function<void(const uint8_t* buffer, size_t vectors)> run;
};

// One case per kernel that a level brings itself (inherited kernels are measured where they come from).
std::vector<Case> cases(size_t dim);

// The loops of a level, or of the nearest level below it.
const Limits& limits_of(std::string_view level);

}  // namespace nearfield::bench
