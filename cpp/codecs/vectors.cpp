#include "codecs/vectors.hpp"

#include <cmath>
#include <cstring>
#include <string>

#include "codecs/codec.hpp"
#include "kernels/dispatch.hpp"

namespace nearfield {

void Vectors::to_f32(size_t first, size_t count, float* out) const {
    const auto decode = kernels::active().dense[type].decode;
    for (size_t i = 0; i < count; ++i) {
        decode(reinterpret_cast<const uint8_t*>(data + (first + i) * stride), dim, out + i * dim);
    }
}

void check_finite(const float* vectors, size_t n, size_t dim, std::string_view name, size_t first) {
    const auto dot = kernels::active().dense[kernels::kF32].dot;
    for (size_t i = 0; i < n; ++i) {
        const float* vector = vectors + i * dim;
        float squared;  // finite only if every element is; otherwise the elements are looked at, it may have overflowed
        dot(vector, reinterpret_cast<const uint8_t*>(vector), 0, nullptr, 1, dim, &squared, nullptr);
        if (std::isfinite(squared)) continue;
        for (size_t d = 0; d < dim; ++d) {
            if (std::isfinite(vector[d])) continue;
            throw InvalidInput(std::string(name) + ": row " + std::to_string(first + i) + " holds " +
                               (std::isnan(vector[d]) ? "NaN" : "infinity") + " (column " + std::to_string(d) +
                               "); every value must be finite in float32");
        }
    }
}

CheckedVectors CheckedVectors::floats(const Vectors& vectors, size_t dim, std::string_view name, size_t first) {
    check_dim(vectors, dim, name);
    if (vectors.type == kernels::kBits) {
        throw InvalidInput(std::string(name) + ": packed bits given, expected vectors of numbers");
    }
    CheckedVectors out;
    out.own_.resize(vectors.n * dim * sizeof(float));
    out.view_ = {out.own_.data(), kernels::kF32, vectors.n, dim, dim * sizeof(float)};
    vectors.to_f32(0, vectors.n, reinterpret_cast<float*>(out.own_.data()));
    check_finite(out.view_.floats(), vectors.n, dim, name, first);
    return out;
}

CheckedVectors CheckedVectors::bits(const Vectors& vectors, size_t dim, std::string_view name) {
    if (vectors.type != kernels::kBits) {
        throw InvalidInput(std::string(name) + ": vectors of numbers given, expected packed bits");
    }
    check_dim(vectors, dim, name);
    const size_t bytes = (dim + 7) / 8;
    CheckedVectors out;
    out.own_.resize(vectors.n * bytes);
    out.view_ = {out.own_.data(), kernels::kBits, vectors.n, dim, bytes};
    const auto kept = static_cast<std::byte>(0xff00u >> (dim - 1) % 8 >> 1);  // bits of the last byte that count
    for (size_t i = 0; i < vectors.n; ++i) {
        std::byte* row = out.own_.data() + i * bytes;
        std::memcpy(row, vectors.data + i * vectors.stride, bytes);
        row[bytes - 1] &= kept;
    }
    return out;
}

void check_dim(const Vectors& vectors, size_t dim, std::string_view name) {
    const bool bits = vectors.type == kernels::kBits;
    if (vectors.dim == dim || (bits && vectors.dim == (dim + 7) / 8 * 8)) return;
    const auto size = [bits](size_t d) {
        return bits ? std::to_string((d + 7) / 8) + " bytes (" + std::to_string(d) + " bits)"
                    : "dimension " + std::to_string(d);
    };
    throw InvalidInput(std::string(name) + ": " + (bits ? "packed vectors" : "vectors") + " of " + size(vectors.dim) +
                       " given, expected " + size(dim));
}

}  // namespace nearfield
