#include "cases.hpp"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <utility>

#include "kernels/dispatch.hpp"

namespace nearfield::bench {

void fill_limits_scalar(Limits* limits);
void fill_limits_avx2(Limits* limits);
void fill_limits_avx512(Limits* limits);
void fill_limits_avx512vnni(Limits* limits);
void fill_limits_avx512icl(Limits* limits);
void fill_limits_avx512bf16(Limits* limits);
void fill_limits_neon(Limits* limits);
void fill_limits_neondot(Limits* limits);

namespace {

using kernels::BitKernels;
using kernels::CodeKernels;
using kernels::DenseKernels;
using kernels::KernelTable;
using kernels::kGroup;

constexpr const char* kTypeNames[] = {"f32", "f16", "bf16", "int8", "uint8"};
constexpr size_t kTypeBytes[] = {4, 2, 2, 1, 1};
constexpr size_t kBatch = 1024;  // rows per call: their scores stay in the first-level cache, as in a search

// Copies the first `unit` bytes over the rest of the buffer; returns how many units fit.
size_t repeat(uint8_t* buffer, size_t bytes, size_t unit) {
    const size_t count = bytes / unit;
    for (size_t done = 1; done < count;) {
        const size_t more = std::min(done, count - done);
        std::memcpy(buffer + done * unit, buffer, more * unit);
        done += more;
    }
    return count;
}

std::vector<float> random_floats(size_t n) {
    std::mt19937 generator(1);
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> out(n);
    std::generate(out.begin(), out.end(), [&] { return uniform(generator); });
    return out;
}

template <class Byte>
std::vector<Byte> random_bytes(size_t n) {
    std::mt19937 generator(1);
    std::vector<Byte> out(n);
    std::generate(out.begin(), out.end(), [&] { return static_cast<Byte>(static_cast<int>(generator() % 127) - 63); });
    return out;
}

std::function<size_t(uint8_t*, size_t)> fill_rows(int type, size_t dim) {
    return [=](uint8_t* buffer, size_t bytes) {
        constexpr size_t kRows = 64;
        const size_t row_bytes = dim * kTypeBytes[type], rows = std::min(kRows, bytes / row_bytes);
        const std::vector<float> floats = random_floats(rows * dim);
        for (size_t i = 0; i < rows; ++i) {
            uint8_t* row = buffer + i * row_bytes;
            if (type <= kernels::kBF16) {
                kernels::by_name("scalar")->dense[type].encode(floats.data() + i * dim, dim, row);
            } else {
                const auto codes = random_bytes<uint8_t>(dim);
                std::copy(codes.begin(), codes.end(), row);
            }
        }
        return repeat(buffer, bytes, rows * row_bytes) * rows;
    };
}

// A run that hands `kernel(first row, rows)` one batch after the other.
template <class Kernel>
std::function<void(const uint8_t*, size_t)> in_batches(size_t row_bytes, Kernel kernel) {
    return [=](const uint8_t* buffer, size_t vectors) {
        for (size_t first = 0; first < vectors; first += kBatch) {
            kernel(buffer + first * row_bytes, std::min(kBatch, vectors - first));
        }
    };
}

class Collector {
  public:
    Collector(size_t dim, const KernelTable& table, const KernelTable* below)
        : dim_(dim), table_(table), below_(below) {}

