#include <filesystem>
#include <system_error>

#include "bindings/common.hpp"
#include "codecs/codec.hpp"
#include "search/flat.hpp"
#include "storage/container.hpp"

namespace nearfield::bindings {
namespace {

// OSError(errno, message, path), which Python turns into FileNotFoundError, PermissionError and so on by itself.
void raise_os_error(const std::error_code& code, const std::string& path) {
    const py::object value = py::module_::import("builtins").attr("OSError")(code.value(), code.message(), path);
    PyErr_SetObject(py::type::handle_of(value).ptr(), value.ptr());
}

}  // namespace

void register_errors(py::module_& module) {
    py::register_exception<FileFormatError>(module, "FileFormatError", PyExc_ValueError);
    py::register_exception_translator([](std::exception_ptr pointer) {
        try {
            if (pointer) std::rethrow_exception(pointer);
        } catch (const IdError& error) {
            PyErr_SetString(PyExc_KeyError, error.what());
        } catch (const std::filesystem::filesystem_error& error) {
            raise_os_error(error.code(), error.path1().string());
        } catch (const std::system_error& error) {
            raise_os_error(error.code(), "");
        }
    });
}

}  // namespace nearfield::bindings
