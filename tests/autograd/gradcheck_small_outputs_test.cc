// Functions whose result is small beside the numbers that it is computed from, and gradients that
// are zero but for rounding: realistic programs are judged, not doubted.
#include <cmath>

#include <doctest/doctest.h>

#include "autograd/expectation.h"
#include "lies.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

Tensor matrix(std::int64_t rows, std::int64_t columns, std::initializer_list<double> values) {
  return Tensor::of<double>({rows, columns}, values);
}
Tensor random(const Shape& shape) { return Rng{3, 1, 0}.uniform(shape, DType::f64, -1.0, 1.0); }

Function cross_entropy_of(std::int32_t label) {
  return [label](Var x) { return cross_entropy(x, Tensor::of<std::int32_t>({1}, {label})); };
}

}  // namespace

TEST_CASE("a small result of numbers of size 1 has the slope of the wide steps") {
  for (const double x : {0.0, 0.1, 0.5, 1.0}) {
    CAPTURE(x);
    for (const double by : {6.0, 10.0, 15.0}) {
      CAPTURE(by);
      expect_judged([](Var v) { return logsumexp(v, 1); }, matrix(1, 2, {x, -by}), 1);
      expect_judged(cross_entropy_of(0), matrix(1, 3, {by, x, 0.7 * x}), 1);
      expect_judged([=](Var v) { return log(1.0 + exp(v - by)); }, row({x}), 0);
      expect_judged([=](Var v) { return softplus(v - by); }, row({x}), 0);
    }
    expect_judged([](Var v) { return gelu(v - 5.0); }, row({x}), 0);
    expect_judged([](Var v) { return 1.0 + erf(v - 4.0); }, row({x}), 0);
    expect_judged([](Var v) { return log(slice(softmax(v), 1, 0, 1)); },
                  matrix(1, 3, {10.0, x, 0.7 * x}), 1);
    // Of 1e-9: what is right is not failed, what is dropped does not pass.
    expect_right(cross_entropy_of(0), matrix(1, 3, {20.0, x, 0.7 * x}));
    CHECK(check(cross_entropy_of(0), matrix(1, 3, {20.0, x, 0.7 * x}), {0.0, 1}).verdict !=
          Verdict::pass);
  }
  CHECK(
      check([](Var v) { return logsumexp(v, 1); }, matrix(1, 2, {0.0, -20.0}), {0.0, 1}).verdict !=
      Verdict::pass);
}

TEST_CASE("a head that starts at zero, confident through its bias") {
  const auto head = [](double factor) {
    return gradcheck(
        [=](Tape& t, std::span<const Var> in) {
          const Var w = factor == 1.0 ? in[0] : apply<Lie>({in[0]}, {factor, 3});
          const Var logits = matmul(t.constant(matrix(2, 2, {1.0, 2.0, -0.5, 0.3})), w) + in[1];
          return cross_entropy(logits, Tensor::of<std::int32_t>({2}, {0, 0})) +
                 0.005 * sum(square(w));
        },
        {Tensor::zeros({2, 3}, DType::f64, Device::cpu), matrix(1, 3, {10.0, 0.0, 0.0})});
  };
  INFO(head(1.0).text());
  CHECK(head(1.0).verdict == Verdict::pass);
  CHECK(head(0.0).verdict == Verdict::fail);
  CHECK(head(1.001).verdict == Verdict::fail);
}

TEST_CASE("many rows of confident labels, moved together") {
  const Tensor x = Rng{3, 1, 0}.uniform({32, 8}, DType::f64, -0.1, 0.1);
  for (std::int64_t i = 0; i < 32; ++i) Tensor(x).write<double>()[8 * i] = 10.0;
  const Function f = [](Var v) {
    return cross_entropy(v, Tensor::zeros({32}, DType::i32, Device::cpu));
  };
  expect_judged(f, x, 1);
}

