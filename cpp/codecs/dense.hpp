// Vectors kept as given, one element after the other: f32, f16, bf16, int8 and uint8.
#pragma once

#include <string>

#include "codecs/codec.hpp"

namespace nearfield {

// From how many queries on it pays to interleave the rows for the tile kernels instead of reading them once per query.
inline constexpr size_t kTileFrom = 4;

// Whether a row ends in a float32 factor by which its elements are to be multiplied.
enum class RowScale { none, stored };

// Row layout: dim elements, then the factor where there is one. An int8 row whose values are all integers from -128 to
// 127 keeps them exactly (factor 1); any other is rounded to 255 steps of max|x| / 127. A block is its rows, one after
// the other.
class DenseCodec final : public Codec {
  public:
    DenseCodec(kernels::ElementType type, size_t dim, Metric metric, RowScale scale = RowScale::none);

    std::string_view name() const override;
    size_t row_bytes() const override;
    CheckedVectors check(const Vectors& vectors, std::string_view name, size_t first) const override {
        return CheckedVectors::floats(vectors, dim_, name, first);
    }
    void encode(const Vectors& vectors, std::byte* rows) const override;
    void decode(Rows rows, const uint32_t* list, size_t n, float* out) const override;
    std::unique_ptr<Query> prepare(const Vectors& queries) const override;

  private:
    kernels::ElementType type_;
    size_t dim_;
    Metric metric_;
    RowScale scale_;
};

}  // namespace nearfield
