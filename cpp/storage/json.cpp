#include "storage/json.hpp"

#include <limits>

#include "storage/container.hpp"

namespace nearfield::storage {
namespace {

constexpr char kHexDigits[] = "0123456789abcdef";

// The characters that a backslash and one letter stand for.
constexpr std::string_view kEscapeLetters = "\"\\/bfnrt", kEscaped = "\"\\/\b\f\n\r\t";

unsigned byte_at(std::string_view text, size_t at) {
    return at < text.size() ? static_cast<unsigned char>(text[at]) : 0;
}

// Bytes of the UTF-8 sequence at the front of a text that is not empty; 0 when it is malformed (Unicode, table 3-7).
size_t utf8_length(std::string_view text) {
    const auto within = [text](size_t at, unsigned low = 0x80, unsigned high = 0xBF) {
        return byte_at(text, at) >= low && byte_at(text, at) <= high;
    };
    const unsigned first = byte_at(text, 0);
    if (first < 0x80) return 1;
    if (first >= 0xC2 && first <= 0xDF) return within(1) ? 2 : 0;
    if (first >= 0xE0 && first <= 0xEF) {
        return within(1, first == 0xE0 ? 0xA0 : 0x80, first == 0xED ? 0x9F : 0xBF) && within(2) ? 3 : 0;
    }
    if (first >= 0xF0 && first <= 0xF4) {
        return within(1, first == 0xF0 ? 0x90 : 0x80, first == 0xF4 ? 0x8F : 0xBF) && within(2) && within(3) ? 4 : 0;
    }
    return 0;
}

void append_utf8(std::string& out, uint32_t code) {
    const auto put = [&out](uint32_t byte) { out += static_cast<char>(byte); };
    if (code < 0x80) return put(code);
    if (code < 0x800) {
        put(0xC0 | code >> 6);
    } else if (code < 0x10000) {
        put(0xE0 | code >> 12);
        put(0x80 | (code >> 6 & 0x3F));
    } else {
        put(0xF0 | code >> 18);
        put(0x80 | (code >> 12 & 0x3F));
        put(0x80 | (code >> 6 & 0x3F));
    }
    put(0x80 | (code & 0x3F));
}

}  // namespace

std::string printable(std::string_view text, size_t longest) {
    std::string out;
    while (!text.empty()) {
        if (out.size() >= longest) return out + "...";
        const size_t length = utf8_length(text);
        const unsigned first = byte_at(text, 0);
        const bool control = first < 0x20 || first == 0x7F || (first == 0xC2 && byte_at(text, 1) < 0xA0);
        if (length == 0 || control) {
            out += "\\x";
            out += kHexDigits[first >> 4];
            out += kHexDigits[first & 0xF];
            text.remove_prefix(1);
        } else {
            out += text.substr(0, length);
            text.remove_prefix(length);
        }
    }
    return out;
}

std::string in_quotes(std::string_view text) { return "'" + printable(text) + "'"; }

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const size_t length = utf8_length(text);
        if (length == 0) return false;
        text.remove_prefix(length);
    }
    return true;
}

void append_json_string(std::string& out, std::string_view text) {
    out += '"';
    for (char c : text) {
        const auto code = static_cast<unsigned char>(c);
        if (const size_t letter = kEscaped.find(c); letter != std::string_view::npos && c != '/') {
            out += '\\';
            out += kEscapeLetters[letter];
        } else if (code < 0x20) {
            out += "\\u00";
            out += kHexDigits[code >> 4];
            out += kHexDigits[code & 0xF];
        } else {
            out += c;
        }
    }
    out += '"';
}

void fail_format(std::string_view file, std::string_view field, std::string_view problem) {
    std::string message(file);
    message += ": ";
    message += field;
    message += ": ";
    message += problem;
    throw FileFormatError(message);
}

void JsonReader::fail(std::string_view problem) const {
    fail_format(file_, field_, std::string(problem) + " (byte " + std::to_string(at_) + " of the header)");
}

void JsonReader::fail_expected(std::string_view expected) const {
    const std::string found = at_ < text_.size() ? in_quotes(text_.substr(at_, 1)) : "the end of the header";
    fail("expected " + std::string(expected) + ", found " + found);
}

void JsonReader::skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\n\r").find(text_[at_]) != std::string_view::npos) ++at_;
}

bool JsonReader::consume(char c) {
    skip_space();
    if (at_ == text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
}

void JsonReader::expect(char c) {
    if (!consume(c)) fail_expected(in_quotes({&c, 1}));
}

void JsonReader::end() {
    const size_t rest = text_.find_first_not_of(' ', at_);
    if (rest == std::string_view::npos) return;
    at_ = rest;
    fail_expected("nothing but spaces after the closing brace");
}

uint64_t JsonReader::unsigned_integer() {
    skip_space();
    const auto is_digit = [this] { return byte_at(text_, at_) >= '0' && byte_at(text_, at_) <= '9'; };
    if (!is_digit()) fail_expected("an unsigned integer");
    if (text_[at_] == '0') {
        ++at_;
        if (is_digit()) fail("an integer must not start with 0");
        return 0;
    }
    uint64_t value = 0;
    for (; is_digit(); ++at_) {
        const uint64_t digit = byte_at(text_, at_) - '0';
        if (value > (std::numeric_limits<uint64_t>::max() - digit) / 10) fail("the integer does not fit 64 bits");
        value = 10 * value + digit;
    }
    return value;
}

std::string JsonReader::string() {
    if (!consume('"')) fail_expected("a string");
    std::string out;
    while (true) {
        if (at_ == text_.size()) fail("the string does not end");
        const char c = text_[at_];
        if (c == '"') {
            ++at_;
            return out;
        }
        if (c == '\\') {
            ++at_;
            append_escape(out);
            continue;
        }
        if (static_cast<unsigned char>(c) < 0x20) fail("a control character in a string must be escaped");
        const size_t length = utf8_length(text_.substr(at_));
        if (length == 0) fail("the string is not UTF-8");
        out += text_.substr(at_, length);
        at_ += length;
    }
}

void JsonReader::append_escape(std::string& out) {
    const char c = at_ < text_.size() ? text_[at_] : '\0';
    if (const size_t letter = kEscapeLetters.find(c); letter != std::string_view::npos) {
        ++at_;
        out += kEscaped[letter];
        return;
    }
    if (c != 'u') fail_expected("an escape: one of \" \\ / b f n r t u");
    ++at_;
    uint32_t code = hex4();
    if (code >= 0xD800 && code < 0xE000) {
        if (code >= 0xDC00 || text_.substr(at_, 2) != "\\u") fail("an escaped surrogate lacks its other half");
        at_ += 2;
        const uint32_t low = hex4();
        if (low < 0xDC00 || low >= 0xE000) fail("an escaped surrogate lacks its other half");
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(out, code);
}

uint32_t JsonReader::hex4() {
    uint32_t code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
        const char c = static_cast<char>(byte_at(text_, at_));
        if (c >= '0' && c <= '9') {
            code = code << 4 | static_cast<uint32_t>(c - '0');
        } else if ((c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F')) {
            code = code << 4 | static_cast<uint32_t>((c & 0x1F) + 9);
        } else {
            fail_expected("four hexadecimal digits");
        }
    }
    return code;
}

}  // namespace nearfield::storage
