// What the files of Flat share: its rows as a reader sees them.
#pragma once

#include <atomic>
#include <memory>
#include <optional>

#include "codecs/screen.hpp"
#include "search/flat.hpp"
#include "storage/id_map.hpp"
#include "storage/row_store.hpp"

namespace nearfield {

// What a reader sees. Rows are only ever appended, and die at most once; what would move rows makes a new state.
struct Flat::State {
    State(const Codec& codec, const Codec* finer, uint64_t number) : rows(codec.row_bytes()), version(number) {
        if (finer != nullptr) rerank.emplace(finer->row_bytes());
    }
    State(size_t row_bytes, const std::byte* data, size_t n, std::shared_ptr<const void> owner)
        : rows(row_bytes, data, n, std::move(owner)) {}

    RowStore rows;
    std::optional<RowStore> rerank;
    std::optional<ScreenCodec> screen;   // both set before screened becomes positive
    std::optional<RowStore> groups;
    std::atomic<size_t> screened{0};     // rows in whole groups of the screen
    LiveRows live;
    std::unique_ptr<IdMap> ids = std::make_unique<IdMap>();
    std::atomic<size_t> count{0};        // rows, dead ones included
    std::atomic<size_t> dead{0};
    int64_t next_id = 0;
    std::atomic<uint64_t> version{0};    // grows when an id moves to another row
};

// The screen's centre is the mean of this many first rows, so that it does not depend on how the rows were added. With fewer
// there is no screen: a plain scan is over before it could pay.
inline constexpr size_t kScreenFrom = 4096;

}  // namespace nearfield
