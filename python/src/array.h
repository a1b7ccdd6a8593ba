#pragma once

#include <string_view>
#include <vector>

#include <nanobind/nanobind.h>

#include "tensor/tensor.h"

namespace moegrad::python {

namespace nb = nanobind;

// A copy of what NumPy's or DLPack's protocol hands out: f64, f32 or i32 on the CPU, any strides.
// `what` names it in errors. Errors: another type, device or kind of object; nothing is converted.
Tensor tensor_of(nb::handle array, std::string_view what);
// The same elements without a copy where they are contiguous, kept alive as long as the tensor is:
// for whoever reads them alone.
Tensor view_of(nb::handle array, std::string_view what);

// A NumPy array of the same elements, which keeps them alive; None of an undefined tensor. Only a
// tensor that nobody else holds should be writable.
enum class Access { read, write };
nb::object array_of(const Tensor& tensor, Access access);

}  // namespace moegrad::python
