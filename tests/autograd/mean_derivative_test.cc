#include "autograd/mean_derivative.h"

#include <cmath>

#include <doctest/doctest.h>

#include "tensor/rng.h"

using namespace moegrad;

namespace {

constexpr int kSamples = 4000;

using Sampled = double (*)(double x, double u);

// The derivative at x of the mean of f(x, u) over uniform u; `own`: the samples' own derivatives.
MeanDerivative derivative(Sampled f, Sampled own, double x, std::uint64_t seed,
                          double domain = -1e300, int samples = kSamples) {
  Rng rng{seed, 0, 0};
  const Tensor u = rng.uniform({samples}, DType::f64);
  std::vector<double> g;
  std::vector<double> losses;
  double size = 0.0;
  for (const double v : u.to_vector()) {
    g.push_back(own(x, v));
    losses.push_back(f(x, v));
    size += std::abs(losses.back()) / samples;
  }
  const auto at = [&](double h) -> std::optional<SampleDifferences> {
    if (x - h < domain) return std::nullopt;
    SampleDifferences d;
    for (const double v : u.to_vector()) {
      const double up = f(x + h, v);
      const double down = f(x - h, v);
      d.slope.push_back((up - down) / (2.0 * h));
      d.bend.push_back((up + down - 2.0 * f(x, v)) / h);
    }
    return d;
  };
  return mean_derivative(at, g, {.first = 0.4, .losses = losses, .size = size});
}

double none(double, double) { return 0.0; }
double below(double x, double u) { return u < x ? 1.0 : 0.0; }
double bound(const MeanDerivative& d) { return d.error; }

}  // namespace

TEST_CASE("the mean of samples that jump: its bounds hold, seed by seed") {
  for (std::uint64_t seed = 0; seed < 25; ++seed) {
    CAPTURE(seed);
    // d P(u < x) / dx = 1; near 0 the mean, max(0, x), has a kink.
    for (const double x : {0.5, 0.3, 0.1, 0.04}) {
      CAPTURE(x);
      const MeanDerivative d = derivative(below, none, x, seed);
      CHECK(d.unknown == nullptr);
      CHECK(std::abs(d.value - 1.0) <= bound(d));
      CHECK(bound(d) < 1.5);
    }
    CHECK(bound(derivative(below, none, 0.5, seed)) < 0.32);
  }
}

TEST_CASE("the mean of smooth samples: paired with their own derivatives nothing is left") {
  const auto f = [](double x, double u) { return std::exp(x * u); };
  const auto own = [](double x, double u) { return u * std::exp(x * u); };
  const MeanDerivative d = derivative(f, own, 0.7, 1);
  // int u exp(x u) du = (exp(x) (x - 1) + 1) / x^2
  const double truth = (std::exp(0.7) * -0.3 + 1.0) / 0.49;
  CHECK(std::abs(d.value - truth) < 4.0 * 0.6 / std::sqrt(kSamples));
  CHECK(bound(d) < 1e-3);

  const auto wrong = [](double x, double u) { return 1.01 * u * std::exp(x * u); };
  CHECK(bound(derivative(f, wrong, 0.7, 1)) < 2e-3);
}

TEST_CASE("a step of 2 in smooth samples shows, and how far one that is rarer could hide") {
  const auto f = [](double x, double u) { return std::sin(x) + (u < x ? 2.0 : 0.0); };
  const auto own = [](double x, double) { return std::cos(x); };
  const MeanDerivative d = derivative(f, own, 0.5, 3);
  CHECK(std::abs(d.value - (std::cos(0.5) + 2.0)) <= bound(d));
  CHECK(bound(d) < 0.6);

  // Of height 100 where u < x / 10^6: no sample jumps, and the derivative has 1e-4 of it.
  const auto rare = [](double x, double u) { return u + (u < x * 1e-6 ? 100.0 : 0.0); };
  const MeanDerivative hidden = derivative(rare, none, 0.5, 3);
  CHECK(hidden.value == 0.0);
  CHECK(bound(hidden) >= 1e-4);
}

