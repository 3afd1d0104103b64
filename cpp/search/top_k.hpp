// Keeps the candidates for the k best rows of every query, behind thresholds that tighten as the scan goes on.
#pragma once

#include <limits>
#include <memory>
#include <vector>

#include "codecs/codec.hpp"
#include "search/code_store.hpp"
#include "storage/bitmap.hpp"
#include "storage/id_map.hpp"

namespace nearfield {

// A row that may belong to the answer; `exact` is its canonical distance once it has been settled, NaN before.
struct Candidate {
    uint32_t row;
    float low, high;
    double exact = std::numeric_limits<double>::quiet_NaN();

    void settle(double distance);
};

// Which rows of an index a search sees.
struct Admission {
    const LiveRows* live;
    const Bitmap* filter;  // null: all live rows
    bool operator()(size_t row) const { return live->contains(row) && (filter == nullptr || filter->contains(row)); }
};

// Canonical distances from queries to rows, wherever these lie.
class Settler {
  public:
    virtual ~Settler() = default;
    virtual void settle(size_t q, const uint32_t* list, size_t n, double* out) const = 0;
    // Bounds of these distances.
    virtual void bound(size_t q, const uint32_t* list, size_t n, float* low, float* high) const = 0;
    // Asks for the fine bytes of a row that will be read soon.
    virtual void prefetch(size_t /*row*/) const {}

    // Settles the candidates that are not settled yet; returns how many these were.
    size_t settle(size_t q, std::vector<Candidate>& candidates) const;
    // Candidates of the rows, within bounds of their canonical distances.
    std::vector<Candidate> bounded(size_t q, const std::vector<uint32_t>& list) const;
};

// Those of rows in a store.
class StoreSettler final : public Settler {
  public:
    StoreSettler(std::unique_ptr<const Query> query, CodeStore::View rows) : query_(std::move(query)), rows_(rows) {}
    const Query& query() const { return *query_; }
    using Settler::settle;
    void settle(size_t q, const uint32_t* list, size_t n, double* out) const override;
    void bound(size_t q, const uint32_t* list, size_t n, float* low, float* high) const override;
    void prefetch(size_t row) const override { rows_.prefetch_fine(row); }

  private:
    std::unique_ptr<const Query> query_;
    CodeStore::View rows_;
};

// Sorts by (distance, id) and keeps the k best; all must be settled.
void keep_best(std::vector<Candidate>& candidates, size_t k, const IdMap& ids);

// Collects what a scan finds for the k best rows of every query.
class Collector : public SurvivorSink {
  public:
    // Rows of the survivors to come are counted from `row` on, or are those listed.
    void start_block(size_t row) { base_ = row; }
    void start_list(const uint32_t* rows) { rows_ = rows; }
    // Takes over what a collector of the same kind found in another part of the same scan.
    virtual void merge(Collector& other) = 0;
    // The k best of one query, settled, best first.
    virtual std::vector<Candidate>& finish(size_t q) = 0;

  protected:
    size_t row_of(const Survivor& s) const { return rows_ != nullptr ? rows_[s.at] : base_ + s.at; }

  private:
    size_t base_ = 0;
    const uint32_t* rows_ = nullptr;
};

// How the candidates of a scan are compared.
struct Comparison {
    bool narrow = false;     // read the fine bytes of what the scan leaves open, for narrower bounds
    bool estimates = false;  // by estimates, the middle of the bounds, in place of canonical distances
};

// For distances that are known within bounds.
class TopK final : public Collector {
  public:
    // The settler must outlive this.
    TopK(size_t queries, size_t k, Admission admission, const Settler& settler, const IdMap& ids,
         Comparison comparison = {});

    void take(std::span<const Survivor> survivors) noexcept override;
    void offer(size_t q, const Candidate& candidate);
    // A row whose canonical distance is known already.
    void offer_settled(size_t q, uint32_t row, double exact);

    // Forgets everything, for a scan that starts again.
    void reset();
    // Drops what the bounds exclude and returns the mean number of candidates left per query.
    double open();
    // Rows that had to be settled before the end because too many could not be told apart by their estimates.
    size_t settled_early() const { return settled_early_; }
    void merge(Collector& other) override;
    std::vector<Candidate>& finish(size_t q) override;

  private:
    void shrink(size_t q);
    void narrow(size_t q);

    size_t k_, settled_early_ = 0;
    Admission admission_;
    const Settler* settler_;
    const IdMap* ids_;
    Comparison comparison_;
    std::vector<float> bounds_;
    std::vector<std::vector<uint32_t>> open_;  // rows of each query whose fine bytes are still to be read
    std::vector<size_t> capacity_;
    std::vector<std::vector<Candidate>> lists_;
};

// For distances that are whole counts (see Counts): selection by counting how often each of them occurs.
class CountingTopK final : public Collector {
  public:
    CountingTopK(const Query& query, size_t queries, size_t k, Admission admission, const IdMap& ids);

    void take(std::span<const Survivor> survivors) noexcept override;
    void merge(Collector& other) override;
    std::vector<Candidate>& finish(size_t q) override;

  private:
    struct Hit {
        uint32_t row, count;
    };

    void fill_histogram(const std::vector<Hit>& list);
    void shrink(size_t q);

    const Query* query_;
    size_t k_, largest_;  // largest count
    Admission admission_;
    const IdMap* ids_;
    std::vector<float> bounds_;
    std::vector<std::vector<Hit>> lists_;
    std::vector<uint32_t> histogram_;
    std::vector<Candidate> finished_;
};

// All rows whose distance may be within a fixed bound, for range search.
class Within final : public SurvivorSink {
  public:
    Within(std::vector<float> bounds, Admission admission);  // a bound for each query
    void start_block(size_t row) { base_ = row; }
    void take(std::span<const Survivor> survivors) noexcept override;
    std::vector<Candidate>& list(size_t q) { return lists_[q]; }

  private:
    size_t base_ = 0;
    Admission admission_;
    std::vector<float> bounds_;
    std::vector<std::vector<Candidate>> lists_;
};

}  // namespace nearfield
