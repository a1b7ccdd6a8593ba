// The sampling routers by plain loops over orders and sets, from their formulas.

#include "tests/moe/sampling_cases.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using namespace moegrad::test;

TEST_CASE("unordered-set: w_i is the probability that i was first, R is constant") {
  const Tensor o = logits();
  const Tensor a = Rng{6, 1, 0}.normal({kTokens, kActive}, DType::f64);
  const Run r = run("unordered-set", o, {{"selected", some_selected()}}, kActive, a);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const std::vector<double> g = scores(o, t);
    const std::vector<std::size_t> set = set_of(r.selected, t);
    double total = 0.0;
    for (std::size_t j = 0; j < 3; ++j) {
      const double w = r.weights.at(t * kActive + static_cast<std::int64_t>(j));
      const double expected =
          probability(g, set, static_cast<int>(set[j])) / probability(g, set, -1);
      CHECK(w == doctest::Approx(expected).epsilon(1e-12));
      total += w;
    }
    CHECK(total == doctest::Approx(1.0).epsilon(1e-14));
  }
  check_held_gradient(r, o, a);
}

TEST_CASE(
    "unordered-set with k = 1 is the categorical choice, with the score function's gradient") {
  const Tensor o = logits();
  const Tensor a = Tensor::of<double>({3, 1}, {0.7, -1.1, 2.0});
  const Given given = {{"selected", Tensor::of<std::int32_t>({3, 1}, {2, 0, 4})}};
  const Run r = run("unordered-set", o, given, 1, a);
  for (std::int64_t t = 0; t < 3; ++t) CHECK(r.weights.at(t) == 1.0);
  check_held_gradient(r, o, a);
}

// 1 - sum_S g = 3e-7: subtracted it would have 9 digits; P(S) here is a sum of positive terms.
TEST_CASE("unordered-set where the selected hold nearly all of the score") {
  const Tensor o = Tensor::of<double>({1, 4}, {3.0, 2.0, -13.0, -14.0});
  const Given given = {{"selected", Tensor::of<std::int32_t>({1, 2}, {0, 1})}};
  const std::vector<double> g = scores(o, 0);
  const double rest = g[2] + g[3];
  const Run exact = run("unordered-set", o, given, 2);
  CHECK(exact.weights.at(0) ==
        doctest::Approx((g[0] + rest) / (1.0 + rest)).epsilon(1e-14));  // (1-g_1)/(2-g_0-g_1)
  const Run guarded = run("unordered-set", o, given, 2, {}, true, {{"guard", "1e-5"}});
  CHECK(guarded.weights.at(0) == doctest::Approx(g[0]).epsilon(1e-15));
  CHECK(guarded.weights.at(0) != exact.weights.at(0));
  const Run open = run("unordered-set", o, given, 2, {}, true, {{"guard", "1e-7"}});
  CHECK(open.weights.at(0) == exact.weights.at(0));
  // The guard makes the weights biased, by less than itself; without it they are not.
  const std::vector<double> row = o.to_vector();
  CHECK(router_moments(*make("unordered-set", {}), row, row, 2).weight_bias_l1 < 1e-14);
  const double bias =
      router_moments(*make("unordered-set", {{"guard", "1e-5"}}), row, row, 2).weight_bias_l1;
  CHECK(bias > 1e-7);
  CHECK(bias < 1e-5);
}

TEST_CASE("horvitz-thompson: w = g / pi of sequential sampling, not of the conditional Bernoulli") {
  const Tensor o = logits();
  const Tensor a = Rng{6, 1, 0}.normal({kTokens, kActive}, DType::f64);
  const Run r = run("horvitz-thompson", o, {{"selected", some_selected()}}, kActive, a);
  double other = 0.0;
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const std::vector<double> g = scores(o, t);
    std::vector<double> pi(5, 0.0);
    std::vector<double> mu(5, 0.0);
    double total = 0.0;
    for (const auto& set : all_sets(5, 3)) {
      const double p = probability(g, set, -1);
      double product = 1.0;
      for (const std::size_t i : set) product *= g[i];
      total += product;
      for (const std::size_t i : set) {
        pi[i] += p;
        mu[i] += product;
      }
    }
    const std::vector<std::size_t> set = set_of(r.selected, t);
    for (std::size_t j = 0; j < 3; ++j) {
      const double w = r.weights.at(t * kActive + static_cast<std::int64_t>(j));
      CHECK(w == doctest::Approx(g[set[j]] / pi[set[j]]).epsilon(1e-12));
      other = std::fmax(other, std::abs(w - g[set[j]] * total / mu[set[j]]));
    }
  }
  CHECK(other > 0.02);
  check_held_gradient(r, o, a);
}

