#pragma once

#include <nanobind/nanobind.h>

namespace moegrad::python {

void bind_operation(nanobind::module_& m);

}  // namespace moegrad::python
