// relaxed-top-k and gumbel-top-k-st against loops written from their formulas.

#include <algorithm>
#include <cmath>

#include <doctest/doctest.h>

#include "moe/registry.h"
#include "ops/ops.h"

using namespace moegrad;

namespace {

using Values = std::vector<double>;

constexpr std::int64_t kTokens = 4, kExperts = 5, kActive = 3;

struct Run {
  std::string name = "relaxed-top-k";
  std::string temperature = "0.1";
  bool training = true;
  Tensor o = Rng{4, 0, 0}.normal({kTokens, kExperts}, DType::f64);
  Tensor noise =
      Rng{4, 1, 0}.gumbel({kTokens, kExperts}, DType::f64, Device::cpu);  // undefined: drawn
  std::int64_t active = kActive;
  DType dtype = DType::f64;

  template <class Use>
  void operator()(Use use) const {
    const std::int64_t experts = o.size(1);
    const RouterEntry& entry = router_entry(name);
    Options options("router " + name, entry.options);
    options.set("temperature", temperature);
    Decisions decisions;
    if (noise.defined()) decisions.give("noise", noise);
    Tape tape({.rng = Rng{31, 0, 0}, .decisions = &decisions});
    const Tensor eye = Tensor::zeros({experts, experts}, DType::f64, Device::cpu);
    for (std::int64_t e = 0; e < experts; ++e) eye.write<double>()[e * experts + e] = 1.0;
    Weights weights;
    weights.set("router.weight", tape.constant(eye.to(dtype)));
    const Var x = tape.variable(o.to(dtype));
    use(tape, x,
        entry.make(options)->route({experts, 1, 1, experts, active}, {x, weights, training}));
  }
};

Values noisy(const Run& run, std::int64_t token) {
  Values r;
  for (std::int64_t e = 0; e < kExperts; ++e) {
    const std::int64_t i = token * kExperts + e;
    r.push_back(run.o.at(i) + (run.training ? run.noise.at(i) : 0.0));
  }
  return r;
}

Values k_hot(Values r, double t) {
  Values sum(r.size(), 0.0);
  for (std::int64_t m = 0; m < kActive; ++m) {
    Values p;
    double total = 0.0;
    for (const double v : r) p.push_back(std::exp(v / t)), total += p.back();
    for (std::size_t i = 0; i < r.size(); ++i) {
      sum[i] += p[i] / total;
      r[i] += std::log(1.0 - p[i] / total);
    }
  }
  return sum;
}

std::vector<std::size_t> largest(const Values& r) {
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < r.size(); ++i) order.push_back(i);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return r[a] > r[b]; });
  order.resize(kActive);
  return order;
}

