#pragma once

#include <limits>

#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {

// 1 / the largest |x| of each row of x [R, C], [R, 1]; 0 for a row of zeros.
inline Tensor inverse_sizes(const Tensor& x) {
  const double least = x.dtype() == DType::f32 ? std::numeric_limits<float>::min()
                                               : std::numeric_limits<double>::min();
  const auto number = [&](double v) { return scalar_like(x, v); };
  const Tensor largest = reduce_rows(Reduction::max, compute<functor::Abs>(x));
  const Tensor inverse =
      compute<functor::Div>(number(1.0), compute<functor::Maximum>(largest, number(least)));
  return where(greater(largest, number(0.0)), inverse, number(0.0));
}

// x / |x| of each row of x [R, C]; 0, without a gradient, for a row of zeros. A row is scaled by
// its largest element first, the decision "size", which changes neither value nor gradient: its
// squares neither vanish nor overflow.
inline Var unit_rows(Var x) {
  Tape& tape = x.tape();
  const Shape column = {x.size(0), 1};
  const Tensor inverse =
      tape.decisions().decide("size", x.dtype(), column, [&] { return inverse_sizes(x.value()); });
  const auto number = [&](double v) { return scalar_like(inverse, v); };
  const Tensor is_zero = where(greater(inverse, number(0.0)), number(0.0), number(1.0));
  const Var scaled = x * tape.constant(inverse);
  return scaled / sqrt(sum(square(scaled), 1, true) + tape.constant(is_zero));
}

}  // namespace moegrad
