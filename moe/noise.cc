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

namespace {

Tensor largest_of_rows(const Tensor& x) {
  Tensor largest = Tensor::empty({x.size(0), 1}, x.dtype(), Device::cpu);
  kernels(x.device()).reduce(Reduction::max, x, {x.size(0), x.size(1), 1}, largest);
  return largest;
}

}  // namespace

Var less_largest(Var x) { return x - x.tape().constant(largest_of_rows(x.value())); }

Tensor less_largest(const Tensor& x) {
  Tensor out = Tensor::empty(x.shape(), x.dtype(), Device::cpu);
  kernels(x.device())
      .binary(BinaryFunctors::index_of<functor::Sub>(), x.size(0), x.size(1), x, {x.size(1), 1},
              largest_of_rows(x), {1, 0}, out);
  return out;
}

Tensor noisy_order(const Tensor& logits, const Tensor& noise) {
  Tensor order = less_largest(logits.to(DType::f64));
  if (noise.defined()) kernels(order.device()).accumulate(1.0, noise.to(DType::f64), order);
  return order;
}

Var normal_cdf(Var z) { return affine(erf(z * std::sqrt(0.5)), 0.5, 0.5); }

}  // namespace moegrad
