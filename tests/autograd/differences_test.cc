#include "autograd/differences.h"

#include <cmath>
#include <numbers>

#include <doctest/doctest.h>

using namespace moegrad;

namespace {

using Function = std::function<std::optional<double>(double)>;

// |n - exact| within what the derivative says of its own error, at a point near which not every
// step is a number.
void check_derivative(const Function& f, double exact, const Steps& steps = {},
                      double tolerance = 1e-8, double point = 0.0) {
  const Curve curve = [&](double asked) -> std::optional<Sample> {
    const double h = (point + asked) - point;
    const std::optional<double> value = f(h);
    if (!value || !std::isfinite(*value)) return std::nullopt;
    return Sample{h, {*value}, {std::abs(*value)}};
  };
  const Derivative d = derivative_of(curve, 1, steps);
  REQUIRE(d.found);
  const double size = std::fmax(1e-300, std::abs(exact));
  CHECK(std::abs(d.value[0] - exact) <= 4.0 * d.error[0] + d.rounding[0] + 1e-12 * size);
  CHECK(4.0 * d.error[0] + d.rounding[0] <= tolerance * size);
}

}  // namespace

TEST_CASE("differences know their own error") {
  check_derivative([](double h) { return std::exp(1.0 + h); }, std::exp(1.0), {}, 1e-10);
  check_derivative([](double h) { return std::sin(1e6 + h); }, std::cos(1e6), {.first = 2e4}, 1e-8,
                   1e6);
  check_derivative([](double h) { return std::log(1e6 + h); }, 1e-6, {.first = 2e4}, 1e-8, 1e6);
  const Derivative jump = derivative_of([](double h) { return h < 0.0 ? 0.0 : 1.0; });
  CHECK(jump.error[0] > 1.0);
  CHECK(!derivative_of([](double) { return std::nullopt; }).found);
}

TEST_CASE("steps shrink to where the function has its values") {
  for (const double x : {1e-2, 1e-4, 1e-8, 1e-100, 1e-300}) {
    const Steps steps{.smallest = 1e-9 * x};
    check_derivative([=](double h) { return std::log(x + h); }, 1.0 / x, steps);
    check_derivative([=](double h) { return std::sqrt(x + h); }, 0.5 / std::sqrt(x), steps);
  }
  for (const double x : {1e-2, 1e-4, 1e-8}) {
    check_derivative([=](double h) { return 1.0 / (x + h); }, -1.0 / (x * x),
                     {.smallest = 1e-9 * x});
  }
  check_derivative([](double h) { return std::exp(1e6 * (1e-6 + h)); }, 1e6 * std::exp(1.0),
                   {.smallest = 1e-15});
}

TEST_CASE("a shape that the first steps do not see is found") {
  const double slope = 1e5;
  check_derivative([=](double h) { return std::tanh(slope * h + 0.8); },
                   slope / std::pow(std::cosh(0.8), 2));
  // Flat at all of the first steps.
  check_derivative([=](double h) { return std::exp(-std::pow(slope * h + 0.5, 2)); },
                   -slope * std::exp(-0.25));
  // Linear at all of the first steps.
  check_derivative([=](double h) { return 3.0 * h + 1e-3 * std::tanh(slope * h); }, 3.0 + 100.0);
  // Whole periods in the first steps.
  for (const double rate : {200.0, 50.0, 6400.0}) {
    const double w = 2.0 * std::numbers::pi * rate;
    check_derivative([=](double h) { return std::sin(w * (0.3 + h)); }, w * std::cos(w * 0.3));
  }
}

TEST_CASE("noise is not taken for a shape") {
  // Terms of 1e4 that cancel leave 1e-12 of noise.
  const Derivative d = derivative_of([](double h) { return (1e4 + std::exp(h)) - 1e4; }, {}, 1.0);
  CHECK(std::abs(d.value[0] - 1.0) < 1e-7);
  CHECK(4.0 * d.error[0] < 1e-6);
}

TEST_CASE("zero is a derivative like any other") {
  const Derivative d = derivative_of([](double) { return 3.0; });
  CHECK(d.found);
  CHECK(d.value[0] == 0.0);
  CHECK(d.error[0] == 0.0);
  CHECK(d.rounding[0] < 1e-11);
}

TEST_CASE("a search that is to be certain of a distance ends when it is") {
  int values = 0;
  const Curve curve = [&](double h) -> std::optional<Sample> {
    ++values;
    return Sample{h, {std::exp(20.0 * h)}, {1.0}};
  };
  const auto search = [&](std::optional<double> distance) {
    values = 0;
    const Derivative d = derivative_of(curve, 1, {.distance = distance});
    CHECK(std::abs(d.value[0] - 20.0) <= 4.0 * d.error[0] + d.rounding[0]);
    CHECK(d.error[0] <= std::fmax(1e-9, 0.01 * distance.value_or(0.0)));
    CHECK((d.noise[0] > 0.0) == (distance == 1e-10));
    return values;
  };
  const int plain = search({});
  CHECK(search(1.0) < plain);
  CHECK(search(1e-10) > 5 * plain);  // that may be rounding: it is measured
}
