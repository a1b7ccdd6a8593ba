// Probabilities of sets against sums over all orders and all sets, written from the definitions.

#include "moe/set_probability.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <doctest/doctest.h>

#include "tensor/rng.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

using Set = std::vector<std::int32_t>;

std::vector<double> random_logits(std::int64_t experts, std::uint64_t seed, double scale = 1.3) {
  return Rng{seed, 8, 0}.normal({experts}, DType::f64, 0.0, scale).to_vector();
}

std::vector<double> softmax(const std::vector<double>& o) {
  double sum = 0.0;
  std::vector<double> g;
  for (const double v : o) sum += std::exp(v);
  for (const double v : o) g.push_back(std::exp(v) / sum);
  return g;
}

double product_of_draws(const std::vector<double>& g, const Set& order) {
  double p = 1.0;
  std::vector<double> left = g;
  for (const std::int32_t i : order) {
    double& drawn = left[static_cast<std::size_t>(i)];
    p *= drawn / std::accumulate(left.begin(), left.end(), 0.0);
    drawn = 0.0;
  }
  return p;
}

double over_all_orders(const std::vector<double>& g, Set set) {
  std::sort(set.begin(), set.end());
  double sum = 0.0;
  do {
    sum += product_of_draws(g, set);
  } while (std::next_permutation(set.begin(), set.end()));
  return sum;
}

std::vector<Set> sets_of(std::int32_t experts, std::size_t k) {
  std::vector<Set> sets;
  for (std::uint32_t mask = 0; mask < (1U << experts); ++mask) {
    Set set;
    for (std::int32_t i = 0; i < experts; ++i) {
      if (((mask >> i) & 1U) != 0) set.push_back(i);
    }
    if (set.size() == k) sets.push_back(set);
  }
  return sets;
}

void check_close(double a, double b, double tolerance) {
  CAPTURE(a);
  CAPTURE(b);
  CHECK(std::abs(a - b) <= tolerance * std::fmax(std::abs(a), std::abs(b)));
}

}  // namespace

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

TEST_CASE("inclusion under sequential sampling is the sum of P(S) over the sets that hold i") {
  for (const double scale : {0.4, 1.5, 4.0}) {
    const std::vector<double> o = random_logits(6, 4, scale);
    const std::vector<double> g = softmax(o);
    for (std::size_t k = 1; k <= 6; ++k) {
      std::vector<double> pi(6, 0.0);
      for (const Set& set : sets_of(6, k)) {
        for (const std::int32_t i : set) {
          pi[static_cast<std::size_t>(i)] += over_all_orders(g, set);
        }
      }
      CAPTURE(scale);
      CAPTURE(k);
      const auto size = static_cast<std::int64_t>(k);
      const std::vector<double> a = log_inclusion_by_subsets(o, size);
      const std::vector<double> b = log_inclusion_by_integral(o, size);
      for (std::size_t i = 0; i < 6; ++i) {
        check_close(std::exp(a[i]), pi[i], 1e-12);
        check_close(std::exp(b[i]), pi[i], 1e-12);
        check_close(std::exp(log_inclusion(o, size)[i]), pi[i], 1e-12);
      }
    }
  }
}

TEST_CASE("inclusion by integral for many experts") {
  const std::vector<double> middle = random_logits(14, 5, 2.0);
  const std::vector<double> a = log_inclusion_by_subsets(middle, 6);
  const std::vector<double> b = log_inclusion_by_integral(middle, 6);
  for (std::size_t i = 0; i < a.size(); ++i) check_close(std::exp(a[i]), std::exp(b[i]), 1e-12);
  for (const auto& [experts, k, scale] :
       {std::tuple<std::int64_t, std::int64_t, double>{64, 8, 1.5},
        {128, 64, 0.5},
        {200, 3, 3.0}}) {
    double sum = 0.0;
    for (const double v : log_inclusion(random_logits(experts, 6, scale), k)) sum += std::exp(v);
    check_close(sum, static_cast<double>(k), 1e-12);
  }
  // Equal logits: k/E.
  check_close(std::exp(log_inclusion(std::vector<double>(150, 2.0), 40)[77]), 40.0 / 150.0, 1e-12);
}

// The k largest are ahead of all others by a gap: the others get in before the last of these only.
TEST_CASE("inclusion by integral with a gap below the k-th logit") {
  for (const double gap : {5.0, 19.0, 21.0, 50.0, 2000.0}) {
    CAPTURE(gap);
    const std::vector<double> o = {0.3, -gap, -0.4, -gap - 2.0, 0.0, -gap - 0.5, -3.0 * gap};
    const std::vector<double> a = log_inclusion_by_subsets(o, 3);
    const std::vector<double> b = log_inclusion_by_integral(o, 3);
    for (std::size_t i = 0; i < o.size(); ++i) {
      CHECK(std::abs(a[i] - b[i]) < 1e-12 * std::fmax(1.0, gap));
    }
  }
}

TEST_CASE("inclusion among two, in closed form") {
  for (const double gap : {0.0, 1e-9, 5.0, 50.0, 2000.0, 2e4}) {
    CAPTURE(gap);
    for (const std::vector<double>& o :
         {std::vector<double>{0.3, -gap, -0.4, -gap - 2.0, -gap - 0.5},
          {0.0, -gap, -gap},
          {-gap, -gap - 1.0, -3.0 * gap, 0.0},
          {gap, gap, gap, gap}}) {
      const std::vector<double> a = log_inclusion_by_subsets(o, 2);
      const std::vector<double> b = log_inclusion_of_two(o);
      double sum = 0.0;
      for (std::size_t i = 0; i < o.size(); ++i) {
        CHECK(std::abs(a[i] - b[i]) < 1e-12 * std::fmax(1.0, gap));
        sum += std::exp(b[i]);
      }
      check_close(sum, 2.0, 1e-11);
    }
  }
  CHECK(log_inclusion_of_two(std::vector<double>{3.0, -1e4}) == std::vector<double>{0.0, 0.0});
}

