// Vectors as a caller hands them over: any stored element type, rows any distance apart.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "kernels/kernel_table.h"

namespace nearfield {

struct Vectors {
    const std::byte* data;
    kernels::ElementType type;
    size_t n, dim;
    size_t stride;  // bytes between rows

    // Rows [first, first + count) as float32.
    void to_f32(size_t first, size_t count, float* out) const;
};

// Throws InvalidInput naming the first row that holds NaN or infinity; `name` is the argument's name, `first` the
// number of the first row within it.
void check_finite(const float* vectors, size_t n, size_t dim, std::string_view name, size_t first);

// All rows as float32; throws InvalidInput unless they have the dimension and are finite.
std::vector<float> checked_f32(const Vectors& vectors, size_t dim, std::string_view name);

// Throws InvalidInput, with both numbers, unless the dimensions agree.
void check_dim(size_t got, size_t expected, std::string_view name);

}  // namespace nearfield
