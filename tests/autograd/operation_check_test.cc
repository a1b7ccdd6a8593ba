// Declarations with one defect each: the check of an operation has to name it.

#include "autograd/operation_check.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <thread>
#include <utility>

#include <doctest/doctest.h>

#include "autograd/tape.h"
#include "ops/ops.h"
#include "tensor/kernels.h"

using namespace moegrad;

namespace {

enum class Defect {
  none,
  wrong_gradient,
  not_linear,
  zero_cotangent,
  not_repeatable,
  wrong_alone,
  writes_input_forward,
  writes_input_backward,
  writes_saved,
  unwritten_output,
  unwritten_gradient,
  wrong_f32_value,
  wrong_f32_gradient,
  gives_f64,
  wrong_when_tied,
  wrong_for_large_cotangents,
  wrong_for_small_cotangents,
  no_empty_case,
  no_single_case,
  no_cases,
  throws,
  no_gradient,
  other_than_written_out,
  small,  // none, of numbers around 1e-6, as the following
  small_wrong_f32_value,
  small_wrong_f32_gradient,
  small_not_linear,
  small_wrong_alone,
  small_other_than_written_out,
  cancelling,  // none: a b - a with b near 1, terms 1e4 times as large as their difference
};

double largest(const Tensor& t) {
  double m = 0.0;
  for (const double v : t.to_vector()) m = std::fmax(m, std::abs(v));
  return m;
}

Tensor filled(const Shape& shape, DType dtype, const std::vector<double>& values) {
  const Tensor t = Tensor::empty(shape, dtype, Device::cpu);
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::f32) t.write<float>()[i] = static_cast<float>(values[i]);
    if (dtype == DType::f64) t.write<double>()[i] = values[i];
  }
  return t;
}

void add_to_first(const Tensor& t, double d) {
  if (t.numel() == 0) return;
  if (t.dtype() == DType::f32) t.write<float>()[0] += static_cast<float>(d);
  if (t.dtype() == DType::f64) t.write<double>()[0] += d;
}

// y = a b, with a copy of a and of b saved.
template <Defect defect>
struct Product {
  static constexpr std::string_view name = "product", summary = "a b";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  using Attributes = NoAttributes;

  static Tensor forward(Forward& in, const NoAttributes&) {
    const std::vector<double> a = in[0].to_vector();
    const std::vector<double> b = in[1].to_vector();
    std::vector<double> y(a.size());
    for (std::size_t i = 0; i < y.size(); ++i) {
      y[i] = a[i] * b[i];
      if (defect == Defect::wrong_f32_value && in[0].dtype() == DType::f32) y[i] *= 1.001;
      if (defect == Defect::small_wrong_f32_value && in[0].dtype() == DType::f32) y[i] *= 1.001;
    }
    if (defect == Defect::unwritten_output && !y.empty()) y.pop_back();
    if (defect == Defect::throws) fail(name, "it throws. Do nothing.");
    Tensor out = filled(in[0].shape(), defect == Defect::gives_f64 ? DType::f64 : in[0].dtype(), y);
    in.save(in[0].clone());
    in.save(in[1].clone());
    third = in[0].clone();
    in.save(third);  // not read by backward: the tape does not notice
    if (defect == Defect::writes_input_forward) add_to_first(in[1], 1e-13);
    return out;
  }

  static void backward(Backward& b, const NoAttributes&) {
    if (defect == Defect::no_gradient) return;
    for (int operand = 0; operand < 2; ++operand) {
      std::vector<double> d = b.dy().to_vector();
      for (std::size_t i = 0; i < d.size(); ++i) {
        d[i] *= b.saved(1 - operand).at(static_cast<std::int64_t>(i));
      }
      const bool f32 = b.dy().dtype() == DType::f32;
      for (double& v : d) {
        if (defect == Defect::wrong_gradient) v *= 1.01;
        // The cotangents of the differences are smaller than 2: they see nothing.
        if (defect == Defect::not_linear && largest(b.dy()) > 2.0) v *= 1.5;
        if (defect == Defect::zero_cotangent) v += 1e-18;
        if (defect == Defect::not_repeatable) v *= 1.0 + 1e-14 * ++calls;
        if (defect == Defect::wrong_alone && !b.wants(1 - operand)) v *= 1.5;
        if (defect == Defect::wrong_f32_gradient && f32) v *= 1.001;
        if (defect == Defect::small_wrong_f32_gradient && f32) v *= 1.001;
        if (defect == Defect::small_not_linear && largest(b.dy()) > 2.0) v *= 1.0 + 1e-7;
        if (defect == Defect::small_wrong_alone && !b.wants(1 - operand)) v *= 1.0 + 1e-7;
        if (defect == Defect::wrong_for_large_cotangents && largest(b.dy()) > 10.0) v *= 1.5;
        if (defect == Defect::wrong_for_small_cotangents && largest(b.dy()) < 1e-3) v *= 1.5;
        if (defect == Defect::wrong_when_tied && b.saved(0).same_bits(b.saved(1))) v *= 1.5;
      }
      if (defect == Defect::unwritten_gradient && !d.empty()) d.pop_back();
      b.add(operand, filled(b.input_shape(operand), b.dy().dtype(), d));
    }
    // So little that the gradients do not show it.
    if (defect == Defect::writes_input_backward) nudge(b.input(0));
    if (defect == Defect::writes_saved) nudge(third);
  }