    void dense(int type) {
        const DenseKernels& kernels = table_.dense[type];
        const std::string name = kTypeNames[type];
        const size_t row_bytes = dim_ * kTypeBytes[type];
        const auto n = static_cast<double>(dim_), bytes = static_cast<double>(row_bytes);
        const Unit unit = type == kernels::kBF16 ? kUnitBF16 : kUnitF32;
        const auto add = [&](const std::string& kernel, Unit bound, double operations, auto run) {
            cases_.push_back({"dense", kernel + "_" + name, table_.name, bound, bytes, operations,
                              fill_rows(type, dim_), in_batches(row_bytes, std::move(run))});
        };
        const auto query = std::make_shared<std::vector<float>>(random_floats(dim_));
        const auto codes = std::make_shared<std::vector<int8_t>>(random_bytes<int8_t>(dim_));
        const auto floats = std::make_shared<std::vector<float>>(std::max(kBatch, dim_));
        const auto norms = std::make_shared<std::vector<float>>(kBatch);
        const auto integers = std::make_shared<std::vector<int32_t>>(kBatch);
        const auto squares = std::make_shared<std::vector<uint32_t>>(kBatch);
        const size_t dim = dim_;

        if (own(&DenseKernels::dot, type)) {
            add("dot", unit, 2 * n, [=, f = kernels.dot](const uint8_t* rows, size_t count) {
                f(query->data(), rows, row_bytes, nullptr, count, dim, floats->data(), nullptr);
            });
            add("dot_norm", unit, 4 * n, [=, f = kernels.dot](const uint8_t* rows, size_t count) {
                f(query->data(), rows, row_bytes, nullptr, count, dim, floats->data(), norms->data());
            });
        }
        if (own(&DenseKernels::l2, type)) {
            add("l2", kUnitF32, 3 * n, [=, f = kernels.l2](const uint8_t* rows, size_t count) {
                f(query->data(), rows, row_bytes, nullptr, count, dim, floats->data());
            });
        }
        if (own(&DenseKernels::integer_dot, type)) {
            add("dot", kUnitInt8, 2 * n, [=, f = kernels.integer_dot](const uint8_t* rows, size_t count) {
                f(codes->data(), rows, row_bytes, nullptr, count, dim, integers->data(), nullptr);
            });
            add("dot_norm", kUnitInt8, 4 * n, [=, f = kernels.integer_dot](const uint8_t* rows, size_t count) {
                f(codes->data(), rows, row_bytes, nullptr, count, dim, integers->data(), squares->data());
            });
        }
        if (own(&DenseKernels::settle, type)) {
            add("settle", kUnitF64, 7 * n, [=, f = kernels.settle](const uint8_t* rows, size_t count) {
                double out[3];
                for (size_t i = 0; i < count; ++i) f(query->data(), rows + i * row_bytes, 1.0f, dim, out);
            });
        }
        if (own(&DenseKernels::decode, type)) {
            add("decode", kUnitF32, 0, [=, f = kernels.decode](const uint8_t* rows, size_t count) {
                for (size_t i = 0; i < count; ++i) f(rows + i * row_bytes, dim, floats->data());
            });
        }
        if (own(&DenseKernels::encode, type)) {
            const auto out = std::make_shared<std::vector<uint8_t>>(row_bytes);
            const size_t float_bytes = dim * sizeof(float);
            cases_.push_back({"dense", "encode_" + name, table_.name, kUnitF32, static_cast<double>(float_bytes), 0,
                              fill_rows(kernels::kF32, dim),
                              in_batches(float_bytes, [=, f = kernels.encode](const uint8_t* rows, size_t count) {
                                  for (size_t i = 0; i < count; ++i) {
                                      f(reinterpret_cast<const float*>(rows + i * float_bytes), dim, out->data());
                                  }
                              })});
        }
    }

    void quantize() {
        if (below_ && below_->quantize == table_.quantize) return;
        const size_t dim = dim_, row_bytes = dim * sizeof(float);
        const auto code = std::make_shared<std::vector<int8_t>>(dim);
        cases_.push_back({"dense", "quantize", table_.name, kUnitF32, static_cast<double>(row_bytes), 0,
                          fill_rows(kernels::kF32, dim),
                          in_batches(row_bytes, [=, f = table_.quantize](const uint8_t* rows, size_t count) {
                              float lengths[3];
                              for (size_t i = 0; i < count; ++i) {
                                  f(reinterpret_cast<const float*>(rows + i * row_bytes), dim, 127, code->data(),
                                    lengths);
                              }
                          })});
    }

    void tile_f32(size_t width) {
        if (below_ && below_->tile.f32 == table_.tile.f32) return;
        const auto queries = std::make_shared<std::vector<float>>(random_floats(dim_ * width));
        tile("f32", width, kUnitF32, dim_ * kGroup * sizeof(float), true, queries,
             [f = table_.tile.f32, dim = dim_](const uint8_t* codes, const float* factors, const kernels::Tile* tile,
                                               uint32_t* survivors, float* low) {
                 return f(reinterpret_cast<const float*>(codes), factors, dim, tile, survivors, low);
             });
    }

