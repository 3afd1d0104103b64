#include "codecs/parameters.hpp"

#include <algorithm>
#include <charconv>
#include <locale>
#include <sstream>

namespace nearfield {

std::string quoted(std::string_view text) { return std::string("\"").append(text).append("\""); }

void append_choice(std::string& list, std::string_view choice) {
    list.append(list.empty() ? "\"" : ", \"").append(choice).append("\"");
}

size_t ParameterReader::choice(std::string_view name, std::initializer_list<std::string_view> choices) {
    const std::string& value = take(name, *choices.begin());
    const auto* const found = std::find(choices.begin(), choices.end(), value);
    if (found != choices.end()) return static_cast<size_t>(found - choices.begin());
    std::string expected;
    for (const std::string_view one : choices) append_choice(expected, one);
    throw InvalidInput(std::string(name) + ": " + quoted(value) + " is not one of " + expected);
}

size_t ParameterReader::number(std::string_view name, size_t otherwise, size_t least, size_t most) {
    const std::string& text = take(name, std::to_string(otherwise));
    size_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || value < least || value > most) {
        throw InvalidInput(std::string(name) + ": " + text + " given, expected " + std::to_string(least) + " to " +
                           std::to_string(most));
    }
    return value;
}

double ParameterReader::real(std::string_view name, double otherwise, double least, double most) {
    const auto decimal = [](double value) {
        std::ostringstream out;
        out.imbue(std::locale::classic());
        out << value;
        return out.str();
    };
    const std::string& text = take(name, decimal(otherwise));
    std::istringstream in(text);
    in.imbue(std::locale::classic());
    double value = 0;
    if (!(in >> value) || in.peek() != std::istringstream::traits_type::eof() || !(value >= least && value <= most)) {
        throw InvalidInput(std::string(name) + ": " + text + " given, expected " + decimal(least) + " to " +
                           decimal(most));
    }
    return value;
}

const std::string& ParameterReader::take(std::string_view name, std::string_view otherwise) {
    std::string value(otherwise);
    if (const auto found = left_.find(name); found != left_.end()) {
        value = std::move(found->second);
        left_.erase(found);
    }
    return read_[std::string(name)] = std::move(value);
}

Parameters ParameterReader::done() {
    if (left_.empty()) return std::move(read_);
    throw InvalidInput(left_.begin()->first + ": codec " + quoted(codec_) + " has no such parameter");
}

std::vector<float> take_learned(Learned& learned, std::string_view name, size_t size) {
    const auto found = learned.find(name);
    const size_t given = found == learned.end() ? 0 : found->second.size();
    if (given != size) {
        throw InvalidInput(std::string(name) + ": " + std::to_string(given) + " numbers given, expected " +
                           std::to_string(size));
    }
    std::vector<float> values = size == 0 ? std::vector<float>{} : std::move(found->second);
    check_finite(values.data(), 1, values.size(), name, 0);
    return values;
}

}  // namespace nearfield
