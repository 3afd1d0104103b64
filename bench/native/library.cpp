// The measuring loops as a small shared library, which `python -m bench` loads with ctypes. It is never installed.
#include <chrono>
#include <sstream>
#include <string>

#include "byte_tables.hpp"
#include "cases.hpp"
#include "kernels/dispatch.hpp"

#if defined(_WIN32)
#define BENCH_API extern "C" __declspec(dllexport)
#else
#define BENCH_API extern "C" __attribute__((visibility("default")))
#endif

namespace {

using nearfield::bench::Case;
using Clock = std::chrono::steady_clock;

// The case that the library has open.
Case& open_case() {
    static Case one;
    return one;
}

volatile uint64_t sink;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

}  // namespace

// One line per level that runs here.
BENCH_API const char* bench_levels() {
    static const std::string text = [] {
        std::ostringstream out;
        for (const std::string_view level : nearfield::kernels::available()) out << level << '\n';
        return out.str();
    }();
    return text.c_str();
}

// One line per case: family kernel level unit bytes operations (the last two per vector).
BENCH_API const char* bench_cases(size_t dim) {
    static std::string text;
    std::ostringstream out;
    for (const Case& one : nearfield::bench::cases(dim)) {
        out << one.family << ' ' << one.kernel << ' ' << one.level << ' ' << nearfield::bench::kUnitNames[one.unit]
            << ' ' << one.bytes << ' ' << one.operations << '\n';
    }
    text = out.str();
    return text.c_str();
}

// Opens a case over a buffer, which it fills; returns how many vectors that makes, 0 for an unknown case.
BENCH_API size_t bench_open(const char* kernel, const char* level, size_t dim, uint8_t* buffer, size_t bytes) {
    for (Case& one : nearfield::bench::cases(dim)) {
        if (one.kernel != kernel || one.level != level) continue;
        open_case() = std::move(one);
        return open_case().fill(buffer, bytes);
    }
    return 0;
}

// Seconds for `passes` passes of the open case.
BENCH_API double bench_run(const uint8_t* buffer, size_t vectors, size_t passes) {
    const auto start = Clock::now();
    for (size_t pass = 0; pass < passes; ++pass) open_case().run(buffer, vectors);
    return seconds_since(start);
}

BENCH_API int bench_read_patterns() { return nearfield::bench::kReadPatterns; }

// Seconds for `passes` passes of a level's read loop. Reads whole multiples of bench_read_unit().
BENCH_API size_t bench_read_unit() { return nearfield::bench::kReadUnit; }
BENCH_API double bench_read(const char* level, int pattern, const uint8_t* buffer, size_t bytes, size_t passes) {
    const auto read = nearfield::bench::limits_of(level).read[pattern];
    const auto start = Clock::now();
    for (size_t pass = 0; pass < passes; ++pass) sink = sink ^ read(buffer, bytes);
    return seconds_since(start);
}

// Operations per second of a level's multiply-add loop.
BENCH_API double bench_multiply_add(const char* level, const char* unit, const uint8_t* operands, size_t rounds) {
    for (int i = 0; i < nearfield::bench::kUnits; ++i) {
        if (std::string_view(unit) != nearfield::bench::kUnitNames[i]) continue;
        uint64_t dependent = 0;
        const auto start = Clock::now();
        const size_t operations = nearfield::bench::limits_of(level).multiply_add[i](operands, rounds, &dependent);
        const double seconds = seconds_since(start);
        sink = sink ^ dependent;
        return static_cast<double>(operations) * static_cast<double>(rounds) / seconds;
    }
    return 0;
}

BENCH_API void bench_search_byte_tables(const float* query, size_t dim, const uint8_t* codes, size_t n, size_t k,
                                        uint32_t* ids, float* scores) {
    nearfield::bench::search_byte_tables(query, dim, codes, n, k, ids, scores);
}
