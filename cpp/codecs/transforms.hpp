// Transforms of vectors in front of a codec.
#pragma once

#include <memory>

#include "codecs/codec.hpp"

namespace nearfield {

// Whether a codec's parameters say that there are transforms in front of it. Transform i is "transform.i" = its kind,
// and its parameters are "transform.i.<name>"; what it learns, which is always done elsewhere, is called the same way.
//
//   kind              parameters        learned
//   pca               dims, whiten      matrix (dims, in), shift (in) under l2 and for whitening
//   leanvec           dims, queries     matrix (dims, in), query_matrix (dims, in) if there were queries
//   rotation          rotation, queries matrix (in, in), query_matrix (in, in) if there were queries
//   prefix            dims
//   random_rotation   seed
//   blocks            sizes, weights
//
// What comes behind them is a codec for what they make of vectors: documents x are coded as A (x - shift), queries are
// compared with that as B (q - shift). Under cosine a vector is normalised before the first of them. Inner products of
// what follows are then its scores; only a prefix and what was whitened are normalised again.
bool has_transforms(const CodecSpec& spec);

// Makes the codec with its transforms, untrained if any part of it has to learn. It has the name of the codec behind
// the transforms, and the parameters and learned arrays of all.
std::unique_ptr<Codec> make_transformed(const CodecSpec& spec, size_t dim, Metric metric);

}  // namespace nearfield
