#pragma once

#include <cmath>
#include <limits>

#include "moe/router.h"
#include "ops/ops.h"

namespace moegrad {

// x / |x| of each row of x [R, C]; 0, without a gradient, for a row of zeros. A row is scaled by
// its largest element first, the decision "size", which changes neither value nor gradient: its
// squares neither vanish nor overflow.
inline Var unit_rows(Var x) {
  Tape& tape = x.tape();
  const Shape column = {x.size(0), 1};
  const Tensor inverse = tape.decisions().decide("size", x.dtype(), column, [&] {
    const double least = x.dtype() == DType::f32 ? std::numeric_limits<float>::min()
                                                 : std::numeric_limits<double>::min();
    const Tensor v = x.value();
    const Tensor out = Tensor::zeros(column, DType::f64);
    for (std::int64_t row = 0; row < x.size(0); ++row) {
      double largest = 0.0;
      for (std::int64_t i = 0; i < x.size(1); ++i) {
        largest = std::fmax(largest, std::abs(v.at(row * x.size(1) + i)));
      }
      if (largest > 0.0) out.data<double>()[row] = 1.0 / std::fmax(largest, least);
    }
    return out.to(x.dtype());
  });
  const Tensor is_zero = Tensor::zeros(column, DType::f64);
  for (std::int64_t row = 0; row < x.size(0); ++row) {
    if (inverse.at(row) == 0.0) is_zero.data<double>()[row] = 1.0;
  }
  const Var scaled = x * tape.constant(inverse);
  return scaled / sqrt(sum(square(scaled), 1, true) + tape.constant(is_zero.to(x.dtype())));
}

}  // namespace moegrad
