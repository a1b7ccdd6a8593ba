// Random numbers: element i is a function of the generator and i alone.

#include <cmath>
#include <numbers>

#include "tensor/cpu_kernels.h"
#include "tensor/cpu_parallel.h"

namespace moegrad {
namespace {

constexpr std::int64_t kRandomGrain = 2048;

// out[i] = f(i), computed as a double.
template <class F>
void generate(const Tensor& out, const char* operation, F f) {
  with_floating(out.dtype(), operation, [&](auto zero) {
    using T = decltype(zero);
    T* const to = out.data<T>();
    cpu::parallel_for(out.numel(), kRandomGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        to[i] = static_cast<T>(f(static_cast<std::uint64_t>(i)));
      }
    });
  });
}

}  // namespace

void CpuKernels::random_uniform(const Rng& rng, double low, double high, const Tensor& out) {
  // Rounding must not reach the open end of the interval.
  const double last =
      out.dtype() == DType::f32
          ? static_cast<double>(std::nextafter(static_cast<float>(high), static_cast<float>(low)))
          : std::nextafter(high, low);
  generate(out, "random_uniform",
           [&](std::uint64_t i) { return std::min(low + (high - low) * rng.uniform(i), last); });
}

void CpuKernels::random_normal(const Rng& rng, double mean, double deviation, const Tensor& out) {
  // Box-Muller, one value of the pair.
  generate(out, "random_normal", [&](std::uint64_t i) {
    const double radius = std::sqrt(-2.0 * std::log(rng.uniform(2 * i)));
    const double angle = 2.0 * std::numbers::pi * rng.uniform(2 * i + 1);
    return mean + deviation * (radius * std::cos(angle));
  });
}

void CpuKernels::random_gumbel(const Rng& rng, const Tensor& out) {
  generate(out, "random_gumbel",
           [&](std::uint64_t i) { return -std::log(-std::log(rng.uniform(i))); });
}

void CpuKernels::dropout(const Rng& rng, double p, const Tensor& x, const Tensor& y) {
  with_floating(y.dtype(), "dropout", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = y.data<T>();
    const T kept = static_cast<T>(1.0 - p);
    cpu::parallel_for(y.numel(), kRandomGrain, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        to[i] = rng.uniform(static_cast<std::uint64_t>(i)) >= p ? from[i] / kept : T(0);
      }
    });
  });
}

}  // namespace moegrad
