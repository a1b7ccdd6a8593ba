// threshold: the thresholds of expert choice, kept for the steps to come.

#include <algorithm>

#include <doctest/doctest.h>

#include "moe/layer.h"
#include "ops/ops.h"
#include "tests/moe/router_cases.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

constexpr std::int64_t kExperts = 4;

struct State {
  Tensor threshold = Tensor::zeros({kExperts}, DType::f64, Device::cpu);
  Tensor mass = Tensor::zeros({1}, DType::f64, Device::cpu);
};

struct Step {
  Tensor selected, weights, gradient;
  State next;
  std::size_t updates = 0;
};

Step step(const Tensor& o, const State& state, bool training = true,
          const std::map<std::string, std::string>& options = {}) {
  Tape tape;
  Weights weights = identity_weights(tape, kExperts);
  weights.set("router.threshold", tape.constant(state.threshold));
  weights.set("router.mass", tape.constant(state.mass));
  const Var x = tape.variable(o);
  const Routing r =
      router_of("threshold", options)->route(square_size(kExperts, 1), {x, weights, training});
  Step s{r.selected, r.weights.value(), tape.backward(sum(r.weights))[x], state, r.updates.size()};
  for (const auto& [name, value] : r.updates) {
    (name == "router.mass" ? s.next.mass : s.next.threshold) = value;
  }
  return s;
}

// The m-th largest logit of an expert.
double wanted(const Tensor& o, std::int64_t e, std::int64_t m) {
  std::vector<double> column;
  for (std::int64_t t = 0; t < o.size(0); ++t) column.push_back(o.at(t * kExperts + e));
  std::sort(column.rbegin(), column.rend());
  return column[static_cast<std::size_t>(m - 1)];
}

}  // namespace

// With o > c, c the m-th largest, the m-th token would be left out: m - 1 for each expert.
TEST_CASE("threshold: the first step is expert choice, m tokens for each expert") {
  const Tensor o = Rng{7, 0, 0}.normal({22, kExperts}, DType::f64);
  const Step s = step(o, {});
  for (std::int64_t e = 0; e < kExperts; ++e) {
    int taken = 0;
    for (std::int64_t t = 0; t < 22; ++t) {
      const bool is = s.selected.at(t * kExperts + e) == static_cast<double>(e);
      CHECK(is == (o.at(t * kExperts + e) >= wanted(o, e, 5)));  // 22/4 rounded down
      taken += is ? 1 : 0;
      const double w = is ? 1.0 / (1.0 + std::exp(-o.at(t * kExperts + e))) : 0.0;
      if (is) CHECK(s.weights.at(t * kExperts + e) == doctest::Approx(w).epsilon(1e-14));
      CHECK(s.gradient.at(t * kExperts + e) == doctest::Approx(w * (1.0 - w)).epsilon(1e-12));
    }
    CHECK(taken == 5);
    CHECK(s.next.threshold.at(e) == doctest::Approx(0.01 * wanted(o, e, 5)).epsilon(1e-13));
  }
  CHECK(s.next.mass.item() == doctest::Approx(0.01).epsilon(1e-13));
}

TEST_CASE("threshold: later steps use the average of those before, whose weights sum to 1") {
  State state;
  std::vector<double> c(kExperts, 0.0);
  double mass = 0.0;
  for (std::uint64_t i = 0; i < 6; ++i) {
    const Tensor o = Rng{8, i, 0}.normal({16, kExperts}, DType::f64, 0.3 * static_cast<double>(i));
    const Step s = step(o, state, true, {{"decay", "0.8"}});
    for (std::int64_t e = 0; e < kExperts; ++e) {
      const auto at = static_cast<std::size_t>(e);
      const double used = i == 0 ? wanted(o, e, 4) : c[at] / mass;
      for (std::int64_t t = 0; t < 16; ++t) {
        CHECK((s.selected.at(t * kExperts + e) >= 0.0) == (o.at(t * kExperts + e) >= used));
      }
      c[at] = 0.8 * c[at] + 0.2 * wanted(o, e, 4);
    }
    mass = 0.8 * mass + 0.2;
    CHECK(s.next.mass.item() == doctest::Approx(mass).epsilon(1e-13));
    for (std::int64_t e = 0; e < kExperts; ++e) {
      CHECK(s.next.threshold.at(e) == doctest::Approx(c[static_cast<std::size_t>(e)]));
    }
    state = s.next;
    CHECK(step(o, state, false).updates == 0);
  }
}

TEST_CASE("threshold: with a history no token sees another; of one token too") {
  State state;
  state.threshold = Tensor::of<double>({kExperts}, {0.1, -0.2, 0.05, 0.3});
  state.mass = Tensor::of<double>({1}, {0.5});
  const Tensor o = Rng{9, 0, 0}.normal({8, kExperts}, DType::f64);
  for (const bool training : {true, false}) {
    const Step all = step(o, state, training);
    for (std::int64_t t = 0; t < 8; ++t) {
      const Step one = step(o.rows(t, t + 1), state, training);
      CHECK(one.selected.same_bits(all.selected.rows(t, t + 1)));
      CHECK(one.weights.same_bits(all.weights.rows(t, t + 1)));
    }
  }
  // Before any training an expert is open where its weight is at least 1/2.
  const Step untrained = step(o, {}, false);
  for (std::int64_t i = 0; i < o.numel(); ++i) {
    CHECK((untrained.selected.at(i) >= 0.0) == (o.at(i) >= 0.0));
  }
}

TEST_CASE("threshold: tokens have k experts in the mean, and each expert as many") {
  State state;
  std::vector<double> load(kExperts, 0.0);
  for (std::uint64_t i = 0; i < 300; ++i) {
    Tensor o = Rng{10, i, 0}.normal({32, kExperts}, DType::f64);
    for (std::int64_t t = 0; t < 32; ++t) o.write<double>()[t * kExperts] += 2.0;  // a favourite
    const Step s = step(o, state);
    state = s.next;
    if (i < 100) continue;
    for (std::int64_t j = 0; j < s.selected.numel(); ++j) {
      if (s.selected.at(j) >= 0.0) load[static_cast<std::size_t>(j % kExperts)] += 1.0 / (200 * 32);
    }
  }
  for (const double share : load) CHECK(share == doctest::Approx(0.25).epsilon(0.1));
}

TEST_CASE("threshold goes with causal models") {
  LayerConfig config;
  config.size = {3, 4, 2, 4, 2};
  config.causal = true;
  config.router = "threshold";
  CHECK(error_of([&] { Layer{config}; }) == "no error");
  config.router = "expert-choice";
  CHECK(error_of([&] { Layer{config}; }).find("causal") != std::string::npos);
}
