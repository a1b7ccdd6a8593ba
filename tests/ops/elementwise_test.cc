#include "ops/elementwise.h"

#include <cmath>
#include <limits>

#include <doctest/doctest.h>

#include "ops/reduce.h"
#include "ops/shape.h"

using namespace moegrad;

namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

Tensor row(std::initializer_list<double> values) {
  return Tensor::of<double>({static_cast<std::int64_t>(values.size())}, values);
}

Scalars scalars_of(std::string_view name) {
  return name == "clamp" ? Scalars{-0.7, 0.9} : Scalars{1.7, -0.4};
}

// Central differences of order 8 in long double.
template <class F>
long double differences(long double x, Scalars p) {
  constexpr long double kStep = 0.002L;
  constexpr long double kWeights[] = {4.0L / 5, -1.0L / 5, 4.0L / 105, -1.0L / 280};
  long double d = 0.0L;
  for (int i = 1; i <= 4; ++i) {
    d += kWeights[i - 1] * (F::f(x + i * kStep, p) - F::f(x - i * kStep, p));
  }
  return d / kStep;
}

template <class F, class Oracle>
void compare(Oracle&& oracle, double tolerance) {
  INFO(F::name);
  const Scalars p = scalars_of(F::name);
  constexpr int kPoints = 41;
  for (int i = 0; i < kPoints; ++i) {
    const double x = F::kLow + (F::kHigh - F::kLow) * i / (kPoints - 1);
    if constexpr (requires { F::wall(1.0, Scalars{}); }) {
      if (F::wall(x, p) < 0.05) continue;
    }
    const double expected = static_cast<double>(oracle(x, p));
    const double analytic = F::df(x, F::f(x, p), p);
    INFO("x = " << x);
    CHECK(std::abs(analytic - expected) <= tolerance * std::fmax(1.0, std::abs(expected)));
  }
}

template <class... F>
void compare_with_differences(TypeList<F...>) {
  (compare<F>([](double x, Scalars p) { return differences<F>(x, p); }, 1e-12), ...);
}

// The function or its derivative jumps at x.
template <class F>
bool jumps_at(double x, Scalars p) {
  const double tiny = 1e-9 * std::fmax(1.0, std::abs(x));
  const auto slope = [&](double at) { return F::df(at, F::f(at, p), p); };
  return std::abs(slope(x + tiny) - slope(x - tiny)) > 0.1 ||
         std::abs(F::f(x + tiny, p) - F::f(x - tiny, p)) > 0.1;
}

template <class F>
int check_walls() {
  if constexpr (requires { F::wall(1.0, Scalars{}); }) {
    INFO(F::name);
    const Scalars p = scalars_of(F::name);
    const double step = 0.01;
    for (double x = -7.003; x < 7.0; x += step) {
      CAPTURE(x);
      const double distance = F::wall(x, p);
      CHECK(distance > 0.0);
      CHECK((jumps_at<F>(x - distance, p) || jumps_at<F>(x + distance, p)));
      for (const double part : {-0.99, -0.5, 0.5, 0.99}) {
        CHECK(F::side(x + part * distance, p) == F::side(x, p));
        CHECK(!jumps_at<F>(x + part * distance, p));
      }
      // A kink between two points, and only that, is another side.
      const bool kink =
          distance < step && F::wall(x + step, p) < step && jumps_at<F>(x + distance, p);
      CHECK((F::side(x + step, p) != F::side(x, p)) == kink);
    }
    for (const double far : {-1e300, -1e3, 1e3, 1e300}) CHECK(F::wall(far, p) > 1e2);
    return 1;
  }
  return 0;
}

template <class... F>
int check_all_walls(TypeList<F...>) {
  return (check_walls<F>() + ...);
}

}  // namespace

