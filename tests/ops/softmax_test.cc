#include "ops/softmax.h"

#include <cmath>

#include <doctest/doctest.h>

#include "ops/reduce.h"
#include "ops/shape.h"

using namespace moegrad;

TEST_CASE("softmax and log_softmax agree with their formulas along every axis") {
  const Tensor x = Rng{5, 0, 0}.uniform({2, 3, 4}, DType::f64, -3.0, 3.0);
  for (int axis = -3; axis < 3; ++axis) {
    Tape t;
    const Var v = t.constant(x);
    const Tensor p = softmax(v, axis).value();
    const Tensor log_p = log_softmax(v, axis).value();
    const Tensor lse = logsumexp(v, axis, true).value();
    const int a = axis < 0 ? axis + 3 : axis;
    const std::int64_t inner = x.shape().product(a + 1, 3);
    const std::int64_t n = x.size(a);
    for (std::int64_t i = 0; i < x.numel(); ++i) {
      const double expected = x.at(i) - lse.at(i / (n * inner) * inner + i % inner);
      CHECK(log_p.at(i) == doctest::Approx(expected).epsilon(1e-13));
      CHECK(p.at(i) == doctest::Approx(std::exp(expected)).epsilon(1e-13));
    }
    for (const double s : sum(t.constant(p), axis).value().to_vector()) {
      CHECK(s == doctest::Approx(1.0).epsilon(1e-14));
    }
  }
}

TEST_CASE("the default is the last axis") {
  Tape t;
  const Var x = t.constant(Tensor::of<double>({2, 2}, {0, 1, 2, 5}));
  CHECK(softmax(x).value().same_bits(softmax(x, 1).value()));
  CHECK(log_softmax(x).value().same_bits(log_softmax(x, 1).value()));
}

TEST_CASE("large logits") {
  Tape t;
  const Var x = t.variable(Tensor::of<float>({2, 2}, {1e4F, -1e4F, 1e4F, 1e4F}));
  const Var p = softmax(x);
  CHECK(p.value().to_vector() == std::vector<double>{1, 0, 0.5, 0.5});
  CHECK(log_softmax(x).value().at(1) == -2e4);
  for (const double d : t.backward(sum(slice(p, 1, 0, 1)))[x].to_vector()) {
    CHECK(std::isfinite(d));
  }
}

TEST_CASE("errors of softmax") {
  Tape t;
  const Var x = t.constant(Tensor::zeros({2, 3}, DType::f64, Device::cpu));
  CHECK_THROWS_WITH_AS(softmax(x, 2), "[softmax] axis 2 of shape [2, 3]. Use -2 to 1.", Error);
  CHECK_THROWS_WITH_AS(log_softmax(sum(x)),
                       "[log_softmax] axis -1 of a scalar. It has no axes; reshape it first.",
                       Error);
  const Var i = t.constant(Tensor::zeros({2}, DType::i32, Device::cpu));
  CHECK_THROWS_WITH_AS(softmax(i), "[softmax] needs f32 or f64, got i32. Convert the tensor first.",
                       Error);
}