  // The last bit of the first element.
  static void nudge(const Tensor& t) {
    if (t.numel() > 0 && t.dtype() == DType::f64) {
      t.write<double>()[0] = std::nextafter(t.at(0), std::numeric_limits<double>::infinity());
    }
  }

  static std::vector<OperationCase> cases() {
    std::vector<OperationCase> cases;
    if (defect == Defect::no_cases) return cases;
    const Program program = [](Tape&, std::span<const Var> x) {
      return apply<Product<defect>>({x[0], x[1]});
    };
    const Program another = [](Tape&, std::span<const Var> x) {
      return apply<Product<Defect::none>>({x[1], apply<Product<Defect::none>>({x[0], x[0]})});
    };
    const Program nearly = [](Tape&, std::span<const Var> x) {
      return (1.0 + 1e-7) * apply<Product<Defect::none>>({x[0], x[1]});
    };
    const Program difference = [](Tape&, std::span<const Var> x) {
      return apply<Product<defect>>({x[0], x[1]}) - x[0];
    };
    const double size = defect >= Defect::small ? 1e-6 : 2.0;
    for (const Shape& shape : {Shape{2, 3}, Shape{}, Shape{0, 2}}) {
      if (defect == Defect::no_empty_case && shape.numel() == 0) continue;
      if (defect == Defect::no_single_case && shape.numel() == 1) continue;
      const CaseInput input{shape, -size, size};
      cases.push_back({shape.str(), {input, input}, program});
      if (defect == Defect::cancelling) {
        cases.back() = {shape.str(), {{shape}, {shape, 1.0, 1.0 + 1e-4}}, difference};
      }
      if (defect == Defect::small_other_than_written_out) cases.back().written_out = nearly;
      if (defect == Defect::other_than_written_out) cases.back().written_out = another;
    }
    return cases;
  }

  static inline int calls = 0;
  static inline Tensor third;
};

template <Defect defect>
CheckRow check(const Mutation* mutation = nullptr) {
  return check_operation(entry_of<Product<defect>>(), mutation);
}

template <Defect defect>
void expect_caught(const std::string& reason) {
  const CheckRow row = check<defect>();
  CHECK(row.verdict == Verdict::fail);
  INFO(row.reason);
  CHECK(row.reason.find(reason) != std::string::npos);
}

}  // namespace

TEST_CASE("a right declaration passes") {
  const CheckRow row = check<Defect::none>();
  INFO(row.reason);
  CHECK(row.verdict == Verdict::pass);
  CHECK(row.reason.empty());
  CHECK(row.name == "product");
  CHECK(row.kind == "operation");
  CHECK(row.claim == "exact");
  CHECK(row.oracle == "differences of the forward pass");
  CHECK(row.cases == 3);
  CHECK(row.max_error < 1e-9);
}

TEST_CASE("each defect is caught, by the check that is made for it") {
  expect_caught<Defect::wrong_gradient>("analytic and numeric differ");
  expect_caught<Defect::not_linear>("backward is not linear in its cotangent");
  expect_caught<Defect::zero_cotangent>("a zero cotangent gives a gradient");
  expect_caught<Defect::not_repeatable>("two backward passes differ");
  expect_caught<Defect::wrong_alone>("another one where not all are wanted");
  expect_caught<Defect::wrong_for_large_cotangents>("backward of 2^30 times a cotangent");
  expect_caught<Defect::wrong_for_small_cotangents>("backward of 2^-30 times a cotangent");
  expect_caught<Defect::writes_input_forward>("forward wrote an input");
  expect_caught<Defect::writes_input_backward>("needs its input 0 (node 0, 'variable')");
  expect_caught<Defect::writes_saved>("backward wrote an input, output or saved tensor");
  expect_caught<Defect::unwritten_output>("is NaN");
  expect_caught<Defect::unwritten_gradient>("analytic nan");
  expect_caught<Defect::wrong_f32_value>("f32 and f64 values differ");
  expect_caught<Defect::wrong_f32_gradient>("f32 and f64 gradients differ");
  expect_caught<Defect::gives_f64>("f32 inputs give another type");
  expect_caught<Defect::wrong_when_tied>("the same input twice");
  expect_caught<Defect::no_empty_case>("no case of size 0");
  expect_caught<Defect::no_single_case>("no case of size 1");
  expect_caught<Defect::no_cases>("no cases");
  expect_caught<Defect::throws>("[product] it throws. Do nothing.");
  expect_caught<Defect::no_gradient>("analytic and numeric differ");
  expect_caught<Defect::other_than_written_out>("differs from its written-out form");
}

