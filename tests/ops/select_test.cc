#include "ops/select.h"

#include <cmath>
#include <limits>

#include <doctest/doctest.h>

#include "ops/checks.h"
#include "ops/elementwise.h"
#include "ops/reduce.h"

using namespace moegrad;

namespace {

using Values = std::vector<double>;
const Tensor kX = Tensor::of<double>({2, 4}, {1, 4, 3, 4, -1, -2, -3, -4});

Tensor row(std::initializer_list<double> values) {
  return Tensor::of<double>({static_cast<std::int64_t>(values.size())}, values);
}

}  // namespace

TEST_CASE("top_k: largest first, of equals the lowest place") {
  Tape t;
  const Var x = t.variable(kX);
  const TopK top = top_k(x, 3);
  CHECK(top.indices.to_vector() == Values{1, 3, 2, 0, 1, 2});
  CHECK(top.values.value().to_vector() == Values{4, 4, 3, -1, -2, -3});
  CHECK(t.backward(sum(square(top.values)))[x].to_vector() == Values{0, 8, 6, 8, -2, -4, -6, 0});
  CHECK(top_k_indices(x, 1).shape() == Shape{2, 1});
}

TEST_CASE("the places of top_k are a decision") {
  Decisions decisions = Decisions::recorder();
  Tape first(Tape::Options{.decisions = &decisions});
  top_k(first.constant(kX), 2);
  decisions.replay();
  Tape second(Tape::Options{.decisions = &decisions});
  const Tensor other = Tensor::of<double>({2, 4}, {9, 8, 7, 6, 9, 8, 7, 6});
  const TopK top = top_k(second.constant(other), 2);
  CHECK(top.indices.to_vector() == Values{1, 3, 0, 1});
  CHECK(top.values.value().to_vector() == Values{8, 6, 9, 8});

  SUBCASE("of a kind of their own where one is given") {
    Decisions given;
    given.give("experts", Tensor::of<std::int32_t>({2, 1}, {3, 3}));
    Tape t(Tape::Options{.decisions = &given});
    CHECK(top_k_indices(t.constant(kX), 1, "experts").to_vector() == Values{3, 3});
    CHECK(top_k_indices(t.constant(kX), 1).to_vector() == Values{1, 0});
  }
}

TEST_CASE("top_k reports the smallest gap in the order of the k largest and the next") {
  const auto distance = [](std::int64_t k) {
    Tape t(Tape::Options{.track_cell = true});
    top_k(t.constant(Tensor::of<double>({2, 3}, {1, 4, 2, 8, 5, 7.5})), k);
    return t.cell().distance();
  };
  CHECK(distance(1) == 0.5);
  CHECK(distance(2) == 0.5);
  CHECK(distance(3) == 0.5);

  Tape off;
  top_k(off.constant(kX), 1);
  CHECK(std::isinf(off.cell().distance()));
}

TEST_CASE("greater is a decision") {
  Decisions decisions = Decisions::recorder();
  Tape t(Tape::Options{.track_cell = true, .decisions = &decisions});
  const Var a = t.variable(row({1, 2, 3}));
  const Var b = t.constant(row({2, 2, 2.5}));
  const Tensor c = greater(a, b);
  CHECK(c.dtype() == DType::i32);
  CHECK(c.to_vector() == Values{0, 0, 1});
  CHECK(t.cell().distance() == 0.0);
  decisions.replay();
  CHECK(greater(b, a).to_vector() == Values{0, 0, 1});
}

TEST_CASE("where") {
  Tape t;
  const Tensor condition = Tensor::of<std::int32_t>({2, 2}, {1, 0, 0, 7});
  const Var a = t.variable(Tensor::of<double>({2, 2}, {1, 2, 3, 4}));
  const Var b = t.variable(row({10, 20}));
  const Var y = where(condition, a, b);
  CHECK(y.value().to_vector() == Values{1, 20, 10, 4});
  const Gradients g = t.backward(y, {.cotangent = Tensor::of<double>({2, 2}, {1, 2, 3, 4})});
  CHECK(g[a].to_vector() == Values{1, 0, 0, 4});
  CHECK(g[b].to_vector() == Values{3, 2});

  SUBCASE("a NaN that was not selected leaves no trace") {
    const Var x = t.variable(row({-1, 4}));
    const Tensor positive = greater(x, t.constant(row({0, 0})));
    const Var safe = where(positive, x, t.constant(Tensor::scalar(1.0)));
    CHECK(t.backward(sum(sqrt(safe)))[x].to_vector() == Values{0, 0.25});
  }
}

TEST_CASE("stop_gradient has the value and no gradient") {
  Tape t;
  const Var x = t.variable(row({1, 2}));
  const Var s = stop_gradient(x);
  CHECK(!s.needs_gradient());
  CHECK(s.value().same_bits(x.value()));
  CHECK(t.backward(sum(x * s))[x].to_vector() == Values{1, 2});
}

