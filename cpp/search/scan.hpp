// Scans of rows in blocks.
#pragma once

#include <algorithm>

#include "search/code_store.hpp"
#include "search/thread_pool.hpp"

namespace nearfield {

// A scan works through blocks whose codes fit the second-level cache beside the queries.
inline constexpr size_t kBlockBytes = size_t{192} << 10;

// Scans rows [first, last) in blocks of rows that lie side by side: block_at(first, most) gives the next one.
template <class Collector, class BlockAt, class Between>
void scan_range(const Scanner& scanner, size_t bytes_per_row, const BlockAt& block_at, size_t first, size_t last,
                Collector& collector, const Between& go_on) {
    const size_t block_rows =
        std::max(kernels::kGroup, kBlockBytes / std::max<size_t>(1, bytes_per_row) / kernels::kGroup * kernels::kGroup);
    while (first < last && go_on(first)) {
        checkpoint();
        const Block block = block_at(first, std::min(block_rows, last - first));
        collector.start_block(first);
        scanner.scan(block, collector);
        first += block.n;
    }
}

template <class Collector, class Between>
void scan_rows(const Scanner& scanner, const CodeStore::View& rows, size_t first, size_t last, Collector& collector,
               const Between& go_on) {
    const auto block_at = [&](size_t row, size_t most) { return rows.block(row, most); };
    scan_range(scanner, rows.store->unit_bytes() / rows.store->group(), block_at, first, last, collector, go_on);
}

inline constexpr auto kAlways = [](size_t) { return true; };

}  // namespace nearfield