TEST_CASE("walls lie where the derivative jumps, on both sides and far from any") {
  CHECK(check_all_walls(UnaryFunctors{}) >= 2);
  // Halfway between its bounds clamp has no kink.
  CHECK(functor::Clamp::wall(0.1, {-0.7, 0.9}) == doctest::Approx(0.8));
  CHECK(functor::Clamp::side(0.1 - 1e-9, {-0.7, 0.9}) ==
        functor::Clamp::side(0.1 + 1e-9, {-0.7, 0.9}));
}

TEST_CASE("every derivative agrees with differences of order 8 in long double") {
  compare_with_differences(UnaryFunctors{});
}

TEST_CASE("values agree with their formulas in long double") {
  const auto compare_values = [](Var (*f)(Var), long double (*formula)(long double), double low) {
    Tape t;
    const Tensor x = Rng{4, 0, 0}.uniform({200}, DType::f64, low, 3.0);
    const Tensor y = f(t.constant(x)).value();
    for (std::int64_t i = 0; i < x.numel(); ++i) {
      const auto expected = static_cast<double>(formula(x.at(i)));
      CHECK(y.at(i) == doctest::Approx(expected).epsilon(1e-13));
    }
  };
  using L = long double;
  compare_values([](Var x) { return -x; }, [](L x) { return -x; }, -3);
  compare_values([](Var x) { return affine(x, 2.0, 3.0); }, [](L x) { return 2 * x + 3; }, -3);
  compare_values(
      exp, [](L x) { return std::exp(x); }, -3);
  compare_values(
      log, [](L x) { return std::log(x); }, 0.1);
  compare_values(
      sqrt, [](L x) { return std::sqrt(x); }, 0.1);
  compare_values(
      square, [](L x) { return x * x; }, -3);
  compare_values(
      tanh, [](L x) { return std::tanh(x); }, -3);
  compare_values(
      sigmoid, [](L x) { return 1 / (1 + std::exp(-x)); }, -3);
  compare_values(
      relu, [](L x) { return x > 0 ? x : 0; }, -3);
  compare_values(
      gelu, [](L x) { return x / 2 * (1 + std::erf(x / std::sqrt(2.0L))); }, -3);
  compare_values(
      gelu_tanh,
      [](L x) {
        return x / 2 *
               (1 + std::tanh(std::sqrt(2 / std::acos(-1.0L)) * (x + 0.044715L * x * x * x)));
      },
      -3);
  compare_values(
      silu, [](L x) { return x / (1 + std::exp(-x)); }, -3);
  compare_values(
      softplus, [](L x) { return std::log(1 + std::exp(x)); }, -3);
  compare_values(
      erf, [](L x) { return std::erf(x); }, -3);
  compare_values(
      abs, [](L x) { return std::abs(x); }, -3);
  compare_values(
      sign, [](L x) { return std::copysign(L(1), x); }, -3);
  compare_values([](Var x) { return pow(x, 1.5); }, [](L x) { return std::pow(x, 1.5L); }, 0.1);
  compare_values([](Var x) { return pow(x, 3.0); }, [](L x) { return x * x * x; }, -3);
  compare_values([](Var x) { return pow(2.0, x); }, [](L x) { return std::exp2(x); }, -3);
  compare_values(
      sin, [](L x) { return std::sin(x); }, -3);
  compare_values(
      cos, [](L x) { return std::cos(x); }, -3);
  compare_values([](Var x) { return clamp(x, -1.0, 0.5); },
                 [](L x) { return x < -1     ? -1
                                  : x > 0.5L ? 0.5L
                                             : x; }, -3);
}

