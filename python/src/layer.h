#pragma once

#include <nanobind/nanobind.h>

namespace moegrad::python {

void bind_layer(nanobind::module_& m);

}  // namespace moegrad::python
