// What the files of Flat share: its rows as a reader sees them.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "codecs/screen.hpp"
#include "search/code_store.hpp"
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
    State(const Codec& codec, const Codec* finer) : rows(codec, CodeStore::Form::blocks) {
        if (finer != nullptr) rerank.emplace(*finer, CodeStore::Form::rows);
    }
    State(const Codec& codec, const std::byte* data, const std::byte* fine, size_t n, std::shared_ptr<const void> owner)
        : rows(codec, CodeStore::Form::blocks, data, fine, n, std::move(owner)) {}

    CodeStore rows;
    std::optional<CodeStore> rerank;
    std::unique_ptr<Screen> screen;  // for readers whose snapshot says that rows are screened
    std::unique_ptr<IdMap> ids = std::make_unique<IdMap>();
    int64_t next_id = 0;  // for the writer
};

// A version of vectors, with what the codecs learned for it.
struct Version {
    std::string name;
    std::shared_ptr<const Codec> codec, rerank;
};

// All versions, and which rows belong to which.
struct Versions {
    struct Rows {  // from `first` to the next entry's, or to the end
        uint32_t first, version;
    };
    std::vector<Version> all;
    std::vector<Rows> rows;

    // The place of a version in `all`, or its size.
    size_t find(std::string_view name) const {
        return static_cast<size_t>(std::find_if(all.begin(), all.end(), [&](const auto& v) { return v.name == name; }) -
                                   all.begin());
    }
    size_t of_row(size_t row) const {
        const auto after = std::upper_bound(rows.begin(), rows.end(), row,
                                            [](size_t r, const Rows& entry) { return r < entry.first; });
        return (after - 1)->version;
    }
    // Says that the rows from `first` on are of a version.
    void append(size_t first, size_t version) {
        if (rows.empty() || rows.back().version != version) {
            rows.push_back({static_cast<uint32_t>(first), static_cast<uint32_t>(version)});
        }
    }
    template <class Take>
    void for_each(size_t count, const Take& take) const {  // take(version, first row, last row)
        for (size_t i = 0; i < rows.size(); ++i) {
            const size_t last = i + 1 < rows.size() ? rows[i + 1].first : count;
            if (rows[i].first < last) take(rows[i].version, rows[i].first, last);
        }
    }
};

// What one search sees of an index, whatever is written meanwhile.
struct Flat::Snapshot {
    std::shared_ptr<State> state;
    LiveRows live;
    std::shared_ptr<const Versions> versions;
    CodeStore::Tail tail;  // of the first codec's store
    std::shared_ptr<const Tuning> tuning;
    size_t screened = 0;   // rows that the screen covers
    uint64_t version = 0;  // another one, never used before, once an id stands for another row

    CodeStore::View rows() const { return state->rows.view(tail, live.count); }
    CodeStore::View rerank() const { return state->rerank->view({}, live.count); }
    // Those of the finest codec.
    CodeStore::View finest() const { return state->rerank ? rerank() : rows(); }
};

// The screen's centre is the mean of this many first rows, so that it does not depend on how the rows were added. With
// fewer there is no screen: a plain scan is over before it could pay.
inline constexpr size_t kScreenFrom = 1024;

}  // namespace nearfield
