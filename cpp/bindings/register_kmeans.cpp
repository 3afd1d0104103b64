#include <optional>

#include "bindings/common.hpp"
#include "codecs/codec.hpp"
#include "search/clustering.hpp"

namespace nearfield::bindings {
namespace {

using Floats = py::array_t<float, py::array::c_style>;

py::ssize_t length(size_t n) { return static_cast<py::ssize_t>(n); }

// Finite floats side by side: where they lie, if they lie so, and otherwise a copy.
class Points {
  public:
    Points(const Vectors& vectors, size_t dim) {
        check_dim(vectors, dim, "X");
        if (vectors.type == kernels::kF32 && vectors.stride == dim * sizeof(float) &&
            reinterpret_cast<uintptr_t>(vectors.data) % alignof(float) == 0) {
            values_ = vectors.floats();
            check_finite(values_, vectors.n, dim, "X", 0);
        } else {
            copy_ = CheckedVectors::floats(vectors, dim, "X");
            values_ = copy_.view().floats();
        }
    }
    const float* values() const { return values_; }

  private:
    CheckedVectors copy_;
    const float* values_;
};

Balance parse_balance(const std::string& name) {
    if (name.empty()) return Balance::none;
    if (name == "capacity") return Balance::capacity;
    if (name == "sinkhorn") return Balance::sinkhorn;
    throw InvalidInput("balanced: \"" + name + "\" given, expected \"capacity\" or \"sinkhorn\"");
}

}  // namespace

void register_kmeans(py::module_& module) {
    module.def(
        "kmeans",
        [](const py::array& array, const std::string& type, size_t k, size_t iterations, bool spherical,
           const std::string& balance, double slack, uint64_t seed, size_t sample, const std::optional<Floats>& init,
           size_t threads, const py::object& progress) {
            const Vectors vectors = vectors_of(array, type);
            KMeansOptions options{k, iterations, spherical, parse_balance(balance), slack, seed, sample, nullptr, true};
            if (vectors.dim == 0) throw InvalidInput("X: vectors of dimension 0 given, expected at least 1");
            if (k == 0 || k > vectors.n) {
                throw InvalidInput("k: " + std::to_string(k) + " clusters asked for, of " + std::to_string(vectors.n) +
                                   " vectors");
            }
            if (init) {
                if (init->ndim() != 2 || init->shape(0) != length(k) || init->shape(1) != length(vectors.dim)) {
                    throw InvalidInput("init: expected an array (" + std::to_string(k) + ", " +
                                       std::to_string(vectors.dim) + ") of centroids");
                }
                check_finite(init->data(), k, vectors.dim, "init", 0);
                options.init = init->data();
            }
            Clustering result = interruptible(threads, progress, [&](const Run& run) {
                const Points points(vectors, vectors.dim);
                return kmeans_cluster(points.values(), vectors.n, vectors.dim, options, run);
            });
            return py::make_tuple(to_array(std::move(result.centroids), {length(k), length(vectors.dim)}),
                                  to_array(std::move(result.labels), {length(vectors.n)}), result.inertia,
                                  result.iterations, result.trained_on);
        },
        py::arg("vectors"), py::arg("type"), py::arg("k"), py::arg("iterations"), py::arg("spherical"),
        py::arg("balance"), py::arg("slack"), py::arg("seed"), py::arg("sample"), py::arg("init"), py::arg("threads"),
        py::arg("progress"));

    py::class_<Centroids>(module, "Centroids")
        .def(py::init([](const Floats& values) {
                 if (values.ndim() != 2 || values.size() == 0) {
                     throw InvalidInput("centroids: expected an array (count, dim), not empty");
                 }
                 const auto dim = static_cast<size_t>(values.shape(1));
                 check_finite(values.data(), static_cast<size_t>(values.shape(0)), dim, "centroids", 0);
                 return Centroids({values.data(), values.data() + values.size()}, dim);
             }),
             py::arg("values"))
        .def(
            "assign",
            [](const Centroids& centroids, const py::array& array, const std::string& type, bool spherical,
               size_t threads) {
                const Vectors vectors = vectors_of(array, type);
                std::vector<uint32_t> labels(vectors.n);
                std::vector<float> squared(vectors.n);
                interruptible(threads, py::none(), [&](const Run& run) {
                    const size_t dim = centroids.dim();
                    const Points given(vectors, dim);
                    const float* points = given.values();
                    std::vector<float> unit;
                    if (spherical) {
                        unit.resize(vectors.n * dim);
                        to_unit_length(points, vectors.n, dim, unit.data());
                        points = unit.data();
                    }
                    centroids.assign(points, vectors.n, labels.data(), squared.data(), run);
                });
                return py::make_tuple(to_array(std::move(labels), {length(vectors.n)}),
                                      to_array(std::move(squared), {length(vectors.n)}));
            },
            py::arg("vectors"), py::arg("type"), py::arg("spherical"), py::arg("threads"));
}

}  // namespace nearfield::bindings
