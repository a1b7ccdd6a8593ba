#include "callback.h"

#include <nanobind/stl/string.h>

namespace moegrad::python {
namespace {

// Never freed: the interpreter may be gone before static destructors run.
nb::handle replay_mismatch;

std::string last_line(const nb::python_error& error) {
  const std::string type = nb::cast<std::string>(error.type().attr("__name__"));
  const std::string text = nb::cast<std::string>(nb::str(error.value()));
  return text.empty() ? type : type + ": " + text;
}

}  // namespace

CallbackError::CallbackError(nb::python_error error)
    : error_(std::make_shared<nb::python_error>(std::move(error))), text_(last_line(*error_)) {}

void pass_on(nb::python_error error) {
  if (!error.matches(PyExc_Exception)) throw CallbackStop(std::move(error));
  if (error.matches(replay_mismatch)) throw ReplayMismatch(last_line(error));
  throw CallbackError(std::move(error));
}

void bind_errors(nb::module_& m) {
  static const nb::exception<Error> error(m, "Error", PyExc_ValueError);
  static const nb::exception<ReplayMismatch> mismatch(m, "ReplayMismatch", error.ptr());
  replay_mismatch = nb::handle(mismatch.ptr());
  error.attr("__doc__") = "A mistake of the caller: `[operation] what is wrong. What to do.`";
  mismatch.attr("__doc__") =
      "A replayed program asks for another decision than was recorded: another cell.";
  nb::register_exception_translator([](const std::exception_ptr& p, void*) {
    try {
      std::rethrow_exception(p);
    } catch (const CallbackError& e) {
      e.restore();
    } catch (const CallbackStop& e) {
      e.restore();
    }
  });
}

}  // namespace moegrad::python
