// Packed bits: as given, or as the signs of float vectors.
#pragma once

#include <string>

#include "codecs/codec.hpp"

namespace nearfield {

// How float vectors become bits. A vector y (under cosine the unit vector), rotated and minus a threshold per
// dimension, has the code b_1 .. b_planes with b_t = sign(y - s_1 b_1 - ... - s_{t-1} b_{t-1}); s_1 b_1 + s_2 b_2 + ...
// stands for it. With one plane: sign binarisation; with more: recurrent binarisation (BEBR, arXiv 2302.08714), the
// scales s_t being the means of what is left, which is their least-squares fit.
struct Signs {
    size_t planes = 1;
    enum class Threshold { zero, mean, median } threshold = Threshold::zero;
    bool rotated = false;  // by a matrix learned elsewhere
    // How queries are scored: as codes (symmetric distance), or against the decoded vectors (asymmetric), rounded to
    // two or four bits or as they are.
    enum class Queries { code, int2, int4, full } queries = Queries::code;
    bool coded_queries() const { return queries == Queries::code; }

    bool learn() const { return planes > 1 || threshold != Threshold::zero || rotated; }
};

// Row layout: planes of ceil(dim / 8) bytes, one after the other, in the order of numpy.packbits with clear padding;
// then, unless it is the same for all codes, the squared length of the vector that queries are compared with, a
// float32. A block is its rows, one after the other.
//
// Under hamming and jaccard vectors are given as packed bits. Under the other metrics they are numbers, or packed bits
// that somebody else made by sign.
class BitsCodec final : public Codec {
  public:
    // For hamming and jaccard.
    BitsCodec(size_t dim, Metric metric);
    // For cosine, ip and l2; `parameters` are what `signs` were made of.
    BitsCodec(std::string name, size_t dim, Metric metric, Signs signs, Parameters parameters);

    std::string_view name() const override { return name_; }
    Parameters parameters() const override { return parameters_; }
    size_t row_bytes() const override { return signs_.planes * plane_bytes() + (stores_length() ? sizeof(float) : 0); }
    CheckedVectors check(const Vectors& vectors, std::string_view name, size_t first) const override;
    bool untrained() const override { return signs_.learn() && scales_.empty(); }
    std::unique_ptr<Codec> trained(const Vectors& sample, Learned given) const override;
    Learned learned() const override;
    std::unique_ptr<Codec> with(Learned learned) const override;
    void encode(const Vectors& vectors, std::byte* rows) const override;
    void decode(Rows rows, const uint32_t* list, size_t n, float* out) const override;
    bool valid(Rows rows, size_t n) const override;
    std::unique_ptr<Query> prepare(const Vectors& queries) const override;

    size_t dim() const { return dim_; }
    Metric metric() const { return metric_; }
    const Signs& signs() const { return signs_; }
    size_t plane_bytes() const { return (dim_ + 7) / 8; }
    float scale(size_t plane) const { return scales_.empty() ? 1.0f : scales_[plane]; }
    const std::vector<float>& threshold() const { return threshold_; }
    bool stores_length() const {
        return signs_.planes > 1 || (!signs_.coded_queries() && signs_.threshold != Signs::Threshold::zero);
    }
    // The vector that is coded, before the threshold is subtracted.
    void rotate(const float* vector, float* out) const;
    // The inner product of a vector of the coded space with what a code's planes stand for.
    double dot(const float* vector, const std::byte* row) const;
    // The squared length of what a row stands for: of the code alone, or with the threshold added.
    double squared_length(const std::byte* row) const;

  private:
    void encode_planes(float* rest, std::byte* row) const;

    std::string name_;
    size_t dim_;
    Metric metric_;
    Signs signs_;
    Parameters parameters_;
    std::vector<float> rotation_;   // (dim, dim), or empty
    std::vector<float> threshold_;  // (dim), or empty: zero
    std::vector<float> scales_;     // (planes), or empty: 1
};

}  // namespace nearfield