TEST_CASE("a kink of the mean inside of all wide widths, and a domain that ends near") {
  const auto kink = [](double x, double u) { return u * std::fmax(0.0, x - 1e-4); };
  CHECK(std::abs(derivative(kink, none, 0.0, 1).value) < 1e-9);
  const auto log_of = [](double x, double u) { return u * std::log(x); };
  const auto own = [](double x, double u) { return u / x; };
  const MeanDerivative d = derivative(log_of, own, 1e-3, 1, 0.0);
  CHECK(d.unknown == nullptr);
  CHECK(std::abs(d.value - 500.0) < 25.0);
  CHECK(derivative(log_of, own, 1e-3, 1, 1.0).unknown != nullptr);
}

TEST_CASE("two samples know no error") {
  const std::vector<double> g = {0.0, 1.0};
  const MeanDerivative d = mean_derivative(
      [](double) {
        return SampleDifferences{{1.0, 2.0}, {0.0, 0.0}, {}};
      },
      g, {.losses = g, .size = 1.0});
  CHECK(!(bound(d) < 1e300));
}

TEST_CASE("few samples: the bounds hold for unbiased derivatives, seed by seed") {
  struct Unbiased {
    const char* name;
    Sampled f, own;
    double x;
  };
  const Unbiased programs[] = {
      {"smooth, pathwise", [](double x, double u) { return std::exp(3.0 * x * u); },
       [](double x, double u) { return 3.0 * u * std::exp(3.0 * x * u); }, 0.7},
      {"a kink, pathwise", [](double x, double u) { return std::fmax(0.0, x + u - 0.5); },
       [](double x, double u) { return x + u > 0.5 ? 1.0 : 0.0; }, 0.1},
      {"a jump, score function", below, [](double x, double u) { return u < x ? 1.0 / x : 0.0; },
       0.5},
      {"a jump, straight-through", below, [](double, double) { return 1.0; }, 0.5},
      {"a kink of the mean 0.1 away", below, [](double, double) { return 1.0; }, 0.1},
      {"a kink of the mean 0.01 away", below, [](double, double) { return 1.0; }, 0.01},
      {"a kink of the mean 0.0001 away", below, [](double, double) { return 1.0; }, 1e-4},
      {"an event of 5 %",
       [](double x, double u) { return u < 1.0 / (1.0 + std::exp(-x)) ? 1.0 : 0.0; },
       [](double x, double) { return 1.0 / (2.0 + std::exp(x) + std::exp(-x)); }, -3.0},
      {"an event of 1e-4",
       [](double x, double u) { return u < 1.0 / (1.0 + std::exp(-x)) ? 1.0 : 0.0; },
       [](double x, double) { return 1.0 / (2.0 + std::exp(x) + std::exp(-x)); }, -9.2},
      {"jumps within 1e-3", [](double x, double u) { return x > 1e-3 * (u - 0.5) ? 1.0 : 0.0; },
       [](double, double) { return 1e3; }, 1e-4},
  };
  for (const auto& p : programs) {
    for (const int n : {10, 30, 100, 300, 1000}) {
      int over = 0;
      constexpr int kSeeds = 100;
      for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
        Rng rng{1000 + seed, 0, 0};
        double own = 0.0;
        for (const double u : rng.uniform({n}, DType::f64).to_vector()) own += p.own(p.x, u) / n;
        const MeanDerivative d = derivative(p.f, p.own, p.x, 1000 + seed, -1e300, n);
        over += std::abs(own - d.value) > bound(d) ? 1 : 0;
      }
      CAPTURE(p.name);
      CAPTURE(n);
      CHECK(over == 0);
    }
  }
}

TEST_CASE("where all samples have the same loss, no height of a jump is known") {
  const auto rare = [](double x, double u) { return u < 1e-6 * x ? 1.0 : 0.0; };
  const auto own = [](double, double) { return 1e-6; };
  const MeanDerivative d = derivative(rare, own, 0.5, 3);
  CHECK(std::isinf(bound(d)));
  REQUIRE(d.unknown != nullptr);
  CHECK(std::string(d.unknown).find("no sample showed") != std::string::npos);
}
