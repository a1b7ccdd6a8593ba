#include "autograd/directions.h"

#include <algorithm>
#include <functional>
#include <limits>

#include "tensor/kernels.h"

namespace moegrad {
namespace {

constexpr double kFactorOfClass = 1e3;  // outputs of one class are no further apart

}  // namespace

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

double largest_of(const Tensor& x) {
  double largest = 0.0;
  for (std::int64_t i = 0; i < x.numel(); ++i) largest = std::fmax(largest, std::abs(x.at(i)));
  return largest;
}

double norm_of_product(const Tensor& a, const Tensor& b, double at_least) {
  const Tensor x = a.to(Device::cpu);
  const Tensor y = b.to(Device::cpu);
  double sum = 0.0;
  for (std::int64_t i = 0; i < x.numel(); ++i) {
    const double product = x.at(i) == 0.0 ? 0.0 : x.at(i) * std::fmax(std::abs(y.at(i)), at_least);
    if (std::isfinite(product)) sum = std::hypot(sum, product);
  }
  return sum;
}

Tensor moved(const Tensor& x, double h, const Tensor& u) {
  Tensor out = x.clone();
  kernels(Device::cpu).accumulate(h, u, out);
  return out;
}

Steps steps_at(double x) {
  constexpr double epsilon = std::numeric_limits<double>::epsilon();
  const double size = std::abs(x);
  const double least = x == 0.0 ? 1e-30 : 8.0 * epsilon * size;
  return {.first = 0.02 * scale_of(x),
          .smallest = x == 0.0 ? 1e-13 : std::fmax(1e-9 * std::fmin(1.0, size), least),
          .least = least};
}

Tensor random_direction(const Tensor& x, Rng& rng) {
  Tensor u = rng.normal(x.shape(), DType::f64);
  for (std::int64_t i = 0; i < x.numel(); ++i)
    u.write<double>()[i] *= std::isfinite(x.at(i)) ? scale_of(x.at(i)) : 0.0;
  return u;
}

std::vector<int> classes_of(const Tensor& y, const std::vector<double>& slope) {
  const auto size_of = [&](std::int64_t i) {
    return std::fmax(std::abs(y.at(i)), slope[static_cast<std::size_t>(i)]);
  };
  std::vector<std::int64_t> order;  // the finite ones, by size; zeros are ones of size 1
  for (std::int64_t i = 0; i < y.numel(); ++i) {
    if (std::isfinite(y.at(i))) order.push_back(i);
  }
  const auto size_or_1 = [&](std::int64_t i) { return size_of(i) > 0.0 ? size_of(i) : 1.0; };
  std::ranges::stable_sort(order, std::greater<>(), size_or_1);
  std::vector<int> classes(static_cast<std::size_t>(y.numel()), -1);
  int number = 0;
  double largest = order.empty() ? 0.0 : size_or_1(order.front());
  for (const std::int64_t i : order) {
    if (size_or_1(i) * kFactorOfClass < largest && number + 1 < kMostClasses) {
      ++number;
      largest = size_or_1(i);
    }
    classes[static_cast<std::size_t>(i)] = number;
  }
  return classes;
}

}  // namespace moegrad
