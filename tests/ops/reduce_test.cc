#include "ops/reduce.h"

#include <cmath>
#include <limits>

#include <doctest/doctest.h>

#include "ops/shape.h"

using namespace moegrad;

namespace {

const Tensor kX = Tensor::of<double>({2, 3, 2}, {1, 7, 3, 2, 5, -1, 4, 0, 4, 8, -6, 9});
using Values = std::vector<double>;

}  // namespace

TEST_CASE("reductions of all elements") {
  Tape t;
  const Var x = t.variable(kX);
  CHECK(sum(x).shape() == Shape{});
  CHECK(sum(x).value().item() == 36.0);
  CHECK(mean(x).value().item() == 3.0);
  CHECK(t.backward(mean(x))[x].to_vector() == Values(12, 1.0 / 12.0));
  CHECK(sum(t.constant(Tensor::zeros({0, 3}, DType::f64, Device::cpu))).value().item() == 0.0);
}

TEST_CASE("reductions along an axis") {
  Tape t;
  const Var x = t.constant(kX);
  CHECK(sum(x, 0).value().to_vector() == Values{5, 7, 7, 10, -1, 8});
  CHECK(sum(x, 1).value().to_vector() == Values{9, 8, 2, 17});
  CHECK(sum(x, -1).value().to_vector() == Values{8, 5, 4, 4, 12, 3});
  CHECK(mean(x, 2).value().to_vector() == Values{4, 2.5, 2, 2, 6, 1.5});
  CHECK(max(x, 1).value().to_vector() == Values{5, 7, 4, 9});
  CHECK(max(x, 0).value().to_vector() == Values{4, 7, 4, 8, 5, 9});
  CHECK(sum(x, 1).shape() == Shape{2, 2});
  CHECK(sum(x, 1, true).shape() == Shape{2, 1, 2});
  CHECK(max(x, -3, true).shape() == Shape{1, 3, 2});
  const Tensor lse = logsumexp(x, 2).value();
  for (std::int64_t i = 0; i < 6; ++i) {
    CHECK(lse.at(i) ==
          doctest::Approx(std::log(std::exp(kX.at(2 * i)) + std::exp(kX.at(2 * i + 1))))
              .epsilon(1e-14));
  }
}

TEST_CASE("logsumexp neither overflows nor underflows") {
  Tape t;
  const double inf = std::numeric_limits<double>::infinity();
  const Var x = t.variable(Tensor::of<double>({3, 2}, {1e4, 1e4, -1e4, -1e4, -inf, -inf}));
  const Var y = logsumexp(x, 1);
  CHECK(y.value().at(0) == doctest::Approx(1e4 + std::log(2.0)));
  CHECK(y.value().at(1) == doctest::Approx(-1e4 + std::log(2.0)));
  CHECK(y.value().at(2) == -inf);
  const Gradients g = t.backward(sum(slice(y, 0, 0, 2)));
  const Values expected{0.5, 0.5, 0.5, 0.5, 0, 0};
  for (std::int64_t i = 0; i < 6; ++i) {
    CHECK(g[x].at(i) == doctest::Approx(expected[static_cast<std::size_t>(i)]).epsilon(1e-11));
  }
}

TEST_CASE("the gradient of max goes to the first of equals") {
  Tape t;
  const Var x = t.variable(Tensor::of<double>({2, 3}, {1, 5, 5, 2, 2, 2}));
  CHECK(t.backward(sum(max(x, 1)))[x].to_vector() == Values{0, 1, 0, 1, 0, 0});
}

TEST_CASE("norm, whole and along an axis; at 0 its gradient is 0") {
  Tape t;
  const Var x = t.variable(Tensor::of<double>({3, 2}, {3, -4, 0, 0, 0, 2}));
  CHECK(norm(x).value().item() == doctest::Approx(std::sqrt(29.0)));
  const Var y = norm(x, -1, true);
  CHECK(y.shape() == Shape{3, 1});
  CHECK(y.value().to_vector() == Values{5, 0, 2});
  CHECK(t.backward(sum(y), {.retain = true})[x].to_vector() == Values{0.6, -0.8, 0, 0, 0, 1});
  CHECK(norm(x, 0).value().to_vector() == Values{3, std::sqrt(20.0)});
}

TEST_CASE("cumulative_sum along an axis") {
  Tape t;
  const Var x = t.variable(Tensor::of<double>({2, 3}, {1, 2, 3, 4, 5, 6}));
  CHECK(cumulative_sum(x, 0).value().to_vector() == Values{1, 2, 3, 5, 7, 9});
  const Var y = cumulative_sum(x, -1);
  CHECK(y.value().to_vector() == Values{1, 3, 6, 4, 9, 15});
  const Tensor dy = Tensor::of<double>({2, 3}, {1, 10, 100, 0, 0, 7});
  CHECK(t.backward(y, {.cotangent = dy})[x].to_vector() == Values{111, 110, 100, 7, 7, 7});
}

TEST_CASE("empty axes") {
  Tape t;
  const Var x = t.constant(Tensor::zeros({2, 0}, DType::f64, Device::cpu));
  CHECK(sum(x, 1).value().to_vector() == Values{0, 0});
  CHECK(sum(x, 0).shape() == Shape{0});
  CHECK(norm(x, 1).value().to_vector() == Values{0, 0});
  CHECK(cumulative_sum(x, 1).shape() == Shape{2, 0});
  CHECK(mean(x, 0).shape() == Shape{0});
  CHECK(max(x, 0).shape() == Shape{0});
  const double inf = std::numeric_limits<double>::infinity();
  CHECK(logsumexp(x, 1).value().to_vector() == Values{-inf, -inf});
  CHECK_THROWS_WITH_AS(mean(x, 1),
                       "[mean] over no elements, of shape [2, 0]. Leave empty tensors out.", Error);
  CHECK_THROWS_WITH_AS(mean(x),
                       "[mean] over no elements, of shape [2, 0]. Leave empty tensors out.", Error);
  CHECK_THROWS_WITH_AS(max(x, 1),
                       "[max] over no elements, of shape [2, 0]. Leave empty tensors out.", Error);
}

TEST_CASE("errors of reductions") {
  Tape t;
  const Var x = t.constant(kX);
  CHECK_THROWS_WITH_AS(sum(x, 3), "[sum] axis 3 of shape [2, 3, 2]. Use -3 to 2.", Error);
  CHECK_THROWS_WITH_AS(mean(x, -4), "[mean] axis -4 of shape [2, 3, 2]. Use -3 to 2.", Error);
  CHECK_THROWS_WITH_AS(max(sum(x), 0),
                       "[max] axis 0 of a scalar. It has no axes; reshape it first.", Error);
  CHECK_THROWS_WITH_AS(norm(x, 3), "[norm] axis 3 of shape [2, 3, 2]. Use -3 to 2.", Error);
  CHECK_THROWS_WITH_AS(cumulative_sum(sum(x), 0),
                       "[cumulative_sum] axis 0 of a scalar. It has no axes; reshape it first.",
                       Error);
  const Var i = t.constant(Tensor::zeros({2}, DType::i32, Device::cpu));
  CHECK_THROWS_WITH_AS(logsumexp(i, 0),
                       "[logsumexp] needs f32 or f64, got i32. Convert the tensor first.", Error);
}