TEST_CASE("far out nothing overflows, and NaN stays NaN") {
  Tape t;
  const auto of = [&](Var (*f)(Var), double x) { return f(t.constant(row({x}))).value().item(); };
  CHECK(of(sigmoid, 1000) == 1.0);
  CHECK(of(sigmoid, -1000) == 0.0);
  CHECK(of(softplus, 1000) == 1000.0);
  CHECK(of(softplus, -1000) == 0.0);
  CHECK(of(silu, -1000) == 0.0);
  CHECK(of(tanh, 1000) == 1.0);
  CHECK(of(gelu, -1000) == 0.0);
  CHECK(of(gelu_tanh, -1000) == 0.0);
  CHECK(of(exp, -1000) == 0.0);
  CHECK(of(relu, kInf) == kInf);
  const auto clamped = [](Var x) { return clamp(x, -1.0, 1.0); };
  for (Var (*f)(Var) : {+clamped, &relu, &exp, &log, &sqrt, &square, &tanh, &sigmoid, &gelu,
                        &gelu_tanh, &silu, &softplus, &erf, &abs, &sign, &sin, &cos}) {
    CHECK(std::isnan(of(f, std::numeric_limits<double>::quiet_NaN())));
  }
  const Var nan = t.constant(row({std::nan("")}));
  const Var one = t.constant(row({1}));
  for (Var (*f)(Var, Var) : {minimum, maximum}) {
    CHECK(std::isnan(f(nan, one).value().item()));
    CHECK(std::isnan(f(one, nan).value().item()));
  }
}

TEST_CASE("gradients far out are finite") {
  Tape t;
  const Var x = t.variable(row({-1000, 1000}));
  const Gradients g = t.backward(sum(sigmoid(x) + softplus(x) + silu(x) + gelu(x)));
  CHECK(g[x].to_vector() == std::vector<double>{0, 3});
}

TEST_CASE("at a kink the derivative is the stated one") {
  Tape t;
  const Var x = t.variable(row({0}));
  CHECK(t.backward(abs(x), {.retain = true})[x].item() == 0.0);
  CHECK(t.backward(sign(x), {.retain = true})[x].item() == 0.0);
  const Var y = t.variable(row({0}));
  for (Var (*f)(Var, Var) : {minimum, maximum}) {
    const Gradients g = t.backward(f(x, y), {.retain = true});
    CHECK(g[x].item() == 0.5);
    CHECK(g[y].item() == 0.5);
    CHECK(t.backward(f(x, x), {.retain = true})[x].item() == 1.0);
  }
  CHECK(t.backward(relu(x), {.retain = true})[x].item() == 0.0);
  CHECK(t.backward(clamp(x, 0.0, 1.0), {.retain = true})[x].item() == 0.0);
  CHECK(t.backward(clamp(x, -1.0, 0.0))[x].item() == 0.0);
}

TEST_CASE("powers at 0 and of negative numbers, as in PyTorch") {
  using Values = std::vector<double>;
  Tape t;
  const Var x = t.variable(row({0, -2, 3}));
  const auto power = [&](double exponent) {
    const Var y = pow(x, exponent);
    const Tensor dx = t.backward(sum(y), {.retain = true})[x];
    return std::pair(y.value().to_vector(), dx.to_vector());
  };
  CHECK(power(0.0) == std::pair(Values{1, 1, 1}, Values{0, 0, 0}));
  CHECK(power(1.0) == std::pair(Values{0, -2, 3}, Values{1, 1, 1}));
  CHECK(power(2.0) == std::pair(Values{0, 4, 9}, Values{0, -4, 6}));
  CHECK(power(-1.0).first == Values{kInf, -0.5, 1 / 3.0});
  CHECK(std::isnan(power(0.5).first[1]));

  const Var a = t.variable(row({0, 0, -2, -2}));
  const Var b = t.variable(row({0, 2, 2, -1}));
  const Var y = pow(a, b);
  CHECK(y.value().to_vector() == Values{1, 0, 4, -0.5});
  const Gradients g = t.backward(sum(y));
  CHECK(g[a].to_vector() == Values{0, 0, -4, -0.25});
  CHECK(g[b].at(0) == 0.0);
  CHECK(g[b].at(1) == 0.0);
  CHECK(std::isnan(g[b].at(2)));
}

