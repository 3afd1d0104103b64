// Exact search over all rows: nf.Flat.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "codecs/codec.hpp"
#include "search/code_store.hpp"
#include "search/thread_pool.hpp"
#include "search/tuning.hpp"
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
    CodecSpec codec;
    CodecSpec rerank;       // name empty: none
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

struct SearchOptions {
    const Filter* filter = nullptr;
    std::optional<std::string> version;  // search the vectors of this version only
    std::optional<double> oversample;    // in place of the index's
    std::optional<double> recall;        // takes the oversample that was found by tuning
    bool exhaustive = false;             // scan the finest codec instead of reranking candidates of the first
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

    // Vectors belong to a version, named after the model they come from. The codec learns from the first vectors of
    // each version, or beforehand by `train`; what it cannot learn by itself (see Codec::trained) is in `given`, what
    // the finer codec cannot under names that begin with "rerank.".
    void train(const Vectors& sample, const std::string& version, Learned given);
    // Adds vectors under the given ids, or under the next automatic ones if `ids` is null; returns the ids.
    std::vector<int64_t> add(const Vectors& vectors, const int64_t* ids, const std::string& version, Learned given,
                             const Run& run);
    // The vectors stay in their version, which must be the same for all.
    void update(const int64_t* ids, const Vectors& vectors, const Run& run);
    void remove(const int64_t* ids, size_t n);

    // Queries are coded as vectors of the version that is searched; where that is none, of the one that came last.
    SearchResult search(const Vectors& queries, size_t k, const SearchOptions& options, const Run& run) const;
    // Everything within `radius`, a score as the user sees it, boundary included.
    RangeResult range_search(const Vectors& queries, double radius, const SearchOptions& options, const Run& run) const;
    // Scores (queries, m) of the given ids: (m) for all queries, or (queries, m) when `per_query`; -1 gives NaN.
    std::vector<float> score(const Vectors& queries, const int64_t* ids, size_t m, bool per_query,
                             const std::optional<std::string>& version, const Run& run) const;
    // Vectors (n, dim) as they were added, to the precision of the finest codec.
    std::vector<float> reconstruct(const int64_t* ids, size_t n) const;
    // What the first codec keeps of vectors: (n, code_bytes()).
    std::vector<uint8_t> codes(const int64_t* ids, size_t n) const;
    size_t code_bytes() const { return codec_->row_bytes(); }

    // What was measured of declared recall, for SearchOptions::recall; kept with the index.
    void set_tuning(Tuning tuning);
    Tuning tuning() const;

    std::shared_ptr<Filter> filter_of_mask(const bool* mask, size_t n) const;
    std::shared_ptr<Filter> filter_of_ids(const int64_t* ids, size_t n) const;

    size_t size() const;
    size_t nbytes() const;
    std::vector<int64_t> ids() const;
    bool contains(int64_t id) const;
    const FlatOptions& options() const { return options_; }
    // Names of the versions, in the order in which they came, and how many vectors each holds.
    std::vector<std::pair<std::string, size_t>> versions() const;
    // Whether the codec has yet to learn for a version.
    bool untrained(const std::string& version) const;

    void save(const std::filesystem::path& path) const;
    void save(const std::function<void(const std::byte*, size_t)>& sink) const;
    static std::unique_ptr<Flat> load(std::shared_ptr<const Container> file);

  private:
    struct State;
    struct Snapshot;
    struct Part;

    Flat(FlatOptions options, std::shared_ptr<const Codec> codec);

    Snapshot snapshot() const;
    void publish(Snapshot next) const;
    Snapshot append(const Snapshot& now, const Vectors& vectors, const int64_t* ids, size_t version,
                    const Run& run) const;
    struct Tails;
    void encode_rows(const Snapshot& now, const Tails& tails, size_t version, const Vectors& vectors, size_t first,
                     size_t count) const;
    size_t version_for(Snapshot& next, const std::string& name, const Vectors& sample, Learned given) const;
    struct Version version_of(const Snapshot& now, const std::optional<std::string>& version) const;
    void check_reranked(const Vectors& vectors, std::string_view name) const;
    void extend_screen(State& state, size_t screened, size_t count, const Run& run) const;
    Snapshot compacted(const Snapshot& old) const;
    Snapshot compacted_if_sparse(Snapshot now) const;
    std::vector<uint32_t> rows_of(const Snapshot& now, const int64_t* ids, size_t n) const;
    const Bitmap* rows_of(const Snapshot& now, const SearchOptions& options, std::optional<Bitmap>& made) const;
    void search_part(const Snapshot& now, Part& part, const struct Plan& plan) const;
    template <class Write>
    void write(const Write& write) const;

    FlatOptions options_;
    std::shared_ptr<const Codec> codec_, rerank_;  // untrained, if they have to learn; rerank_ may be null
    mutable std::mutex writer_;                    // held by whoever changes the index
    mutable std::mutex published_;                 // held only to copy or swap what follows
    mutable std::unique_ptr<Snapshot> newest_;
};

}  // namespace nearfield