    void tile_u8(size_t width) {
        if (below_ && below_->tile.u8 == table_.tile.u8) return;
        const size_t padded = (dim_ + 3) / 4 * 4;
        const auto queries = std::make_shared<std::vector<int8_t>>(random_bytes<int8_t>(padded * width));
        tile("u8", width, kUnitInt8, padded * kGroup, false, queries,
             [f = table_.tile.u8, dim = dim_](const uint8_t* codes, const float* factors, const kernels::Tile* tile,
                                              uint32_t* survivors,
                                              float* low) { return f(codes, factors, dim, tile, survivors, low); });
    }

    // Operations: XOR or AND, the count of ones and its addition, for each 64-bit word.
    void bits() {
        const size_t row_bytes = (dim_ + 7) / 8, words = (row_bytes + 7) / 8;
        const auto query = std::make_shared<std::vector<uint8_t>>(random_bytes<uint8_t>(row_bytes));
        const auto add_rows = [&](const char* name, double operations, auto run) {
            cases_.push_back({"bits", name, table_.name, kUnitBits, static_cast<double>(row_bytes), operations,
                              fill_rows(kernels::kU8, row_bytes), in_batches(row_bytes, std::move(run))});
        };
        for (const auto& [name, member] :
             {std::pair{"bits_xor", &BitKernels::xor_counts}, std::pair{"bits_and", &BitKernels::and_counts}}) {
            if (!own(&KernelTable::bits, member)) continue;
            const auto out = std::make_shared<std::vector<uint32_t>>(kBatch);
            add_rows(name, 3.0 * static_cast<double>(words),
                     [=, f = table_.bits.*member](const uint8_t* rows, size_t count) {
                         f(query->data(), rows, row_bytes, nullptr, count, row_bytes, out->data());
                     });
        }
        if (own(&KernelTable::bits, &BitKernels::interleave)) {
            const auto out = std::make_shared<std::vector<uint64_t>>(words * kGroup);
            add_rows("bits_interleave", 0, [=, f = table_.bits.interleave](const uint8_t* rows, size_t count) {
                for (size_t first = 0; first < count; first += kGroup) {
                    f(rows + first * row_bytes, row_bytes, std::min(kGroup, count - first), row_bytes, out->data());
                }
            });
        }
        if (own(&KernelTable::bits, &BitKernels::hamming_tile)) {
            for (const size_t width : {size_t{1}, kernels::kBitTile}) hamming_tile(words, width);
        }
        if (own(&KernelTable::bits, &BitKernels::planes)) {
            for (const size_t width : {size_t{1}, kernels::kBitPlanes}) planes(words, width);
        }
    }

    // Groups of codes of `dim` dimensions, or of as many bits in the codes of subspaces.
    void codes() {
        for (const size_t width : {size_t{1}, kernels::kTile}) {
            code_products("dot2", 2, &CodeKernels::dot2, width);
            code_products("dot4", 4, &CodeKernels::dot4, width);
            const size_t units = (dim_ + 3) / 4;
            const auto queries = std::make_shared<std::vector<int8_t>>(random_bytes<int8_t>(4 * units * width));
            code_groups(
                "dot8", &CodeKernels::dot8, units, width, kUnitInt8, 2 * dim_ * width,
                [=](auto f, const uint8_t* group, int32_t* sums) { f(group, units, queries->data(), width, sums); });
            code_sums("sum4", 4, &CodeKernels::sum4, width);
        }
        code_sums("sum8", 8, &CodeKernels::sum8, 1);
        estimate();
        for (const size_t bits : {1, 4, 8}) code_rows(bits);
        nearest();
        hadamard();
    }

    std::vector<Case> take() { return std::move(cases_); }

  private:
    template <class Member>
    bool own(Member member, int type) const {
        const auto kernel = table_.dense[type].*member;
        return kernel != nullptr && (below_ == nullptr || below_->dense[type].*member != kernel);
    }

    template <class Family, class Member>
    bool own(Family family, Member member) const {
        return below_ == nullptr || below_->*family.*member != table_.*family.*member;
    }

    static std::shared_ptr<std::vector<uint64_t>> random_words(size_t n) {
        const auto bytes = random_bytes<uint8_t>(n * sizeof(uint64_t));
        auto words = std::make_shared<std::vector<uint64_t>>(n);
        std::memcpy(words->data(), bytes.data(), bytes.size());
        return words;
    }

