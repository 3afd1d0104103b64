// Vectors as a caller hands them over: any element type, rows any distance apart; and the same once they are checked.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "kernels/kernel_table.h"

namespace nearfield {

struct Vectors {
    const std::byte* data;
    kernels::ElementType type;
    size_t n, dim;  // of packed bits the number of bits, or of all that the bytes hold where it is not known
    size_t stride;  // bytes between rows

    Vectors part(size_t first, size_t count) const { return {data + first * stride, type, count, dim, stride}; }
    const float* floats() const { return reinterpret_cast<const float*>(data); }
    // Rows [first, first + count) of numbers as float32.
    void to_f32(size_t first, size_t count, float* out) const;
};

// Vectors that a codec takes: finite float32 or packed bits with clear padding, of the codec's dimension, rows side by
// side.
class CheckedVectors {
  public:
    // Numbers as float32. Throws InvalidInput, naming the argument and the row (counted from `first`), for another
    // dimension and for values that are not finite; and for packed bits.
    static CheckedVectors floats(const Vectors& vectors, size_t dim, std::string_view name, size_t first = 0);
    // Packed bits with the padding of the last byte cleared. Throws InvalidInput for numbers, and for rows of another
    // number of bytes than `dim` bits need.
    static CheckedVectors bits(const Vectors& vectors, size_t dim, std::string_view name);

    const Vectors& view() const { return view_; }
    Vectors part(size_t first, size_t count) const { return view_.part(first, count); }

  private:
    std::vector<std::byte> own_;
    Vectors view_{};
};

// Throws InvalidInput naming the first row that holds NaN or infinity; `name` is the argument's name, `first` the
// number of the first row within it.
void check_finite(const float* vectors, size_t n, size_t dim, std::string_view name, size_t first);

// Throws InvalidInput, with both numbers, unless the vectors have the dimension.
void check_dim(const Vectors& vectors, size_t dim, std::string_view name);

}  // namespace nearfield
