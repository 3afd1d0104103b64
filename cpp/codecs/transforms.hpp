// Transforms of vectors in front of a codec.
#pragma once

#include <memory>

#include "codecs/codec.hpp"

namespace nearfield {

// Whether a codec's parameters say that there are transforms in front of it ("transform.0" and so on).
bool has_transforms(const CodecSpec& spec);
// Makes the untrained codec with its transforms.
std::unique_ptr<Codec> make_transformed(const CodecSpec& spec, size_t dim, Metric metric);

}  // namespace nearfield