    // A case over groups of `group_bytes`, of which `run` scores one. Nothing survives.
    template <class Run>
    void bit_groups(const std::string& name, size_t words, size_t group_bytes, size_t width, Run run) {
        const auto fill = [=](uint8_t* buffer, size_t bytes) {
            std::memset(buffer, 0, group_bytes);
            const auto codes = random_bytes<uint8_t>(words * kGroup * sizeof(uint64_t));
            std::copy(codes.begin(), codes.end(), buffer);
            return repeat(buffer, bytes, group_bytes) * kGroup;
        };
        const auto all = [=](const uint8_t* buffer, size_t vectors) {
            for (size_t group = 0; group < vectors / kGroup; ++group) run(buffer + group * group_bytes);
        };
        cases_.push_back({"bits", name + "_x" + std::to_string(width), table_.name, kUnitBits,
                          static_cast<double>(group_bytes) / kGroup, 3.0 * static_cast<double>(words * width), fill,
                          all});
    }

    void hamming_tile(size_t words, size_t width) {
        const auto queries = random_words(words * width);
        bit_groups("bits_hamming", words, words * kGroup * sizeof(uint64_t), width,
                   [=, f = table_.bits.hamming_tile](const uint8_t* group) {
                       static constexpr int32_t kNone[kernels::kBitTile] = {-1, -1, -1, -1};
                       uint32_t survivors[kernels::kBitTile], counts[kernels::kBitTile * kGroup];
                       f(reinterpret_cast<const uint64_t*>(group), words, queries->data(), width, kNone, survivors,
                         counts);
                   });
    }

    void planes(size_t words, size_t width) {
        const auto query = random_words(words * width);
        const auto weight = std::make_shared<std::vector<float>>(random_floats(width));
        const size_t code_bytes = words * kGroup * sizeof(uint64_t);
        bit_groups("bits_planes", words, code_bytes + 2 * kGroup * sizeof(float), width,
                   [=, f = table_.bits.planes](const uint8_t* group) {
                       constexpr float kNone = -std::numeric_limits<float>::infinity();
                       const kernels::BitPlanes planes{words, 1,    width, query->data(), weight->data(),
                                                       1.0f,  1.0f, kNone, false};
                       float low[kGroup];
                       f(reinterpret_cast<const uint64_t*>(group), reinterpret_cast<const float*>(group + code_bytes),
                         &planes, low);
                   });
    }

    // A case over groups of `units` units of codes, of which `run(kernel, group, sums)` sums up one.
    template <class Member, class Run>
    void code_groups(const std::string& name, Member member, size_t units, size_t width, Unit unit, size_t operations,
                     Run run) {
        if (!own(&KernelTable::codes, member)) return;
        const size_t group_bytes = units * kGroup * 4;
        const auto fill = [=](uint8_t* buffer, size_t bytes) {
            const auto group = random_bytes<uint8_t>(group_bytes);
            std::copy(group.begin(), group.end(), buffer);
            return repeat(buffer, bytes, group_bytes) * kGroup;
        };
        const auto all = [=, f = table_.codes.*member](const uint8_t* buffer, size_t vectors) {
            int32_t sums[kernels::kTile * kGroup];
            for (size_t group = 0; group < vectors / kGroup; ++group) run(f, buffer + group * group_bytes, sums);
        };
        cases_.push_back({"codes", "codes_" + name + "_x" + std::to_string(width), table_.name, unit,
                          static_cast<double>(group_bytes) / kGroup, static_cast<double>(operations), fill, all});
    }

    template <class Member>
    void code_products(const char* name, size_t bits, Member member, size_t width) {
        const size_t values = 32 / bits, units = (dim_ + values - 1) / values;
        const auto queries = std::make_shared<std::vector<int8_t>>(random_bytes<int8_t>(units * values * width));
        code_groups(name, member, units, width, kUnitInt8, 2 * dim_ * width,
                    [=](auto f, const uint8_t* group, int32_t* sums) {
                        static constexpr uint8_t kLevels[16] = {0, 80, 160, 240, 0, 80, 160, 240,
                                                                0, 80, 160, 240, 0, 80, 160, 240};
                        f(group, units, kLevels, queries->data(), width, sums);
                    });
    }

