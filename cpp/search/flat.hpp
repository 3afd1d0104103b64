// Exact search over all rows: nf.Flat.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "codecs/codec.hpp"
#include "search/thread_pool.hpp"
#include "search/vectors.hpp"
#include "storage/bitmap.hpp"
#include "storage/container.hpp"

namespace nearfield {

// An id that does not exist, or exists already.
struct IdError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct FlatOptions {
    size_t dim = 0;
    Metric metric = Metric::cosine;
    std::string codec = "f32";
    std::string rerank;     // empty: none
    double oversample = 4;  // candidates per result that the finer codec scores
    bool screen = true;     // scan a compact image of float vectors first (codecs/screen.hpp)
};

// The ids that a search may return, prepared once. Stays valid while the index changes.
class Filter {
  public:
    size_t count() const { return ids_.size(); }

  private:
    friend class Flat;
    std::vector<int64_t> ids_;
    std::optional<Bitmap> rows_;
    uint64_t version_ = 0;  // of the snapshot for which rows_ was made
};

struct SearchResult {
    size_t k;                   // places per query
    std::vector<int64_t> ids;   // (queries, k), -1 where there is none
    std::vector<float> scores;  // NaN where there is none
    std::vector<int64_t> counts;
    std::string plan;
};

struct RangeResult {
    std::vector<int64_t> ids;
    std::vector<float> scores;
    std::vector<int64_t> offsets;  // queries + 1
};

// Searches run beside each other and beside one writer at a time; writers wait for each other, readers for nobody.
// After an exception the index is as it was.
class Flat {
  public:
    explicit Flat(FlatOptions options);
    // An index over the caller's own rows, which lie side by side and must outlive it: nothing is copied.
    static std::unique_ptr<Flat> over(const Vectors& vectors, Metric metric);
    ~Flat();

    // Adds vectors under the given ids, or under the next automatic ones if `ids` is null; returns the ids.
    std::vector<int64_t> add(const Vectors& vectors, const int64_t* ids, const Run& run);
    void update(const int64_t* ids, const Vectors& vectors, const Run& run);
    void remove(const int64_t* ids, size_t n);

    // `exhaustive` scans the finest codec instead of reranking candidates of the first.
    SearchResult search(const Vectors& queries, size_t k, const Filter* filter, std::optional<double> oversample,
                        bool exhaustive, const Run& run) const;
    // Everything within `radius`, a score as the user sees it, boundary included.
    RangeResult range_search(const Vectors& queries, double radius, const Filter* filter, const Run& run) const;
    // Scores (queries, m) of the given ids: (m) for all queries, or (queries, m) when `per_query`; -1 gives NaN.
    std::vector<float> score(const Vectors& queries, const int64_t* ids, size_t m, bool per_query,
                             const Run& run) const;
    std::vector<float> reconstruct(const int64_t* ids, size_t n) const;

    std::shared_ptr<Filter> filter_of_mask(const bool* mask, size_t n) const;
    std::shared_ptr<Filter> filter_of_ids(const int64_t* ids, size_t n) const;

    size_t size() const;
    size_t nbytes() const;
    std::vector<int64_t> ids() const;
    bool contains(int64_t id) const;
    const FlatOptions& options() const { return options_; }

    void save(const std::filesystem::path& path) const;
    void save(const std::function<void(const std::byte*, size_t)>& sink) const;
    static std::unique_ptr<Flat> load(std::shared_ptr<const Container> file);

  private:
    struct State;
    struct Snapshot;
    struct Part;

    Flat(FlatOptions options, std::unique_ptr<Codec> codec);

    Snapshot snapshot() const;
    void publish(Snapshot next) const;
    Snapshot append(const Snapshot& now, const Vectors& vectors, const int64_t* ids, const Run& run) const;
    void encode_rows(State& state, size_t used, const Vectors& vectors, size_t first, size_t count) const;
    void extend_screen(State& state, size_t screened, size_t count, const Run& run) const;
    Snapshot compacted(const Snapshot& old) const;
    Snapshot compacted_if_sparse(Snapshot now) const;
    std::vector<uint32_t> rows_of(const Snapshot& now, const int64_t* ids, size_t n) const;
    const Bitmap* rows_of(const Snapshot& now, const Filter* filter, std::optional<Bitmap>& rebuilt) const;
    void search_part(const Snapshot& now, Part& part, const struct Plan& plan) const;
    template <class Write>
    void write(const Write& write) const;

    FlatOptions options_;
    std::unique_ptr<Codec> codec_, rerank_;
    mutable std::mutex writer_;     // held by whoever changes the index
    mutable std::mutex published_;  // held only to copy or swap what follows
    mutable std::unique_ptr<Snapshot> newest_;
};

}  // namespace nearfield
