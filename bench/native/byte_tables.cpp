#include "byte_tables.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

namespace nearfield::bench {
namespace {

using Table = std::array<float, 256>;

constexpr size_t kRows = 256;   // scored at a time
constexpr size_t kTables = 16;  // of them: what the first-level cache holds beside the codes

std::vector<Table> tables_of(const float* query, size_t dim) {
    std::vector<Table> tables((dim + 7) / 8);
    for (size_t t = 0; t < tables.size(); ++t) {
        const size_t bits = std::min<size_t>(8, dim - t * 8);
        tables[t][0] = 0;
        for (size_t j = 0; j < bits; ++j) tables[t][0] -= query[t * 8 + j];
        // Every other value is one with its lowest one cleared, and that element's sign changed.
        for (size_t value = 1; value < 256; ++value) {
            size_t lowest = 0;
            while ((value >> lowest & 1) == 0) ++lowest;
            const size_t j = 7 - lowest;
            tables[t][value] = tables[t][value & (value - 1)] + (j < bits ? 2 * query[t * 8 + j] : 0);
        }
    }
    return tables;
}

}  // namespace

void search_byte_tables(const float* query, size_t dim, const uint8_t* codes, size_t n, size_t k, uint32_t* ids,
                        float* scores) {
    const std::vector<Table> tables = tables_of(query, dim);
    const size_t bytes = tables.size();
    using Found = std::pair<float, uint32_t>;
    std::priority_queue<Found, std::vector<Found>, std::greater<>> best;  // the worst of the best on top
    float sums[kRows];
    for (size_t start = 0; start < n; start += kRows) {
        const size_t rows = std::min(kRows, n - start);
        std::fill_n(sums, rows, 0.0f);
        for (size_t first = 0; first < bytes; first += kTables) {
            const size_t last = std::min(bytes, first + kTables);
            for (size_t i = 0; i < rows; ++i) {
                const uint8_t* code = codes + (start + i) * bytes;
                float a = 0, b = 0, c = 0, d = 0;  // so that no sum waits for the one before it
                size_t t = first;
                for (; t + 4 <= last; t += 4) {
                    a += tables[t][code[t]];
                    b += tables[t + 1][code[t + 1]];
                    c += tables[t + 2][code[t + 2]];
                    d += tables[t + 3][code[t + 3]];
                }
                for (; t < last; ++t) a += tables[t][code[t]];
                sums[i] += (a + b) + (c + d);
            }
        }
        for (size_t i = 0; i < rows; ++i) {
            if (best.size() == k && sums[i] <= best.top().first) continue;
            if (best.size() == k) best.pop();
            best.emplace(sums[i], static_cast<uint32_t>(start + i));
        }
    }
    for (size_t place = best.size(); place-- > 0; best.pop()) {
        scores[place] = best.top().first;
        ids[place] = best.top().second;
    }
}

}  // namespace nearfield::bench