    template <class Member>
    void code_sums(const char* name, size_t bits, Member member, size_t width) {
        const size_t units = (dim_ + 31) / 32, entries = 32 / bits << bits;
        const auto tables = std::make_shared<std::vector<uint8_t>>(random_bytes<uint8_t>(units * width * entries));
        code_groups(name, member, units, width, kUnitInt8, 0,
                    [=](auto f, const uint8_t* group, int32_t* sums) { f(group, units, tables->data(), width, sums); });
    }

    // A case over groups of `floats` floats for each vector.
    template <class Run>
    void float_groups(const char* name, size_t floats, double operations, Run run) {
        const auto all = [=](const uint8_t* buffer, size_t vectors) {
            for (size_t first = 0; first + kGroup <= vectors; first += kGroup) {
                run(reinterpret_cast<const float*>(buffer) + first * floats);
            }
        };
        cases_.push_back({"codes", name, table_.name, kUnitF32, static_cast<double>(floats * sizeof(float)), operations,
                          fill_rows(kernels::kF32, floats), all});
    }

    void estimate() {
        if (!own(&KernelTable::codes, &CodeKernels::estimate)) return;
        float_groups("codes_estimate", 4, 10, [f = table_.codes.estimate](const float* factors) {
            static constexpr int32_t kSums[kGroup] = {};
            const float *mul = factors + kGroup, *off = mul + kGroup, *err = off + kGroup;
            const kernels::Factors group{factors, mul, off, err};
            const kernels::Estimate query{1, 1, 1, 1, 1, 0};
            float distances[kGroup];
            uint32_t survivors;
            f(kSums, &group, &query, 1, &survivors, distances);
        });
    }

    void code_rows(size_t bits) {
        if (!own(&KernelTable::codes, &CodeKernels::row_dot)) return;
        const size_t row_bytes = (dim_ * bits + 31) / 32 * 4;
        const auto query = std::make_shared<std::vector<int8_t>>(random_bytes<int8_t>(8 / bits * row_bytes));
        const auto out = std::make_shared<std::vector<int32_t>>(kBatch);
        const auto run = [=, f = table_.codes.row_dot](const uint8_t* rows, size_t count) {
            f(rows, row_bytes, nullptr, count, row_bytes, bits, query->data(), out->data());
        };
        cases_.push_back({"codes", "codes_row_dot" + std::to_string(bits), table_.name, kUnitInt8,
                          static_cast<double>(row_bytes), 2.0 * static_cast<double>(dim_),
                          fill_rows(kernels::kU8, row_bytes), in_batches(row_bytes, run)});
    }

    // The centroids of a code of four bits.
    void nearest() {
        if (!own(&KernelTable::codes, &CodeKernels::nearest)) return;
        constexpr size_t kCentroids = 16, kDim = 8;
        const auto centroids = std::make_shared<std::vector<float>>(random_floats(kCentroids * kDim));
        float_groups("codes_nearest", kDim, 3.0 * kCentroids * kDim,
                     [=, f = table_.codes.nearest](const float* points) {
                         uint32_t index[kGroup];
                         float squared[kGroup];
                         f(points, centroids->data(), kCentroids, kDim, index, squared);
                     });
    }

    // On copies of rows: the copying is measured as well.
    void hadamard() {
        if (!own(&KernelTable::codes, &CodeKernels::hadamard)) return;
        const size_t n = std::bit_floor(dim_), row_bytes = n * sizeof(float);
        const auto values = std::make_shared<std::vector<float>>(n);
        const auto run = [=, f = table_.codes.hadamard](const uint8_t* rows, size_t count) {
            for (size_t i = 0; i < count; ++i) {
                std::memcpy(values->data(), rows + i * row_bytes, row_bytes);
                f(values->data(), n);
            }
        };
        cases_.push_back({"codes", "codes_hadamard", table_.name, kUnitF32, static_cast<double>(row_bytes),
                          static_cast<double>(n * (std::bit_width(n) - 1)), fill_rows(kernels::kF32, n),
                          in_batches(row_bytes, run)});
    }

