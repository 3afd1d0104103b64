// Scalar quantization: every coordinate by itself, to one of a few levels that are small integers, so that inner
// products are integer sums.
//
// A vector x (under cosine the unit vector) minus an origin, rotated by R for "lloyd", is z. It is decoded as
//     x' = origin + R^T z',  z' = off + mul * weight * (level - zero),
// where origin, weight and zero belong to the coordinate, off and mul to the row, and level to the code:
//   "sq"     origin is the least value of the coordinate, weight the step of its range in 2^bits levels; off 0, mul 1.
//   "lvq"    Aguerrebere et al., "Similarity search in the blink of an eye with compressed indices" (VLDB 2023): origin
//            is the mean, off the middle of the row's own range about it and mul its step. A residual adds levels
//            between -1/2 and 1/2 in fine bytes, which only the rows that a scan leaves open have to be read for.
//   "lloyd"  EDEN (Vargaftik et al., ICML 2022): a random rotation about the mean makes the coordinates of any vector
//            normal, and the levels are those which suit a normal distribution best, rounded to integers. mul restores
//            the row's length. Calibrated, weight and zero fit each rotated coordinate to the normal distribution;
//            under ip and cosine they take the place of the mean, and the origin is zero.
//
// A dimension in which all vectors of the sample agree has the step 0 under "sq": it decodes to that value, whatever
// is coded, and so does everything after a sample of one vector. The other codecs code what differs from the mean.
//
// What a scan says about rows with a residual is statistical: the inner product of a query with a residual r is taken
// to be at most 4 |query| |r| / sqrt(dim), four standard deviations for residuals that do not depend on the query.
#pragma once

#include <memory>

#include "codecs/codec.hpp"

namespace nearfield {

// Makes an untrained codec called "sq", "lvq" or "lloyd".
std::unique_ptr<Codec> make_scalar(const CodecSpec& spec, size_t dim, Metric metric);

}  // namespace nearfield
