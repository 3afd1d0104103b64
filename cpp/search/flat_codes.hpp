// What the files of Flat share: its codes as a reader sees them.
#pragma once

#include "codecs/screen.hpp"
#include "search/flat.hpp"
#include "search/index_state.hpp"

namespace nearfield {

// A compact image of the first rows, in whole groups.
struct Screen {
    ScreenCodec codec;
    RowStore groups;
};

// The screen's centre is the mean of this many first rows, so that it does not depend on how the rows were added. With
// fewer there is no screen: a plain scan is over before it could pay.
inline constexpr size_t kScreenFrom = 1024;

struct Flat::FlatCodes final : Codes {
    // Rows are only ever appended, and so are the screen's groups.
    struct Store {
        CodeStore rows;
        std::unique_ptr<Screen> screen;  // for readers whose codes say that rows are screened
    };

    std::shared_ptr<Store> store;
    CodeStore::Tail tail;
    size_t count = 0;
    size_t screened = 0;  // rows that the screen covers

    CodeStore::View view() const { return store->rows.view(tail, count); }
    size_t nbytes() const override;
    void copy(const uint32_t* list, size_t n, std::byte* rows) const override { view().copy(list, n, rows); }
    void decode(const Codec& codec, const uint32_t* list, size_t n, float* out) const override;
    std::unique_ptr<Settler> settler(const Codec& codec, const Vectors& queries) const override {
        return std::make_unique<StoreSettler>(codec.prepare(queries), view());
    }
};

}  // namespace nearfield