TEST_CASE("horvitz-thompson above the limit of the recursion is unbiased too") {
  const std::vector<double> o = Rng{6, 5, 0}.normal({11}, DType::f64).to_vector();
  const RouterMoments m = router_moments(*make("horvitz-thompson", {}), o, o, 2);
  CHECK(m.weight_bias_l1 < 1e-12);
  CHECK(m.gradient_bias < 1e-12);
}

TEST_CASE("priority: weights by the threshold, which is the (k+1)-th largest") {
  const Tensor o = logits();
  const Tensor a = Rng{6, 1, 0}.normal({kTokens, kActive}, DType::f64);
  const Tensor noise = Rng{6, 2, 0}.gumbel({kTokens, kExperts}, DType::f64, Device::cpu);
  const Run r = run("priority", o, {{"noise", noise}}, kActive, a);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const std::vector<double> g = scores(o, t);
    std::vector<double> phi;
    for (std::size_t e = 0; e < 5; ++e) {
      phi.push_back(std::log(g[e]) + noise.at(t * 5 + static_cast<std::int64_t>(e)));
    }
    std::vector<double> sorted = phi;
    std::sort(sorted.rbegin(), sorted.rend());
    const std::vector<std::size_t> set = set_of(r.selected, t);
    for (std::size_t j = 0; j < 3; ++j) {
      CHECK(phi[set[j]] == sorted[j]);
      const double above = 1.0 - std::exp(-g[set[j]] * std::exp(-sorted[3]));
      CHECK(r.weights.at(t * kActive + static_cast<std::int64_t>(j)) ==
            doctest::Approx(g[set[j]] / above).epsilon(1e-12));
    }
  }
  check_held_gradient(r, o, a);
}

TEST_CASE("priority: the nodes of its noise have the probabilities of the sets, and E[w] = g") {
  const std::vector<double> o = {0.4, -0.9, 1.2, 0.0, -2.0};
  const RouterEntry& entry = router_entry("priority");
  const std::vector<double> g = scores(Tensor::of<double>({1, 5}, o), 0);
  for (const std::int64_t k : {1, 2, 3, 4}) {
    const std::vector<NoiseNode> nodes = entry.noise(o, k);
    std::map<std::vector<std::size_t>, double> found;
    for (const NoiseNode& node : nodes) {
      std::vector<std::pair<double, std::size_t>> phi;
      for (std::size_t e = 0; e < 5; ++e) {
        phi.emplace_back(-o[e] - node.given[0].second.at(static_cast<std::int64_t>(e)), e);
      }
      std::sort(phi.begin(), phi.end());
      std::vector<std::size_t> set;
      for (std::size_t j = 0; j < static_cast<std::size_t>(k); ++j) set.push_back(phi[j].second);
      std::sort(set.begin(), set.end());
      found[set] += node.probability;
    }
    for (const auto& set : all_sets(5, static_cast<std::size_t>(k))) {
      CHECK(found[set] == doctest::Approx(probability(g, set, -1)).epsilon(1e-12));
    }
    const RouterMoments m = router_moments(*entry.make(Options("", {})), o, o, k, nodes);
    CHECK(m.weight_bias_l1 < 1e-12);
    CHECK(m.gradient_bias < 1e-12);
  }
}

// Monte Carlo with live noise: the mean weight of each expert within 4 standard errors of g.
TEST_CASE("priority: live samples have the mean g") {
  constexpr std::int64_t kSamples = 20000;
  const std::vector<double> row = {0.4, -0.9, 1.2, 0.0, -2.0};
  const Tensor o = Tensor::empty({kSamples, 5}, DType::f64, Device::cpu);
  for (std::int64_t i = 0; i < o.numel(); ++i) {
    o.write<double>()[i] = row[static_cast<std::size_t>(i % 5)];
  }
  const Run r = run("priority", o, {}, 3);
  const std::vector<double> g = scores(o, 0);
  std::vector<double> sum(5, 0.0);
  std::vector<double> squares(5, 0.0);
  for (std::int64_t i = 0; i < r.weights.numel(); ++i) {
    const auto e = static_cast<std::size_t>(r.selected.data<std::int32_t>()[i]);
    sum[e] += r.weights.at(i) / kSamples;
    squares[e] += r.weights.at(i) * r.weights.at(i) / kSamples;
  }
  for (std::size_t e = 0; e < 5; ++e) {
    const double error = std::sqrt((squares[e] - sum[e] * sum[e]) / kSamples);
    CAPTURE(e);
    CHECK(std::abs(sum[e] - g[e]) < 4.0 * error);
    CHECK(error < 0.1 * g[e]);
  }
}

