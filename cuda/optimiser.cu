// Optimiser steps, in place: many parameters in one launch.
#include <type_traits>

#include "cuda/kernels.h"
#include "cuda/lines.h"
#include "tensor/math.h"

namespace moegrad {
namespace {

using cuda::each;
using cuda::in;
using cuda::out;

constexpr std::int64_t kChunk = 4096;  // elements of one block
constexpr int kMost = 32;              // parameters of one launch: a launch's arguments are few

template <class T>
struct Part {
  T* parameter;
  const T* gradient;  // null: zero everywhere
  T* first;
  T* second;
  std::int64_t numel;
  double rate;  // factor of the learning rate
  T decay;
};

template <class T>
struct Parts {
  Part<T> part[kMost] = {};
  std::int64_t first_chunk[kMost + 1] = {};
  int count = 0;

  std::int64_t chunks() const { return first_chunk[count]; }
  void add(const Part<T>& p) {
    part[count] = p;
    first_chunk[count + 1] = first_chunk[count] + cuda::pieces_of(p.numel, kChunk);
    ++count;
  }
  // Calls f(part, i) for the elements of this block.
  template <class F>
  __device__ void for_each(std::int64_t block, const F& f) const {
    int p = 0;
    while (first_chunk[p + 1] <= block) ++p;
    const std::int64_t begin = (block - first_chunk[p]) * kChunk;
    const std::int64_t end = begin + kChunk < part[p].numel ? begin + kChunk : part[p].numel;
    for (std::int64_t i = begin + threadIdx.x; i < end; i += cuda::kThreads) f(part[p], i);
  }
};

// Calls f(parts) with the parameters of the type T, as many at a time as fit.
template <class T, class F>
void for_parts(std::span<const ParameterStep> parameters, double decay, F&& f) {
  Parts<T> parts;
  for (const ParameterStep& s : parameters) {
    if (s.parameter.dtype() != dtype_of<T> || s.parameter.numel() == 0) continue;
    parts.add({out<T>(s.parameter), in<T>(s.gradient), out<T>(s.moments[0]), out<T>(s.moments[1]),
               s.parameter.numel(), s.rate, static_cast<T>(s.decays ? decay : 0.0)});
    if (parts.count == kMost) {
      f(parts);
      parts = {};
    }
  }
  if (parts.count > 0) f(parts);
}

// StepSize, on the device.
struct Size {
  explicit Size(const StepSize& s)
      : learning_rate(in<double>(s.learning_rate)),
        norm(in<double>(s.norm)),
        max_norm(s.max_norm),
        steps(in<double>(s.steps)) {}
  const double* learning_rate;
  const double* norm;
  double max_norm;
  const double* steps;

