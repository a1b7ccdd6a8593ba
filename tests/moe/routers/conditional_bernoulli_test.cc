// conditional-bernoulli by plain loops over sets, from its formulas.

#include "tests/moe/sampling_cases.h"

using namespace moegrad;
using namespace moegrad::test;

TEST_CASE("conditional-bernoulli: mu/k by sets, and its Jacobian is the covariance") {
  const Tensor o = logits();
  for (const std::int64_t k : {1, 2, 3, 4, 5}) {
    CAPTURE(k);
    const Tensor a = Rng{6, 1, 0}.normal({kTokens, k}, DType::f64);
    const Run r = run("conditional-bernoulli", o, {}, k, a);
    double sequential = 0.0;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const std::vector<double> g = scores(o, t);
      double total = 0.0;
      double mu[5] = {};
      double both[5][5] = {};
      for (const auto& set : all_sets(5, static_cast<std::size_t>(k))) {
        double product = 1.0;
        for (const std::size_t i : set) product *= g[i];
        total += product;
        for (const std::size_t i : set) {
          mu[i] += product;
          for (const std::size_t j : set) both[i][j] += product;
        }
      }
      const std::vector<double> pi = log_inclusion(g, k);  // of other logits: only to differ
      for (std::size_t i = 0; i < 5; ++i) {
        const double score = r.scores.at(t * 5 + static_cast<std::int64_t>(i));
        CHECK(std::abs(score - mu[i] / total / static_cast<double>(k)) < 1e-13);
        sequential =
            std::fmax(sequential, std::abs(score * static_cast<double>(k) - std::exp(pi[i])));
      }
      const std::vector<std::size_t> set = set_of(r.selected, t);
      for (std::size_t q = 0; q < 5; ++q) {
        double expected = 0.0;
        for (std::size_t j = 0; j < set.size(); ++j) {
          const std::size_t i = set[j];
          const double covariance = both[i][q] / total - mu[i] * mu[q] / total / total;
          expected += a.at(t * k + static_cast<std::int64_t>(j)) * covariance;
        }
        CHECK(std::abs(r.gradient.at(t * 5 + static_cast<std::int64_t>(q)) -
                       expected / static_cast<double>(k)) < 1e-13);
      }
    }
    if (k > 1 && k < 5) CHECK(sequential > 0.01);
    for (std::int64_t i = 0; i < r.weights.numel(); ++i) {
      CHECK(r.weights.at(i) == 1.0 / static_cast<double>(k));
    }
  }
}

TEST_CASE("conditional-bernoulli uses its own marginals, not those of sequential sampling") {
  const Tensor o = logits();
  const Run r = run("conditional-bernoulli", o, {}, 2);
  double own = 0.0;
  double others = 0.0;
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const std::span<const double> row =
        o.values<double>().subspan(static_cast<std::size_t>(t) * 5, 5);
    const std::vector<double> mu = conditional_bernoulli_marginals(row, 2);
    const std::vector<double> log_pi = log_inclusion(row, 2);
    for (std::size_t i = 0; i < 5; ++i) {
      const double score = 2.0 * r.scores.at(t * 5 + static_cast<std::int64_t>(i));
      own = std::fmax(own, std::abs(score - mu[i]));
      others = std::fmax(others, std::abs(score - std::exp(log_pi[i])));
    }
  }
  CHECK(own < 1e-12);
  CHECK(others > 0.02);
}

TEST_CASE("conditional-bernoulli with many experts and large logits") {
  for (const double scale : {1.0, 300.0}) {
    const Tensor o = Rng{6, 7, 0}.normal({2, 40}, DType::f64, 0.0, scale);
    const Run r = run("conditional-bernoulli", o, {}, 9);
    for (std::int64_t t = 0; t < 2; ++t) {
      const std::vector<double> mu = conditional_bernoulli_marginals(
          o.values<double>().subspan(static_cast<std::size_t>(t) * 40, 40), 9);
      double total = 0.0;
      for (std::int64_t i = 0; i < 40; ++i) {
        const double score = 9.0 * r.scores.at(t * 40 + i);
        CHECK(std::abs(score - mu[static_cast<std::size_t>(i)]) < 1e-13 * (10.0 + scale));
        total += score;
      }
      CHECK(total == doctest::Approx(9.0).epsilon(1e-14));
    }
  }
}

