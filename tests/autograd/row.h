#pragma once

#include <initializer_list>

#include "tensor/tensor.h"

namespace moegrad::test {

// A vector of f64.
inline Tensor row(std::initializer_list<double> values) {
  return Tensor::of<double>({static_cast<std::int64_t>(values.size())}, values);
}

}  // namespace moegrad::test
