// Product quantization.
#pragma once

#include <memory>

#include "codecs/codec.hpp"

namespace nearfield {

// Makes an untrained codec called "pq": a vector is cut into subspaces, and of each part the nearest of 16 or 256
// centroids is noted. Dimensions are filled up with zeros to a multiple of the subspaces, and codes to a multiple of
// four bytes; a row holds nothing else, so that a vector of zeros too is coded as what comes near to it. Where a
// subspace holds no more different vectors than there are centroids, it is stored without loss.
std::unique_ptr<Codec> make_pq(const CodecSpec& spec, size_t dim, Metric metric);

}  // namespace nearfield
