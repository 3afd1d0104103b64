// What the native tests share: a check that says where it failed, from any thread, and ends the program with 1.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <string>

[[noreturn]] inline void check_failed(const char* file, int line, const std::string& what) {
    std::fprintf(stderr, "%s:%d: %s\n", file, line, what.c_str());
    std::fflush(stderr);
    std::_Exit(1);
}

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) check_failed(__FILE__, __LINE__, std::string(#condition) + " is false"); \
    } while (false)

// The expression must throw exactly this type, with a message that contains `part`.
#define CHECK_THROWS(Type, part, expression)                                                                      \
    do {                                                                                                          \
        bool thrown = false;                                                                                      \
        try {                                                                                                     \
            (void)(expression);                                                                                   \
        } catch (const Type& error) {                                                                             \
            thrown = true;                                                                                        \
            if (std::string(error.what()).find(part) == std::string::npos) {                                      \
                check_failed(__FILE__, __LINE__, "\"" + std::string(error.what()) + "\" lacks \"" + part + "\""); \
            }                                                                                                     \
        }                                                                                                         \
        if (!thrown) check_failed(__FILE__, __LINE__, std::string(#expression) + " threw no " #Type);             \
    } while (false)
