// Random numbers: element i is a function of the generator and i alone.

#include <cmath>

#include "tensor/categorical.h"
#include "tensor/cpu/index.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"

namespace moegrad {
namespace {

constexpr std::int64_t kRandomGrain = 2048;

// The number in (0, 1) of 64 random bits, as Rng::uniform gives it.
double unit(std::uint64_t bits) { return (static_cast<double>(bits >> 12) + 0.5) * 0x1.0p-52; }

// Calls f(i, u) with the uniform numbers i of [begin, end), in order: two from each block of the
// generator.
template <class F>
void for_each_uniform(const Rng& rng, std::int64_t begin, std::int64_t end, F&& f) {
  std::int64_t i = begin;
  const auto one = [&] {
    f(i, rng.uniform(static_cast<std::uint64_t>(i)));
    ++i;
  };
  if (i < end && (rng.position + static_cast<std::uint64_t>(i)) % 2 == 1) one();
  for (; i + 1 < end; i += 2) {
    const auto words =
        philox(rng.seed, (rng.position + static_cast<std::uint64_t>(i)) / 2, rng.stream);
    f(i, unit((std::uint64_t{words[1]} << 32) | words[0]));
    f(i + 1, unit((std::uint64_t{words[3]} << 32) | words[2]));
  }
  if (i < end) one();
}

// out[i] = f(uniform number i), computed as a double.
template <class F>
void generate(const Rng& rng, const Tensor& out, const char* operation, F f) {
  with_floating(out.dtype(), operation, [&](auto zero) {
    using T = decltype(zero);
    T* const to = out.write<T>();
    cpu::parallel_for(out.numel(), kRandomGrain, [&](std::int64_t begin, std::int64_t end) {
      for_each_uniform(rng, begin, end,
                       [&](std::int64_t i, double u) { to[i] = static_cast<T>(f(u)); });
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
  generate(rng, out, "random_uniform",
           [=](double u) { return std::min(low + (high - low) * u, last); });
}

void CpuKernels::random_normal(const Rng& rng, double mean, double deviation, const Tensor& out) {
  with_floating(out.dtype(), "random_normal", [&](auto zero) {
    using T = decltype(zero);
    T* const to = out.write<T>();
    cpu::parallel_for(out.numel(), kRandomGrain, [&](std::int64_t begin, std::int64_t end) {
      double first = 0.0;
      for_each_uniform(rng, 2 * begin, 2 * end, [&](std::int64_t i, double u) {
        if (i % 2 == 0) {
          first = u;
        } else {
          to[i / 2] = static_cast<T>(mean + deviation * normal_of(first, u));
        }
      });
    });
  });
}

void CpuKernels::random_gumbel(const Rng& rng, const Tensor& out) {
  generate(rng, out, "random_gumbel", [](double u) { return gumbel_of(u); });
}

void CpuKernels::random_integers(const Rng& rng, const Tensor& index, std::int64_t n,
                                 const Tensor& out) {
  const std::int32_t* const from = index.data<std::int32_t>();
  cpu::require_indices("random_integers", from, index.numel(), 0, std::int64_t{1} << 31);
  std::int32_t* const to = out.write<std::int32_t>();
  cpu::parallel_for(out.numel(), kRandomGrain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const std::uint64_t bits = rng.bits(static_cast<std::uint64_t>(from[i]));
      to[i] = static_cast<std::int32_t>(bits % static_cast<std::uint64_t>(n));
    }
  });
}

void CpuKernels::dropout(const Rng& rng, double p, const Tensor& x, const Tensor& y) {
  with_floating(y.dtype(), "dropout", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = y.write<T>();
    const T kept = static_cast<T>(1.0 - p);
    cpu::parallel_for(y.numel(), kRandomGrain, [&](std::int64_t begin, std::int64_t end) {
      for_each_uniform(rng, begin, end,
                       [=](std::int64_t i, double u) { to[i] = u >= p ? from[i] / kept : T(0); });
    });
  });
}

namespace {

// The place that the number u takes; rounding may leave the sum below it.
template <class T>
std::int32_t place_of(double u, const T* p, std::int64_t n) {
  double sum = 0.0;
  std::int32_t taken = -1;
  for (std::int64_t i = 0; i < n && sum <= u; ++i) {
    if (p[i] > T(0)) taken = static_cast<std::int32_t>(i);
    sum += static_cast<double>(p[i]);
  }
  return taken;
}

}  // namespace

void CpuKernels::sample_rows(const Rng& rng, const Tensor& probabilities, const Tensor& out) {
  const std::int64_t rows = probabilities.size(0);
  const std::int64_t cols = probabilities.size(1);
  with_floating(probabilities.dtype(), "sample_rows", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = probabilities.data<T>();
    for (std::int64_t r = 0; r < rows; ++r) {
      require_distribution(r, cols,
                           [&](std::int64_t i) { return static_cast<double>(from[r * cols + i]); });
    }
    std::int32_t* const to = out.write<std::int32_t>();
    cpu::parallel_for(rows, kRandomGrain, [=](std::int64_t begin, std::int64_t end) {
      for_each_uniform(rng, begin, end, [=](std::int64_t r, double u) {
        to[r] = place_of(u, from + r * cols, cols);
      });
    });
  });
}

}  // namespace moegrad
