#pragma once

#include <functional>

#include <doctest/doctest.h>

#include "autograd/gradcheck.h"
#include "ops/ops.h"
#include "row.h"

// Programs whose gradient is known, and lies about it, for the tests of the checker.
namespace moegrad::test {

// x, with a gradient that is dropped (factor 0) or wrong by a factor: of one element, or of all.
struct Lie {
  static constexpr std::string_view name = "lie", summary = "x, its gradient multiplied";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  struct Attributes {
    double factor;
    std::int64_t element = -1;
  };
  static Tensor forward(Forward& in, const Attributes&) { return in[0].clone(); }
  static void backward(Backward& b, const Attributes& a) {
    Tensor dx = b.dy().clone();
    for (std::int64_t i = 0; i < dx.numel(); ++i) {
      if (a.element >= 0 && i != a.element) continue;
      dx.write<double>()[i] = a.factor == 0.0 ? 0.0 : a.factor * b.dy().at(i);
    }
    b.add(0, dx);
  }
  static std::vector<OperationCase> cases() { return {}; }
};

using Scalar = std::function<double(double)>;

// A function by hand, element by element, with what its gradient is said to be.
struct ByHand {
  static constexpr std::string_view name = "by_hand", summary = "f(x)";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  struct Attributes {
    const Scalar* f;
    const Scalar* slope;
  };
  static Tensor forward(Forward& in, const Attributes& a) {
    Tensor y = in[0].clone();
    for (double& v : y.write_values<double>()) v = (*a.f)(v);
    return y;
  }
  static void backward(Backward& b, const Attributes& a) {
    Tensor dx = b.dy().clone();
    for (std::int64_t i = 0; i < dx.numel(); ++i) {
      dx.write<double>()[i] *= (*a.slope)(b.input(0).at(i));
    }
    b.add(0, dx);
  }
  static std::vector<OperationCase> cases() { return {}; }
};

using Function = std::function<Var(Var)>;

inline GradcheckReport check(const Function& f, const Tensor& x, const Lie::Attributes& lie = {1.0},
                             const GradcheckOptions& options = {}) {
  return gradcheck(
      [&](Tape&, std::span<const Var> in) {
        return f(lie.factor == 1.0 ? in[0] : apply<Lie>({in[0]}, lie));
      },
      {x}, options);
}

inline void expect_right(const Function& f, const Tensor& x) {
  const GradcheckReport right = check(f, x);
  INFO(right.text());
  CHECK(right.verdict == Verdict::pass);
}
// Right passes; dropped, wrong by a thousandth and turned fail.
inline void expect_judged(const Function& f, const Tensor& x, std::int64_t element = -1) {
  expect_right(f, x);
  for (const double factor : {0.0, 1.001, -1.0}) {
    const GradcheckReport wrong = check(f, x, {factor, element});
    INFO(factor, " ", wrong.text());
    CHECK(wrong.verdict == Verdict::fail);
  }
}

}  // namespace moegrad::test
