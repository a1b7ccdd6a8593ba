// Random numbers: element i is a function of the generator and i alone.
#include <cmath>

#include "cuda/graph.h"
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace moegrad {
namespace {

using cuda::each;
using cuda::in;
using cuda::out;

template <class T>
void uniform_as(const cuda::Generator& generator, double low, double high, double last,
                std::int64_t n, T* to) {
  each("random_uniform", n, [=] __device__(std::int64_t i) {
    const Rng rng = generator.now();
    const double value = low + (high - low) * rng.uniform(static_cast<std::uint64_t>(i));
    to[i] = static_cast<T>(value < last ? value : last);
  });
}

template <class T>
void normal_as(const cuda::Generator& generator, double mean, double deviation, std::int64_t n,
               T* to) {
  each("random_normal", n, [=] __device__(std::int64_t i) {
    const Rng rng = generator.now();
    const auto first = 2 * static_cast<std::uint64_t>(i);
    to[i] =
        static_cast<T>(mean + deviation * normal_of(rng.uniform(first), rng.uniform(first + 1)));
  });
}

template <class T>
void gumbel_as(const cuda::Generator& generator, std::int64_t n, T* to) {
  each("random_gumbel", n, [=] __device__(std::int64_t i) {
    to[i] = static_cast<T>(gumbel_of(generator.now().uniform(static_cast<std::uint64_t>(i))));
  });
}

template <class T>
void dropout_as(const cuda::Generator& generator, double p, const T* x, std::int64_t n, T* y) {
  const T kept = static_cast<T>(1.0 - p);
  each("dropout", n, [=] __device__(std::int64_t i) {
    y[i] = generator.now().uniform(static_cast<std::uint64_t>(i)) >= p ? x[i] / kept : T(0);
  });
}

template <class T>
void sample_rows_as(const cuda::Generator& generator, const T* p, std::int64_t rows,
                    std::int64_t cols, std::int32_t* to) {
  cuda::Fault* const record = cuda::fault_record();
  const int operation = cuda::number_of("categorical");
  each("sample_rows", rows, [=] __device__(std::int64_t r) {
    const double u = generator.now().uniform(static_cast<std::uint64_t>(r));
    double sum = 0.0;
    std::int32_t taken = -1;
    for (std::int64_t i = 0; i < cols; ++i) {
      const auto p_i = static_cast<double>(p[r * cols + i]);
      if (!(p_i >= 0.0)) {
        cuda::note_fault(record, {cuda::kProbabilityFault, operation, 0, 0, 0, r, p_i});
        sum = 1.0;
        break;
      }
      if (sum <= u && p_i > 0.0) taken = static_cast<std::int32_t>(i);
      sum += p_i;
    }
    const double off = sum - 1.0;
    if (!(off <= 1e-5 && off >= -1e-5)) {
      cuda::note_fault(record, {cuda::kSumFault, operation, 0, 0, 0, r, sum});
    }
    to[r] = taken < 0 ? 0 : taken;
  });
}

}  // namespace

void CudaKernels::random_uniform(const Rng& rng, double low, double high, const Tensor& t) {
  // Rounding must not reach the open end of the interval.
  const double last =
      t.dtype() == DType::f32
          ? static_cast<double>(std::nextafter(static_cast<float>(high), static_cast<float>(low)))
          : std::nextafter(high, low);
  with_floating(t.dtype(), "random_uniform", [&](auto zero) {
    using T = decltype(zero);
    uniform_as(cuda::generator(rng), low, high, last, t.numel(), out<T>(t));
  });
}

void CudaKernels::random_normal(const Rng& rng, double mean, double deviation, const Tensor& t) {
  with_floating(t.dtype(), "random_normal", [&](auto zero) {
    using T = decltype(zero);
    normal_as(cuda::generator(rng), mean, deviation, t.numel(), out<T>(t));
  });
}

void CudaKernels::random_gumbel(const Rng& rng, const Tensor& t) {
  with_floating(t.dtype(), "random_gumbel", [&](auto zero) {
    using T = decltype(zero);
    gumbel_as(cuda::generator(rng), t.numel(), out<T>(t));
  });
}

void CudaKernels::random_integers(const Rng& rng, const Tensor& index, std::int64_t n,
                                  const Tensor& t) {
  const std::int32_t* const from = in<std::int32_t>(index);
  std::int32_t* const to = out<std::int32_t>(t);
  const cuda::Generator generator = cuda::generator(rng);
  const cuda::IndexCheck check = cuda::indices("random_integers", 0, std::int64_t{1} << 31);
  each("random_integers", t.numel(), [=] __device__(std::int64_t i) {
    to[i] = 0;
    if (!check(from[i], i)) return;
    const std::uint64_t bits = generator.now().bits(static_cast<std::uint64_t>(from[i]));
    to[i] = static_cast<std::int32_t>(bits % static_cast<std::uint64_t>(n));
  });
}

void CudaKernels::dropout(const Rng& rng, double p, const Tensor& x, const Tensor& y) {
  with_floating(y.dtype(), "dropout", [&](auto zero) {
    using T = decltype(zero);
    dropout_as(cuda::generator(rng), p, in<T>(x), y.numel(), out<T>(y));
  });
}

void CudaKernels::sample_rows(const Rng& rng, const Tensor& probabilities, const Tensor& t) {
  with_floating(probabilities.dtype(), "sample_rows", [&](auto zero) {
    using T = decltype(zero);
    sample_rows_as(cuda::generator(rng), in<T>(probabilities), probabilities.size(0),
                   probabilities.size(1), out<std::int32_t>(t));
  });
}

}  // namespace moegrad
