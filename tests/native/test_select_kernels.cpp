// The select kernels of every level that this CPU offers, against sorting. All arrays end right before an unreadable
// page, so a kernel that reads or writes past an end crashes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "kernel_checks.hpp"

using namespace nearfield::kernels;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

enum class Kind { any, few, equal, extreme };
constexpr Kind kKinds[] = {Kind::any, Kind::few, Kind::equal, Kind::extreme};

float value_of(Kind kind) {
    constexpr float kFew[] = {-1, 0, -0.0f, 1, 2};
    constexpr float kExtreme[] = {-kInfinity, kInfinity, 1e38f, -1e38f, 1e-45f, -1e-45f, 0, -0.0f};
    switch (kind) {
        case Kind::any:
            return normal();
        case Kind::few:
            return kFew[random_bits() % std::size(kFew)];
        case Kind::equal:
            return -7.5f;
        case Kind::extreme:
            break;
    }
    return kExtreme[random_bits() % std::size(kExtreme)];
}

void test_threshold(size_t n, Kind kind) {
    Guarded<float> values(n, 0, n % 2 == 0);
    for (size_t i = 0; i < n; ++i) values[i] = value_of(kind);
    std::vector<float> sorted(values.data(), values.data() + n);
    std::sort(sorted.begin(), sorted.end());
    for (const size_t least : {size_t{1}, (n + 3) / 4, (n + 1) / 2, n}) {
        for (const size_t spare : {size_t{0}, size_t{1}, n / 8, n}) {
            float first = 0;
            for (const KernelTable* table : levels()) {
                const float bound = table->select.threshold(values.data(), n, least, least + spare);
                const auto count = std::upper_bound(sorted.begin(), sorted.end(), bound) - sorted.begin();
                check_that(count >= static_cast<std::ptrdiff_t>(least), table, "threshold", n, least);
                // More than that only where the least values are equal.
                check_that(count <= static_cast<std::ptrdiff_t>(least + spare) || bound == sorted[least - 1], table,
                           "threshold", n, least);
                if (table == levels().front()) first = bound;
                check_that(bound == first, table, "threshold", n, least);
            }
        }
    }
}

void test_keep(size_t n, Kind kind, bool tagged) {
    std::vector<float> values(n);
    std::vector<uint32_t> tags(n);
    for (size_t i = 0; i < n; ++i) {
        values[i] = random_bits() % 16 == 0 ? kNaN : value_of(kind);
        tags[i] =
            tagged ? random_bits() % 8 == 0 ? kNoTag : static_cast<uint32_t>(random_bits()) : static_cast<uint32_t>(i);
    }
    for (const float bound : {-kInfinity, -0.5f, 0.0f, 1.0f, kInfinity}) {
        std::vector<float> kept;
        std::vector<uint32_t> kept_tags;
        for (size_t i = 0; i < n; ++i) {
            const float value = std::isnan(values[i]) ? -kInfinity : values[i];
            if (!(value <= bound) || tags[i] == kNoTag) continue;
            kept.push_back(value);
            kept_tags.push_back(tags[i]);
        }
        for (const KernelTable* table : levels()) {
            for (const bool in_place : {false, true}) {
                const size_t room = in_place ? n + kGroup : kept.size() + kGroup;
                Guarded<float> own(values), out(room);
                Guarded<uint32_t> own_tags(tags), out_tags(room);
                if (in_place) {
                    std::copy(values.begin(), values.end(), out.data());
                    std::copy(tags.begin(), tags.end(), out_tags.data());
                }
                const float* from = in_place ? out.data() : own.data();
                const uint32_t* from_tags = in_place ? out_tags.data() : own_tags.data();
                const size_t count =
                    table->select.keep(from, tagged ? from_tags : nullptr, n, bound, out.data(), out_tags.data());
                check_that(count == kept.size(), table, "keep", n, count);
                check_that(std::equal(kept.begin(), kept.end(), out.data()), table, "keep", n);
                check_that(std::equal(kept_tags.begin(), kept_tags.end(), out_tags.data()), table, "keep", n);
            }
        }
    }
}

}  // namespace

int main() {
    for (const Kind kind : kKinds) {
        for (const size_t n : {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 100, 248, 1000}) {
            test_threshold(n, kind);
            test_keep(n, kind, false);
            test_keep(n, kind, true);
        }
        test_keep(0, kind, true);
    }
    return 0;
}