TEST_CASE("elementary symmetric polynomials and conditional Bernoulli marginals") {
  const std::vector<double> o = random_logits(7, 7);
  for (std::size_t k = 1; k <= 7; ++k) {
    double sum = 0.0;
    std::vector<double> held(7, 0.0);
    for (const Set& set : sets_of(7, k)) {
      double product = 1.0;
      for (const std::int32_t i : set) product *= std::exp(o[static_cast<std::size_t>(i)]);
      sum += product;
      for (const std::int32_t i : set) held[static_cast<std::size_t>(i)] += product;
    }
    const auto size = static_cast<std::int64_t>(k);
    const std::vector<double> e = log_elementary_symmetric(o, size);
    CHECK(e[0] == 0.0);
    check_close(std::exp(e[k]), sum, 1e-12);
    const std::vector<double> mu = conditional_bernoulli_marginals(o, size);
    for (std::size_t i = 0; i < 7; ++i) check_close(mu[i], held[i] / sum, 1e-12);
  }
}

TEST_CASE("the backward walk has the conditional Bernoulli probabilities") {
  const std::vector<double> o = random_logits(6, 9, 2.0);
  for (std::size_t k = 1; k <= 6; ++k) {
    const auto size = static_cast<std::int64_t>(k);
    const std::vector<double> walk = conditional_bernoulli_walk(o, size);
    const double total = log_elementary_symmetric(o, size).back();
    for (const Set& set : sets_of(6, k)) {
      double p = 1.0;
      std::size_t left = k;
      double log_product = 0.0;
      for (std::size_t i = 6; i-- > 0;) {
        const double take = walk[i * (k + 1) + left];
        const bool taken =
            std::find(set.begin(), set.end(), static_cast<std::int32_t>(i)) != set.end();
        p *= taken ? take : 1.0 - take;
        if (taken) log_product += o[i];
        left -= taken ? 1U : 0U;
      }
      CHECK(left == 0);
      check_close(p, std::exp(log_product - total), 1e-12);
    }
  }
}

TEST_CASE("the two inclusion probabilities differ for the same logits") {
  const std::vector<double> o = {1.5, 0.0, -1.0, 0.5};
  const std::vector<double> sequential = log_inclusion(o, 2);
  const std::vector<double> bernoulli = conditional_bernoulli_marginals(o, 2);
  double largest = 0.0;
  for (std::size_t i = 0; i < 4; ++i) {
    largest = std::fmax(largest, std::abs(std::exp(sequential[i]) - bernoulli[i]));
  }
  CHECK(largest > 0.02);
  // With k = 1 both are the softmax.
  const std::vector<double> one = conditional_bernoulli_marginals(o, 1);
  for (std::size_t i = 0; i < 4; ++i) check_close(std::exp(log_inclusion(o, 1)[i]), one[i], 1e-13);
}

TEST_CASE("logits of +-1e4, ties and E = 1") {
  const std::vector<double> o = {1e4, -1e4, -1e4, -1e4, 1e4 + 1.0};
  // The two large ones come first; then the three small ones are even.
  check_close(set_probability(o, Set{4, 0, 2}).log_probability, std::log(1.0 / 3.0), 1e-11);
  CHECK(set_probability(o, Set{0, 1}).log_probability < -1e4);
  for (const std::vector<double>& pi :
       {log_inclusion_by_subsets(o, 3), log_inclusion_by_integral(o, 3)}) {
    CHECK(pi[0] == doctest::Approx(0.0).epsilon(1e-12));
    check_close(std::exp(pi[1]), 1.0 / 3.0, 1e-11);
  }
  check_close(log_inclusion_by_subsets(o, 1)[1], log_inclusion_by_integral(o, 1)[1], 1e-12);
  check_close(conditional_bernoulli_marginals(o, 3)[2], 1.0 / 3.0, 1e-11);
  for (const double q : conditional_bernoulli_walk(o, 3)) CHECK((q >= 0.0 && q <= 1.0));
  const std::vector<double> one = {-7.0};
  const Set only = {0};
  CHECK(set_probability_by_orders(one, only).log_probability == 0.0);
  CHECK(set_probability_by_integral(one, only).first[0] == 1.0);
  CHECK(log_inclusion(one, 1)[0] == 0.0);
  CHECK(conditional_bernoulli_marginals(one, 1)[0] == 1.0);
}

TEST_CASE("log(1 - e^-x) keeps its digits at both ends") {
  check_close(log1mexp(std::log(1e-20)), std::log(1e-20), 1e-15);
  check_close(log1mexp(std::log(1e-5)), std::log(1e-5 - 0.5e-10 + 1e-15 / 6.0), 1e-14);
  check_close(log1mexp(std::log(40.0)), -std::exp(-40.0), 1e-14);
  CHECK(log1mexp(1e4) == 0.0);
}

TEST_CASE("refusals") {
  const std::vector<double> o = {0.0, 1.0, 2.0};
  CHECK(error_of([&] { set_probability(o, Set{0, 0}); }).find("twice") != std::string::npos);
  CHECK(error_of([&] { set_probability(o, Set{3}); }).find("expert 3 of 3") != std::string::npos);
  CHECK(error_of([&] { log_inclusion(o, 4); }).find("k is 4 with 3") != std::string::npos);
  CHECK(error_of([&] {
          log_inclusion_by_subsets(std::vector<double>(21, 0.0), 2);
        }).find("integral") != std::string::npos);
}
