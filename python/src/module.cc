// moegrad._core: what the package's Python needs of the engine. Its users see moegrad, not this.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include "callback.h"
#include "checks.h"
#include "layer.h"
#include "operation.h"
#include "registry.h"
#include "study.h"
#include "train.h"

namespace nb = nanobind;

// Compiled for the least of processors: it runs before anything else does.
#if defined(__x86_64__)
static void require_processor() {
  const std::string level = MOEGRAD_MARCH;
  const bool runs = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (level == "x86-64-v3" && !runs) {
    throw nb::import_error(
        "[moegrad] this package was built for processors with AVX2 and FMA (x86-64-v3), which this "
        "one has not. Build it "
        "for any: pip install . -C cmake.define.MOEGRAD_MARCH=");
  }
}
#else
static void require_processor() {}
#endif

NB_MODULE(_core, m) {
  require_processor();
  m.attr("__version__") = MOEGRAD_VERSION;
  moegrad::python::bind_errors(m);
  moegrad::python::bind_checks(m);
  moegrad::python::bind_operation(m);
  moegrad::python::bind_train(m);
  moegrad::python::bind_study(m);
  moegrad::python::bind_layer(m);
  moegrad::python::bind_registry(m);
}
