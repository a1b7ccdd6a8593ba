// Optimiser steps, in place.

#include <cmath>
#include <limits>
#include <optional>

#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/math.h"

namespace moegrad {
namespace {

// What the gradients are multiplied by; nothing where there must be no step.
std::optional<double> gradient_factor(const StepSize& size) {
  const double norm = *size.norm.data<double>();
  if (!std::isfinite(norm)) return std::nullopt;
  return size.max_norm > 0.0 && norm > size.max_norm ? size.max_norm / norm : 1.0;
}

double count_step(const StepSize& size) { return *size.steps.write<double>() += 1.0; }

// Calls f(i, g_i) for all i of a step, g = scale gradient or 0: a loop for either.
template <class T, class F>
void for_gradient(const ParameterStep& s, T scale, F f) {
  const auto each = [&](auto gradient) {
    cpu::parallel_for(s.parameter.numel(), cpu::kGrain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) f(i, gradient(i));
    });
  };
  const T* const gradient = cpu::data_or_null<T>(s.gradient);
  if (gradient == nullptr) return each([](std::int64_t) { return T(0); });
  each([=](std::int64_t i) { return gradient[i] * scale; });
}

template <class T>
void adamw_of(const AdamWStep& o, const ParameterStep& s, double learning_rate, double factor,
              double steps) {
  T* const first = s.moments[0].write<T>();
  T* const second = s.moments[1].write<T>();
  T* const parameter = s.parameter.write<T>();
  const auto beta1 = static_cast<T>(o.beta1);
  const auto beta2 = static_cast<T>(o.beta2);
  const auto rest1 = static_cast<T>(1.0 - o.beta1);
  const auto rest2 = static_cast<T>(1.0 - o.beta2);
  const auto correction1 = static_cast<T>(1.0 - std::pow(o.beta1, steps));
  const auto correction2 = static_cast<T>(1.0 - std::pow(o.beta2, steps));
  const auto epsilon = static_cast<T>(o.epsilon);
  const auto rate = static_cast<T>(learning_rate * s.rate);
  const auto decay = static_cast<T>(s.decays ? o.weight_decay : 0.0);
  for_gradient(s, static_cast<T>(factor), [=](std::int64_t i, T g_i) {
    const T m_i = math::flushed(beta1 * first[i] + rest1 * g_i);
    const T v_i = math::flushed(beta2 * second[i] + rest2 * g_i * g_i);
    first[i] = m_i;
    second[i] = v_i;
    const T step = (m_i / correction1) / (std::sqrt(v_i / correction2) + epsilon);
    parameter[i] -= rate * (step + decay * parameter[i]);
  });
}

template <class T>
void sgd_of(const SgdStep& o, const ParameterStep& s, double learning_rate, double factor) {
  T* const velocity = s.moments[0].write<T>();
  T* const parameter = s.parameter.write<T>();
  const auto rate = static_cast<T>(learning_rate * s.rate);
  const auto momentum = static_cast<T>(o.momentum);
  const auto decay = static_cast<T>(s.decays ? o.weight_decay : 0.0);
  const bool nesterov = o.nesterov;
  for_gradient(s, static_cast<T>(factor), [=](std::int64_t i, T slope) {
    const T g_i = slope + decay * parameter[i];
    const T u_i = math::flushed(momentum * velocity[i] + g_i);
    velocity[i] = u_i;
    parameter[i] -= rate * (nesterov ? g_i + momentum * u_i : u_i);
  });
}

}  // namespace

void CpuKernels::gradient_norm(std::span<const ParameterStep> parameters, const Tensor& loss,
                               const Tensor& norm) {
  if (loss.defined() && !std::isfinite(loss.at(0))) {
    *norm.write<double>() = std::numeric_limits<double>::quiet_NaN();
    return;
  }
  const auto squares_of = [&](const Tensor& x) {
    const Tensor sum = Tensor::empty({}, x.dtype(), Device::cpu);
    reduce(Reduction::sum_of_squares, x, {1, x.numel(), 1}, sum);
    return sum.at(0);
  };
  double squares = 0.0;
  for (const ParameterStep& s : parameters) {
    const Tensor& g = s.gradient;
    if (!g.defined()) continue;
    double sum = squares_of(g);
    // In f32 the squares of numbers beyond 1e19 or below 1e-19 overflow or vanish.
    if (!(sum > 1e-25 && std::isfinite(sum)) && g.dtype() != DType::f64) {
      const Tensor wide = Tensor::empty(g.shape(), DType::f64, Device::cpu);
      convert(g, wide);
      sum = squares_of(wide);
    }
    squares += sum;
  }
  *norm.write<double>() = std::sqrt(squares);
}

void CpuKernels::adamw(const AdamWStep& o, std::span<const ParameterStep> parameters,
                       const StepSize& size) {
  const std::optional<double> factor = gradient_factor(size);
  if (!factor) return;
  const double steps = count_step(size);
  const double learning_rate = *size.learning_rate.data<double>();
  for (const ParameterStep& s : parameters) {
    with_floating(s.parameter.dtype(), "adamw", [&](auto zero) {
      adamw_of<decltype(zero)>(o, s, learning_rate, *factor, steps);
    });
  }
}

void CpuKernels::sgd(const SgdStep& o, std::span<const ParameterStep> parameters,
                     const StepSize& size) {
  const std::optional<double> factor = gradient_factor(size);
  if (!factor) return;
  count_step(size);
  const double learning_rate = *size.learning_rate.data<double>();
  for (const ParameterStep& s : parameters) {
    with_floating(s.parameter.dtype(), "sgd",
                  [&](auto zero) { sgd_of<decltype(zero)>(o, s, learning_rate, *factor); });
  }
}

}  // namespace moegrad
