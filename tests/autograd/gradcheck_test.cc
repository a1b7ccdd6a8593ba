#include "autograd/gradcheck.h"

#include <cmath>
#include <limits>

#include <doctest/doctest.h>

#include "ops/ops.h"

using namespace moegrad;

namespace {

Tensor row(std::initializer_list<double> values) {
  return Tensor::of<double>({static_cast<std::int64_t>(values.size())}, values);
}

Tensor random(const Shape& shape, std::uint64_t stream) {
  return Rng{11, stream, 0}.uniform(shape, DType::f64, -1.0, 1.0);
}

// x^3 with a backward pass that is right (0) or wrong in some way.
enum class Slip { none, factor, sign, dropped_input, transposed, nan, tiny, one_element };
template <Slip slip>
struct Cube {
  static constexpr std::string_view name = "cube", summary = "x^3";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const NoAttributes&) {
    Tensor y = in[0].clone();
    for (double& v : y.write_values<double>()) v = v * v * v;
    return y;
  }
  static void backward(Backward& b, const NoAttributes&) {
    Tensor dx = b.dy().clone();
    const std::span<double> d = dx.write_values<double>();
    for (std::size_t i = 0; i < d.size(); ++i) {
      const double x = b.input(0).at(static_cast<std::int64_t>(i));
      d[i] *= 3.0 * x * x;
      if (slip == Slip::factor) d[i] *= 2.0;
      if (slip == Slip::sign) d[i] = -d[i];
      if (slip == Slip::dropped_input) d[i] = 0.0;
      if (slip == Slip::nan && i == 1) d[i] = std::numeric_limits<double>::quiet_NaN();
      if (slip == Slip::tiny) d[i] *= 1.0 + 1e-5;
      if (slip == Slip::one_element && i == 2) d[i] *= 1.01;
    }
    if (slip == Slip::transposed) std::swap(d.front(), d.back());
    b.add(0, dx);
  }
  static std::vector<OperationCase> cases() { return {}; }
};

template <Slip slip>
GradcheckReport check_cube(std::int64_t n = 4) {
  return gradcheck([](Tape&, std::span<const Var> x) { return apply<Cube<slip>>({tanh(x[0])}); },
                   {random({n}, 1)});
}

}  // namespace

TEST_CASE("right gradients pass, to many digits") {
  const GradcheckReport r = check_cube<Slip::none>();
  CHECK(r.verdict == Verdict::pass);
  CHECK(r.max_error < 1e-9);
  CHECK(r.culprit.empty());
  CHECK(r.text().rfind("gradcheck: pass, largest relative error ", 0) == 0);

  const GradcheckReport wide = check_cube<Slip::none>(300);  // by directions
  CHECK(wide.verdict == Verdict::pass);
}

TEST_CASE("wrong gradients fail, and the first wrong node is named") {
  const auto expect_fail = [](const GradcheckReport& r) {
    CHECK(r.verdict == Verdict::fail);
    CHECK(r.inputs[0].verdict == Verdict::fail);
    CHECK(r.culprit == "node 2 (cube)");
    CHECK(r.text().find("first node whose own check fails: node 2 (cube)") != std::string::npos);
  };
  expect_fail(check_cube<Slip::factor>());
  expect_fail(check_cube<Slip::sign>());
  expect_fail(check_cube<Slip::dropped_input>());
  expect_fail(check_cube<Slip::transposed>());
  expect_fail(check_cube<Slip::nan>());
  expect_fail(check_cube<Slip::one_element>());
  expect_fail(check_cube<Slip::factor>(300));
  expect_fail(check_cube<Slip::transposed>(300));
  expect_fail(check_cube<Slip::nan>(300));

  SUBCASE("an error of one in a hundred thousand too; its node is within the local tolerance") {
    CHECK(check_cube<Slip::tiny>().verdict == Verdict::fail);
  }
  SUBCASE("the report names the worst element") {
    const GradcheckReport r = check_cube<Slip::one_element>();
    CHECK(r.inputs[0].worst == 2);
    CHECK(r.inputs[0].relative_error == doctest::Approx(0.01).epsilon(0.02));
    CHECK(r.inputs[0].reason == "analytic and numeric differ");
  }
}

TEST_CASE("a value that is not finite fails") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Program program = [](Tape&, std::span<const Var> x) { return log(x[0]); };
  CHECK(gradcheck(program, {row({1.0, nan})}).verdict == Verdict::fail);
  CHECK(gradcheck(program, {row({1.0, -1.0})}).verdict == Verdict::fail);
}