TEST_CASE("straight_through has the value of hard and the gradient of soft") {
  const auto run = [](Decisions* decisions) {
    Tape t(Tape::Options{.decisions = decisions});
    const Var hard = t.variable(row({1, 0}));
    const Var soft = t.variable(row({0.75, 0.25}));
    const Var y = straight_through(hard, soft);
    CHECK(y.value().to_vector() == Values{1, 0});
    const Gradients g = t.backward(sum(square(y)));
    CHECK(g[hard].to_vector() == Values{0, 0});
    CHECK(g[soft].to_vector() == Values{2, 0});
    return t.size();
  };
  SUBCASE("fused while decisions are live") { CHECK(run(nullptr) == 5); }
  SUBCASE("written out when they are recorded, replayed or enumerated") {
    Decisions decisions = Decisions::recorder();
    CHECK(run(&decisions) == 7);
    CHECK(decisions.recorded() == 1);
    decisions.replay();
    CHECK(run(&decisions) == 7);
    Decisions enumerator = Decisions::enumerator();
    CHECK(run(&enumerator) == 7);
  }
}

TEST_CASE("where: operands of any shapes that meet the condition's") {
  Tape t;
  const Tensor condition = Tensor::of<std::int32_t>({2, 2, 2}, {1, 0, 0, 1, 1, 1, 0, 0});
  const Var a = t.variable(Tensor::of<double>({2, 1}, {1, 2}));
  const Var b = t.variable(Tensor::of<double>({2, 1, 2}, {10, 20, 30, 40}));
  const Var y = where(condition, a, b);
  CHECK(y.value().to_vector() == Values{1, 20, 10, 2, 1, 1, 30, 40});
  const Gradients g =
      t.backward(y, {.cotangent = Tensor::of<double>({2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8})});
  CHECK(g[a].to_vector() == Values{1 + 5 + 6, 4});
  CHECK(g[b].to_vector() == Values{3, 2, 7, 8});
}

TEST_CASE("errors of selection") {
  Tape t;
  const Var x = t.constant(kX);
  const Var v = t.constant(row({1, 2}));
  const Tensor condition = Tensor::zeros({2, 4}, DType::i32, Device::cpu);
  CHECK_THROWS_WITH_AS(top_k(x, 5), "[top_k] k is 5 for rows of 4 elements. Use 1 to 4.", Error);
  CHECK_THROWS_WITH_AS(top_k(x, 0), "[top_k] k is 0 for rows of 4 elements. Use 1 to 4.", Error);
  CHECK_THROWS_WITH_AS(top_k(v, 1), "[top_k] x has shape [2]. It needs 2 axes; reshape it first.",
                       Error);
  CHECK_THROWS_WITH_AS(top_k(t.constant(condition), 1),
                       "[top_k] needs f32 or f64, got i32. Convert the tensor first.", Error);
  CHECK_THROWS_WITH_AS(
      greater(x, v), "[greater] operands are f64 [2, 4] and f64 [2]. Give equal shapes and types.",
      Error);
  CHECK_THROWS_WITH_AS(greater(v, t.constant(Tensor::zeros({2}, DType::f32, Device::cpu))),
                       "[greater] operands are f64 [2] and f32 [2]. Give equal shapes and types.",
                       Error);
  CHECK_THROWS_WITH_AS(where(kX, x, x), "[where] the condition is f64. It must be i32.", Error);
  CHECK_THROWS_WITH_AS(where(Tensor(), x, x), "[where] the condition is undefined. It must be i32.",
                       Error);
  CHECK_THROWS_WITH_AS(where(condition, x, v),
                       "[where] shapes [2, 4] and [2] do not meet. Axes are matched from the last; "
                       "make their sizes equal, or one of them 1.",
                       Error);
  CHECK_THROWS_WITH_AS(
      where(Tensor::zeros({4}, DType::i32, Device::cpu), x, x),
      "[where] an operand has shape [2, 4] and the condition [4]. The condition must span it.",
      Error);
  CHECK_THROWS_WITH_AS(
      where(condition, x, t.constant(Tensor::zeros({2, 4}, DType::f32, Device::cpu))),
      "[where] operands are f64 and f32. Convert one of them.", Error);
  CHECK_THROWS_WITH_AS(straight_through(x, v),
                       "[straight_through] hard has shape [2, 4] and soft [2]. They must agree.",
                       Error);
  CHECK_THROWS_WITH_AS(straight_through(v, t.constant(Tensor::zeros({2}, DType::f32, Device::cpu))),
                       "[straight_through] operands are f64 and f32. Convert one of them.", Error);
}

TEST_CASE("k and axes at the ends of their numbers are refused") {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  Tape t;
  const Var x = t.variable(kX);
  for (const std::int64_t k : {most, -most, std::int64_t{0}, std::int64_t{5}}) {
    CHECK_THROWS_AS(top_k(x, k), Error);
  }
  CHECK_NOTHROW(require_numbered("top_k", (std::int64_t{1} << 31) - 1));
  CHECK_THROWS_WITH_AS(require_numbered("top_k", std::int64_t{1} << 31),
                       "[top_k] 2147483648 places, and indices are i32. Use 2147483647 at most.",
                       Error);
}
