#pragma once

#include <nanobind/nanobind.h>

namespace moegrad::python {

void bind_train(nanobind::module_& m);

}  // namespace moegrad::python
