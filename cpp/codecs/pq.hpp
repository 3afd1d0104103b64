// Product quantization.
#pragma once

#include <memory>

#include "codecs/codec.hpp"

namespace nearfield {

// Makes an untrained codec called "pq".
std::unique_ptr<Codec> make_pq(const CodecSpec& spec, size_t dim, Metric metric);

}  // namespace nearfield
