// Inverted lists: vectors are clustered, and a search visits the lists of the centroids nearest to its query.
//
// Sivic and Zisserman 2003; with codes of what is left of a vector beside its centroid, Jegou et al. 2011; the second
// list of a vector is that of SOAR (Sun et al. 2023, arXiv 2404.00774).
#pragma once

#include "search/index.hpp"

namespace nearfield {

struct IvfOptions : IndexOptions {
    size_t lists = 0;   // 0: chosen when the index is trained, by the number of vectors
    size_t probes = 0;  // lists that a search visits; 0: a share of them
    double soar = 0;    // weight of the error along the residual when a second list is chosen; 0: one list per vector
    size_t list_dims = 0;  // lists are of the first so many dimensions; 0: of all
    uint64_t seed = 0;
};

struct KMeansOptions;

class Ivf final : public Index {
  public:
    explicit Ivf(const IvfOptions& options);

    std::string_view kind() const override { return "ivf"; }
    const IvfOptions& own_options() const { return own_; }
    // How many lists there are, 0 before training; how many vectors are in each, those of second lists and removed ones
    // included; and the lists' centroids (lists, list_dims).
    size_t lists() const;
    std::vector<size_t> list_sizes() const;
    std::vector<float> centroids() const;
    // How many lists a search visits unless it says so itself.
    size_t probes() const;

    SearchResult search(const Vectors& queries, size_t k, const SearchOptions& options, const Run& run) const override;
    // Among the probed lists.
    RangeResult range_search(const Vectors& queries, double radius, const SearchOptions& options,
                             const Run& run) const override;

    // Writes the file of an index that holds what `next` yields, without ever holding more than `budget` bytes in
    // memory. This index, which must hold no vectors, stays as it is; what it was trained for is used. `next` returns
    // vectors that stay valid until it is called again, and nothing at the end; the ids are automatic.
    using Next = std::function<std::optional<Vectors>()>;
    void build(const Next& next, const std::filesystem::path& path, size_t budget, const Run& run) const;
    // The same from vectors that can be read again, such as a mapped array.
    void build(const Vectors& vectors, const std::filesystem::path& path, size_t budget, const Run& run) const;

    // The index in a file, but for what all indexes read themselves.
    static std::unique_ptr<Ivf> made_for(const Container& file, IndexOptions options);

    struct List;
    struct IvfCodes;

  private:
    struct Search;
    class Source;

    static const IvfCodes& codes_of(const Snapshot& now);
    bool learns() const override { return true; }
    void learn(Snapshot& next, Version& made, const Vectors& vectors, Learned given, const Run& run) const override;
    std::shared_ptr<const Codes> append_codes(const Snapshot& now, const Vectors& vectors, size_t version,
                                              const Run& run) const override;
    std::shared_ptr<const Codes> compacted_codes(const Snapshot& old, const std::vector<uint32_t>& rows) const override;
    void describe(const Snapshot& now, Description& out) const override;
    std::shared_ptr<const Codes> load_codes(const std::shared_ptr<const Container>& file,
                                            const Snapshot& loaded) const override;

    size_t probes_of(const IvfCodes& codes) const;
    // The live rows that a search may return, null for all that there are.
    const Bitmap* live_rows_of(const Snapshot& now, const SearchOptions& options, std::optional<Bitmap>& made) const;
    // How many lists an index gets that is trained on n vectors, and how they are found.
    size_t lists_for(size_t n) const;
    KMeansOptions clustering(size_t lists) const;
    // Lists of these centroids, empty, and codecs that learn for them from a sample.
    void learn_codecs(Snapshot& next, Version& made, std::vector<float> centroids, const Vectors& sample, Learned given,
                      const Run& run) const;
    void describe_options(Description& out) const;
    void learn_from(const Source& source, size_t budget, Snapshot& next, Version& made, const Run& run) const;
    void build(const Source& source, const std::filesystem::path& path, size_t budget, const Run& run) const;

    IvfOptions own_;
};

}  // namespace nearfield