TEST_CASE("k = E: every weight is the softmax") {
  for (const char* name : {"unordered-set", "horvitz-thompson", "priority"}) {
    CAPTURE(name);
    const Tensor o = logits();
    const Run r = run(name, o, {}, kExperts);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const std::vector<std::size_t> set = set_of(r.selected, t);
      for (std::size_t j = 0; j < 5; ++j) {
        CHECK(r.weights.at(t * 5 + static_cast<std::int64_t>(j)) ==
              doctest::Approx(scores(o, t)[set[j]]).epsilon(1e-13));
      }
    }
  }
}

TEST_CASE("categorical: weight 1 without gradient, log p of the choice with one") {
  Decisions decisions;
  decisions.give("selected", Tensor::of<std::int32_t>({3, 1}, {2, 0, 4}));
  Tape tape({.decisions = &decisions});
  const Var x = tape.variable(logits());
  Weights weights;
  const Tensor eye = Tensor::zeros({5, 5}, DType::f64, Device::cpu);
  for (std::int64_t e = 0; e < 5; ++e) eye.write<double>()[e * 6] = 1.0;
  weights.set("router.weight", tape.constant(eye));
  const auto router = make("categorical", {});
  const Routing r = router->route({5, 1, 1, 5, 1}, {x, weights, true});
  CHECK_FALSE(r.weights.needs_gradient());
  CHECK(r.weights.value().at(1) == 1.0);
  CHECK_FALSE(r.noise.defined());  // the choice was given, not its noise
  const Tensor log_p = r.log_probability.value();
  const Tensor d = tape.backward(sum(r.log_probability))[x];
  const std::int32_t choice[] = {2, 0, 4};
  for (std::int64_t t = 0; t < 3; ++t) {
    const std::vector<double> g = scores(logits(), t);
    const auto chosen = static_cast<std::size_t>(choice[t]);
    CHECK(log_p.at(t) == doctest::Approx(std::log(g[chosen])).epsilon(1e-13));
    for (std::size_t q = 0; q < 5; ++q) {
      CHECK(std::abs(d.at(t * 5 + static_cast<std::int64_t>(q)) -
                     ((q == chosen ? 1.0 : 0.0) - g[q])) < 1e-14);
    }
  }
  CHECK(error_of([&] {
          router->route({5, 1, 1, 5, 2}, {x, weights, true});
        }).find("k = 1") != std::string::npos);
}

TEST_CASE("inference: the top k, the softmax over them or 1/k") {
  const Tensor o = logits();
  for (const char* name :
       {"unordered-set", "horvitz-thompson", "priority", "conditional-bernoulli", "categorical"}) {
    CAPTURE(name);
    const bool one = std::string(name) == "categorical";
    const std::int64_t k = one ? 1 : 3;
    const Run r = run(name, o, {}, k, {}, false);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const std::vector<double> g = scores(o, t);
      std::vector<double> sorted = g;
      std::sort(sorted.rbegin(), sorted.rend());
      const double mass = std::accumulate(sorted.begin(), sorted.begin() + k, 0.0);
      const std::vector<std::size_t> set = set_of(r.selected, t);
      for (std::size_t j = 0; j < set.size(); ++j) {
        CHECK(g[set[j]] == sorted[j]);
        const bool even = one || std::string(name) == "conditional-bernoulli";
        const double expected = even ? 1.0 / static_cast<double>(k) : sorted[j] / mass;
        CHECK(r.weights.at(t * k + static_cast<std::int64_t>(j)) ==
              doctest::Approx(expected).epsilon(1e-13));
      }
    }
  }
}

TEST_CASE("the check of unbiased routers sees a biased one, and a wrong density") {
  RouterEntry biased = router_entry("conditional-bernoulli");
  biased.claim = Claim::unbiased;
  CHECK(check_router(biased).verdict == Verdict::fail);
  RouterEntry priority = router_entry("priority");
  CHECK(check_router(priority).verdict == Verdict::pass);
  const auto exact = priority.noise;
  priority.noise = [exact](const std::vector<double>& o, std::int64_t k) {
    std::vector<NoiseNode> nodes = exact(o, k);
    for (std::size_t n = 0; n < nodes.size(); n += 3) nodes[n].probability *= 1.001;
    return nodes;
  };
  CHECK(check_router(priority).verdict == Verdict::fail);
}
