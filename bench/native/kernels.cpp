// Every kernel x level x shape under Google Benchmark, with the read loop and the multiply-add loops beside them.
// Filter as usual: kernels --benchmark_filter='dot_f32/avx2/.*'
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>
#include <string>
#include <string_view>

#include "cases.hpp"
#include "kernels/dispatch.hpp"

namespace {

using nearfield::bench::Case;

constexpr size_t kBlockBytes = size_t{512} << 10;   // fits the second-level cache
constexpr size_t kMemoryBytes = size_t{512} << 20;  // fits none
constexpr size_t kAlignment = 4096;

struct Free {
    void operator()(uint8_t* data) const { ::operator delete(data, std::align_val_t{kAlignment}); }
};
using Buffer = std::unique_ptr<uint8_t, Free>;

Buffer allocate(size_t bytes) {
    // The read loops prefetch past the end, which reads nothing but should stay inside what is mapped.
    const size_t padded = bytes + nearfield::bench::kPrefetchAhead + kAlignment;
    return Buffer(static_cast<uint8_t*>(::operator new(padded, std::align_val_t{kAlignment})));
}

void measure(benchmark::State& state, const Case& one, size_t bytes) {
    const Buffer buffer = allocate(bytes);
    const size_t vectors = one.fill(buffer.get(), bytes);
    one.run(buffer.get(), vectors);
    for (auto _ : state) {
        one.run(buffer.get(), vectors);
        benchmark::ClobberMemory();
    }
    const double total = static_cast<double>(vectors) * static_cast<double>(state.iterations());
    using benchmark::Counter;
    state.counters["vector"] = Counter(total, Counter::kIsRate | Counter::kInvert);
    state.counters["bytes/s"] = Counter(total * one.bytes, Counter::kIsRate);
    if (one.operations > 0) state.counters["operations/s"] = Counter(total * one.operations, Counter::kIsRate);
}

void measure_read(benchmark::State& state, std::string_view level, int pattern, size_t bytes) {
    const Buffer buffer = allocate(bytes);
    std::fill_n(buffer.get(), bytes, uint8_t{1});
    const size_t whole = bytes - bytes % nearfield::bench::kReadUnit;
    for (auto _ : state) {
        benchmark::DoNotOptimize(nearfield::bench::limits_of(level).read[pattern](buffer.get(), whole));
    }
    state.SetBytesProcessed(static_cast<int64_t>(whole) * state.iterations());
}

void measure_multiply_add(benchmark::State& state, std::string_view level, int unit) {
    constexpr size_t kRounds = 1 << 16;
    const uint8_t operands[nearfield::bench::kOperandBytes] = {};
    double operations = 0;
    for (auto _ : state) {
        uint64_t sink = 0;
        operations += static_cast<double>(
            nearfield::bench::limits_of(level).multiply_add[unit](operands, kRounds, &sink) * kRounds);
        benchmark::DoNotOptimize(sink);
    }
    state.counters["operations/s"] = benchmark::Counter(operations, benchmark::Counter::kIsRate);
}

void register_all() {
    const std::pair<const char*, size_t> places[] = {{"cache", kBlockBytes}, {"memory", kMemoryBytes}};
    for (const std::string_view level : nearfield::kernels::available()) {
        for (const auto& [place, bytes] : places) {
            for (int pattern = 0; pattern < nearfield::bench::kReadPatterns; ++pattern) {
                const std::string name =
                    "read_" + std::to_string(pattern) + "/" + std::string(level) + "/" + std::string(place);
                benchmark::RegisterBenchmark(name.c_str(), measure_read, level, pattern, bytes);
            }
        }
        for (int unit = 0; unit < nearfield::bench::kUnits; ++unit) {
            const std::string name =
                std::string("multiply_add_") + nearfield::bench::kUnitNames[unit] + "/" + std::string(level);
            benchmark::RegisterBenchmark(name.c_str(), measure_multiply_add, level, unit);
        }
    }
    for (const size_t dim : {100, 384, 1536}) {
        for (const Case& one : nearfield::bench::cases(dim)) {
            for (const auto& [place, bytes] : places) {
                const std::string name = one.kernel + "/" + one.level + "/" + std::to_string(dim) + "/" + place;
                benchmark::RegisterBenchmark(name.c_str(), measure, one, bytes);
            }
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv)) return EXIT_FAILURE;
    register_all();
    benchmark::RunSpecifiedBenchmarks();
    return EXIT_SUCCESS;
}
