#pragma once

#include <nanobind/nanobind.h>

namespace moegrad::python {

void bind_registry(nanobind::module_& m);

}  // namespace moegrad::python
