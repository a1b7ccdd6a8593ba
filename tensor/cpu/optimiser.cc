// Optimiser steps, in place.

#include <cmath>

#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"

namespace moegrad {

void CpuKernels::adamw(const AdamWStep& o, double grad_scale, const Tensor& g, const Tensor& m,
                       const Tensor& v, const Tensor& p) {
  with_floating(p.dtype(), "adamw", [&](auto zero) {
    using T = decltype(zero);
    const T* const gradient = g.data<T>();
    T* const first = m.write<T>();
    T* const second = v.write<T>();
    T* const parameter = p.write<T>();
    const auto steps = static_cast<double>(o.step);
    const auto scale = static_cast<T>(grad_scale);
    const auto beta1 = static_cast<T>(o.beta1);
    const auto beta2 = static_cast<T>(o.beta2);
    const auto rest1 = static_cast<T>(1.0 - o.beta1);
    const auto rest2 = static_cast<T>(1.0 - o.beta2);
    const auto correction1 = static_cast<T>(1.0 - std::pow(o.beta1, steps));
    const auto correction2 = static_cast<T>(1.0 - std::pow(o.beta2, steps));
    const auto epsilon = static_cast<T>(o.epsilon);
    const auto rate = static_cast<T>(o.learning_rate);
    const auto decay = static_cast<T>(o.weight_decay);
    cpu::parallel_for(p.numel(), cpu::kGrain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T g_i = gradient[i] * scale;
        const T m_i = beta1 * first[i] + rest1 * g_i;
        const T v_i = beta2 * second[i] + rest2 * g_i * g_i;
        first[i] = m_i;
        second[i] = v_i;
        const T step = (m_i / correction1) / (std::sqrt(v_i / correction2) + epsilon);
        parameter[i] -= rate * (step + decay * parameter[i]);
      }
    });
  });
}

void CpuKernels::sgd(const SgdStep& o, double grad_scale, const Tensor& g, const Tensor& u,
                     const Tensor& p) {
  with_floating(p.dtype(), "sgd", [&](auto zero) {
    using T = decltype(zero);
    const T* const gradient = g.data<T>();
    T* const velocity = u.write<T>();
    T* const parameter = p.write<T>();
    const auto scale = static_cast<T>(grad_scale);
    const auto rate = static_cast<T>(o.learning_rate);
    const auto momentum = static_cast<T>(o.momentum);
    const auto decay = static_cast<T>(o.weight_decay);
    const bool nesterov = o.nesterov;
    cpu::parallel_for(p.numel(), cpu::kGrain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) {
        const T g_i = gradient[i] * scale + decay * parameter[i];
        const T u_i = momentum * velocity[i] + g_i;
        velocity[i] = u_i;
        parameter[i] -= rate * (nesterov ? g_i + momentum * u_i : u_i);
      }
    });
  });
}

}  // namespace moegrad