TEST_CASE("a gradient that is zero but for rounding passes") {
  expect_right([](Var x) { return sum(softmax(x)); }, random({2, 5}));
  expect_right(
      [](Var x) {
        const Var p = softmax(x);
        return p / sum(p, 1, true);
      },
      random({3, 4}));
  expect_right([](Var x) { return logsumexp(log_softmax(x), 1); }, random({3, 4}));
  expect_right([](Var x) { return sum(square(x / norm(x, 1, true)), 1); }, random({3, 4}));
  expect_right([](Var x) { return mean(x - mean(x, 1, true), 1); }, random({3, 4}));
  expect_right([](Var x) { return sum(softmax(x) * log_softmax(x)); },
               matrix(1, 4, {0.1, 0.1, 0.1, 0.1}));  // an entropy at its largest
  // A bias before a softmax, and of the keys of an attention.
  const Tensor keys = random({3, 4});
  const auto attend = [&](double factor) {
    return gradcheck(
        [=](Tape& t, std::span<const Var> in) {
          const Var q = factor == 1.0 ? in[0] : apply<Lie>({in[0]}, {factor, 0});
          return matmul(softmax(matmul(q, t.constant(keys) + in[1], false, true)),
                        t.constant(keys));
        },
        {random({2, 4}), random({4})});
  };
  INFO(attend(1.0).text());
  CHECK(attend(1.0).verdict == Verdict::pass);
  CHECK(attend(0.0).verdict == Verdict::fail);
  CHECK(attend(1.001).verdict == Verdict::fail);
}

TEST_CASE("what rounding hides is no zero where it is large") {
  for (const double large : {1e6, 1e8, 1e18}) {
    CAPTURE(large);
    const Function f = [=](Var x) { return 1e-12 * x + large; };
    CHECK(check(f, row({0.3, 0.4})).verdict == Verdict::inconclusive);
    CHECK(check(f, row({0.3, 0.4}), {0.0, 0}).verdict == Verdict::inconclusive);
  }
}

TEST_CASE("a negligible element beside others is a zero") {
  for (const double by : {36.0, 40.0, 70.0, 700.0}) {
    CAPTURE(by);
    expect_judged([](Var v) { return logsumexp(v, 1); }, matrix(1, 2, {0.0, -by}), 0);
    expect_judged(cross_entropy_of(0), matrix(1, 3, {0.0, -by, 0.3}), 2);
    expect_judged([](Var v) { return sum(sigmoid(v)); }, row({-by, 0.3}), 1);
  }
  expect_judged([](Var v) { return sum(gelu(v)); }, row({-9.0, 0.3}), 1);
  Tensor logits = random({1, 256});
  logits.write<double>()[5] = 50.0;  // the loss is 0, its gradient 1e-21
  expect_right(cross_entropy_of(5), logits);
}

TEST_CASE("the end of a domain may be nearer than 1e-9") {
  for (const double by : {1e-8, 1e-9, 1e-10}) {
    CAPTURE(by);
    expect_judged([](Var x) { return log(1.0 - x); }, row({1.0 - by}), 0);
  }
  expect_judged([](Var x) { return sqrt(square(x) - 1.0); }, row({1.0 + 1e-10}), 0);
  const Tensor p = Rng{3, 1, 0}.uniform({300}, DType::f64, 1e-10, 2e-10);
  expect_right([](Var x) { return log(x); }, p);
  CHECK(check([](Var x) { return log(x); }, p, {0.0, 7}).verdict == Verdict::fail);
}

TEST_CASE("a small expected loss") {
  for (const double factor : {1.0, 0.0, 1.01}) {
    CAPTURE(factor);
    const Expectation e = expectation(
        [=](Tape& t, std::span<const Var> in) {
          const Tensor coin = t.decisions().bernoulli(
              "coin", Tensor::full({1}, 0.5, DType::f64, Device::cpu), t.rng());
          const Var x = factor == 1.0 ? in[0] : apply<Lie>({in[0]}, {factor, 1});
          return sum(t.constant(coin.to(DType::f64)) * cross_entropy_of(0)(x));
        },
        {matrix(1, 3, {8.0, 0.0, 0.0})});
    INFO(e.text());
    CHECK(e.biased() == (factor != 1.0));
  }
}