    template <class Queries, class Kernel>
    void tile(const char* codes, size_t width, Unit unit, size_t code_bytes, bool floats,
              std::shared_ptr<Queries> queries, Kernel kernel) {
        const size_t group_bytes = code_bytes + kernels::kGroupFactors * sizeof(float);
        const auto fill = [=](uint8_t* buffer, size_t bytes) {
            if (floats) {
                const std::vector<float> group = random_floats(group_bytes / sizeof(float));
                std::memcpy(buffer, group.data(), group_bytes);
            } else {
                const auto group = random_bytes<uint8_t>(code_bytes);
                const std::vector<float> factors = random_floats(kernels::kGroupFactors);
                std::memcpy(buffer, group.data(), code_bytes);
                std::memcpy(buffer + code_bytes, factors.data(), group_bytes - code_bytes);
            }
            return repeat(buffer, bytes, group_bytes) * kGroup;
        };
        // Nothing survives a bound of minus infinity: the kernel alone is measured.
        struct Terms {
            int32_t bias[kernels::kTile] = {};
            float ones[kernels::kTile], bounds[kernels::kTile];
        };
        const auto terms = std::make_shared<Terms>();
        std::fill(std::begin(terms->ones), std::end(terms->ones), 1.0f);
        std::fill(std::begin(terms->bounds), std::end(terms->bounds), -std::numeric_limits<float>::infinity());
        const auto run = [=](const uint8_t* buffer, size_t vectors) {
            const kernels::Tile tile{width,       queries->data(), terms->bias, terms->ones,
                                     terms->ones, terms->bounds,   0.01f};
            uint32_t survivors[kernels::kTile];
            float low[kernels::kTile * kGroup];
            for (size_t group = 0; group < vectors / kGroup; ++group) {
                const uint8_t* at = buffer + group * group_bytes;
                kernel(at, reinterpret_cast<const float*>(at + code_bytes), &tile, survivors, low);
            }
        };
        cases_.push_back({"tile", std::string("tile_") + codes + "_x" + std::to_string(width), table_.name, unit,
                          static_cast<double>(group_bytes) / kGroup, 2.0 * static_cast<double>(dim_ * width), fill,
                          run});
    }

    size_t dim_;
    const KernelTable& table_;
    const KernelTable* below_;
    std::vector<Case> cases_;
};

}  // namespace

std::vector<Case> cases(size_t dim) {
    std::vector<Case> all;
    const KernelTable* below = nullptr;
    for (const std::string_view level : kernels::available()) {
        const KernelTable* table = kernels::by_name(level);
        Collector collector(dim, *table, below);
        for (int type = 0; type < kernels::kElementTypes; ++type) collector.dense(type);
        collector.quantize();
        for (const size_t width : {size_t{1}, kernels::kTile}) {
            collector.tile_f32(width);
            collector.tile_u8(width);
        }
        collector.bits();
        collector.codes();
        for (Case& one : collector.take()) all.push_back(std::move(one));
        below = table;
    }
    return all;
}

const Limits& limits_of(std::string_view level) {
    using Fill = void (*)(Limits*);
    static const std::vector<std::pair<std::string_view, Limits>> all = [] {
        const std::pair<std::string_view, Fill> fills[] = {
            {"scalar", fill_limits_scalar},
#if defined(NEARFIELD_HAVE_AVX2)
            {"avx2", fill_limits_avx2},
#endif
#if defined(NEARFIELD_HAVE_AVX512)
            {"avx512", fill_limits_avx512},
#endif
#if defined(NEARFIELD_HAVE_AVX512VNNI)
            {"avx512vnni", fill_limits_avx512vnni},
#endif
#if defined(NEARFIELD_HAVE_AVX512ICL)
            {"avx512icl", fill_limits_avx512icl},
#endif
#if defined(NEARFIELD_HAVE_AVX512BF16)
            {"avx512bf16", fill_limits_avx512bf16},
#endif
#if defined(NEARFIELD_HAVE_NEON)
            {"neon", fill_limits_neon},
#endif
#if defined(NEARFIELD_HAVE_NEONDOT)
            {"neondot", fill_limits_neondot},
#endif
        };
        std::vector<std::pair<std::string_view, Limits>> out;
        Limits limits{};
        for (const std::string_view name : kernels::available()) {
            for (const auto& [fills_level, fill] : fills) {
                if (fills_level == name) fill(&limits);
            }
            out.emplace_back(name, limits);
        }
        return out;
    }();
    for (const auto& [name, limits] : all) {
        if (name == level) return limits;
    }
    return all.front().second;
}

}  // namespace nearfield::bench
