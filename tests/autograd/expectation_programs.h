#pragma once

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "autograd/expectation.h"
#include "ops/ops.h"

// What the tests of programs of known expectation and bias share.
namespace moegrad::expectation_test {

using In = std::span<const Var>;

inline ExpectationOptions few(std::int64_t samples = 2000) {
  ExpectationOptions options;
  options.samples = samples;
  return options;
}

inline Expectation of(const Program& program, const std::vector<Tensor>& inputs,
                      const ExpectationOptions& options = few()) {
  return expectation(program, inputs, options);
}

// A matrix of one row.
inline Tensor row(std::initializer_list<double> x) {
  return Tensor::of<double>({1, static_cast<std::int64_t>(x.size())}, x);
}
inline Tensor list(std::initializer_list<double> x) {
  return Tensor::of<double>({static_cast<std::int64_t>(x.size())}, x);
}
inline Var constant(Tape& t, double value) { return t.constant(Tensor::scalar(value)); }

inline double sigmoid_of(double x) { return 1.0 / (1.0 + std::exp(-x)); }

// The reference holds the true gradient within its own bound, and is no vague one.
inline void check_reference(const Expectation& e, const std::vector<double>& truth,
                            double most_error) {
  REQUIRE(e.true_gradient[0].numel() == static_cast<std::int64_t>(truth.size()));
  for (std::size_t i = 0; i < truth.size(); ++i) {
    const auto at = static_cast<std::int64_t>(i);
    CAPTURE(i);
    CAPTURE(truth[i]);
    CAPTURE(e.true_gradient[0].at(at));
    CAPTURE(e.error[0].at(at));
    // The bound is that of gradient - true gradient; the reference alone may share its sampling
    // error with the gradient.
    const double shared = e.exact ? 0.0 : 4.0 * std::sqrt(e.variance[0].at(at) / e.outcomes);
    CHECK(std::abs(e.true_gradient[0].at(at) - truth[i]) <= e.error[0].at(at) + shared);
    CHECK(e.error[0].at(at) <= most_error);
  }
}

inline void check_exact_and_unbiased(const Expectation& e, const std::vector<double>& truth,
                                     double most_error) {
  CHECK(e.exact);
  CHECK(!e.noise);
  check_reference(e, truth, most_error);
  CHECK(!e.biased());
  CHECK(e.text().find("not distinguishable from 0") != std::string::npos);
}

// 1 where u < p, by a number taken by hand.
inline Var threshold(Tape& t, Var p) {
  const Var u = t.constant(t.rng().uniform(p.shape(), DType::f64));
  const Var one = t.constant(Tensor::full(p.shape(), 1.0, DType::f64, Device::cpu));
  return where(greater(p, u), one, t.constant(Tensor::zeros(p.shape(), DType::f64, Device::cpu)));
}

}  // namespace moegrad::expectation_test