  // What the gradients are multiplied by; NaN where there must be no step.
  __device__ double factor() const {
    if (!(*norm - *norm == 0.0)) return std::numeric_limits<double>::quiet_NaN();
    return max_norm > 0.0 && *norm > max_norm ? max_norm / *norm : 1.0;
  }
};

// base^n for n = 0, 1, 2, ..
__device__ double power(double base, double n) {
  double result = 1.0;
  for (auto left = static_cast<std::int64_t>(n); left > 0; left /= 2) {
    if (left % 2 == 1) result *= base;
    base *= base;
  }
  return result;
}

template <class T>
__global__ void adamw_kernel(AdamWStep o, Parts<T> parts, Size size) {
  const double factor = size.factor();
  if (factor != factor) return;
  const double learning_rate = *size.learning_rate;
  const double step = *size.steps + 1.0;
  const auto scale = static_cast<T>(factor);
  const auto beta1 = static_cast<T>(o.beta1);
  const auto beta2 = static_cast<T>(o.beta2);
  const auto rest1 = static_cast<T>(1.0 - o.beta1);
  const auto rest2 = static_cast<T>(1.0 - o.beta2);
  const auto correction1 = static_cast<T>(1.0 - power(o.beta1, step));
  const auto correction2 = static_cast<T>(1.0 - power(o.beta2, step));
  const auto epsilon = static_cast<T>(o.epsilon);
  parts.for_each(blockIdx.x, [=](const Part<T>& p, std::int64_t i) {
    const T g = p.gradient == nullptr ? T(0) : p.gradient[i] * scale;
    const T m = math::flushed(beta1 * p.first[i] + rest1 * g);
    const T v = math::flushed(beta2 * p.second[i] + rest2 * g * g);
    p.first[i] = m;
    p.second[i] = v;
    const T change = (m / correction1) / (std::sqrt(v / correction2) + epsilon);
    p.parameter[i] -= static_cast<T>(learning_rate * p.rate) * (change + p.decay * p.parameter[i]);
  });
}

template <class T>
__global__ void sgd_kernel(T momentum, bool nesterov, Parts<T> parts, Size size) {
  const double factor = size.factor();
  if (factor != factor) return;
  const double learning_rate = *size.learning_rate;
  const auto scale = static_cast<T>(factor);
  parts.for_each(blockIdx.x, [=](const Part<T>& p, std::int64_t i) {
    const T slope = p.gradient == nullptr ? T(0) : p.gradient[i] * scale;
    const T g = slope + p.decay * p.parameter[i];
    const T u = math::flushed(momentum * p.first[i] + g);
    p.first[i] = u;
    p.parameter[i] -= static_cast<T>(learning_rate * p.rate) * (nesterov ? g + momentum * u : u);
  });
}

void count_step(const char* operation, const StepSize& size) {
  const double* const norm = in<double>(size.norm);
  double* const steps = out<double>(size.steps);
  each(operation, 1, [=] __device__(std::int64_t) {
    if (*norm - *norm == 0.0) *steps += 1.0;
  });
}

template <class T>
__global__ void squares_kernel(Parts<T> parts, double* partial) {
  double sum = 0.0;
  parts.for_each(blockIdx.x, [&](const Part<T>& p, std::int64_t i) {
    const auto g = static_cast<double>(p.gradient[i]);
    sum += g * g;
  });
  SHARED_ARRAY(double, of_warp, [cuda::kThreads / cuda::kWarp]);
  sum = cuda::warp_sum(sum);
  if (threadIdx.x % cuda::kWarp == 0) of_warp[threadIdx.x / cuda::kWarp] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (unsigned w = 1; w < cuda::kThreads / cuda::kWarp; ++w) of_warp[0] += of_warp[w];
  partial[blockIdx.x] = of_warp[0];
}

// NaN after a fault: the step that had it must change nothing.
void norm_of(const double* partial, std::int64_t count, double* norm) {
  const cuda::Fault* const record = cuda::fault_record();
  cuda::each_warp("gradient_norm", 1, [=] __device__(std::int64_t, unsigned lane) {
    const cuda::Line line = {0, 0, 1, count};
    const double squares = cuda::line_sum(line, cuda::Team{lane, cuda::kWarp},
                                          [=](std::int64_t i) { return partial[i]; });
    if (lane == 0) {
      *norm = record->kind == cuda::kNoFault ? std::sqrt(squares)
                                             : std::numeric_limits<double>::quiet_NaN();
    }
  });
}

template <class T>
void refuse_infinite(const T* loss, double* norm) {
  each("gradient_norm", 1, [=] __device__(std::int64_t) {
    if (!(*loss - *loss == T(0))) *norm = std::numeric_limits<double>::quiet_NaN();
  });
}

}  // namespace

void CudaKernels::gradient_norm(std::span<const ParameterStep> parameters, const Tensor& loss,
                                const Tensor& norm) {
  std::vector<ParameterStep> given;
  std::int64_t chunks = 0;
  for (const ParameterStep& s : parameters) {
    if (!s.gradient.defined()) continue;
    given.push_back({.parameter = s.gradient, .gradient = s.gradient});
    chunks += cuda::pieces_of(s.gradient.numel(), kChunk);
  }
  const Tensor workspace = Tensor::empty({chunks}, DType::f64, Device::cuda);
  double* const partial = out<double>(workspace);
  std::int64_t done = 0;
  const auto add = [&](const auto& parts) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(parts.part[0].gradient)>>;
    cuda::run<squares_kernel<T>>("gradient_norm", parts.chunks(), cuda::kThreads, parts,
                                 partial + done);
    done += parts.chunks();
  };
  for_parts<float>(given, 0.0, add);
  for_parts<double>(given, 0.0, add);
  norm_of(partial, chunks, out<double>(norm));
  if (!loss.defined()) return;
  with_floating(loss.dtype(), "gradient_norm",
                [&](auto zero) { refuse_infinite(in<decltype(zero)>(loss), out<double>(norm)); });
}

void CudaKernels::adamw(const AdamWStep& o, std::span<const ParameterStep> parameters,
                        const StepSize& size) {
  const auto step = [&](const auto& parts) {
    using T = std::remove_pointer_t<decltype(parts.part[0].parameter)>;
    cuda::run<adamw_kernel<T>>("adamw", parts.chunks(), cuda::kThreads, o, parts, Size(size));
  };
  for_parts<float>(parameters, o.weight_decay, step);
  for_parts<double>(parameters, o.weight_decay, step);
  count_step("adamw", size);
}

void CudaKernels::sgd(const SgdStep& o, std::span<const ParameterStep> parameters,
                      const StepSize& size) {
  const auto step = [&](const auto& parts) {
    using T = std::remove_pointer_t<decltype(parts.part[0].parameter)>;
    cuda::run<sgd_kernel<T>>("sgd", parts.chunks(), cuda::kThreads, static_cast<T>(o.momentum),
                             o.nesterov, parts, Size(size));
  };
  for_parts<float>(parameters, o.weight_decay, step);
  for_parts<double>(parameters, o.weight_decay, step);
  count_step("sgd", size);
}

}  // namespace moegrad
