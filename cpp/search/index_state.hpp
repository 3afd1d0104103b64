// What the files of indexes share: the rows as a reader sees them.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "search/code_store.hpp"
#include "search/index.hpp"
#include "search/top_k.hpp"
#include "storage/id_map.hpp"

namespace nearfield {

// Rows that are encoded at a time; a multiple of a group.
inline constexpr size_t kBatchRows = 256;

// The stores of an index, without the codes. Rows are only ever appended; what would move rows makes new stores.
struct Index::State {
    explicit State(const Codec* finer) {
        if (finer != nullptr) rerank.emplace(*finer, CodeStore::Form::rows);
    }

    std::optional<CodeStore> rerank;
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

// The codes of the first codec as one reader sees them, whatever is written meanwhile.
struct Index::Codes {
    virtual ~Codes() = default;
    virtual size_t nbytes() const = 0;
    // Copies of rows, side by side.
    virtual void copy(const uint32_t* list, size_t n, std::byte* rows) const = 0;
    // Vectors, to the precision of the codec.
    virtual void decode(const Codec& codec, const uint32_t* list, size_t n, float* out) const = 0;
    // Canonical distances from checked queries; lives no longer than the codes and the codec.
    virtual std::unique_ptr<Settler> settler(const Codec& codec, const Vectors& queries) const = 0;
};

// What one search sees of an index, whatever is written meanwhile.
struct Index::Snapshot {
    std::shared_ptr<State> state;
    LiveRows live;
    std::shared_ptr<const Versions> versions;
    std::shared_ptr<const Codes> codes;
    std::shared_ptr<const Tuning> tuning;
    uint64_t version = 0;  // another one, never used before, once an id stands for another row

    CodeStore::View rerank() const { return state->rerank->view({}, live.count); }
    // Canonical distances by the finest codec.
    std::unique_ptr<Settler> finest(const Version& coded_as, const Vectors& queries) const {
        if (!state->rerank) return codes->settler(*coded_as.codec, queries);
        return std::make_unique<StoreSettler>(coded_as.rerank->prepare(queries), rerank());
    }
};

// What is to be written to a file.
struct Description {
    Metadata metadata;
    std::vector<TensorSource> tensors;
    std::vector<std::shared_ptr<const void>> kept;  // what the tensors' bytes belong to
};

}  // namespace nearfield
