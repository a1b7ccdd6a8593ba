// Claims that are false, and true ones that look so: the check of an operation has to tell them apart.

#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "autograd/operation_check.h"
#include "autograd/tape.h"
#include "ops/ops.h"

using namespace moegrad;

namespace {

// A documented function with one case, for its claim alone.
CheckRow check_claim(Claim claim, std::vector<CaseInput> inputs, Program program) {
  static OperationCase current;
  current = {"case", std::move(inputs), std::move(program)};
  OperationEntry entry{"function",      "", "", claim, [] { return std::vector{current}; }, nullptr,
                       "it is one case"};
  return check_operation(entry);
}

void expect_liar(const CheckRow& row, const std::string& reason) {
  CHECK(row.verdict == Verdict::fail);
  INFO(row.reason);
  CHECK(row.reason.find(reason) != std::string::npos);
}

}  // namespace

TEST_CASE("a claim is enforced: for each claim a liar") {
  const Program stopped = [](Tape&, std::span<const Var> x) { return x[0] * stop_gradient(x[0]); };
  expect_liar(check_claim(Claim::exact, {{{1}}}, stopped), "analytic and numeric differ");
  expect_liar(check_claim(Claim::exact_on_cell, {{{1}}}, stopped), "analytic and numeric differ");
  CHECK(check_claim(Claim::surrogate, {{{1}}}, stopped).verdict == Verdict::pass);
  // Dropped where the differences see it.
  const Program wrong = [](Tape&, std::span<const Var> x) {
    return square(x[0]) + stop_gradient(x[0]) - x[0] + stop_gradient(x[0]) - stop_gradient(x[0]);
  };
  expect_liar(check_claim(Claim::exact, {{{1}}}, wrong), "analytic and numeric differ");

  // One of three outcomes, its one-hot row straight through to the probabilities.
  const Program straight = [](Tape& tape, std::span<const Var> x) {
    const Tensor directions = Tensor::of<double>({1, 3}, {1.0, -0.5, 0.3});
    const Var p = softmax(x[0] * tape.constant(directions.to(x[0].dtype())));
    const Tensor drawn = tape.decisions().categorical("draw", p.value(), tape.rng());
    const Var one = tape.constant(Tensor::full({1, 1}, 1.0, x[0].dtype(), Device::cpu));
    return straight_through(put_columns(one, drawn.reshape({1, 1}), 3), p);
  };
  CHECK(check_claim(Claim::surrogate, {{{1}}}, straight).verdict == Verdict::pass);
  expect_liar(check_claim(Claim::unbiased, {{{1}}}, straight), "claimed to be unbiased");
  expect_liar(check_claim(Claim::biased_order, {{{1}}}, straight), "cannot claim");
  expect_liar(check_claim(Claim::documented, {{{1}}}, straight), "cannot claim");
  // Dropout by a draw: pathwise, so unbiased.
  const Program dropped = [](Tape& tape, std::span<const Var> x) {
    const Tensor p = Tensor::of<double>({1, 2}, {0.25, 0.75});
    const Tensor kept = tape.decisions().categorical("kept", p, tape.rng());
    return x[0] * (kept.at(0) / 0.75);
  };
  const CheckRow honest = check_claim(Claim::unbiased, {{{1}}}, dropped);
  INFO(honest.reason);
  CHECK(honest.verdict == Verdict::pass);
}

TEST_CASE("cases with a dead input are counted, and the inputs named") {
  const Program second = [](Tape&, std::span<const Var> x) { return 0.0 * x[0] + square(x[1]); };
  const CheckRow dead = check_claim(Claim::exact, {{{1}}, {{1}}}, second);
  CHECK(dead.verdict == Verdict::pass);
  CHECK(dead.dead == 1);
  CHECK(dead.dead_inputs == std::vector<std::string>{"input 0"});
  const Program both = [](Tape&, std::span<const Var> x) { return x[0] * x[1]; };
  CHECK(check_claim(Claim::exact, {{{1}}, {{1}}}, both).dead == 0);
}

