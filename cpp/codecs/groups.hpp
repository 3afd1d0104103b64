// Codes in interleaved groups: their layout, and queries that scan them by the code kernels.
#pragma once

#include <vector>

#include "codecs/codec.hpp"

namespace nearfield {

// A row: units of four code bytes (see kernels::CodeKernels), then `factors` float32, then, where `reach` is set, one
// more: how far a rounded query may be off for this row, in units of its error.
// A group: the units of kGroup rows interleaved, each factor of kGroup rows, and the largest reach, which takes 64
// bytes so that the groups that follow stay aligned. A row that is taken back out of a group has the group's reach.
struct GroupLayout {
    size_t units, factors;
    bool reach;

    size_t code_bytes() const { return units * 4; }
    size_t row_bytes() const { return code_bytes() + (factors + (reach ? 1 : 0)) * sizeof(float); }
    size_t factors_at() const { return code_bytes() * kernels::kGroup; }  // in a group
    size_t reach_at() const { return factors_at() + factors * kernels::kGroup * sizeof(float); }
    size_t group_bytes() const { return reach_at() + (reach ? 64 : 0); }

    void pack(Rows rows, size_t n, std::byte* block) const;
    void unpack(Block block, const uint32_t* list, size_t n, std::byte* rows, size_t stride) const;
    // Factors of a row, the reach behind the last.
    float factor(const std::byte* row, size_t which) const;
    void set_factor(std::byte* row, size_t which, float value) const;
};

// Codes of `bits` (1, 2, 4 or 8) each in the units of a row: sets code i, which was 0, and reads it. Code i stands in
// byte j of unit u at place p, with i = (32 / bits) * u + 4 * p + j.
inline void put_code(std::byte* units, size_t bits, size_t i, unsigned code) {
    const size_t per_unit = 32 / bits, in_unit = i % per_unit;
    units[i / per_unit * 4 + in_unit % 4] |= static_cast<std::byte>(code << in_unit / 4 * bits);
}
inline unsigned get_code(const std::byte* units, size_t bits, size_t i) {
    const size_t per_unit = 32 / bits, in_unit = i % per_unit;
    const auto byte = static_cast<unsigned>(units[i / per_unit * 4 + in_unit % 4]);
    return byte >> in_unit / 4 * bits & ((1u << bits) - 1);
}

// A codec whose blocks are such groups.
class GroupCodec : public Codec {
  public:
    size_t row_bytes() const override { return layout().row_bytes() + fine_bytes(); }
    size_t group() const override { return kernels::kGroup; }
    size_t group_bytes() const override { return layout().group_bytes(); }
    void pack(Rows rows, size_t n, std::byte* block) const override { layout().pack(rows, n, block); }
    void unpack(Block block, const uint32_t* list, size_t n, std::byte* rows, size_t stride) const override {
        layout().unpack(block, list, n, rows, stride);
    }
    virtual GroupLayout layout() const = 0;
};

// The scan of groups that all these codecs share. A row's distance is
//     base + add + mul * (scale * sum + shift) + tilt * off,
// off by at most slack * err + error * reach + (what float32 loses of magnitudes about norm * reach and square *
// reach^2), where `sum` is what a code kernel adds up and the factors in lower case stand beside the row.
class GroupQuery : public Query {
  public:
    bool stable() const override { return true; }
    void score_rows(Rows rows, const uint32_t* list, size_t n, float* out) const noexcept override;
    void score_block(Block block, float* out) const noexcept override;
    void scan(Block block, SurvivorSink& sink) const noexcept override;
    void select(Block block, EstimateSink& sink) const noexcept override;
    bool picks() const override { return tables_.kernel != nullptr; }
    void pick(Block block, std::span<const uint32_t> queries, const float* centers,
              EstimateSink& sink) const noexcept override;

  protected:
    struct Terms {
        float base = 0, scale = 0, shift = 0, tilt = 0, slack = 0;
        float error = 0, norm = 0, square = 0;
    };
    // How far a query's distance may be off by rounding, without slack * err: a polynomial of the reach.
    struct Spread {
        float constant, linear, square;
        float at(float reach) const { return constant + reach * (linear + reach * square); }
    };
    static Spread spread_of(const Terms& t);
    // Which of a row's factors are what; -1: it has none (0, for mul 1).
    struct Roles {
        int add = -1, mul = -1, off = -1, err = -1;
    };

    // `tile` queries are scanned together; `reach` is that of rows which do not store it.
    GroupQuery(GroupLayout layout, Roles roles, size_t width, size_t tile, float reach = 0);

    // The sums of queries [first, first + width) for one group: sums[q * kGroup + i]. By default of table entries.
    virtual void sum(const uint8_t* codes, size_t first, size_t width, int32_t* sums) const noexcept;
    // Tables of tile after tile, as a kernel takes them: [units][width] of so many bytes.
    struct Tables {
        decltype(kernels::CodeKernels::sum4) kernel = nullptr;
        const uint8_t* data = nullptr;
        size_t unit_bytes = 0;
    };
    void scan_tables(const Tables& tables) { tables_ = tables; }

    size_t width() const { return terms_.size(); }
    size_t tile() const { return tile_; }
    std::vector<Terms> terms_;

  private:
    const float* factor(const std::byte* group, int which, const float* otherwise) const;
    kernels::Factors factors_of(const std::byte* group, const float* corrections) const;

    GroupLayout layout_;
    Tables tables_;
    size_t factors_at_;
    Roles roles_;
    size_t tile_;
    float reach_;
};

}  // namespace nearfield