TEST_CASE("operators with numbers") {
  Tape t;
  const Var x = t.constant(row({1, 2}));
  using Values = std::vector<double>;
  CHECK((x + 1.0).value().to_vector() == Values{2, 3});
  CHECK((1.0 + x).value().to_vector() == Values{2, 3});
  CHECK((x - 1.0).value().to_vector() == Values{0, 1});
  CHECK((1.0 - x).value().to_vector() == Values{0, -1});
  CHECK((x * 3.0).value().to_vector() == Values{3, 6});
  CHECK((3.0 * x).value().to_vector() == Values{3, 6});
  CHECK((x / 2.0).value().to_vector() == Values{0.5, 1});
}

TEST_CASE("broadcasting") {
  Tape t;
  const Var matrix = t.constant(Tensor::of<double>({2, 3}, {1, 2, 3, 4, 5, 6}));
  const Var across = t.constant(row({10, 20, 30}));
  const Var down = t.constant(Tensor::of<double>({2, 1}, {100, 200}));
  const Var one = t.constant(Tensor::scalar(1000.0));
  using Values = std::vector<double>;
  CHECK((matrix + across).value().to_vector() == Values{11, 22, 33, 14, 25, 36});
  CHECK((across - matrix).value().to_vector() == Values{9, 18, 27, 6, 15, 24});
  CHECK((matrix + down).value().to_vector() == Values{101, 102, 103, 204, 205, 206});
  CHECK((down - matrix).value().to_vector() == Values{99, 98, 97, 196, 195, 194});
  CHECK((matrix * one).value().to_vector() == Values{1000, 2000, 3000, 4000, 5000, 6000});
  CHECK((one - matrix).value().to_vector() == Values{999, 998, 997, 996, 995, 994});
  CHECK((down + reshape(across, {1, 3})).value().to_vector() ==
        Values{110, 120, 130, 210, 220, 230});
  CHECK((reshape(across, {1, 3}) - down).value().to_vector() ==
        Values{-90, -80, -70, -190, -180, -170});

  SUBCASE("the gradient of a broadcast operand is summed") {
    Tape u;
    const Var m = u.variable(Tensor::of<double>({2, 3}, {1, 2, 3, 4, 5, 6}));
    const Var r = u.variable(row({10, 20, 30}));
    const Var c = u.variable(Tensor::of<double>({2, 1}, {100, 200}));
    const Var s = u.variable(Tensor::scalar(2.0));
    const Gradients g = u.backward((m * r + m * c) * s,
                                   {.cotangent = Tensor::of<double>({2, 3}, {1, 0, 0, 0, 0, 10})});
    CHECK(g[r].to_vector() == Values{2 * 1, 0, 2 * 60});
    CHECK(g[c].to_vector() == Values{2 * 1, 2 * 60});
    CHECK(g[s].item() == 1 * (10 + 100) + 10 * 6 * (30 + 200));
    CHECK(g[m].to_vector() == Values{220, 0, 0, 0, 0, 4600});
  }
}

TEST_CASE("errors of element-wise operations") {
  Tape t;
  const Var a = t.constant(Tensor::zeros({2, 3}, DType::f64, Device::cpu));
  const Var b = t.constant(Tensor::zeros({2}, DType::f64, Device::cpu));
  const Var narrow = t.constant(Tensor::zeros({2, 3}, DType::f32, Device::cpu));
  CHECK_THROWS_WITH_AS(
      a + b,
      "[add] shapes [2, 3] and [2] do not meet. Axes are matched from the last; make their sizes "
      "equal, or one of them 1.",
      Error);
  CHECK_THROWS_WITH_AS(a * narrow, "[mul] operands are f64 and f32. Convert one of them.", Error);
  CHECK_THROWS_WITH_AS(clamp(a, 1.0, 0.0), "[clamp] bounds 1 and 0. The first must not be larger.",
                       Error);
  CHECK_THROWS_WITH_AS(clamp(a, NAN, 0.0),
                       "[clamp] bounds nan and 0. The first must not be larger.", Error);
  const Var integers = t.constant(Tensor::zeros({2}, DType::i32, Device::cpu));
  CHECK_THROWS_AS(exp(integers), Error);
  CHECK_THROWS_AS(integers + integers, Error);
}
