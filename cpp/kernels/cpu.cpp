#include "kernels/cpu.hpp"

#include <array>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || defined(_M_X64)
#define NEARFIELD_X86 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#elif defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace nearfield::kernels {
namespace {

#if defined(NEARFIELD_X86)

using Registers = std::array<uint32_t, 4>;  // eax, ebx, ecx, edx

Registers cpuid(uint32_t leaf, uint32_t subleaf = 0) {
    Registers out{};
#if defined(_MSC_VER)
    int registers[4];
    __cpuidex(registers, static_cast<int>(leaf), static_cast<int>(subleaf));
    std::memcpy(out.data(), registers, sizeof(registers));
#else
    __cpuid_count(leaf, subleaf, out[0], out[1], out[2], out[3]);
#endif
    return out;
}

// Register state the operating system saves: bits 1-2 xmm and ymm, 5-7 opmask and zmm.
uint64_t saved_state() {
#if defined(_MSC_VER)
    return _xgetbv(0);
#else
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t{high} << 32 | low;
#endif
}

bool all(uint32_t value, std::initializer_list<int> bits) {
    for (const int bit : bits) {
        if ((value >> bit & 1u) == 0) return false;
    }
    return true;
}

struct X86 {
    bool avx2 = false, avx512 = false, vnni = false, icl = false, bf16 = false;
};

X86 detect() {
    X86 out;
    if (cpuid(0)[0] < 7) return out;
    const Registers one = cpuid(1), seven = cpuid(7);
    constexpr int kFma = 12, kMovbe = 22, kPopcnt = 23, kOsxsave = 27, kAvx = 28, kF16c = 29;
    if (!all(one[2], {kFma, kMovbe, kPopcnt, kOsxsave, kAvx, kF16c})) return out;
    const uint64_t saved = saved_state();
    constexpr int kBmi1 = 3, kAvx2 = 5, kBmi2 = 8, kLzcnt = 5;
    const bool lzcnt = cpuid(0x80000000u)[0] >= 0x80000001u && all(cpuid(0x80000001u)[2], {kLzcnt});
    out.avx2 = (saved & 0x6) == 0x6 && lzcnt && all(seven[1], {kBmi1, kAvx2, kBmi2});
    constexpr int kF = 16, kDq = 17, kCd = 28, kBw = 30, kVl = 31;
    out.avx512 = out.avx2 && (saved & 0xe6) == 0xe6 && all(seven[1], {kF, kDq, kCd, kBw, kVl});
    constexpr int kVbmi = 1, kVbmi2 = 6, kVnni = 11, kBitalg = 12, kVpopcntdq = 14;
    out.vnni = out.avx512 && all(seven[2], {kVnni});
    out.icl = out.vnni && all(seven[2], {kVbmi, kVbmi2, kBitalg, kVpopcntdq});
    constexpr int kBf16 = 5;
    out.bf16 = out.icl && seven[0] >= 1 && all(cpuid(7, 1)[0], {kBf16});
    return out;
}

const X86& x86() {
    static const X86 features = detect();
    return features;
}

#endif

}  // namespace

bool cpu_supports(Level level) {
    switch (level) {
        case Level::scalar:
            return true;
#if defined(NEARFIELD_X86)
        case Level::avx2:
            return x86().avx2;
        case Level::avx512:
            return x86().avx512;
        case Level::avx512vnni:
            return x86().vnni;
        case Level::avx512icl:
            return x86().icl;
        case Level::avx512bf16:
            return x86().bf16;
#elif defined(__aarch64__) || defined(_M_ARM64)
        case Level::neon:
            return true;  // part of the architecture
        case Level::neondot:
#if defined(__linux__)
            return (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
#elif defined(__APPLE__)
            return true;  // every Apple CPU that runs macOS
#else
            return false;
#endif
#endif
        default:
            return false;
    }
}

std::string cpu_name() {
#if defined(NEARFIELD_X86)
    if (cpuid(0x80000000u)[0] < 0x80000004u) return "";
    char text[49] = {};
    for (uint32_t part = 0; part < 3; ++part) {
        const Registers registers = cpuid(0x80000002u + part);
        std::memcpy(text + 16 * part, registers.data(), 16);
    }
    std::string name(text);
    name.erase(0, name.find_first_not_of(' '));
    return name.substr(0, name.find_last_not_of(' ') + 1);
#else
    return "";
#endif
}

}  // namespace nearfield::kernels