bool finite(const Tensor& t) {
  for (const double v : t.to_vector()) {
    if (!std::isfinite(v)) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("relaxed-top-k: in training all experts with khot/k, which sums to 1") {
  for (const char* temperature : {"0.5", "2"}) {
    Run run;
    run.temperature = temperature;
    run([&](Tape&, Var, const Routing& r) {
      REQUIRE(r.weights.shape() == Shape{kTokens, kExperts});
      for (std::int64_t t = 0; t < kTokens; ++t) {
        const Values expected = k_hot(noisy(run, t), std::stod(temperature));
        double sum = 0.0;
        for (std::int64_t e = 0; e < kExperts; ++e) {
          const double w = r.weights.value().at(t * kExperts + e);
          CHECK(w ==
                doctest::Approx(expected[static_cast<std::size_t>(e)] / kActive).epsilon(1e-11));
          CHECK(r.selected.at(t * kExperts + e) == static_cast<double>(e));
          sum += w;
        }
        CHECK(sum == doctest::Approx(1.0).epsilon(1e-14));
      }
      CHECK(r.noise.same_bits(run.noise));
    });
  }
}

TEST_CASE("relaxed-top-k: t -> 0 gives the k largest of the noisy logits") {
  Run run;
  run.temperature = "0.002";
  run([&](Tape&, Var, const Routing& r) {
    for (std::int64_t t = 0; t < kTokens; ++t) {
      Values expected(kExperts, 0.0);
      for (const std::size_t e : largest(noisy(run, t))) expected[e] = 1.0 / kActive;
      for (std::int64_t e = 0; e < kExperts; ++e) {
        CHECK(std::abs(r.weights.value().at(t * kExperts + e) -
                       expected[static_cast<std::size_t>(e)]) < 1e-3);
      }
    }
  });
}

TEST_CASE("inference: the k largest logits, uniform, without noise and without a gradient") {
  for (const char* name : {"relaxed-top-k", "gumbel-top-k-st"}) {
    Run run;
    run.name = name;
    run.training = false;
    run([&](Tape&, Var, const Routing& r) {
      REQUIRE(r.selected.shape() == Shape{kTokens, kActive});
      CHECK_FALSE(r.noise.defined());
      CHECK_FALSE(r.weights.needs_gradient());
      for (std::int64_t t = 0; t < kTokens; ++t) {
        const std::vector<std::size_t> best = largest(noisy(run, t));
        for (std::int64_t j = 0; j < kActive; ++j) {
          CHECK(r.selected.at(t * kActive + j) ==
                static_cast<double>(best[static_cast<std::size_t>(j)]));
          CHECK(r.weights.value().at(t * kActive + j) == 1.0 / kActive);
        }
      }
    });
  }
}

// <a, w> over S has the gradient of <a on S, khot/k>.
TEST_CASE("gumbel-top-k-st: 1/k on the sample, with the gradient of the relaxed weights") {
  Run run;
  run.name = "gumbel-top-k-st";
  run.temperature = "0.7";
  const Tensor a = Rng{6, 0, 0}.normal({kTokens, kActive}, DType::f64);
  const Tensor spread = Tensor::zeros({kTokens, kExperts}, DType::f64, Device::cpu);
  Tensor straight;
  run([&](Tape& tape, Var x, const Routing& r) {
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const std::vector<std::size_t> best = largest(noisy(run, t));
      for (std::int64_t j = 0; j < kActive; ++j) {
        const auto e = static_cast<std::int64_t>(best[static_cast<std::size_t>(j)]);
        CHECK(r.selected.at(t * kActive + j) == static_cast<double>(e));
        CHECK(r.weights.value().at(t * kActive + j) == 1.0 / kActive);
        spread.write<double>()[t * kExperts + e] = a.at(t * kActive + j);
      }
    }
    straight = tape.backward(sum(r.weights * tape.constant(a)))[x];
  });
  run.name = "relaxed-top-k";
  run([&](Tape& tape, Var x, const Routing& r) {
    const Tensor relaxed = tape.backward(sum(r.weights * tape.constant(spread)))[x];
    double size = 0.0;
    for (std::int64_t i = 0; i < relaxed.numel(); ++i) {
      CHECK(straight.at(i) == doctest::Approx(relaxed.at(i)).epsilon(1e-12));
      size += std::abs(relaxed.at(i));
    }
    CHECK(size > 0.01);
  });
}

// Pearson's chi-squared of 20000 live samples of 2 of 4 against g_a g_b (1/(1-g_a) + 1/(1-g_b));
// 5 degrees of freedom, 0.1 % at 20.5.
TEST_CASE("gumbel-top-k-st samples sequentially without replacement") {
  constexpr std::int64_t kSamples = 20000;
  const Values o = {0.5, -0.7, 1.1, 0.0};
  Values rows;
  for (std::int64_t s = 0; s < kSamples; ++s) rows.insert(rows.end(), o.begin(), o.end());
  Run run;
  run.name = "gumbel-top-k-st";
  run.o = Tensor::of<double>({kSamples, 4}, rows);
  run.noise = {};
  run.active = 2;
  Values g = o;
  double sum = 0.0;
  for (double& v : g) sum += v = std::exp(v);
  for (double& v : g) v /= sum;
  run([&](Tape&, Var, const Routing& r) {
    double count[4][4] = {};
    for (std::int64_t s = 0; s < kSamples; ++s) {
      const auto [low, high] = std::minmax(r.selected.data<std::int32_t>()[2 * s],
                                           r.selected.data<std::int32_t>()[2 * s + 1]);
      count[low][high] += 1.0;
    }
    double chi2 = 0.0;
    for (std::size_t a = 0; a < 4; ++a) {
      for (std::size_t b = a + 1; b < 4; ++b) {
        const double expected = kSamples * g[a] * g[b] * (1.0 / (1.0 - g[a]) + 1.0 / (1.0 - g[b]));
        chi2 += (count[a][b] - expected) * (count[a][b] - expected) / expected;
      }
    }
    CHECK(chi2 < 20.5);
  });
}

// One expert far ahead: 1 - p underflows. Values and gradients are finite, the sum is k.
TEST_CASE("far apart logits, ties and k = E stay finite, in f32 too") {
  const std::vector<Values> rows = {{1e4, -1e4, -1e4, -1e4, -1e4},
                                    {0, 0, 0, 0, 0},
                                    {30, 0, -30, -60, -90},
                                    {1e4, 1e4, 1e4, -1e4, -1e4}};
  Values flat;
  for (const Values& row : rows) flat.insert(flat.end(), row.begin(), row.end());
  for (const DType dtype : {DType::f64, DType::f32}) {
    for (const std::int64_t active : {1, 3, 5}) {
      Run run;
      run.o = Tensor::of<double>({kTokens, kExperts}, flat);
      run.noise = Tensor::zeros({kTokens, kExperts}, DType::f64, Device::cpu);
      run.active = active;
      run.dtype = dtype;
      run([&](Tape& tape, Var x, const Routing& r) {
        for (std::int64_t t = 0; t < kTokens; ++t) {
          double sum = 0.0;
          for (std::int64_t e = 0; e < kExperts; ++e) sum += r.weights.value().at(t * kExperts + e);
          CHECK(sum == doctest::Approx(1.0).epsilon(1e-6));
        }
        const Var a = tape.constant(Rng{5, 0, 0}.normal(r.weights.shape(), dtype));
        CHECK(finite(tape.backward(sum(r.weights * a))[x]));
      });
    }
  }
}

// 30 apart at t = 0.1: 1 - p of every round is e^-300 and less. No expert is taken twice.
TEST_CASE("rounds of far apart logits take the experts one by one, in f32 too") {
  for (const DType dtype : {DType::f64, DType::f32}) {
    for (const std::int64_t active : {2, 4, 5}) {
      Run run;
      run.o = Tensor::of<double>({1, kExperts}, {30, 0, -30, -60, -90});
      run.noise = Tensor::zeros({1, kExperts}, DType::f64, Device::cpu);
      run.active = active;
      run.dtype = dtype;
      run([&](Tape&, Var, const Routing& r) {
        for (std::int64_t e = 0; e < kExperts; ++e) {
          const double expected = e < active ? 1.0 / static_cast<double>(active) : 0.0;
          CHECK(r.weights.value().at(e) == doctest::Approx(expected).epsilon(1e-6));
        }
      });
    }
  }
}
