#include "autograd/directions.h"

#include "tensor/kernels.h"

namespace moegrad {

double dot(const Tensor& a, const Tensor& b) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    if (a.at(i) != 0.0) sum += a.at(i) * b.at(i);
  }
  return sum;
}

double dot_of_sizes(const Tensor& a, const Tensor& b) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    if (a.at(i) != 0.0) sum += std::abs(a.at(i) * b.at(i));
  }
  return sum;
}

Tensor moved(const Tensor& x, double h, const Tensor& u) {
  Tensor out = x.clone();
  kernels(Device::cpu).accumulate(h, u, out);
  return out;
}

Steps steps_at(double x) {
  return {.first = 0.02 * scale_of(x),
          .smallest = x == 0.0 ? 1e-13 : 1e-9 * std::fmin(1.0, std::abs(x))};
}

Tensor random_direction(const Tensor& x, Rng& rng) {
  Tensor u = rng.normal(x.shape(), DType::f64);
  for (std::int64_t i = 0; i < x.numel(); ++i)
    u.write<double>()[i] *= std::isfinite(x.at(i)) ? scale_of(x.at(i)) : 0.0;
  return u;
}

}  // namespace moegrad
