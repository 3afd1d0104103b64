// What all indexes share: rows with ids, of which some are live, in versions, with a finer copy of the vectors beside
// the codes that a search visits. Which of these it visits, and how they lie, is what kinds of indexes differ in.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "codecs/codec.hpp"
#include "search/thread_pool.hpp"
#include "search/tuning.hpp"
#include "storage/bitmap.hpp"
#include "storage/container.hpp"

namespace nearfield {

struct Candidate;
struct Description;
struct Version;

// An id that does not exist, or exists already.
struct IdError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct IndexOptions {
    size_t dim = 0;
    Metric metric = Metric::cosine;
    CodecSpec codec;
    CodecSpec rerank;       // name empty: none
    double oversample = 4;  // candidates per result that the finer codec scores
};

// The ids that a search may return, prepared once. Stays valid while the index changes.
class Filter {
  public:
    size_t count() const { return ids_.size(); }

  private:
    friend class Index;
    std::vector<int64_t> ids_;
    std::optional<Bitmap> rows_;
    uint64_t version_ = 0;  // of the snapshot for which rows_ was made
};

struct SearchOptions {
    const Filter* filter = nullptr;
    std::optional<std::string> version;  // search the vectors of this version only
    std::optional<double> oversample;    // in place of the index's
    std::optional<size_t> probes;        // lists that are visited, in place of the index's
    std::optional<double> recall;        // takes what was found for it by tuning
    bool exhaustive = false;             // scan the finest codec instead of reranking candidates of the first
};

struct SearchResult {
    size_t k;                   // places per query
    std::vector<int64_t> ids;   // (queries, k), -1 where there is none
    std::vector<float> scores;  // NaN where there is none
    std::vector<int64_t> counts;
    std::string plan;

    SearchResult(size_t queries, size_t k);
};

struct RangeResult {
    std::vector<int64_t> ids;
    std::vector<float> scores;
    std::vector<int64_t> offsets;  // queries + 1

    // What was found for each query, best first.
    explicit RangeResult(const std::vector<std::vector<std::pair<int64_t, float>>>& found);
};

// Searches run beside each other and beside one writer at a time; writers wait for each other, readers for nobody.
// After an exception the index is as it was.
class Index {
  public:
    virtual ~Index();
    virtual std::string_view kind() const = 0;

    // Vectors belong to a version, named after the model they come from. The codec learns from the first vectors of
    // each version, or beforehand by `train`; what it cannot learn by itself (see Codec::trained) is in `given`, what
    // the finer codec cannot under names that begin with "rerank.".
    void train(const Vectors& sample, const std::string& version, Learned given, const Run& run);
    // Adds vectors under the given ids, or under the next automatic ones if `ids` is null; returns the ids.
    std::vector<int64_t> add(const Vectors& vectors, const int64_t* ids, const std::string& version, Learned given,
                             const Run& run);
    // The vectors stay in their version, which must be the same for all.
    void update(const int64_t* ids, const Vectors& vectors, const Run& run);
    void remove(const int64_t* ids, size_t n);

    // Queries are coded as vectors of the version that is searched; where that is none, of the one that came last.
    virtual SearchResult search(const Vectors& queries, size_t k, const SearchOptions& options,
                                const Run& run) const = 0;
    // Everything within `radius`, a score as the user sees it, boundary included.
    virtual RangeResult range_search(const Vectors& queries, double radius, const SearchOptions& options,
                                     const Run& run) const = 0;
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
    const IndexOptions& options() const { return options_; }
    // Names of the versions, in the order in which they came, and how many vectors each holds.
    std::vector<std::pair<std::string, size_t>> versions() const;
    // Whether the codec has yet to learn for a version.
    bool untrained(const std::string& version) const;

    void save(const std::filesystem::path& path) const;
    void save(const std::function<void(const std::byte*, size_t)>& sink) const;
    // Any kind of index.
    static std::unique_ptr<Index> load(std::shared_ptr<const Container> file);

  protected:
    struct State;
    struct Snapshot;
    struct Codes;

