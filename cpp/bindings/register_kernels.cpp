// The stateless functions, and every kernel of every level by name, for tests and benches.
#include <cstring>
#include <optional>

#include "bindings/common.hpp"
#include "codecs/codec.hpp"
#include "kernels/cpu.hpp"
#include "kernels/dispatch.hpp"
#include "search/flat.hpp"
#include "search/stateless.hpp"

namespace nearfield::bindings {
namespace {

using Bytes = py::array_t<uint8_t, py::array::c_style>;
using Floats = py::array_t<float, py::array::c_style>;
using Signed = py::array_t<int8_t, py::array::c_style>;
using Words = py::array_t<uint64_t, py::array::c_style>;
using RowList = std::optional<py::array_t<uint32_t, py::array::c_style>>;

const kernels::KernelTable& table_of(const std::string& level) {
    if (const kernels::KernelTable* table = kernels::by_name(level)) return *table;
    throw InvalidInput("level: \"" + level + "\" does not run here");
}

// Rows of raw bytes: `offset` bytes into the array, `stride` apart.
struct RawRows {
    const uint8_t* data;
    size_t stride;
    const uint32_t* list;
    size_t n;
};

RawRows raw_rows(const Bytes& data, size_t offset, size_t stride, const RowList& rows, size_t n) {
    return {data.data() + offset, stride, rows ? rows->data() : nullptr, rows ? static_cast<size_t>(rows->size()) : n};
}

void register_levels(py::module_& module) {
    module.def("levels", [] {
        std::vector<std::string> names;
        for (const auto name : kernels::available()) names.emplace_back(name);
        return names;
    });
    module.def("active_level", [] { return std::string(kernels::active().name); });
    module.def("cpu_name", kernels::cpu_name);
    module.def("usable_cpus", usable_cpus);
    module.def("slots", [](const std::string& level) {
        py::dict out;
        for (const auto& [slot, filled_by] : kernels::slots(table_of(level))) {
            out[py::str(slot.data(), slot.size())] = std::string(filled_by);
        }
        return out;
    });
}

void register_dense(py::module_& module) {
    module.def("dot", [](const std::string& level, int type, const Floats& query, const Bytes& data, size_t offset,
                         size_t stride, const RowList& rows, size_t n) {
        const RawRows raw = raw_rows(data, offset, stride, rows, n);
        std::vector<float> dot(raw.n), squared(raw.n);
        const auto dim = static_cast<size_t>(query.size());
        const auto kernel = table_of(level).dense[type].dot;
        {
            const py::gil_scoped_release release;
            kernel(query.data(), raw.data, raw.stride, raw.list, raw.n, dim, dot.data(), squared.data());
            kernel(query.data(), raw.data, raw.stride, raw.list, raw.n, dim, dot.data(), nullptr);
        }
        const auto count = static_cast<py::ssize_t>(raw.n);
        return py::make_tuple(to_array(std::move(dot), {count}), to_array(std::move(squared), {count}));
    });
    module.def("l2", [](const std::string& level, int type, const Floats& query, const Bytes& data, size_t offset,
                        size_t stride, const RowList& rows, size_t n) {
        const RawRows raw = raw_rows(data, offset, stride, rows, n);
        std::vector<float> out(raw.n);
        table_of(level).dense[type].l2(query.data(), raw.data, raw.stride, raw.list, raw.n,
                                       static_cast<size_t>(query.size()), out.data());
        return to_array(std::move(out), {static_cast<py::ssize_t>(raw.n)});
    });
    module.def("integer_dot", [](const std::string& level, int type, const Signed& query, const Bytes& data,
                                 size_t offset, size_t stride, const RowList& rows, size_t n) {
        const RawRows raw = raw_rows(data, offset, stride, rows, n);
        std::vector<int32_t> dot(raw.n);
        std::vector<uint32_t> squared(raw.n);
        table_of(level).dense[type].integer_dot(query.data(), raw.data, raw.stride, raw.list, raw.n,
                                                static_cast<size_t>(query.size()), dot.data(), squared.data());
        const auto count = static_cast<py::ssize_t>(raw.n);
        return py::make_tuple(to_array(std::move(dot), {count}), to_array(std::move(squared), {count}));
    });
    module.def("settle", [](const std::string& level, int type, const Floats& query, const Bytes& data, size_t offset,
                            float scale) {
        std::vector<double> out(3);
        table_of(level).dense[type].settle(query.data(), data.data() + offset, scale, static_cast<size_t>(query.size()),
                                           out.data());
        return to_array(std::move(out), {3});
    });
    module.def("decode", [](const std::string& level, int type, const Bytes& data, size_t offset, size_t dim) {
        std::vector<float> out(dim);
        table_of(level).dense[type].decode(data.data() + offset, dim, out.data());
        return to_array(std::move(out), {static_cast<py::ssize_t>(dim)});
    });
    module.def("encode", [](const std::string& level, int type, const Floats& vector) {
        const auto dim = static_cast<size_t>(vector.size());
        std::vector<uint8_t> out(dim * (type == kernels::kF32 ? 4 : 2));
        table_of(level).dense[type].encode(vector.data(), dim, out.data());
        const auto bytes = static_cast<py::ssize_t>(out.size());
        return to_array(std::move(out), {bytes});
    });
    module.def("quantize", [](const std::string& level, const Floats& vector, int limit) {
        const auto dim = static_cast<size_t>(vector.size());
        std::vector<int8_t> code(dim);
        std::vector<float> lengths(3);
        table_of(level).quantize(vector.data(), dim, limit, code.data(), lengths.data());
        return py::make_tuple(to_array(std::move(code), {static_cast<py::ssize_t>(dim)}),
                              to_array(std::move(lengths), {3}));
    });
}

void register_tiles(py::module_& module) {
    module.def("query_limit", [](const std::string& level) { return table_of(level).tile.query_limit; });
    // Codes [dim][32] or [dim / 4][32][4], factors (4, 32), queries packed as the kernel reads them, per-query terms
    // (4, width): scale, slack, bound, bias. Returns (hit mask, survivors, low).
    module.def("tile", [](const std::string& level, bool floats, const Bytes& codes, const Floats& factors, size_t dim,
                          const Bytes& queries, const Floats& terms, float norm_ratio) {
        const auto width = static_cast<size_t>(terms.shape(1));
        std::vector<int32_t> bias(width);
        for (size_t q = 0; q < width; ++q) bias[q] = static_cast<int32_t>(terms.data()[3 * width + q]);
        const kernels::Tile tile{width,        queries.data(),       bias.data(),
                                 terms.data(), terms.data() + width, terms.data() + 2 * width,
                                 norm_ratio};
        std::vector<uint32_t> survivors(width);
        std::vector<float> low(width * kernels::kGroup);
        const kernels::TileKernels& kernel = table_of(level).tile;
        // Kernels may load aligned floats: the bytes are those of a float array on the Python side.
        const uint32_t hit = floats ? kernel.f32(reinterpret_cast<const float*>(codes.data()), factors.data(), dim,
                                                 &tile, survivors.data(), low.data())
                                    : kernel.u8(codes.data(), factors.data(), dim, &tile, survivors.data(), low.data());
        const auto rows = static_cast<py::ssize_t>(width);
        return py::make_tuple(hit, to_array(std::move(survivors), {rows}),
                              to_array(std::move(low), {rows, static_cast<py::ssize_t>(kernels::kGroup)}));
    });
}

void register_bits(py::module_& module) {
    module.def("bit_counts", [](const std::string& level, bool exclusive, const Bytes& query, const Bytes& data,
                                size_t offset, size_t stride, const RowList& rows, size_t n) {
        const RawRows raw = raw_rows(data, offset, stride, rows, n);
        std::vector<uint32_t> out(raw.n);
        const kernels::BitKernels& bits = table_of(level).bits;
        const auto kernel = exclusive ? bits.xor_counts : bits.and_counts;
        const auto bytes = static_cast<size_t>(query.size());
        {
            const py::gil_scoped_release release;
            kernel(query.data(), raw.data, raw.stride, raw.list, raw.n, bytes, out.data());
        }
        return to_array(std::move(out), {static_cast<py::ssize_t>(raw.n)});
    });
    module.def("select",
               [](const std::string& level, const py::array_t<uint32_t, py::array::c_style>& counts, int32_t most) {
                   const auto n = static_cast<size_t>(counts.size());
                   std::vector<uint32_t> at(n + kernels::kGroup);
                   at.resize(table_of(level).bits.select(counts.data(), n, most, at.data()));
                   const auto found = static_cast<py::ssize_t>(at.size());
                   return to_array(std::move(at), {found});
               });
    module.def("interleave", [](const std::string& level, const Bytes& data, size_t offset, size_t stride, size_t n,
                                size_t bytes) {
        const size_t words = (bytes + 7) / 8;
        std::vector<uint64_t> out(words * kernels::kGroup, ~uint64_t{0});
        table_of(level).bits.interleave(data.data() + offset, stride, n, bytes, out.data());
        return to_array(std::move(out), {static_cast<py::ssize_t>(words), static_cast<py::ssize_t>(kernels::kGroup)});
    });
    // Codes (words, 32), queries (words, width). Returns (hit mask, survivors, counts).
    module.def("hamming_tile", [](const std::string& level, const Words& codes, const Words& queries,
                                  const py::array_t<int32_t, py::array::c_style>& most) {
        const auto words = static_cast<size_t>(codes.shape(0)), width = static_cast<size_t>(queries.shape(1));
        std::vector<uint32_t> survivors(width), counts(width * kernels::kGroup);
        const uint32_t hit = table_of(level).bits.hamming_tile(codes.data(), words, queries.data(), width, most.data(),
                                                               survivors.data(), counts.data());
        const auto rows = static_cast<py::ssize_t>(width);
        return py::make_tuple(hit, to_array(std::move(survivors), {rows}),
                              to_array(std::move(counts), {rows, static_cast<py::ssize_t>(kernels::kGroup)}));
    });
    // Codes (document planes, words, 32), factors (2, 32), query (words, query planes), weight (document planes, query
    // planes). Returns (survivors, low).
    module.def("planes", [](const std::string& level, const Words& codes, const Floats& factors, const Words& query,
                            const Floats& weight, float offset, float tilt, float bound, bool exclusive) {
        const kernels::BitPlanes planes{static_cast<size_t>(codes.shape(1)),
                                        static_cast<size_t>(codes.shape(0)),
                                        static_cast<size_t>(query.shape(1)),
                                        query.data(),
                                        weight.data(),
                                        offset,
                                        tilt,
                                        bound,
                                        exclusive};
        std::vector<float> low(kernels::kGroup);
        const uint32_t survivors = table_of(level).bits.planes(codes.data(), factors.data(), &planes, low.data());
        return py::make_tuple(survivors, to_array(std::move(low), {static_cast<py::ssize_t>(kernels::kGroup)}));
    });
}

void register_functions(py::module_& module) {
    module.def(
        "scores",
        [](const py::array& queries, const std::string& queries_type, const py::array& vectors,
           const std::string& vectors_type, const std::string& metric, size_t threads) {
            const Vectors q = vectors_of(queries, queries_type), x = vectors_of(vectors, vectors_type);
            std::vector<float> out = interruptible(
                threads, py::none(), [&](const Run& run) { return scores(q, x, parse_metric(metric), run); });
            return to_array(std::move(out), {queries.shape(0), vectors.shape(0)});
        },
        py::arg("queries"), py::arg("queries_type"), py::arg("vectors"), py::arg("vectors_type"), py::arg("metric"),
        py::arg("threads"));
    module.def(
        "knn",
        [](const py::array& queries, const std::string& queries_type, const py::array& vectors,
           const std::string& vectors_type, size_t k, const std::string& metric, size_t threads) {
            const Vectors q = vectors_of(queries, queries_type), x = vectors_of(vectors, vectors_type);
            SearchResult result = interruptible(threads, py::none(), [&](const Run& run) {
                return Flat::over(x, parse_metric(metric))->search(q, k, {}, run);
            });
            const std::vector<py::ssize_t> shape{queries.shape(0), static_cast<py::ssize_t>(k)};
            return py::make_tuple(to_array(std::move(result.ids), shape), to_array(std::move(result.scores), shape),
                                  to_array(std::move(result.counts), {queries.shape(0)}), result.plan);
        },
        py::arg("queries"), py::arg("queries_type"), py::arg("vectors"), py::arg("vectors_type"), py::arg("k"),
        py::arg("metric"), py::arg("threads"));
    module.def(
        "topk",
        [](const Floats& values, size_t k, bool largest) {
            const auto rows = static_cast<size_t>(values.shape(0)), n = static_cast<size_t>(values.shape(1));
            std::vector<int64_t> ids(rows * k, -1);
            std::vector<float> best(rows * k, std::numeric_limits<float>::quiet_NaN());
            {
                const py::gil_scoped_release release;
                for (size_t r = 0; r < rows; ++r) {
                    size_t at = r * k;
                    for (const auto& [place, score] : top_k(values.data() + r * n, n, k, largest)) {
                        ids[at] = static_cast<int64_t>(place);
                        best[at++] = score;
                    }
                }
            }
            const std::vector<py::ssize_t> shape{static_cast<py::ssize_t>(rows), static_cast<py::ssize_t>(k)};
            return py::make_tuple(to_array(std::move(ids), shape), to_array(std::move(best), shape));
        },
        py::arg("scores"), py::arg("k"), py::arg("largest"));
}

}  // namespace

void register_kernels(py::module_& module) {
    register_functions(module);
    register_levels(module);
    py::module_ raw = module.def_submodule("raw", "The kernels of every level, for tests and benches.");
    register_dense(raw);
    register_tiles(raw);
    register_bits(raw);
}

}  // namespace nearfield::bindings
