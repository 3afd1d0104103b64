#include "codecs/scalar.hpp"

namespace nearfield {

std::unique_ptr<Codec> make_scalar(const CodecSpec& spec, size_t, Metric) { throw InvalidInput("codec: " + spec.name); }

}  // namespace nearfield
