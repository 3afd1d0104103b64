#include "codecs/transforms.hpp"

namespace nearfield {

bool has_transforms(const CodecSpec& spec) { return spec.parameters.contains("transform.0"); }

std::unique_ptr<Codec> make_transformed(const CodecSpec& spec, size_t, Metric) {
    throw InvalidInput("codec: " + spec.name);
}

}  // namespace nearfield
