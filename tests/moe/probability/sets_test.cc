// Probabilities of sets against sums over all orders.

#include "moe/probability/sets.h"

#include <cmath>
#include <numeric>

#include <doctest/doctest.h>

#include "tests/moe/probability/all_sets.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using namespace moegrad::test;

TEST_CASE("P(S), R(S, i) and the first draw are the sums over all orders") {
  const std::vector<double> o = random_logits(7, 1);
  const std::vector<double> g = softmax(o);
  for (std::size_t k = 1; k <= 5; ++k) {
    double total = 0.0;
    for (const Set& set : sets_of(7, k)) {
      const double p = over_all_orders(g, set);
      for (const auto& found :
           {set_probability_by_orders(o, set), set_probability_by_integral(o, set)}) {
        check_close(std::exp(found.log_probability), p, 1e-12);
        for (std::size_t a = 0; a < k; ++a) {
          // Without expert i: the softmax over the others, and the set without it.
          const auto i = static_cast<std::size_t>(set[a]);
          std::vector<double> others = g;
          others[i] = 0.0;
          Set rest = set;
          rest.erase(rest.begin() + static_cast<std::ptrdiff_t>(a));
          const double without = over_all_orders(others, rest);
          check_close(std::exp(found.log_ratio[a]), without / p, 1e-12);
          check_close(found.first[a], g[i] * without / p, 1e-12);
        }
        check_close(std::accumulate(found.first.begin(), found.first.end(), 0.0), 1.0, 1e-14);
      }
      total += p;
    }
    check_close(total, 1.0, 1e-12);
  }
}

TEST_CASE("k = 2 has the closed form w_i = (1 - g_l) / ((1 - g_i) + (1 - g_l))") {
  const std::vector<double> o = random_logits(5, 2);
  const std::vector<double> g = softmax(o);
  const Set set = {3, 1};
  const SetProbability p = set_probability(o, set);
  check_close(p.first[0], (1.0 - g[1]) / (2.0 - g[1] - g[3]), 1e-14);
  check_close(p.first[1], (1.0 - g[3]) / (2.0 - g[1] - g[3]), 1e-14);
}

TEST_CASE("the integral and the sum over orders agree for larger sets") {
  for (const double scale : {0.3, 2.0, 8.0}) {
    const std::vector<double> o = random_logits(16, 3, scale);
    for (const std::size_t k : {6U, 9U, 12U, 15U}) {
      Set set(k);
      std::iota(set.begin(), set.end(), 1);
      const SetProbability a = set_probability_by_orders(o, set);
      const SetProbability b = set_probability_by_integral(o, set);
      CAPTURE(scale);
      CAPTURE(k);
      CHECK(std::abs(a.log_probability - b.log_probability) < 1e-12 * (1.0 + k * scale));
      for (std::size_t i = 0; i < k; ++i)
        check_close(a.first[i], b.first[i], 1e-12 * (1.0 + scale));
    }
  }
}

// With equal logits every set has the probability 1 / C(E, k), and every expert was first with 1/k.
TEST_CASE("the integral holds for sets far too large for any sum") {
  for (const auto& sizes :
       {std::pair<std::size_t, std::size_t>{200, 30}, {200, 199}, {3000, 120}, {256, 128}}) {
    const auto& experts = sizes.first;
    const auto& k = sizes.second;
    const std::vector<double> o(experts, -3.0);
    Set set(k);
    std::iota(set.begin(), set.end(), 0);
    const SetProbability p = set_probability(o, set);
    const auto n = static_cast<double>(experts);
    const auto size = static_cast<double>(k);
    const double expected =
        std::lgamma(size + 1.0) + std::lgamma(n - size + 1.0) - std::lgamma(n + 1.0);
    CAPTURE(k);
    CHECK(std::abs(p.log_probability - expected) < 1e-11);
    check_close(p.first[7], 1.0 / size, 1e-12);
  }
}

TEST_CASE("sets of logits of +-1e4, ties and E = 1") {
  const std::vector<double> o = {1e4, -1e4, -1e4, -1e4, 1e4 + 1.0};
  // The two large ones come first; then the three small ones are even.
  check_close(set_probability(o, Set{4, 0, 2}).log_probability, std::log(1.0 / 3.0), 1e-11);
  CHECK(set_probability(o, Set{0, 1}).log_probability < -1e4);
  const std::vector<double> one = {-7.0};
  const Set only = {0};
  CHECK(set_probability_by_orders(one, only).log_probability == 0.0);
  CHECK(set_probability_by_integral(one, only).first[0] == 1.0);
}

TEST_CASE("a set holds each expert once") {
  const std::vector<double> o = {0.0, 1.0, 2.0};
  CHECK(error_of([&] { set_probability(o, Set{0, 0}); }).find("twice") != std::string::npos);
  CHECK(error_of([&] { set_probability(o, Set{3}); }).find("expert 3 of 3") != std::string::npos);
}
