#include "moe/noise.h"

#include <cmath>

#include "ops/ops.h"
#include "tensor/kernels.h"

namespace moegrad {

Tensor normal_noise(Tape& tape, const Shape& shape, DType dtype, double deviation) {
  return tape.decisions()
      .decide("noise", DType::f64, shape,
              [&] { return tape.rng().normal(shape, DType::f64, 0.0, deviation); })
      .to(dtype);
}

Var less_largest(Var x) {
  const Tensor largest = Tensor::empty({x.size(0), 1}, x.dtype());
  kernels(x.value().device()).reduce(Reduction::max, x.value(), {x.size(0), x.size(1), 1}, largest);
  return x - x.tape().constant(largest);
}

Var normal_cdf(Var z) { return affine(erf(z * std::sqrt(0.5)), 0.5, 0.5); }

}  // namespace moegrad
