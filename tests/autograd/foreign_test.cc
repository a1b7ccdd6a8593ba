#include "autograd/foreign.h"

#include <cmath>
#include <memory>
#include <stdexcept>

#include <doctest/doctest.h>

#include "autograd/expectation.h"
#include "autograd/gradcheck.h"
#include "ops/ops.h"

using namespace moegrad;

namespace {

const Tensor kX = Tensor::of<double>({2, 2}, {0.3, -1.2, 0.8, 0.5});

// slope * tanh'(x) as the derivative of tanh(x).
ForeignProgram tanh_with(double slope) {
  return [slope](ForeignRun& run, std::span<const Tensor> in) {
    const Tensor y = in[0].clone();
    for (double& v : y.write_values<double>()) v = std::tanh(v);
    ForeignResult result{y};
    if (run.saves()) {
      result.vjp = [slope, y](const Tensor& dy) {
        const Tensor dx = dy.clone();
        for (std::int64_t i = 0; i < dx.numel(); ++i) {
          dx.write<double>()[i] *= slope * (1.0 - y.at(i) * y.at(i));
        }
        return std::vector<Tensor>{dx};
      };
    }
    return result;
  };
}

// 2 x, whose vjp is `of` each element of the cotangent.
ForeignProgram twice_with(double (*of)(double)) {
  return [of](ForeignRun&, std::span<const Tensor> in) {
    const Tensor y = in[0].clone();
    for (double& v : y.write_values<double>()) v *= 2.0;
    return ForeignResult{y, [of](const Tensor& dy) {
                           const Tensor dx = dy.clone();
                           for (double& v : dx.write_values<double>()) v = of(v);
                           return std::vector<Tensor>{dx};
                         }};
  };
}

}  // namespace

TEST_CASE("a vjp that is wrong for larger or smaller cotangents fails") {
  const auto check = [](double (*of)(double)) { return gradcheck(foreign(twice_with(of)), {kX}); };
  CHECK(check([](double v) { return 2.0 * v; }).verdict == Verdict::pass);
  const GradcheckReport clipped = check([](double v) { return std::fmin(2.0 * v, 5.0); });
  CHECK(clipped.verdict == Verdict::fail);
  CHECK(clipped.text().find("of 1024 times the cotangent, element") != std::string::npos);
  const GradcheckReport flushed = check([](double v) { return std::abs(v) < 2e-3 ? 0.0 : 2 * v; });
  CHECK(flushed.verdict == Verdict::fail);
  CHECK(flushed.text().find("of 0.0009765625 times") != std::string::npos);
  CHECK(check([](double v) { return 2.0 * v + 1e-5 * v * v; }).verdict == Verdict::fail);
}

TEST_CASE("a foreign program is checked by what its vjp says") {
  const GradcheckReport right = gradcheck(foreign(tanh_with(1.0)), {kX});
  CHECK(right.verdict == Verdict::pass);
  const GradcheckReport wrong = gradcheck(foreign(tanh_with(1.01)), {kX});
  CHECK(wrong.verdict == Verdict::fail);
  CHECK(wrong.culprit.empty());  // it cannot be run apart from its program
}

TEST_CASE("a foreign program is an operation among others") {
  const auto program = [](Tape& tape, std::span<const Var> x) {
    static const Program inner = foreign(tanh_with(1.0));
    const Var squares[] = {square(x[0])};
    return inner(tape, squares) * x[0];
  };
  CHECK(gradcheck(program, {kX}).verdict == Verdict::pass);
  // The vjp lives as long as the tape holds it.
  Tape tape;
  const Var x = tape.variable(kX);
  Var loss;
  {
    const Program once = foreign(tanh_with(1.0));
    loss = sum(once(tape, std::span<const Var>(&x, 1)));
  }
  CHECK(tape.backward(loss)[x].at(0) == doctest::Approx(1.0 - std::pow(std::tanh(0.3), 2)));
}

