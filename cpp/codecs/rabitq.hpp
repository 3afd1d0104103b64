// RaBitQ.
#pragma once

#include <memory>

#include "codecs/codec.hpp"

namespace nearfield {

// Makes an untrained codec called "rabitq".
std::unique_ptr<Codec> make_rabitq(const CodecSpec& spec, size_t dim, Metric metric);

}  // namespace nearfield
