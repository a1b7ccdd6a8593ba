// Quantile balancing: the bias of a selection that evens loads at once.

#include <algorithm>
#include <numeric>

#include <doctest/doctest.h>

#include "moe/balance.h"
#include "ops/ops.h"
#include "tests/moe/router_cases.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

std::vector<double> sorted(std::vector<double> v) {
  std::sort(v.rbegin(), v.rend());
  return v;
}

std::vector<double> biased_row(const Tensor& s, const Tensor& b, std::int64_t t) {
  std::vector<double> row;
  for (std::int64_t e = 0; e < b.numel(); ++e) row.push_back(s.at(t * b.numel() + e) + b.at(e));
  return row;
}

// How many tokens have each expert among their k largest s + b.
std::vector<int> loads(const Tensor& s, const Tensor& b, std::int64_t k) {
  std::vector<int> count(static_cast<std::size_t>(b.numel()), 0);
  for (std::int64_t t = 0; t < s.size(0); ++t) {
    const std::vector<double> row = biased_row(s, b, t);
    std::vector<std::size_t> order(row.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    std::stable_sort(order.begin(), order.end(), [&](auto i, auto j) { return row[i] > row[j]; });
    for (std::int64_t j = 0; j < k; ++j) ++count[order[static_cast<std::size_t>(j)]];
  }
  return count;
}

// The dual of  max sum s x, sum_j x_tj = k, sum_t x_tj = k N/E, 0 <= x <= 1, at its best alpha: the
// sum of each token's k largest s + b, less k N/E of every b.
double dual(const Tensor& s, const Tensor& b, std::int64_t k) {
  double value = 0.0;
  for (std::int64_t t = 0; t < s.size(0); ++t) {
    const std::vector<double> row = sorted(biased_row(s, b, t));
    value += std::accumulate(row.begin(), row.begin() + k, 0.0);
  }
  for (const double v : b.to_vector()) {
    value -= v * static_cast<double>(k * s.size(0)) / static_cast<double>(b.numel());
  }
  return value;
}

Tensor zeros(std::int64_t n) { return Tensor::zeros({n}, DType::f64, Device::cpu); }

}  // namespace

TEST_CASE("quantile balancing: the worked case, loads of 4 and 0 become 2 and 2") {
  const Tensor s = Tensor::of<double>({4, 2}, {0.9, 0.5, 0.8, 0.7, 0.7, 0.2, 0.6, 0.45});
  CHECK(loads(s, zeros(2), 1) == std::vector<int>{4, 0});
  const Tensor b = quantile_bias(zeros(2), s, 1);
  CHECK(b.at(0) == doctest::Approx(-0.1375).epsilon(1e-14));  // the median of .4 .1 .5 .15, halved
  CHECK(b.at(1) == doctest::Approx(0.1375).epsilon(1e-14));
  CHECK(loads(s, b, 1) == std::vector<int>{2, 2});
}

TEST_CASE("quantile balancing: the formula, by sorting") {
  constexpr std::int64_t kTokens = 21, kExperts = 6, k = 2;
  const Tensor s = Rng{3, 0, 0}.uniform({kTokens, kExperts}, DType::f64, 0.0, 1.0);
  const Tensor b = Rng{3, 1, 0}.uniform({kExperts}, DType::f64, -0.2, 0.2);
  std::vector<double> expected;
  for (std::int64_t e = 0; e < kExperts; ++e) {
    std::vector<double> over;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      over.push_back(s.at(t * kExperts + e) - sorted(biased_row(s, b, t))[k]);
    }
    std::sort(over.begin(), over.end());
    // Linear, as numpy.quantile: place (N-1)(1 - k/E) from below, 20 2/3 = 13 + 1/3.
    expected.push_back(-(over[13] * 2.0 / 3.0 + over[14] / 3.0));
  }
  const double mean = std::accumulate(expected.begin(), expected.end(), 0.0) / kExperts;
  const Tensor next = quantile_bias(b, s, k);
  for (std::int64_t e = 0; e < kExperts; ++e) {
    CHECK(next.at(e) == doctest::Approx(expected[static_cast<std::size_t>(e)] - mean));
  }
  CHECK(quantile_bias(b, s, kExperts).same_bits(b));  // nothing to balance
}

// Given b, alpha between the k-th and the (k+1)-th largest is best; given alpha, -b_j between the
// m-th and the next largest s_tj - alpha_t is. So a step never raises the dual.
TEST_CASE("quantile balancing descends the dual of the even assignment, and evens the loads") {
  constexpr std::int64_t kTokens = 240, kExperts = 8;
  for (const std::int64_t k : {1, 2, 5}) {
    CAPTURE(k);
    Tensor s = Rng{4, 0, 0}.uniform({kTokens, kExperts}, DType::f64, 0.0, 1.0);
    for (std::int64_t i = 0; i < s.numel(); i += kExperts)
      s.write<double>()[i] += 0.8;  // a favourite
    Tensor b = zeros(kExperts);
    const int wanted = static_cast<int>(k * kTokens / kExperts);
    const std::vector<int> first = loads(s, b, k);
    double value = dual(s, b, k);
    for (int step = 0; step < 60; ++step) {
      b = quantile_bias(b, s, k);
      const double now = dual(s, b, k);
      CHECK(now <= value + 1e-9);
      value = now;
    }
    const std::vector<int> last = loads(s, b, k);
    const auto worst = [&](const std::vector<int>& l) {
      int most = 0;
      for (const int n : l) most = std::max(most, std::abs(n - wanted));
      return most;
    };
    CHECK(worst(first) > wanted / 4);
    CHECK(worst(last) <= wanted / 10);
  }
}

TEST_CASE("quantile balancing: loss-free and deepseek-v3 use it from the next step, in training") {
  const Tensor o = Rng{5, 0, 0}.normal({60, 4}, DType::f64);
  for (const char* name : {"loss-free", "deepseek-v3"}) {
    CAPTURE(name);
    const auto router = router_of(name, {{"balancing", "quantile"}});
    Tape tape;
    Weights weights = identity_weights(tape, 4);
    const Tensor old = Tensor::of<double>({4}, {0.3, 0.0, -0.1, -0.2});
    weights.set("router.balance", tape.constant(old));
    const Var x = tape.constant(o);
    const Routing r = router->route(square_size(4, 2), {x, weights, true});
    REQUIRE(r.updates.size() == 1);
    CHECK(r.updates[0].first == "router.balance");
    CHECK(r.updates[0].second.same_bits(quantile_bias(old, r.scores.value(), 2)));
    const Routing fixed = router->route(square_size(4, 2), {x, weights, false});
    CHECK(fixed.updates.empty());
    CHECK(fixed.selected.same_bits(r.selected));  // the bias of before
    // f32 state stays f32.
    const Tensor f32 = quantile_bias(old.to(DType::f32), r.scores.value().to(DType::f32), 2);
    CHECK(f32.dtype() == DType::f32);
    for (std::int64_t e = 0; e < 4; ++e) {
      CHECK(f32.at(e) == doctest::Approx(r.updates[0].second.at(e)).epsilon(1e-4));
    }
  }
  CHECK(error_of([] {
          router_of("deepseek-v3", {{"balancing", "quantile"}, {"groups", "2"}})
              ->check(square_size(4, 2));
        }).find("know no groups") != std::string::npos);
}
