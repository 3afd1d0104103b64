#include <pybind11/stl/filesystem.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <optional>
#include <span>
#include <system_error>

#include "bindings/common.hpp"
#include "codecs/codec.hpp"
#include "search/flat.hpp"

namespace nearfield::bindings {

Vectors vectors_of(const py::array& array, const std::string& type) {
    static const std::vector<std::string> kNames = {"f32", "f16", "bf16", "int8", "uint8", "bits"};
    static constexpr size_t kBytes[] = {4, 2, 2, 1, 1, 1};
    const auto at = std::find(kNames.begin(), kNames.end(), type) - kNames.begin();
    if (static_cast<size_t>(at) == kNames.size()) throw InvalidInput("element type: \"" + type + "\" is unknown");
    const size_t bytes = kBytes[at];
    const bool empty = array.size() == 0;  // an empty array may have any strides
    if (array.ndim() != 2 || static_cast<size_t>(array.itemsize()) != bytes ||
        (!empty && array.shape(1) > 1 && array.strides(1) != array.itemsize()) ||
        (!empty && array.shape(0) > 1 && array.strides(0) < 0)) {
        throw InvalidInput("vectors: expected an (n, dim) array of " + type + " whose rows are contiguous");
    }
    const auto element = static_cast<kernels::ElementType>(at);
    return {static_cast<const std::byte*>(array.data()), element, static_cast<size_t>(array.shape(0)),
            static_cast<size_t>(array.shape(1)) * (element == kernels::kBits ? 8 : 1),
            static_cast<size_t>(!empty && array.shape(0) > 1 ? array.strides(0) : array.shape(1) * array.itemsize())};
}

namespace {

using Ids = py::array_t<int64_t, py::array::c_style>;
using MaybeIds = std::optional<Ids>;
using SharedFilter = std::shared_ptr<Filter>;

py::ssize_t length(size_t n) { return static_cast<py::ssize_t>(n); }

py::tuple hits(SearchResult&& result, size_t queries) {
    const std::vector<py::ssize_t> shape{length(queries), length(result.k)};
    return py::make_tuple(to_array(std::move(result.ids), shape), to_array(std::move(result.scores), shape),
                          to_array(std::move(result.counts), {length(queries)}), result.plan);
}

using Floats = py::array_t<float, py::array::c_style>;
using GivenArrays = std::map<std::string, Floats>;

Learned learned_of(const GivenArrays& given) {
    Learned out;
    for (const auto& [name, array] : given) out[name].assign(array.data(), array.data() + array.size());
    return out;
}

void expect_ids(const Ids& ids, size_t n) {
    if (ids.ndim() != 1 || static_cast<size_t>(ids.size()) != n) {
        throw InvalidInput("ids: " + std::to_string(ids.size()) + " given for " + std::to_string(n) + " vectors");
    }
}

}  // namespace

void register_flat(py::module_& module) {
    py::class_<Filter, SharedFilter>(
        module, "Filter",
        "The ids that a search may return, made by ``prepare_filter``; its length is the number of vectors it allows.")
        .def("__len__", &Filter::count);

    py::class_<Flat>(module, "Flat")
        .def(py::init([](size_t dim, const std::string& metric, const std::string& codec,
                         const std::map<std::string, std::string>& parameters, const std::string& rerank,
                         const std::map<std::string, std::string>& rerank_parameters, double oversample, bool screen) {
                 const CodecSpec spec{codec, {parameters.begin(), parameters.end()}};
                 const CodecSpec finer{rerank, {rerank_parameters.begin(), rerank_parameters.end()}};
                 return std::make_unique<Flat>(FlatOptions{dim, parse_metric(metric), spec, finer, oversample, screen});
             }),
             py::arg("dim"), py::arg("metric"), py::arg("codec"), py::arg("parameters"), py::arg("rerank"),
             py::arg("rerank_parameters"), py::arg("oversample"), py::arg("screen"))
        .def(
            "train",
            [](Flat& index, const py::array& array, const std::string& type, const std::string& version,
               const GivenArrays& given) {
                const Vectors sample = vectors_of(array, type);
                Learned learned = learned_of(given);
                const py::gil_scoped_release release;
                index.train(sample, version, std::move(learned));
            },
            py::arg("vectors"), py::arg("type"), py::arg("version"), py::arg("given"))
        .def("untrained", &Flat::untrained, py::arg("version"))
        .def(
            "add",
            [](Flat& index, const py::array& array, const std::string& type, const MaybeIds& ids,
               const std::string& version, const GivenArrays& given, size_t threads, const py::object& progress) {
                const Vectors vectors = vectors_of(array, type);
                if (ids) expect_ids(*ids, vectors.n);
                std::vector<int64_t> added = interruptible(threads, progress, [&](const Run& run) {
                    return index.add(vectors, ids ? ids->data() : nullptr, version, learned_of(given), run);
                });
                return to_array(std::move(added), {length(vectors.n)});
            },
            py::arg("vectors"), py::arg("type"), py::arg("ids"), py::arg("version"), py::arg("given"),
            py::arg("threads"), py::arg("progress"))
        .def(
            "update",
            [](Flat& index, const Ids& ids, const py::array& array, const std::string& type, size_t threads,
               const py::object& progress) {
                const Vectors vectors = vectors_of(array, type);
                expect_ids(ids, vectors.n);
                interruptible(threads, progress, [&](const Run& run) { index.update(ids.data(), vectors, run); });
            },
            py::arg("ids"), py::arg("vectors"), py::arg("type"), py::arg("threads"), py::arg("progress"))
        .def(
            "remove",
            [](Flat& index, const Ids& ids) {
                const py::gil_scoped_release release;
                index.remove(ids.data(), static_cast<size_t>(ids.size()));
            },
            py::arg("ids"))
        .def(
            "search",
            [](const Flat& index, const py::array& array, const std::string& type, size_t k, const SharedFilter& filter,
               const std::optional<std::string>& version, std::optional<double> oversample,
               std::optional<double> recall, bool exact, size_t threads) {
                const Vectors queries = vectors_of(array, type);
                const SearchOptions options{filter.get(), version, oversample, recall, exact};
                return hits(interruptible(threads, py::none(),
                                          [&](const Run& run) { return index.search(queries, k, options, run); }),
                            queries.n);
            },
            py::arg("queries"), py::arg("type"), py::arg("k"), py::arg("filter"), py::arg("version"),
            py::arg("oversample"), py::arg("recall"), py::arg("exact"), py::arg("threads"))
        .def(
            "range_search",
            [](const Flat& index, const py::array& array, const std::string& type, double radius,
               const SharedFilter& filter, const std::optional<std::string>& version, size_t threads) {
                const Vectors queries = vectors_of(array, type);
                const SearchOptions options{filter.get(), version, std::nullopt, false};
                RangeResult result = interruptible(threads, py::none(), [&](const Run& run) {
                    return index.range_search(queries, radius, options, run);
                });
                const py::ssize_t found = length(result.ids.size());
                return py::make_tuple(to_array(std::move(result.ids), {found}),
                                      to_array(std::move(result.scores), {found}),
                                      to_array(std::move(result.offsets), {length(queries.n + 1)}));
            },
            py::arg("queries"), py::arg("type"), py::arg("radius"), py::arg("filter"), py::arg("version"),
            py::arg("threads"))
        .def(
            "score",
            [](const Flat& index, const py::array& array, const std::string& type, const Ids& ids,
               const std::optional<std::string>& version, size_t threads) {
                const Vectors queries = vectors_of(array, type);
                const bool per_query = ids.ndim() == 2;
                if (per_query && static_cast<size_t>(ids.shape(0)) != queries.n) {
                    throw InvalidInput("ids: " + std::to_string(ids.shape(0)) + " rows given for " +
                                       std::to_string(queries.n) + " queries");
                }
                const auto m = static_cast<size_t>(ids.shape(per_query ? 1 : 0));
                std::vector<float> scores = interruptible(threads, py::none(), [&](const Run& run) {
                    return index.score(queries, ids.data(), m, per_query, version, run);
                });
                return to_array(std::move(scores), {length(queries.n), length(m)});
            },
            py::arg("queries"), py::arg("type"), py::arg("ids"), py::arg("version"), py::arg("threads"))
        .def(
            "reconstruct",
            [](const Flat& index, const Ids& ids) {
                const auto n = static_cast<size_t>(ids.size());
                std::vector<float> vectors;
                {
                    const py::gil_scoped_release release;
                    vectors = index.reconstruct(ids.data(), n);
                }
                return to_array(std::move(vectors), {length(n), length(index.options().dim)});
            },
            py::arg("ids"))
        .def(
            "codes",
            [](const Flat& index, const Ids& ids) {
                const auto n = static_cast<size_t>(ids.size());
                std::vector<uint8_t> codes;
                {
                    const py::gil_scoped_release release;
                    codes = index.codes(ids.data(), n);
                }
                return to_array(std::move(codes), {length(n), length(index.code_bytes())});
            },
            py::arg("ids"))
        .def("versions", &Flat::versions)
        .def("filter_of_mask",
             [](const Flat& index, const py::array_t<bool, py::array::c_style>& mask) {
                 const py::gil_scoped_release release;
                 return index.filter_of_mask(mask.data(), static_cast<size_t>(mask.size()));
             })
        .def("filter_of_ids",
             [](const Flat& index, const Ids& ids) {
                 const py::gil_scoped_release release;
                 return index.filter_of_ids(ids.data(), static_cast<size_t>(ids.size()));
             })
        .def("ids",
             [](const Flat& index) {
                 std::vector<int64_t> ids = index.ids();
                 const py::ssize_t n = length(ids.size());
                 return to_array(std::move(ids), {n});
             })
        .def("__contains__", &Flat::contains, py::arg("id"))
        .def("__len__", &Flat::size)
        .def_property_readonly("nbytes", &Flat::nbytes)
        .def_property_readonly("dim", [](const Flat& index) { return index.options().dim; })
        .def_property_readonly("metric",
                               [](const Flat& index) { return std::string(metric_name(index.options().metric)); })
        .def_property_readonly("codec", [](const Flat& index) { return index.options().codec.name; })
        .def_property_readonly("parameters",
                               [](const Flat& index) {
                                   const auto& parameters = index.options().codec.parameters;
                                   return std::map<std::string, std::string>(parameters.begin(), parameters.end());
                               })
        .def_property_readonly("rerank", [](const Flat& index) { return index.options().rerank.name; })
        .def_property_readonly("rerank_parameters",
                               [](const Flat& index) {
                                   const auto& parameters = index.options().rerank.parameters;
                                   return std::map<std::string, std::string>(parameters.begin(), parameters.end());
                               })
        .def_property_readonly("tuning",
                               [](const Flat& index) {
                                   const Tuning tuning = index.tuning();
                                   std::vector<std::tuple<double, double, double>> table;
                                   for (const Tuning::Entry& e : tuning.table) {
                                       table.emplace_back(e.recall, e.measured, e.value);
                                   }
                                   return std::tuple(tuning.k, tuning.queries, tuning.n, table);
                               })
        .def(
            "set_tuning",
            [](Flat& index, size_t k, const std::string& queries, size_t n,
               const std::vector<std::tuple<double, double, double>>& table) {
                Tuning tuning{k, queries, n, {}};
                for (const auto& [recall, measured, value] : table) tuning.table.push_back({recall, measured, value});
                index.set_tuning(std::move(tuning));
            },
            py::arg("k"), py::arg("queries"), py::arg("n"), py::arg("table"))
        .def_property_readonly("oversample", [](const Flat& index) { return index.options().oversample; })
        .def_property_readonly("screen", [](const Flat& index) { return index.options().screen; })
        .def(
            "save_path",
            [](const Flat& index, const std::filesystem::path& path) {
                const py::gil_scoped_release release;
                index.save(path);
            },
            py::arg("path"))
        .def(
            "save_to",
            [](const Flat& index, const py::function& write) {
                const py::gil_scoped_release release;
                index.save([&](const std::byte* data, size_t n) {
                    const py::gil_scoped_acquire hold;
                    while (n > 0) {  // a raw file may take less than it is given
                        const py::object result = write(py::bytes(reinterpret_cast<const char*>(data), n));
                        const size_t taken = result.is_none() ? n : std::min(n, result.cast<size_t>());
                        if (taken == 0) throw std::system_error(EIO, std::generic_category(), "write took nothing");
                        data += taken;
                        n -= taken;
                    }
                });
            },
            py::arg("write"))
        .def_static(
            "load_path",
            [](const std::filesystem::path& path, bool map, bool verify, const std::string& map_only) {
                const py::gil_scoped_release release;
                return Flat::load(Container::open(path, map, verify, map_only));
            },
            py::arg("path"), py::arg("mmap"), py::arg("verify"), py::arg("map_only"))
        .def_static(
            "load_bytes",
            [](const py::buffer& buffer) {
                const py::buffer_info info = buffer.request();
                const std::span bytes(static_cast<const std::byte*>(info.ptr),
                                      static_cast<size_t>(info.size * info.itemsize));
                const py::gil_scoped_release release;
                return Flat::load(Container::from_bytes(bytes));
            },
            py::arg("data"));
}

}  // namespace nearfield::bindings
