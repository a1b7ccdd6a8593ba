// The conditional Bernoulli distribution against sums over all sets.

#include "moe/probability/conditional_bernoulli.h"

#include <algorithm>
#include <cmath>

#include <doctest/doctest.h>

#include "moe/probability/inclusion.h"
#include "tests/moe/probability/all_sets.h"

using namespace moegrad;
using namespace moegrad::test;

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

TEST_CASE("conditional Bernoulli for logits of +-1e4, ties and E = 1") {
  const std::vector<double> o = {1e4, -1e4, -1e4, -1e4, 1e4 + 1.0};
  check_close(conditional_bernoulli_marginals(o, 3)[2], 1.0 / 3.0, 1e-11);
  for (const double q : conditional_bernoulli_walk(o, 3)) CHECK((q >= 0.0 && q <= 1.0));
  CHECK(conditional_bernoulli_marginals(std::vector<double>{-7.0}, 1)[0] == 1.0);
}
