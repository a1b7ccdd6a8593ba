#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

const std::vector<std::int64_t> kSizes = {0, 1, 17, 20001};

}  // namespace

TEST_CASE("adamw takes the steps of its formula") {
  for (const DType dtype : floating()) {
    for (const std::int64_t n : kSizes) {
      AdamWStep o;
      o.learning_rate = 0.1;
      o.beta1 = 0.8;
      o.beta2 = 0.9;
      o.epsilon = 1e-4;
      o.weight_decay = 0.05;
      const double grad_scale = 0.5;
      const Tensor p0 = random({n}, dtype, 1);
      const std::vector<Tensor> g = {random({n}, dtype, 2), random({n}, dtype, 3)};
      Values p = p0.to_vector();
      Values m(at(n), 0.0);
      Values v(at(n), 0.0);
      for (int t = 1; t <= 2; ++t) {
        for (std::size_t i = 0; i < p.size(); ++i) {
          const double g_i = grad_scale * g[at(t - 1)].at(static_cast<std::int64_t>(i));
          m[i] = 0.8 * m[i] + 0.2 * g_i;
          v[i] = 0.9 * v[i] + 0.1 * g_i * g_i;
          const double m_hat = m[i] / (1 - std::pow(0.8, t));
          const double v_hat = v[i] / (1 - std::pow(0.9, t));
          p[i] -= 0.1 * (m_hat / (std::sqrt(v_hat) + 1e-4) + 0.05 * p[i]);
        }
      }
      const auto got = at_all_threads([&] {
        std::vector<Tensor> out = {p0.clone(), Tensor::zeros({n}, dtype, Device::cpu),
                                   Tensor::zeros({n}, dtype, Device::cpu)};
        for (int t = 1; t <= 2; ++t) {
          AdamWStep step = o;
          step.step = t;
          cpu_kernels().adamw(step, grad_scale, g[at(t - 1)], out[1], out[2], out[0]);
        }
        return out;
      });
      check_close(got[0], p, 16.0);
      check_close(got[1], m);
      check_close(got[2], v);
    }
  }
}

TEST_CASE("sgd takes the steps of its formula") {
  for (const DType dtype : floating()) {
    for (const std::int64_t n : kSizes) {
      for (const bool nesterov : {false, true}) {
        const SgdStep o{0.1, 0.9, 0.05, nesterov};
        const double grad_scale = 0.5;
        const Tensor p0 = random({n}, dtype, 1);
        const std::vector<Tensor> g = {random({n}, dtype, 2), random({n}, dtype, 3)};
        Values p = p0.to_vector();
        Values u(at(n), 0.0);
        for (int t = 0; t < 2; ++t) {
          for (std::size_t i = 0; i < p.size(); ++i) {
            const double g_i = grad_scale * g[at(t)].at(static_cast<std::int64_t>(i)) + 0.05 * p[i];
            u[i] = 0.9 * u[i] + g_i;
            p[i] -= 0.1 * (nesterov ? g_i + 0.9 * u[i] : u[i]);
          }
        }
        const auto got = at_all_threads([&] {
          std::vector<Tensor> out = {p0.clone(), Tensor::zeros({n}, dtype, Device::cpu)};
          for (int t = 0; t < 2; ++t) cpu_kernels().sgd(o, grad_scale, g[at(t)], out[1], out[0]);
          return out;
        });
        check_close(got[0], p);
        check_close(got[1], u);
      }
    }
  }
}