TEST_CASE("decisions, draws and kinks of a foreign program go through its run") {
  // The step's value with the identity's gradient: x + sg(step - x).
  const ForeignProgram gate = [](ForeignRun& run, std::span<const Tensor> in) {
    const Tensor held = run.decisions().decide("stop", DType::f64, in[0].shape(), [&] {
      const Tensor h = in[0].clone();
      for (double& v : h.write_values<double>()) v = (v > 0.0 ? 1.0 : 0.0) - v;
      return h;
    });
    const Tensor y = in[0].clone();
    for (std::int64_t i = 0; i < y.numel(); ++i) y.write<double>()[i] += held.at(i);
    return ForeignResult{y, [](const Tensor& dy) { return std::vector<Tensor>{dy}; }};
  };
  CHECK(gradcheck(foreign(gate), {kX}).verdict == Verdict::pass);
  GradcheckOptions exact;
  exact.hold = Decisions::Hold::nothing;
  CHECK(gradcheck(foreign(gate), {kX}, exact).verdict != Verdict::pass);

  // f(i) for i drawn from (p, 1 - p), without a gradient: biased by f(0) - f(1).
  const ForeignProgram draw = [](ForeignRun& run, std::span<const Tensor> in) {
    const double p = in[0].at(0);
    const Tensor rows = Tensor::of<double>({1, 2}, {p, 1.0 - p});
    const Tensor i = run.decisions().categorical("draw", rows, run.rng());
    return ForeignResult{Tensor::scalar(i.at(0) == 0.0 ? 3.0 : 1.0), nullptr};
  };
  const Expectation e = expectation(foreign(draw), {Tensor::of<double>({1}, {0.25})});
  CHECK(e.exact);
  CHECK(e.outcomes == 2);
  CHECK(e.loss == doctest::Approx(1.5));
  CHECK(e.bias == doctest::Approx(2.0));

  const ForeignProgram relu = [](ForeignRun& run, std::span<const Tensor> in) {
    const Tensor y = in[0].clone();
    std::uint64_t signs = 0;
    for (double& v : y.write_values<double>()) {
      signs = 2 * signs + (v > 0.0 ? 1 : 0);
      run.cell().distance(std::abs(v));
      v = std::fmax(v, 0.0);
    }
    run.cell().signature(signs);
    return ForeignResult{y, [y](const Tensor& dy) {
                           const Tensor dx = dy.clone();
                           for (std::int64_t i = 0; i < dx.numel(); ++i) {
                             if (y.at(i) == 0.0) dx.write<double>()[i] = 0.0;
                           }
                           return std::vector<Tensor>{dx};
                         }};
  };
  const GradcheckReport report = gradcheck(foreign(relu), {kX});
  CHECK(report.verdict == Verdict::pass);
  CHECK(report.wall == doctest::Approx(0.3));
}

TEST_CASE("the bias to another program") {
  const Program largest = [](Tape&, std::span<const Var> x) { return max(x[0], 0, false); };
  const Program average = [](Tape&, std::span<const Var> x) { return mean(x[0]); };
  ExpectationOptions options;
  options.truth = &average;
  const Expectation e = expectation(largest, {Tensor::of<double>({2}, {0.1, 0.7})}, options);
  CHECK(e.exact);
  CHECK(e.bias == doctest::Approx(std::sqrt(0.5)));
  CHECK(e.true_gradient[0].at(0) == doctest::Approx(0.5));
  CHECK(e.biased());
}

TEST_CASE("what a foreign program may not return") {
  const auto giving = [](std::vector<Tensor> gradients) {
    return foreign([gradients](ForeignRun&, std::span<const Tensor> in) {
      return ForeignResult{in[0].clone(), [gradients](const Tensor&) { return gradients; }};
    });
  };
  CHECK_THROWS_WITH_AS(gradcheck(giving({}), {kX}), doctest::Contains("0 gradients for 1 inputs"),
                       Error);
  CHECK_THROWS_WITH_AS(gradcheck(giving({Tensor::scalar(1.0)}), {kX}),
                       doctest::Contains("the gradient of input 0 is f64 []"), Error);
  const Program nothing =
      foreign([](ForeignRun&, std::span<const Tensor>) { return ForeignResult{}; });
  CHECK_THROWS_WITH_AS(gradcheck(nothing, {kX}), doctest::Contains("returned no output"), Error);
}

TEST_CASE("an interruption passes through a check, whatever else it goes on after") {
  int calls = 0;
  const ForeignProgram right = tanh_with(1.0);
  const Program program = foreign([&](ForeignRun& run, std::span<const Tensor> in) {
    if (++calls == 6) throw Interruption();
    return right(run, in);
  });
  CHECK_THROWS_AS(gradcheck(program, {kX}), Interruption);
  CHECK(calls == 6);
  calls = 0;
  const Program other = foreign([&](ForeignRun& run, std::span<const Tensor> in) {
    if (++calls > 6) throw std::runtime_error("elsewhere");
    return right(run, in);
  });
  CHECK(gradcheck(other, {kX}).verdict == Verdict::inconclusive);
}
