// What the files of Ivf share: its lists as a reader sees them.
#pragma once

#include <algorithm>
#include <span>

#include "search/coarse.hpp"
#include "search/index_state.hpp"
#include "search/ivf.hpp"

namespace nearfield {

// A list, which is replaced and never changed. Codes lie in groups, the last of which may be filled in part; a
// correction for each row of a group (see Block), where codes are of residuals; the fine bytes of each row, where the
// codec has any; and the number of each row.
struct Ivf::List {
    const std::byte* codes = nullptr;
    const float* corrections = nullptr;
    const std::byte* fine = nullptr;
    const uint32_t* rows = nullptr;
    size_t size = 0;
    float largest = 0;  // magnitude of the corrections
    std::shared_ptr<const void> owner;
};

struct Ivf::IvfCodes final : Codes {
    // Rows that join a list: their codes, corrections, and numbers.
    struct NewRows {
        std::vector<std::byte> rows;
        std::vector<float> corrections;
        std::vector<uint32_t> numbers;
    };
    static constexpr uint32_t kNowhere = ~0u;
    // Where a row is found first: a list, and a place in it.
    struct Place {
        uint32_t list, at;
    };

    const Codec* layout = nullptr;  // untrained
    bool residual = false;
    Metric metric = Metric::ip;
    size_t dim = 0;                        // of vectors
    size_t count = 0;                      // rows
    std::shared_ptr<const Coarse> coarse;  // null before training
    std::vector<std::shared_ptr<const List>> lists;
    // Places of rows, which are only appended; null where nobody asks for single rows.
    std::shared_ptr<RowStore> places;

    // The file that lists lie in, if it is mapped; and its pages with what a search is about to read.
    std::shared_ptr<const Container> mapped;
    void ask_for(const List& list) const;

    // Codes of vectors (n, dim) of one list; of residuals of vectors as they are compared.
    void encode(const Codec& codec, size_t list, const float* vectors, size_t n, NewRows& out) const;
    // A list and more rows behind it.
    std::shared_ptr<const List> appended(const List& old, const NewRows& added) const;

    size_t groups(const List& list) const { return (list.size + layout->group() - 1) / layout->group(); }
    size_t list_bytes(const List& list) const;
    // The codes of a list around its centroid, at `center` from the query, give or take `rounding`.
    Block block(const List& list, float center, float rounding) const;
    // Rows of one list, with their fine bytes.
    void unpack(const List& list, const uint32_t* at, size_t n, std::byte* rows) const;
    // Throws FileFormatError for rows that the codec could not have made; for a file that was read.
    void check_rows(const std::string& name) const;
    // Where rows are.
    std::vector<Place> find(const uint32_t* rows, size_t n) const;
    // A damaged file may say anything about where rows are; another row is then taken for one that is nowhere.
    bool exists(const Place& place) const { return place.list < lists.size() && place.at < lists[place.list]->size; }
    Place some_place() const {
        const auto filled = std::find_if(lists.begin(), lists.end(), [](const auto& list) { return list->size > 0; });
        return {static_cast<uint32_t>(filled - lists.begin()), 0};
    }

    size_t nbytes() const override;
    void copy(const uint32_t* list, size_t n, std::byte* rows) const override;
    void decode(const Codec& codec, const uint32_t* list, size_t n, float* out) const override;
    std::unique_ptr<Settler> settler(const Codec& codec, const Vectors& queries) const override;
};

// Vectors per list that k-means looks at.
inline constexpr size_t kPointsPerList = 256;

// Places in `labels` of the entries of each list, list after list: those of list l are order[starts[l]] and on.
struct ByList {
    ByList(const std::vector<uint32_t>& labels, size_t lists);
    std::vector<size_t> starts;
    std::vector<uint32_t> order;
};

// Vectors in the first `dims` dimensions as they are compared, float32: under cosine of unit length; zeros stay zeros.
void load_compared(const Vectors& vectors, size_t dims, Metric metric, float* out);

// Checked queries as the codec takes them: for residuals as they are compared, and doubled under l2.
class IvfQueries {
  public:
    IvfQueries(const Vectors& queries, Metric metric, bool residual);
    const float* compared(size_t q) const { return compared_.data() + q * coded.dim; }
    Vectors coded;

  private:
    std::vector<float> compared_, coded_;
};

// Canonical distances of rows in lists: of residuals those of the codec, with the exact distance to the centroid.
class ListSettler final : public Settler {
  public:
    ListSettler(const Ivf::IvfCodes& codes, const Codec& codec, const Vectors& queries)
        : codes_(codes), queries_(queries, codes.metric, codes.residual), query_(codec.prepare(queries_.coded)) {}

    const Query& query() const { return *query_; }
    using Settler::settle;
    void settle(size_t q, const uint32_t* list, size_t n, double* out) const override;
    void bound(size_t q, const uint32_t* list, size_t n, float* low, float* high) const override;

  private:
    // Calls take(i, row, what is to be added to the codec's distance).
    template <class Take>
    void for_each(size_t q, const uint32_t* list, size_t n, const Take& take) const;

    const Ivf::IvfCodes& codes_;
    IvfQueries queries_;
    std::unique_ptr<const Query> query_;
};

}  // namespace nearfield