TEST_CASE("one wrong input among several is told apart") {
  const GradcheckReport r = gradcheck(
      [](Tape&, std::span<const Var> x) {
        const Var right = tanh(x[0]);
        const Var wrong = apply<Cube<Slip::sign>>({x[1]});
        return right * wrong;
      },
      {random({3}, 1), random({3}, 2)});
  CHECK(r.verdict == Verdict::fail);
  CHECK(r.inputs[0].verdict == Verdict::pass);
  CHECK(r.inputs[1].verdict == Verdict::fail);
  CHECK(r.culprit == "node 3 (cube)");
}

TEST_CASE("the search for the culprit understands f(x, x) and kinks") {
  const GradcheckReport r = gradcheck(
      [](Tape&, std::span<const Var> x) {
        return apply<Cube<Slip::factor>>({relu(x[0] * x[0] + -1e-6)});
      },
      {row({0.5, 1e-3, 0.7})});
  CHECK(r.verdict == Verdict::fail);
  CHECK(r.culprit == "node 4 (cube)");
}

TEST_CASE("integer inputs pass through") {
  const GradcheckReport r = gradcheck(
      [](Tape&, std::span<const Var> x) {
        return apply<GatherRows>({x[0], x[1]});
      },
      {random({3, 2}, 1), Tensor::of<std::int32_t>({4}, {0, 2, 2, 1})});
  CHECK(r.verdict == Verdict::pass);
  CHECK(r.inputs[1].worst == -1);
}

TEST_CASE("f32 is refused") {
  const Tensor x = Tensor::zeros({2}, DType::f32, Device::cpu);
  CHECK_THROWS_WITH_AS(gradcheck([](Tape&, std::span<const Var> v) { return exp(v[0]); }, {x}),
                       "[gradcheck] input 0 is f32. Differences need f64: convert it with to().",
                       Error);
  CHECK_THROWS_WITH_AS(
      gradcheck([&](Tape& t, std::span<const Var>) { return exp(t.constant(x)); }, {row({1})}),
      "[gradcheck] the program gives f32. Run it on f64 inputs.", Error);
}

TEST_CASE("at a kink the check is inconclusive, near one it stays within the cell") {
  const Program program = [](Tape&, std::span<const Var> x) { return relu(x[0]); };
  const GradcheckReport at = gradcheck(program, {row({0.5, 0.0, -0.5})});
  CHECK(at.verdict == Verdict::inconclusive);
  CHECK(at.wall == 0.0);
  CHECK(at.inputs[0].worst == 1);
  CHECK(at.inputs[0].reason == "every step crosses a wall of the cell");

  const GradcheckReport near = gradcheck(program, {row({0.5, 1e-4, -0.5})});
  CHECK(near.verdict == Verdict::pass);
  CHECK(near.wall == doctest::Approx(1e-4));

  const GradcheckReport tie =
      gradcheck([](Tape&, std::span<const Var> x) { return max(x[0], 0); }, {row({1, 2, 2})});
  CHECK(tie.verdict == Verdict::inconclusive);
  CHECK(tie.wall == 0.0);
}

TEST_CASE("the margin of a top-k is reported as the distance to the wall") {
  const Tensor x = Tensor::of<double>({2, 4}, {1, 4, 2.5, 3, 9, 1, 2, 0.75});
  const GradcheckReport r =
      gradcheck([](Tape&, std::span<const Var> v) { return top_k(v[0], 2).values; }, {x});
  CHECK(r.verdict == Verdict::pass);
  CHECK(r.wall == 0.5);  // 3 against 2.5 in the first row, 2 against 1 in the second
}

TEST_CASE("a sort of equal values is at a wall: held it is smooth, else inconclusive") {
  const Program sorted = [](Tape& t, std::span<const Var> v) {
    const Tensor order = top_k_indices(v[0], 4, "order");
    return take_columns(v[0], order) * t.constant(Tensor::of<double>({1, 4}, {1, -2, 0.7, 3}));
  };
  const Tensor tied = Tensor::of<double>({1, 4}, {0.5, 0.2, 0.5, 0.9});
  CHECK(gradcheck(sorted, {tied}).verdict == Verdict::pass);
  CHECK(gradcheck(sorted, {tied}).wall == 0.0);
  const GradcheckReport unheld = gradcheck(sorted, {tied}, {.hold = Decisions::Hold::nothing});
  CHECK(unheld.wall == 0.0);
  CHECK(unheld.verdict == Verdict::inconclusive);
  const Tensor apart = Tensor::of<double>({1, 4}, {0.5, 0.2, 0.4, 0.9});
  const GradcheckReport r = gradcheck(sorted, {apart}, {.hold = Decisions::Hold::nothing});
  CHECK(r.verdict == Verdict::pass);
  CHECK(r.wall == doctest::Approx(0.1));
}

