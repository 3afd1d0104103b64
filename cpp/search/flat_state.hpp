// What the files of Flat share: its rows as a reader sees them.
#pragma once

#include <memory>
#include <optional>

#include "codecs/screen.hpp"
#include "search/flat.hpp"
#include "storage/id_map.hpp"
#include "storage/row_store.hpp"

namespace nearfield {

// A compact image of the first rows, in whole groups.
struct Screen {
    ScreenCodec codec;
    RowStore groups;
};

// The stores of an index. Rows are only ever appended; what would move rows makes new stores.
struct Flat::State {
    State(const Codec& codec, const Codec* finer) : rows(codec.row_bytes()) {
        if (finer != nullptr) rerank.emplace(finer->row_bytes());
    }
    State(size_t row_bytes, const std::byte* data, size_t n, std::shared_ptr<const void> owner)
        : rows(row_bytes, data, n, std::move(owner)) {}

    RowStore rows;
    std::optional<RowStore> rerank;
    std::unique_ptr<Screen> screen;  // for readers whose snapshot says that rows are screened
    std::unique_ptr<IdMap> ids = std::make_unique<IdMap>();
    int64_t next_id = 0;  // for the writer
};

// What one search sees of an index, whatever is written meanwhile.
struct Flat::Snapshot {
    std::shared_ptr<State> state;
    LiveRows live;
    size_t screened = 0;   // rows that the screen covers
    uint64_t version = 0;  // another one, never used before, once an id stands for another row
};

// The screen's centre is the mean of this many first rows, so that it does not depend on how the rows were added. With
// fewer there is no screen: a plain scan is over before it could pay.
inline constexpr size_t kScreenFrom = 1024;

}  // namespace nearfield
