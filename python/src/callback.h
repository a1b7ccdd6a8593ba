#pragma once

#include <atomic>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include <nanobind/nanobind.h>

#include "autograd/decisions.h"
#include "tensor/error.h"
#include "tensor/threads.h"

namespace moegrad::python {

namespace nb = nanobind;

// An exception of Python's on its way through C++, where it may be caught: what() is its last line.
class CallbackError : public std::exception {
 public:
  explicit CallbackError(nb::python_error error);
  const char* what() const noexcept override { return text_.c_str(); }
  void restore() const { error_->restore(); }

 private:
  std::shared_ptr<nb::python_error> error_;
  std::string text_;
};

// KeyboardInterrupt and what else is not an Exception.
class CallbackStop : public Interruption {
 public:
  explicit CallbackStop(nb::python_error error)
      : error_(std::make_shared<nb::python_error>(std::move(error))) {}
  void restore() const { error_->restore(); }

 private:
  std::shared_ptr<nb::python_error> error_;
};

// Registers the types of our errors and what becomes of the above.
void bind_errors(nb::module_& m);

// Turns an exception of Python's into one of those above or into a ReplayMismatch, and throws it.
[[noreturn]] void pass_on(nb::python_error error);

// Looks whether somebody pressed Ctrl-C. With the GIL.
inline void look_at_signals() {
  if (PyErr_CheckSignals() != 0) pass_on(nb::python_error());
}

// f() with the GIL, from C++ that runs without it.
template <class F>
auto calling_python(F&& f) {
  const nb::gil_scoped_acquire gil;
  look_at_signals();
  try {
    return f();
  } catch (nb::python_error& error) {
    pass_on(std::move(error));
  }
}

// Of this process's calls, what mg.threads() sets; 0: the engine's own number.
inline std::atomic<int> chosen_threads = 0;

// f() without the GIL.
template <class F>
auto without_gil(F&& f) {
  const nb::gil_scoped_release released;
  const ThreadScope scope(chosen_threads.load(std::memory_order_relaxed));
  return f();
}

}  // namespace moegrad::python
