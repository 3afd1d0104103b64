#include "storage/fault.hpp"

#include <stdexcept>

#include "bindings/common.hpp"

namespace nearfield::bindings {
namespace {

storage::Fault parse_fault(const std::string& mode) {
    if (mode == "off") return storage::Fault::off;
    if (mode == "fail") return storage::Fault::fail;
    if (mode == "kill") return storage::Fault::kill;
    throw std::invalid_argument("mode: '" + mode + "' given, expected 'off', 'fail' or 'kill'");
}

}  // namespace

void register_faults(py::module_& module) {
    py::module_ faults = module.def_submodule("faults", "System calls of saving that fail, for tests.");
    faults.def(
        "set",
        [](const std::string& mode, uint64_t at, int error) { storage::set_fault(parse_fault(mode), at, error); },
        py::arg("mode"), py::arg("at") = 0, py::arg("error") = EIO);
    faults.def("calls", &storage::fault_calls);
}

}  // namespace nearfield::bindings
