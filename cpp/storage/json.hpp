// The JSON of a safetensors header: objects, arrays, strings and unsigned integers, read without recursion.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace nearfield::storage {

// Text from a file made fit for an error message: what cannot be shown (control characters, malformed UTF-8) is
// written as \xNN, and what is longer than `longest` bytes is cut.
std::string printable(std::string_view text, size_t longest = 80);
std::string in_quotes(std::string_view text);  // printable, between single quotes

bool is_utf8(std::string_view text);

// Appends `text`, which must be UTF-8, as a JSON string.
void append_json_string(std::string& out, std::string_view text);

// Throws FileFormatError with the message "file: field: problem".
[[noreturn]] void fail_format(std::string_view file, std::string_view field, std::string_view problem);

// Reads a document from front to back; what is not as expected throws FileFormatError.
class JsonReader {
  public:
    JsonReader(std::string_view text, std::string_view file) : text_(text), file_(file) {}

    // Names the field that is being read, for error messages.
    void enter(std::string field) { field_ = std::move(field); }

    // Calls member(key) at each value of an object, or element() at each value of an array; the call reads the value.
    template <class Member>
    void object(Member member) {
        list('{', '}', [&] {
            std::string key = string();
            expect(':');
            member(std::move(key));
        });
    }
    template <class Element>
    void array(Element element) {
        list('[', ']', element);
    }

    std::string string();
    uint64_t unsigned_integer();

    // Only spaces may follow.
    void end();

    [[noreturn]] void fail(std::string_view problem) const;

  private:
    template <class Item>
    void list(char open, char close, Item item) {
        expect(open);
        if (consume(close)) return;
        do item();
        while (consume(','));
        expect(close);
    }

    void skip_space();
    bool consume(char c);
    void expect(char c);
    [[noreturn]] void fail_expected(std::string_view expected) const;
    void append_escape(std::string& out);
    uint32_t hex4();

    std::string_view text_;
    std::string_view file_;
    std::string field_ = "header";
    size_t at_ = 0;
};

}  // namespace nearfield::storage
