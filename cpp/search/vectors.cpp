#include "search/vectors.hpp"

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

std::vector<float> checked_f32(const Vectors& vectors, size_t dim, std::string_view name) {
    check_dim(vectors.dim, dim, name);
    std::vector<float> out(vectors.n * dim);
    vectors.to_f32(0, vectors.n, out.data());
    check_finite(out.data(), vectors.n, dim, name, 0);
    return out;
}

void check_dim(size_t got, size_t expected, std::string_view name) {
    if (got != expected) {
        throw InvalidInput(std::string(name) + ": vectors of dimension " + std::to_string(got) +
                           " given, expected dimension " + std::to_string(expected));
    }
}

}  // namespace nearfield
