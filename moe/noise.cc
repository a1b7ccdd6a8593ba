#include "moe/noise.h"

#include <cmath>

#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {

Tensor normal_noise(Var like, double deviation) {
  Tape& tape = like.tape();
  const Tensor value = like.value();
  return tape.decisions()
      .decide("noise", DType::f64, value.shape(),
              [&] {
                return tape.rng().normal(value.shape(), DType::f64, value.device(), 0.0, deviation);
              })
      .to(value.dtype());
}

Var less_largest(Var x) { return x - x.tape().constant(reduce_rows(Reduction::max, x.value())); }

Tensor less_largest(const Tensor& x) {
  return compute<functor::Sub>(x, reduce_rows(Reduction::max, x));
}

Tensor noisy_order(const Tensor& logits, const Tensor& noise) {
  Tensor order = less_largest(logits.to(DType::f64));
  if (noise.defined()) kernels(order.device()).accumulate(1.0, noise.to(DType::f64), order);
  return order;
}

Var normal_cdf(Var z) { return affine(erf(z * std::sqrt(0.5)), 0.5, 0.5); }

}  // namespace moegrad