TEST_CASE("numbers are compared by their own size, and terms that cancel by theirs") {
  const CheckRow small = check<Defect::small>();
  INFO(small.reason);
  CHECK(small.verdict == Verdict::pass);
  expect_caught<Defect::small_wrong_f32_value>("f32 and f64 values differ");
  expect_caught<Defect::small_wrong_f32_gradient>("f32 and f64 gradients differ");
  expect_caught<Defect::small_not_linear>("backward is not linear in its cotangent");
  expect_caught<Defect::small_wrong_alone>("another one where not all are wanted");
  expect_caught<Defect::small_other_than_written_out>("differs from its written-out form");
  const CheckRow cancelling = check<Defect::cancelling>();
  INFO(cancelling.reason);
  CHECK(cancelling.verdict == Verdict::pass);
}

TEST_CASE("a tape that does not accumulate is caught: the mutant that overwrites an adjoint") {
  for (const int input : {0, 1}) {
    bool applied = false;
    const Mutation mutation{"product", Mutation::Kind::overwrites, input, &applied};
    const CheckRow row = check<Defect::none>(&mutation);
    CHECK(applied);
    CHECK(row.verdict == Verdict::fail);
    INFO(row.reason);
    CHECK(row.reason.find("a second use of an input is not added") != std::string::npos);
  }
}

TEST_CASE("every kind of mutant does what its name says") {
  const Tensor cotangent = Tensor::of<double>({2, 2}, {1, 2, 3, 4});
  const auto mutant = [&](Mutation::Kind kind) {
    bool applied = false;
    const Mutation mutation{"product", kind, 0, &applied};
    Tape t;
    const Var x = t.variable(Tensor::full({2, 2}, 1.0, DType::f64, Device::cpu));
    const Var one = t.constant(Tensor::full({2, 2}, 1.0, DType::f64, Device::cpu));
    const Var once = apply<Product<Defect::none>>({x, one});
    const Gradients g = t.backward(once, {.cotangent = cotangent, .mutation = &mutation});
    CHECK(applied == (kind != Mutation::Kind::overwrites));
    return g[x].to_vector();
  };
  using Values = std::vector<double>;
  CHECK(mutant(Mutation::Kind::sign) == Values{-1, -2, -3, -4});
  CHECK(mutant(Mutation::Kind::twice) == Values{2, 4, 6, 8});
  CHECK(mutant(Mutation::Kind::dropped) == Values{0, 0, 0, 0});
  CHECK(mutant(Mutation::Kind::transposed) == Values{1, 3, 2, 4});
  CHECK(mutant(Mutation::Kind::rotated) == Values{3, 4, 1, 2});
  CHECK(mutant(Mutation::Kind::overwrites) == Values{1, 2, 3, 4});
}

TEST_CASE("inputs of a case are drawn from its ranges, the same each time") {
  const OperationCase c{"", {{{50}, 2.0, 3.0}, {{50}, -1.0, 0.0}}, nullptr};
  const std::vector<Tensor> inputs = make_inputs(c, DType::f64);
  for (const double v : inputs[0].to_vector()) CHECK((v >= 2.0 && v < 3.0));
  for (const double v : inputs[1].to_vector()) CHECK((v >= -1.0 && v < 0.0));
  CHECK(make_inputs(c, DType::f64)[1].same_bits(inputs[1]));
  CHECK(!make_inputs(c, DType::f64, 2)[1].same_bits(inputs[1]));
  CHECK(make_inputs(c, DType::f32)[0].dtype() == DType::f32);
}

TEST_CASE("the check leaves the pool as it found it") {
  const bool before = pool::checked();
  check<Defect::throws>();
  CHECK(pool::checked() == before);
}

namespace {

// One case of a function that first does something.
OperationEntry entry_that(std::function<void()> first) {
  const Program program = [first = std::move(first)](Tape&, std::span<const Var> x) {
    first();
    return square(x[0]);
  };
  return {"function",
          "",
          "",
          Claim::exact,
          [program] {
            return std::vector<OperationCase>{{"case", {{{1}}}, program}};
          },
          nullptr,
          "one case"};
}

}  // namespace

TEST_CASE("somebody who asks to stop is heard") {
  const bool before = pool::checked();
  CHECK_THROWS_AS(check_operation(entry_that([] { throw Interruption(); })), Interruption);
  CHECK(pool::checked() == before);
}

TEST_CASE("of checks on two threads, the last to end leaves the pool as the first found it") {
  const bool before = pool::checked();
  std::atomic<bool> first{false}, both{false}, over{false};
  std::thread longer([&] {
    while (!first) std::this_thread::yield();
    check_operation(entry_that([&] {
      both = true;
      while (!over) std::this_thread::yield();
      CHECK(pool::checked());
    }));
  });
  check_operation(entry_that([&] {
    first = true;
    while (!both) std::this_thread::yield();
  }));
  over = true;
  longer.join();
  CHECK(pool::checked() == before);
}
