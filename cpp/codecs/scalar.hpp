// Scalar quantization.
#pragma once

#include <memory>

#include "codecs/codec.hpp"

namespace nearfield {

// Makes an untrained codec called  SQ, LVQ and Lloyd:"sq", "lvq" and "lloyd".
std::unique_ptr<Codec> make_scalar(const CodecSpec& spec, size_t dim, Metric metric);

}  // namespace nearfield