TEST_CASE("conditional-bernoulli with every expert's output has the gradient of the paper") {
  // sum_i a_i d mu_i / k: the straight-through choice of the scores, here by hand.
  const Tensor o = logits();
  const Tensor a = Rng{6, 3, 0}.normal({kTokens, kExperts}, DType::f64);
  Tape tape;
  const Var x = tape.variable(o);
  Weights weights;
  const Tensor eye = Tensor::zeros({5, 5}, DType::f64, Device::cpu);
  for (std::int64_t e = 0; e < 5; ++e) eye.write<double>()[e * 6] = 1.0;
  weights.set("router.weight", tape.constant(eye));
  const Routing r = make("conditional-bernoulli", {})->route({5, 1, 1, 5, 2}, {x, weights, true});
  const Tensor d = tape.backward(sum(r.scores * tape.constant(a)))[x];
  for (std::int64_t t = 0; t < kTokens; ++t) {
    for (std::int64_t q = 0; q < 5; ++q) {
      const auto value = [&](double shift) {
        std::vector<double> row;
        for (std::int64_t e = 0; e < 5; ++e)
          row.push_back(o.at(t * 5 + e) + (e == q ? shift : 0.0));
        const std::vector<double> mu = conditional_bernoulli_marginals(row, 2);
        double sum = 0.0;
        for (std::int64_t e = 0; e < 5; ++e)
          sum += a.at(t * 5 + e) * mu[static_cast<std::size_t>(e)] / 2.0;
        return sum;
      };
      const double difference =
          (8.0 * (value(1e-3) - value(-1e-3)) - (value(2e-3) - value(-2e-3))) / 12e-3;
      CHECK(std::abs(d.at(t * 5 + q) - difference) < 1e-11);
    }
  }
}

// w = (sg(z - mu) + mu) pi: the value z pi, and dw_j = z_j dpi_j + pi_j dmu_j on S.
TEST_CASE("probmoe: the softmax on S, with the gradient of the marginals besides") {
  const Tensor o = logits();
  for (const std::int64_t k : {1, 2, 3, 4, 5}) {
    CAPTURE(k);
    const Tensor a = Rng{6, 1, 0}.normal({kTokens, k}, DType::f64);
    const Run r = run("conditional-bernoulli", o, {}, k, a, true, {{"variant", "probmoe"}});
    double trap = 0.0;
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const std::vector<double> g = scores(o, t);
      double total = 0.0;
      double mu[5] = {};
      double both[5][5] = {};
      for (const auto& set : all_sets(5, static_cast<std::size_t>(k))) {
        double product = 1.0;
        for (const std::size_t i : set) product *= g[i];
        total += product;
        for (const std::size_t i : set) {
          mu[i] += product;
          for (const std::size_t j : set) both[i][j] += product;
        }
      }
      const std::vector<std::size_t> set = set_of(r.selected, t);
      for (std::size_t q = 0; q < 5; ++q) {
        const auto at = static_cast<std::int64_t>(q);
        CHECK(std::abs(r.scores.at(t * 5 + at) - g[q]) < 1e-14);
        double expected = 0.0;
        double stopped = 0.0;
        // d mu_i / d o_q with the logarithms of 1 - sigmoid(o) stopped, as in the released code.
        const double factor = 1.0 - 1.0 / (1.0 + std::exp(-o.at(t * 5 + at)));
        for (std::size_t j = 0; j < set.size(); ++j) {
          const std::size_t i = set[j];
          const double b = a.at(t * k + static_cast<std::int64_t>(j));
          const double softmax = g[i] * ((i == q ? 1.0 : 0.0) - g[q]);
          const double covariance = both[i][q] / total - mu[i] * mu[q] / total / total;
          expected += b * (softmax + g[i] * covariance);
          stopped += b * (softmax + g[i] * covariance * factor);
        }
        const double found = r.gradient.at(t * 5 + at);
        CHECK(std::abs(found - expected) < 1e-13);
        trap = std::fmax(trap, std::abs(found - stopped));
      }
      for (std::size_t j = 0; j < set.size(); ++j) {
        const double w = r.weights.at(t * k + static_cast<std::int64_t>(j));
        CHECK(std::abs(w - g[set[j]]) < 1e-14);
      }
    }
    if (k < 5) CHECK(trap > 0.01);
    const Run fixed = run("conditional-bernoulli", o, {}, k, a, false, {{"variant", "probmoe"}});
    const Run top = run("top-k", o, {}, k, a, false);
    CHECK(fixed.selected.same_bits(top.selected));
    CHECK(fixed.weights.same_bits(top.weights));
  }
}
