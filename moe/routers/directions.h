#pragma once

#include <cmath>
#include <limits>

#include "moe/router.h"
#include "ops/ops.h"

namespace moegrad {

// 1 / the largest |x| of each row of x [R, C], [R, 1]; 0 for a row of zeros.
template <class T>
Tensor inverse_sizes(const Tensor& x) {
  Tensor out = Tensor::zeros({x.size(0), 1}, x.dtype(), Device::cpu);
  const T* v = x.data<T>();
  for (std::int64_t row = 0; row < x.size(0); ++row, v += x.size(1)) {
    T largest = 0;
    for (std::int64_t i = 0; i < x.size(1); ++i) largest = std::fmax(largest, std::abs(v[i]));
    if (largest > 0) {
      out.write<T>()[row] = 1 / std::fmax(largest, std::numeric_limits<T>::min());
    }
  }
  return out;
}

// x / |x| of each row of x [R, C]; 0, without a gradient, for a row of zeros. A row is scaled by
// its largest element first, the decision "size", which changes neither value nor gradient: its
// squares neither vanish nor overflow.
inline Var unit_rows(Var x) {
  Tape& tape = x.tape();
  const Shape column = {x.size(0), 1};
  const Tensor inverse = tape.decisions().decide("size", x.dtype(), column, [&] {
    const Tensor v = x.value();
    return v.dtype() == DType::f32 ? inverse_sizes<float>(v) : inverse_sizes<double>(v);
  });
  const Tensor is_zero = Tensor::zeros(column, DType::f64, Device::cpu);
  for (std::int64_t row = 0; row < x.size(0); ++row) {
    if (inverse.at(row) == 0.0) is_zero.write<double>()[row] = 1.0;
  }
  const Var scaled = x * tape.constant(inverse);
  return scaled / sqrt(sum(square(scaled), 1, true) + tape.constant(is_zero.to(x.dtype())));
}

}  // namespace moegrad