TEST_CASE("a tolerance with which anything would pass is an error") {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto run = [](GradcheckOptions options) {
    gradcheck([](Tape&, std::span<const Var> x) { return tanh(x[0]); }, {row({0.3})}, options);
  };
  CHECK_THROWS_WITH_AS(run({.relative = 10.0}),
                       "[gradcheck] relative is 10. Use a tolerance above 0, at most 0.01.", Error);
  CHECK_THROWS_WITH_AS(run({.error_factor = -1.0}),
                       "[gradcheck] error_factor is -1. Use 0 to 100 error estimates.", Error);
  CHECK_THROWS_WITH_AS(run({.elementwise_limit = -1}),
                       "[gradcheck] elementwise_limit is -1. Use 0 or more elements.", Error);
  for (const double bad : {nan, -1e-7, 0.0, 0.011, std::numeric_limits<double>::infinity()}) {
    CHECK_THROWS_AS(run({.relative = bad}), Error);
  }
  for (const double bad : {nan, 101.0, std::numeric_limits<double>::infinity()}) {
    CHECK_THROWS_AS(run({.error_factor = bad}), Error);
  }
  run({.relative = 0.01, .error_factor = 0.0, .elementwise_limit = 0});
}

TEST_CASE("a gradient lost in the rounding of a large value is not certified") {
  const GradcheckReport r = gradcheck(
      [](Tape&, std::span<const Var> x) { return x[0] * 1e-12 + 1e6; }, {row({0.3, 0.4})});
  CHECK(r.verdict == Verdict::inconclusive);
  CHECK(r.inputs[0].reason == "the gradient is smaller than the rounding of the differences");
}

TEST_CASE("a program that does not depend on its input has the gradient zero") {
  const GradcheckReport r = gradcheck(
      [](Tape& t, std::span<const Var> x) {
        return x[0] * 0.0 + t.constant(Tensor::full({2}, 3.0, DType::f64, Device::cpu));
      },
      {row({0.3, 0.4})});
  CHECK(r.verdict == Verdict::pass);
}

namespace {

// The largest of each row as a one-hot row, straight through to softmax.
Var straight_through_argmax(Tape& tape, Var logits) {
  const Var soft = softmax(logits);
  const Tensor place = top_k_indices(logits, 1);
  const Var one =
      tape.constant(Tensor::full({logits.size(0), 1}, 1.0, logits.dtype(), Device::cpu));
  return straight_through(put_columns(one, place, logits.size(1)), soft);
}

}  // namespace

TEST_CASE("a straight-through argmax agrees with differences when decisions are replayed") {
  const Tensor logits = random({3, 4}, 1);
  const Tensor values = random({4, 2}, 2);
  const Program program = [](Tape& tape, std::span<const Var> x) {
    return square(matmul(straight_through_argmax(tape, x[0]), x[1]));
  };
  const GradcheckReport r = gradcheck(program, {logits, values});
  CHECK(r.verdict == Verdict::pass);
  CHECK(r.max_error < 1e-9);

  SUBCASE("and its gradient to the logits is that of the surrogate, not zero") {
    Tape t;
    const Var x = t.variable(logits);
    const Var v[] = {x, t.constant(values)};
    const Gradients g = t.backward(sum(program(t, v)));
    double size = 0.0;
    for (const double d : g[x].to_vector()) size += std::abs(d);
    CHECK(size > 0.01);
  }
  SUBCASE("a wrong surrogate fails") {
    const GradcheckReport wrong = gradcheck(
        [](Tape& tape, std::span<const Var> x) {
          return matmul(apply<Cube<Slip::factor>>({straight_through_argmax(tape, x[0])}), x[1]);
        },
        {logits, values});
    CHECK(wrong.verdict == Verdict::fail);
  }
}

TEST_CASE("sampled programs are checked given their draws") {
  const Tensor logits = random({5, 4}, 1);
  const GradcheckReport r = gradcheck(
      [](Tape& tape, std::span<const Var> x) {
        const Var p = softmax(x[0]);
        const Tensor drawn = tape.decisions().categorical("draw", p.value(), tape.rng());
        return dropout(log(take_columns(p, drawn.reshape({5, 1}))), 0.4);
      },
      {logits});
  CHECK(r.verdict == Verdict::pass);
}

TEST_CASE("a program with hidden state is found out, and told so") {
  int calls = 0;
  const GradcheckReport r = gradcheck(
      [&](Tape&, std::span<const Var> x) { return x[0] * (1.0 + 0.1 * ++calls); }, {row({0.3})});
  CHECK(r.verdict == Verdict::inconclusive);
  CHECK(r.inputs[0].reason ==
        "run again at the same point, the program gave another output; does it depend on hidden "
        "state?");
  CHECK(calls == 4);  // the point, a step beside it twice, and the point again
}
