#pragma once

#include <nanobind/nanobind.h>

namespace moegrad::python {

void bind_checks(nanobind::module_& m);

}  // namespace moegrad::python