TEST_CASE(
    "an unbiased claim is shown for losses up to degree 4, by a tolerance of their own size") {
  // ReinMax (Liu et al. 2023): exact for quadratic losses, wrong for cubic ones.
  const Program reinmax = [](Tape& tape, std::span<const Var> x) {
    const Var z = reshape(x[0], {1, 3});
    const Var p = softmax(z);
    const Tensor drawn = tape.decisions().categorical("draw", p.value(), tape.rng());
    const Var one = tape.constant(Tensor::full({1, 1}, 1.0, x[0].dtype(), Device::cpu));
    const Var onehot = put_columns(one, drawn.reshape({1, 1}), 3);
    const Var log_middle = log(0.5 * (stop_gradient(p) + onehot) + 1e-300);
    const Var middle = softmax(log_middle + (z - stop_gradient(z)));
    const Var step = 2.0 * middle - 0.5 * p;
    return onehot + (step - stop_gradient(step));
  };
  expect_liar(check_claim(Claim::unbiased, {{{3}}}, reinmax), "of degree 3");
  const Program small = [](Tape& tape, std::span<const Var> x) {
    const Var p = softmax(reshape(x[0], {1, 3}));
    const Tensor drawn = tape.decisions().categorical("draw", p.value(), tape.rng());
    const Var one = tape.constant(Tensor::full({1, 1}, 1.0, x[0].dtype(), Device::cpu));
    return 1e-4 * straight_through(put_columns(one, drawn.reshape({1, 1}), 3), p);
  };
  expect_liar(check_claim(Claim::unbiased, {{{3}}}, small), "claimed to be unbiased");
  const Program small_dropped = [](Tape& tape, std::span<const Var> x) {
    const Tensor p = Tensor::of<double>({1, 2}, {0.25, 0.75});
    const Tensor kept = tape.decisions().categorical("kept", p, tape.rng());
    return x[0] * (1e-3 * kept.at(0) / 0.75);
  };
  const CheckRow honest = check_claim(Claim::unbiased, {{{1}}}, small_dropped);
  INFO(honest.reason);
  CHECK(honest.verdict == Verdict::pass);
}

namespace {

// a b c, with the gradient of a wrong where that of c is wanted and that of b is not.
struct TripleProduct {
  static constexpr std::string_view name = "triple_product", summary = "a b c";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  using Attributes = NoAttributes;
  static Tensor product(const Tensor& a, const Tensor& b, const Tensor& c, double factor) {
    std::vector<double> y = a.to_vector();
    for (std::size_t i = 0; i < y.size(); ++i) {
      const auto at = static_cast<std::int64_t>(i);
      y[i] *= b.at(at) * c.at(at) * factor;
    }
    return Tensor::of<double>(a.shape(), y).to(a.dtype());
  }
  static Tensor forward(Forward& in, const NoAttributes&) {
    return product(in[0], in[1], in[2], 1.0);
  }
  static void backward(Backward& b, const NoAttributes&) {
    const bool wrong = b.wants(0) && !b.wants(1) && b.wants(2);
    if (b.wants(0)) b.add(0, product(b.dy(), b.input(1), b.input(2), wrong ? 1.5 : 1.0));
    if (b.wants(1)) b.add(1, product(b.dy(), b.input(0), b.input(2), 1.0));
    if (b.wants(2)) b.add(2, product(b.dy(), b.input(0), b.input(1), 1.0));
  }
  static std::vector<OperationCase> cases() { return {}; }
};

}  // namespace

TEST_CASE("a gradient that is wrong for one choice of what is wanted") {
  const CheckRow row =
      check_claim(Claim::exact, {{{1}}, {{1}}, {{1}}}, [](Tape&, std::span<const Var> x) {
        return apply<TripleProduct>({x[0], x[1], x[2]});
      });
  expect_liar(row, "another one where not all are wanted (number 0");
}

TEST_CASE("a gradient that is zero but for rounding does not fail, at any size") {
  for (const double size : {1.0, 1e-4, 1e4}) {
    const auto check = [&](const std::vector<CaseInput>& inputs, const Program& program) {
      const CheckRow row =
          check_claim(Claim::exact, inputs,
                      [&](Tape& tape, std::span<const Var> x) { return size * program(tape, x); });
      CAPTURE(size);
      CHECK_MESSAGE(row.verdict != Verdict::fail, row.reason);
    };
    check({{{2, 3}}, {{1}}},
          [](Tape&, std::span<const Var> x) { return sum(softmax(x[0]), 1) + x[1]; });
    // Attention with a bias of its keys, which softmax does not see.
    check({{{3, 4}}, {{3, 4}}, {{1}}}, [](Tape&, std::span<const Var> x) {
      return matmul(softmax(matmul(x[0], x[1] + x[2], false, true)), x[1]);
    });
  }
}
