// What the tests of kernels share: all levels that this CPU offers, arrays that crash whoever leaves them, checks that
// name the level.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "check.hpp"
#include "kernels/dispatch.hpp"

#ifndef _WIN32
#include <sys/mman.h>
#include <unistd.h>
#endif

using nearfield::kernels::KernelTable;

inline std::mt19937 random_bits(7);

inline float normal() {
    static std::normal_distribution<float> distribution;
    return distribution(random_bits);
}

// n elements between pages that must not be touched. The last one ends `shift` bytes before the page behind them; or,
// if they are `at_start`, the first one begins so many bytes behind the page before them.
template <class T>
class Guarded {
  public:
    explicit Guarded(size_t n, size_t shift = 0, bool at_start = false) {
        const size_t bytes = n * sizeof(T) + shift;
#ifdef _WIN32
        mapped_ = bytes;
        base_ = static_cast<uint8_t*>(std::malloc(bytes + 1));
        CHECK(base_ != nullptr);
        data_ = base_ + (at_start ? shift : 0);
#else
        const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
        const size_t readable = (bytes + page - 1) / page * page;
        mapped_ = readable + 2 * page;
        void* base = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(base != MAP_FAILED);
        base_ = static_cast<uint8_t*>(base);
        CHECK(mprotect(base_, page, PROT_NONE) == 0);
        CHECK(mprotect(base_ + page + readable, page, PROT_NONE) == 0);
        data_ = base_ + page + (at_start ? shift : readable - bytes);
#endif
    }
    template <class Source>
    explicit Guarded(const std::vector<Source>& source) : Guarded(source.size()) {
        std::copy(source.begin(), source.end(), data());
    }
    ~Guarded() {
#ifdef _WIN32
        std::free(base_);
#else
        munmap(base_, mapped_);
#endif
    }
    Guarded(const Guarded&) = delete;
    Guarded& operator=(const Guarded&) = delete;

    T* data() { return reinterpret_cast<T*>(data_); }
    T& operator[](size_t i) { return data()[i]; }

  private:
    uint8_t *base_ = nullptr, *data_ = nullptr;
    size_t mapped_ = 0;
};

inline std::vector<const KernelTable*> levels() {
    std::vector<const KernelTable*> out;
    for (const std::string_view name : nearfield::kernels::available()) {
        out.push_back(nearfield::kernels::by_name(name));
    }
    return out;
}

// A failure names the level and the case.
inline void check_that(bool right, const KernelTable* table, const char* what, size_t dim, size_t i = 0) {
    if (right) return;
    check_failed(__FILE__, __LINE__,
                 std::string(table->name) + ": " + what + " is wrong at dim " + std::to_string(dim) + ", number " +
                     std::to_string(i));
}

inline bool near(double got, double wanted, double tolerance) { return std::abs(got - wanted) <= tolerance; }
