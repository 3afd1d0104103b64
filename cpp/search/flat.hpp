// Exact search over all rows: nf.Flat.
#pragma once

#include "search/index.hpp"

namespace nearfield {

struct FlatOptions : IndexOptions {
    bool screen = true;  // scan a compact image of float vectors first (codecs/screen.hpp)
};

class Flat final : public Index {
  public:
    explicit Flat(const FlatOptions& options);
    // An index over the caller's own rows, which lie side by side and must outlive it: nothing is copied.
    static std::unique_ptr<Flat> over(const Vectors& vectors, Metric metric);

    std::string_view kind() const override { return "flat"; }
    bool screen() const { return screen_; }
    SearchResult search(const Vectors& queries, size_t k, const SearchOptions& options, const Run& run) const override;
    RangeResult range_search(const Vectors& queries, double radius, const SearchOptions& options,
                             const Run& run) const override;

    // The index in a file, but for what all indexes read themselves.
    static std::unique_ptr<Flat> made_for(const Container& file, IndexOptions options);

  private:
    struct FlatCodes;
    struct Part;

    Flat(const FlatOptions& options, std::shared_ptr<const Codec> codec);

    static const FlatCodes& codes_of(const Snapshot& now);
    std::shared_ptr<const Codes> append_codes(const Snapshot& now, const Vectors& vectors, size_t version,
                                              const Run& run) const override;
    std::shared_ptr<const Codes> compacted_codes(const Snapshot& old, const std::vector<uint32_t>& rows) const override;
    void describe(const Snapshot& now, Description& out) const override;
    std::shared_ptr<const Codes> load_codes(const std::shared_ptr<const Container>& file,
                                            const Snapshot& loaded) const override;
    size_t extend_screen(FlatCodes& codes, const Run& run) const;
    void search_part(const FlatCodes& codes, Part& part, const struct Plan& plan) const;

    bool screen_;
};

}  // namespace nearfield
