#include "bindings/common.hpp"
#include "kernels/dispatch.hpp"

namespace py = pybind11;

PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
    using namespace nearfield;
    module.attr("__version__") = NEARFIELD_VERSION;
    kernels::active();  // a wrong NEARFIELD_ISA is said at import
    bindings::register_errors(module);
    bindings::register_faults(module);
    bindings::register_indexes(module);
    bindings::register_kernels(module);
    bindings::register_kmeans(module);
}