    // Kinds of indexes publish their first snapshot, that of no rows.
    Index(IndexOptions options, std::shared_ptr<const Codec> codec);
    Snapshot without_rows(std::shared_ptr<const Codes> codes) const;

    // -- what kinds of indexes differ in
    // The codes of `now` and of vectors that are appended as rows now.live.count and on.
    virtual std::shared_ptr<const Codes> append_codes(const Snapshot& now, const Vectors& vectors, size_t version,
                                                      const Run& run) const = 0;
    // Those of the listed rows of `old`, which become rows 0, 1, ...
    virtual std::shared_ptr<const Codes> compacted_codes(const Snapshot& old,
                                                         const std::vector<uint32_t>& rows) const = 0;
    // Whether a version has anything to learn before vectors can be added to it.
    virtual bool learns() const { return codec_->untrained() || (rerank_ && rerank_->untrained()); }
    // Learns for a version, which joins `next`, from its first vectors.
    virtual void learn(Snapshot& next, Version& made, const Vectors& vectors, Learned given, const Run& run) const;
    // What is to be written of the codes, and what is read from a file; `loaded` has all but codes.
    virtual void describe(const Snapshot& now, Description& out) const = 0;
    virtual std::shared_ptr<const Codes> load_codes(const std::shared_ptr<const Container>& file,
                                                    const Snapshot& loaded) const = 0;

    // -- what they use
    void describe_rows(const Snapshot& now, Description& out) const;
    Snapshot snapshot() const;
    void publish(Snapshot next) const;
    Version version_of(const Snapshot& now, const std::optional<std::string>& version) const;
    // Evenly spread vectors to learn from. They are copied, so that more than a few thousand are only taken where they
    // are at most one in `part`.
    static Vectors sample_of(const Vectors& vectors, size_t enough, size_t part = 8);
    // Takes what is given for the finer codec.
    static Learned take_finer(Learned& given);
    void check_reranked(const Vectors& vectors, std::string_view name) const;
    std::vector<uint32_t> rows_of(const Snapshot& now, const int64_t* ids, size_t n) const;
    // The rows that a search may return, null for all: those of the filter, as far as they are of the version.
    const Bitmap* rows_of(const Snapshot& now, const SearchOptions& options, std::optional<Bitmap>& made) const;
    // Codes of vectors that become rows `used` and on: put(row, n, codes) is called for batches of rows that end with a
    // group, by several threads.
    using Put = std::function<void(size_t row, size_t n, const std::byte* codes)>;
    void encode(const Codec& codec, const Vectors& vectors, size_t used, const Put& put, const Run& run) const;
    // Codes of vectors, which are counted from `first` in what is said of them.
    static void encode_batch(const Codec& codec, const Vectors& vectors, size_t first, std::byte* codes);
    // Writes a query's results, best first.
    void report(SearchResult& out, size_t query, const std::vector<Candidate>& hits, const Snapshot& now) const;
    // The k best of candidates, in ascending order, by the finer codec.
    std::vector<Candidate> refined(const Snapshot& now, const Version& version, const Vectors& query,
                                   const std::vector<uint32_t>& candidates, size_t k) const;
    // Replaces a recall that is asked for by what reached it, in a search's options.
    void take_tuned(const Snapshot& now, SearchOptions& options) const;
    // Candidates per result for the finer codec.
    double oversample_of(const SearchOptions& options) const;

    IndexOptions options_;
    std::shared_ptr<const Codec> codec_, rerank_;  // untrained, if they have to learn; rerank_ may be null

  private:
    Snapshot append(const Snapshot& now, const Vectors& vectors, const int64_t* ids, size_t version,
                    const Run& run) const;
    size_t version_for(Snapshot& next, const std::string& name, const Vectors& sample, Learned given,
                       const Run& run) const;
    Snapshot compacted(const Snapshot& old) const;
    Snapshot compacted_if_sparse(Snapshot now) const;
    template <class Write>
    void write(const Write& write) const;

    mutable std::mutex writer_;     // held by whoever changes the index
    mutable std::mutex published_;  // held only to copy or swap what follows
    mutable std::unique_ptr<Snapshot> newest_;
};

}  // namespace nearfield
