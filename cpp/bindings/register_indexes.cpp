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
#include "search/ivf.hpp"

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

using Parameters = std::map<std::string, std::string>;

CodecSpec spec_of(const std::string& name, const Parameters& parameters) {
    return {name, {parameters.begin(), parameters.end()}};
}

Parameters parameters_of(const CodecSpec& codec) { return {codec.parameters.begin(), codec.parameters.end()}; }

// recall, measured, oversample, probes
using TuningTable = std::vector<std::tuple<double, double, double, size_t>>;

void expect_ids(const Ids& ids, size_t n) {
    if (ids.ndim() != 1 || static_cast<size_t>(ids.size()) != n) {
        throw InvalidInput("ids: " + std::to_string(ids.size()) + " given for " + std::to_string(n) + " vectors");
    }
}

void register_index(py::module_& module) {
    py::class_<Filter, SharedFilter>(
        module, "Filter",
        "The ids that a search may return, made by ``prepare_filter``; its length is the number of vectors it allows.")
        .def("__len__", &Filter::count);

    py::class_<Index>(module, "Index")
        .def(
            "train",
            [](Index& index, const py::array& array, const std::string& type, const std::string& version,
               const GivenArrays& given, size_t threads, const py::object& progress) {
                const Vectors sample = vectors_of(array, type);
                interruptible(threads, progress,
                              [&](const Run& run) { index.train(sample, version, learned_of(given), run); });
            },
            py::arg("vectors"), py::arg("type"), py::arg("version"), py::arg("given"), py::arg("threads"),
            py::arg("progress"))
        .def("untrained", &Index::untrained, py::arg("version"))
        .def(
            "add",
            [](Index& index, const py::array& array, const std::string& type, const MaybeIds& ids,
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
            [](Index& index, const Ids& ids, const py::array& array, const std::string& type, size_t threads,
               const py::object& progress) {
                const Vectors vectors = vectors_of(array, type);
                expect_ids(ids, vectors.n);
                interruptible(threads, progress, [&](const Run& run) { index.update(ids.data(), vectors, run); });
            },
            py::arg("ids"), py::arg("vectors"), py::arg("type"), py::arg("threads"), py::arg("progress"))
        .def(
            "remove",
            [](Index& index, const Ids& ids) {
                const py::gil_scoped_release release;
                index.remove(ids.data(), static_cast<size_t>(ids.size()));
            },
            py::arg("ids"))
        .def(
            "search",
            [](const Index& index, const py::array& array, const std::string& type, size_t k,
               const SharedFilter& filter, const std::optional<std::string>& version, std::optional<size_t> probes,
               std::optional<double> oversample, std::optional<double> recall, bool exact, size_t threads) {
                const Vectors queries = vectors_of(array, type);
                const SearchOptions options{filter.get(), version, oversample, probes, recall, exact};
                return hits(interruptible(threads, py::none(),
                                          [&](const Run& run) { return index.search(queries, k, options, run); }),
                            queries.n);
            },
            py::arg("queries"), py::arg("type"), py::arg("k"), py::arg("filter"), py::arg("version"), py::arg("probes"),
            py::arg("oversample"), py::arg("recall"), py::arg("exact"), py::arg("threads"))
        .def(
            "range_search",
            [](const Index& index, const py::array& array, const std::string& type, double radius,
               const SharedFilter& filter, const std::optional<std::string>& version, std::optional<size_t> probes,
               size_t threads) {
                const Vectors queries = vectors_of(array, type);
                SearchOptions options;
                options.filter = filter.get();
                options.version = version;
                options.probes = probes;
                RangeResult result = interruptible(threads, py::none(), [&](const Run& run) {
                    return index.range_search(queries, radius, options, run);
                });
                const py::ssize_t found = length(result.ids.size());
                return py::make_tuple(to_array(std::move(result.ids), {found}),
                                      to_array(std::move(result.scores), {found}),
                                      to_array(std::move(result.offsets), {length(queries.n + 1)}));
            },
            py::arg("queries"), py::arg("type"), py::arg("radius"), py::arg("filter"), py::arg("version"),
            py::arg("probes"), py::arg("threads"))
        .def(
            "score",
            [](const Index& index, const py::array& array, const std::string& type, const Ids& ids,
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
            [](const Index& index, const Ids& ids) {
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
            [](const Index& index, const Ids& ids) {
                const auto n = static_cast<size_t>(ids.size());
                std::vector<uint8_t> codes;
                {
                    const py::gil_scoped_release release;
                    codes = index.codes(ids.data(), n);
                }
                return to_array(std::move(codes), {length(n), length(index.code_bytes())});
            },
            py::arg("ids"))
        .def("versions", &Index::versions)
        .def("filter_of_mask",
             [](const Index& index, const py::array_t<bool, py::array::c_style>& mask) {
                 const py::gil_scoped_release release;
                 return index.filter_of_mask(mask.data(), static_cast<size_t>(mask.size()));
             })
        .def("filter_of_ids",
             [](const Index& index, const Ids& ids) {
                 const py::gil_scoped_release release;
                 return index.filter_of_ids(ids.data(), static_cast<size_t>(ids.size()));
             })
        .def("ids",
             [](const Index& index) {
                 std::vector<int64_t> ids = index.ids();
                 const py::ssize_t n = length(ids.size());
                 return to_array(std::move(ids), {n});
             })
        .def("__contains__", &Index::contains, py::arg("id"))
        .def("__len__", &Index::size)
        .def_property_readonly("nbytes", &Index::nbytes)
        .def_property_readonly("dim", [](const Index& index) { return index.options().dim; })
        .def_property_readonly("metric",
                               [](const Index& index) { return std::string(metric_name(index.options().metric)); })
        .def_property_readonly("codec", [](const Index& index) { return index.options().codec.name; })
        .def_property_readonly("parameters", [](const Index& index) { return parameters_of(index.options().codec); })
        .def_property_readonly("rerank", [](const Index& index) { return index.options().rerank.name; })
        .def_property_readonly("rerank_parameters",
                               [](const Index& index) { return parameters_of(index.options().rerank); })
        .def_property_readonly("tuning",
                               [](const Index& index) {
                                   const Tuning tuning = index.tuning();
                                   TuningTable table;
                                   for (const Tuning::Entry& e : tuning.table) {
                                       table.emplace_back(e.recall, e.measured, e.oversample, e.probes);
                                   }
                                   return std::tuple(tuning.k, tuning.queries, tuning.n, table);
                               })
        .def(
            "set_tuning",
            [](Index& index, size_t k, const std::string& queries, size_t n, const TuningTable& table) {
                Tuning tuning{k, queries, n, {}};
                for (const auto& [recall, measured, oversample, probes] : table) {
                    tuning.table.push_back({recall, measured, oversample, probes});
                }
                index.set_tuning(std::move(tuning));
            },
            py::arg("k"), py::arg("queries"), py::arg("n"), py::arg("table"))
        .def_property_readonly("oversample", [](const Index& index) { return index.options().oversample; })
        .def(
            "save_path",
            [](const Index& index, const std::filesystem::path& path) {
                const py::gil_scoped_release release;
                index.save(path);
            },
            py::arg("path"))
        .def(
            "save_to",
            [](const Index& index, const py::function& write) {
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
                return Index::load(Container::open(path, map, verify, map_only));
            },
            py::arg("path"), py::arg("mmap"), py::arg("verify"), py::arg("map_only"))
        .def_static(
            "load_bytes",
            [](const py::buffer& buffer) {
                const py::buffer_info info = buffer.request();
                const std::span bytes(static_cast<const std::byte*>(info.ptr),
                                      static_cast<size_t>(info.size * info.itemsize));
                const py::gil_scoped_release release;
                return Index::load(Container::from_bytes(bytes));
            },
            py::arg("data"));
}

void register_flat(py::module_& module) {
    py::class_<Flat, Index>(module, "Flat")
        .def(py::init([](size_t dim, const std::string& metric, const std::string& codec, const Parameters& parameters,
                         const std::string& rerank, const Parameters& rerank_parameters, double oversample,
                         bool screen) {
                 return std::make_unique<Flat>(FlatOptions{{dim, parse_metric(metric), spec_of(codec, parameters),
                                                            spec_of(rerank, rerank_parameters), oversample},
                                                           screen});
             }),
             py::arg("dim"), py::arg("metric"), py::arg("codec"), py::arg("parameters"), py::arg("rerank"),
             py::arg("rerank_parameters"), py::arg("oversample"), py::arg("screen"))
        .def_property_readonly("screen", &Flat::screen);
}

// What a Python function returns one after the other: arrays, the names of their element types, and what messages call
// them and their first row; None at the end.
class Batches {
  public:
    Batches(py::function next, size_t dim) : next_(std::move(next)), dim_(dim) {}

    std::optional<Vectors> operator()() {
        std::optional<Vectors> vectors;
        std::string name;
        size_t row = 0;
        do {
            const py::gil_scoped_acquire hold;
            const py::object batch = next_();
            if (batch.is_none()) return std::nullopt;
            std::string type;
            std::tie(current_, type, name, row) = batch.cast<std::tuple<py::array, std::string, std::string, size_t>>();
            vectors = vectors_of(current_, type);
            check_dim(*vectors, dim_, name);
        } while (vectors->n == 0);
        constexpr size_t kRows = 256;
        for (size_t first = 0; first < vectors->n; first += kRows) {
            CheckedVectors::floats(vectors->part(first, std::min(kRows, vectors->n - first)), dim_, name, row + first);
        }
        return vectors;
    }

  private:
    py::function next_;
    py::array current_;  // owns what was returned last
    size_t dim_;
};

void register_ivf(py::module_& module) {
    py::class_<Ivf, Index>(module, "Ivf")
        .def(py::init([](size_t dim, const std::string& metric, const std::string& codec, const Parameters& parameters,
                         const std::string& rerank, const Parameters& rerank_parameters, double oversample,
                         size_t lists, size_t probes, double soar, size_t list_dims, uint64_t seed) {
                 return std::make_unique<Ivf>(IvfOptions{{dim, parse_metric(metric), spec_of(codec, parameters),
                                                          spec_of(rerank, rerank_parameters), oversample},
                                                         lists,
                                                         probes,
                                                         soar,
                                                         list_dims,
                                                         seed});
             }),
             py::arg("dim"), py::arg("metric"), py::arg("codec"), py::arg("parameters"), py::arg("rerank"),
             py::arg("rerank_parameters"), py::arg("oversample"), py::arg("lists"), py::arg("probes"), py::arg("soar"),
             py::arg("list_dims"), py::arg("seed"))
        .def(
            "build",
            [](const Ivf& index, const py::array& array, const std::string& type, const std::filesystem::path& path,
               size_t budget, size_t threads, const py::object& progress) {
                const Vectors vectors = vectors_of(array, type);
                interruptible(threads, progress, [&](const Run& run) { index.build(vectors, path, budget, run); });
            },
            py::arg("vectors"), py::arg("type"), py::arg("path"), py::arg("budget"), py::arg("threads"),
            py::arg("progress"))
        .def(
            "build_from",
            [](const Ivf& index, const py::function& next, const std::filesystem::path& path, size_t budget,
               size_t threads, const py::object& progress) {
                Batches batches(next, index.options().dim);
                interruptible(threads, progress,
                              [&](const Run& run) { index.build(std::ref(batches), path, budget, run); });
            },
            py::arg("next"), py::arg("path"), py::arg("budget"), py::arg("threads"), py::arg("progress"))
        .def_property_readonly("lists", &Ivf::lists)
        .def_property_readonly("list_sizes",
                               [](const Ivf& index) {
                                   const std::vector<size_t> sizes = index.list_sizes();
                                   return to_array(std::vector<int64_t>(sizes.begin(), sizes.end()),
                                                   {length(sizes.size())});
                               })
        .def_property_readonly("centroids",
                               [](const Ivf& index) {
                                   std::vector<float> centroids = index.centroids();
                                   const size_t own = index.own_options().list_dims;
                                   const size_t dims = own != 0 ? own : index.options().dim;
                                   const size_t lists = centroids.size() / dims;
                                   return to_array(std::move(centroids), {length(lists), length(dims)});
                               })
        .def_property_readonly("probes", &Ivf::probes)
        .def_property_readonly("soar", [](const Ivf& index) { return index.own_options().soar; })
        .def_property_readonly("list_dims", [](const Ivf& index) { return index.own_options().list_dims; });
}

}  // namespace

void register_indexes(py::module_& module) {
    register_index(module);
    register_flat(module);
    register_ivf(module);
}

}  // namespace nearfield::bindings
