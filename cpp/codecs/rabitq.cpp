#include "codecs/rabitq.hpp"

namespace nearfield {

std::unique_ptr<Codec> make_rabitq(const CodecSpec& spec, size_t, Metric) { throw InvalidInput("codec: " + spec.name); }

}  // namespace nearfield
