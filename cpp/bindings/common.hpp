// What the binding files share: arrays in, arrays out, and calls that can be interrupted.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <algorithm>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "codecs/vectors.hpp"
#include "search/thread_pool.hpp"

namespace nearfield::bindings {

namespace py = pybind11;

// A checked (n, dim) array whose rows have their elements side by side; `type` names the element type, since NumPy has
// none for bfloat16.
Vectors vectors_of(const py::array& array, const std::string& type);

// A vector as an array of the given shape, without a copy.
template <class T>
py::array_t<T> to_array(std::vector<T>&& values, std::vector<py::ssize_t> shape) {
    auto owner = std::make_unique<std::vector<T>>(std::move(values));
    T* data = owner->data();
    py::capsule free(owner.release(), [](void* pointer) { delete static_cast<std::vector<T>*>(pointer); });
    return py::array_t<T>(std::move(shape), data, free);
}

// Runs work(run) without the interpreter lock. Ctrl-C and errors of the progress function (which gets the share that is
// done, from 0 to 1 and never less than before) stop it; the error is then raised.
template <class Work>
auto interruptible(size_t threads, const py::object& progress, const Work& work) {
    const Run run{threads, [&progress, reached = 0.0](double share) mutable {
                      const py::gil_scoped_acquire hold;
                      if (PyErr_CheckSignals() != 0) return false;
                      if (progress.is_none()) return true;
                      try {
                          progress(reached = std::max(reached, share));
                          return true;
                      } catch (py::error_already_set& error) {
                          error.restore();
                          return false;
                      }
                  }};
    try {
        const py::gil_scoped_release release;
        return work(run);
    } catch (const Interrupted&) {
        throw py::error_already_set();
    }
}

void register_errors(py::module_& module);
void register_faults(py::module_& module);
void register_indexes(py::module_& module);
void register_kernels(py::module_& module);
void register_kmeans(py::module_& module);

}  // namespace nearfield::bindings
