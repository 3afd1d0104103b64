// Reading the parameters of a codec.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "codecs/codec.hpp"

namespace nearfield {

std::string quoted(std::string_view text);

// Adds a choice to a list of them for a message.
void append_choice(std::string& list, std::string_view choice);

// Takes the parameters of a codec one by one; what is left over at the end does not exist.
class ParameterReader {
  public:
    explicit ParameterReader(const CodecSpec& spec) : codec_(spec.name), left_(spec.parameters) {}

    // The place of the value among the choices; the first is the default.
    size_t choice(std::string_view name, std::initializer_list<std::string_view> choices);
    // A whole number from `least` to `most`.
    size_t number(std::string_view name, size_t otherwise, size_t least, size_t most);
    // A real number from `least` to `most`.
    double real(std::string_view name, double otherwise, double least, double most);
    // A parameter that is only noted, because it means something elsewhere.
    const std::string& take(std::string_view name, std::string_view otherwise);

    // All that were read, also the defaults.
    Parameters done();

  private:
    std::string codec_;
    Parameters left_, read_;
};

// Takes an array of `size` numbers out of what was learned elsewhere; throws InvalidInput naming it where it is
// missing, of another size or not finite.
std::vector<float> take_learned(Learned& learned, std::string_view name, size_t size);

}  // namespace nearfield
