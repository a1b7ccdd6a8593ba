// probmoe with a number of experts that is drawn too, by plain loops over sets.

#include "tests/moe/router_cases.h"
#include "tests/moe/sampling_cases.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

// Over the sets of `least` to `most` experts of one token, in proportion to prod_S g: mu, E[z_i z_j], and
// E||w - g||^2 of w = g on S.
struct Sets {
  std::vector<double> mu = std::vector<double>(5);
  std::vector<std::vector<double>> both = std::vector(5, std::vector<double>(5));
  double mse = 0.0;
  int count = 0;
};

// prod_S e^o is not that of softmax(o) for sets of several sizes.
Sets sets_of(const std::vector<double>& powers, const std::vector<double>& g, std::size_t least,
             std::size_t most) {
  Sets sums;
  double total = 0.0;
  for (std::size_t size = least; size <= most; ++size) {
    for (const auto& set : all_sets(powers.size(), size)) {
      double product = 1.0;
      for (const std::size_t i : set) product *= powers[i];
      total += product;
      double square = 0.0;
      for (std::size_t i = 0; i < g.size(); ++i) square += g[i] * g[i];
      for (const std::size_t i : set) {
        sums.mu[i] += product;
        square -= g[i] * g[i];
        for (const std::size_t j : set) sums.both[i][j] += product;
      }
      sums.mse += product * square;
      ++sums.count;
    }
  }
  for (double& mu : sums.mu) mu /= total;
  for (auto& row : sums.both) {
    for (double& b : row) b /= total;
  }
  sums.mse /= total;
  return sums;
}

std::vector<double> powers_of(const Tensor& o, std::int64_t token) {
  std::vector<double> powers;
  for (std::int64_t e = 0; e < o.size(1); ++e) {
    powers.push_back(std::exp(o.at(token * o.size(1) + e)));
  }
  return powers;
}

std::map<std::string, std::string> options(std::int64_t least) {
  return {{"variant", "probmoe"}, {"least", std::to_string(least)}};
}

}  // namespace

TEST_CASE("probmoe of 1 to k experts: the mean and the spread of its weights, over all sets") {
  for (const auto& range : {std::pair<std::int64_t, std::int64_t>{1, 2}, {1, 4}, {2, 3}}) {
    const std::int64_t least = range.first;
    const std::int64_t most = range.second;
    CAPTURE(least);
    CAPTURE(most);
    const std::vector<double> o = recorded_logits(5);
    const RouterMoments m = router_moments(*make("conditional-bernoulli", options(least)), o,
                                           recorded_outcomes(5), most);
    std::vector<double> powers;
    for (const double logit : o) powers.push_back(std::exp(logit));
    const std::vector<double> g = softmax_of(o);
    const Sets sets =
        sets_of(powers, g, static_cast<std::size_t>(least), static_cast<std::size_t>(most));
    CHECK(m.outcomes == sets.count);
    for (std::size_t i = 0; i < 5; ++i) CHECK(std::abs(m.mean[i] - sets.mu[i] * g[i]) < 1e-12);
    CHECK(std::abs(m.weight_mse - sets.mse) < 1e-12);
  }
}

TEST_CASE("probmoe of 1 to k experts: dw_j = z_j dpi_j + pi_j dmu_j on the drawn set") {
  const Tensor o = logits();
  for (const auto& range : {std::pair<std::int64_t, std::int64_t>{1, 2}, {1, 5}, {2, 4}}) {
    const std::int64_t least = range.first;
    const std::int64_t most = range.second;
    CAPTURE(least);
    CAPTURE(most);
    const Tensor a = Rng{6, 1, 0}.normal({kTokens, most}, DType::f64);
    const Run r = run("conditional-bernoulli", o, {}, most, a, true, options(least));
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const std::vector<double> g = scores(o, t);
      const Sets sets = sets_of(powers_of(o, t), g, static_cast<std::size_t>(least),
                                static_cast<std::size_t>(most));
      std::int64_t size = 0;
      for (std::int64_t j = 0; j < most; ++j) {
        const std::int32_t i = r.selected.data<std::int32_t>()[t * most + j];
        if (i >= 0) CHECK(j == size++);  // the missing ones are last
        const double want = i >= 0 ? g[static_cast<std::size_t>(i)] : 0.0;
        CHECK(std::abs(r.weights.at(t * most + j) - want) < 1e-14);
      }
      CHECK(size >= least);
      for (std::size_t q = 0; q < 5; ++q) {
        double expected = 0.0;
        for (std::int64_t j = 0; j < size; ++j) {
          const auto i = static_cast<std::size_t>(r.selected.data<std::int32_t>()[t * most + j]);
          const double softmax = g[i] * ((i == q ? 1.0 : 0.0) - g[q]);
          const double covariance = sets.both[i][q] - sets.mu[i] * sets.mu[q];
          expected += a.at(t * most + j) * (softmax + g[i] * covariance);
        }
        CHECK(std::abs(r.gradient.at(t * 5 + static_cast<std::int64_t>(q)) - expected) < 1e-13);
      }
    }
  }
}

TEST_CASE("probmoe of 1 to k experts: draws follow the law, large logits too") {
  constexpr std::int64_t kDraws = 20'000;
  Tensor o = Tensor::empty({kDraws, 5}, DType::f64, Device::cpu);
  const std::vector<double> row = {0.3, -1.2, 0.9, -0.2, -2.0};
  for (std::int64_t i = 0; i < o.numel(); ++i) {
    o.write<double>()[i] = row[static_cast<std::size_t>(i % 5)];
  }
  const Run r = run("conditional-bernoulli", o, {}, 3, {}, true, options(1));
  const Sets sets = sets_of(powers_of(o, 0), scores(o, 0), 1, 3);
  std::vector<double> found(5);
  for (std::int64_t i = 0; i < r.selected.numel(); ++i) {
    const std::int32_t e = r.selected.data<std::int32_t>()[i];
    if (e >= 0) found[static_cast<std::size_t>(e)] += 1.0 / static_cast<double>(kDraws);
  }
  for (std::size_t e = 0; e < 5; ++e) {
    const double error = std::sqrt(sets.mu[e] * (1.0 - sets.mu[e]) / static_cast<double>(kDraws));
    CHECK(std::abs(found[e] - sets.mu[e]) < 4.5 * error);
  }
  // In f32 as in f64, of logits far from those that decide.
  const Tensor wide = Tensor::of<double>({3, 5}, {1e4, 0.3, -0.2, -1.0, -2.0, 0.3, -0.2, -1e4,
                                                  -1.1e4, -2e4, 1e4, 1e4 + 0.5, 0.3, -0.2, -1e4});
  Tape tape;
  Weights weights;
  weights.set("router.weight", tape.constant(identity(5).to(DType::f32)));
  const Var x = tape.variable(wide.to(DType::f32));
  const Routing narrow =
      make("conditional-bernoulli", options(1))->route({5, 1, 1, 5, 3}, {x, weights, true});
  const Tensor slope = tape.backward(sum(narrow.weights))[x];
  const Run exact =
      run("conditional-bernoulli", wide, {{"selected", narrow.selected}}, 3, {}, true, options(1));
  for (std::int64_t i = 0; i < slope.numel(); ++i) {
    CHECK(std::abs(slope.at(i) - exact.gradient.at(i)) < 1e-6);
  }
  // All far above 0: as many as may be. All far below: as few.
  const Tensor far = Tensor::of<double>({2, 3}, {700.0, 701.0, 702.0, -700.0, -701.0, -702.0});
  const Run sure = run("conditional-bernoulli", far, {}, 2, {}, true, options(1));
  CHECK(sure.selected.data<std::int32_t>()[1] >= 0);
  CHECK(sure.selected.data<std::int32_t>()[3] == -1);
  for (std::int64_t i = 0; i < 6; ++i) CHECK(std::isfinite(sure.gradient.at(i)));
}

TEST_CASE("probmoe of 1 to k experts: inference runs the most probable set; refusals") {
  const Tensor o = Tensor::of<double>(
      {3, 4}, {0.5, -0.1, 2.0, 0.4, -3.0, -1.0, -2.0, -4.0, 0.0, -1.0, 1.0, -2.0});
  const Run r = run("conditional-bernoulli", o, {}, 3, {}, false, options(1));
  CHECK(r.selected.same_bits(Tensor::of<std::int32_t>({3, 3}, {2, 0, 3, 1, -1, -1, 2, -1, -1})));
  // Of all sets of 1 to 3 none has a larger product.
  for (std::int64_t t = 0; t < 3; ++t) {
    const std::vector<double> powers = powers_of(o, t);
    const auto product = [&](const auto& set) {
      double p = 1.0;
      for (const auto i : set) p *= powers[static_cast<std::size_t>(i)];
      return p;
    };
    std::vector<std::int32_t> chosen;
    for (std::int64_t j = 0; j < 3; ++j) {
      const std::int32_t i = r.selected.data<std::int32_t>()[t * 3 + j];
      if (i >= 0) chosen.push_back(i);
    }
    for (std::size_t size = 1; size <= 3; ++size) {
      for (const auto& set : all_sets(4, size)) CHECK(product(set) <= product(chosen) + 1e-12);
    }
  }
  const Run all = run("conditional-bernoulli", o, {}, 3, {}, false, options(4));
  CHECK(all.selected.same_bits(run("top-k", o, {}, 3, {}, false).selected));
  // A broken router is not hidden: the least-th expert is read whatever its logit is.
  for (const double bad : {std::nan(""), -std::numeric_limits<double>::infinity()}) {
    const Run broken =
        run("conditional-bernoulli", Tensor::full({1, 4}, bad, DType::f64, Device::cpu), {}, 3, {},
            false, options(2));
    CHECK(broken.selected.data<std::int32_t>()[1] >= 0);
    CHECK(broken.selected.data<std::int32_t>()[2] == -1);
    CHECK(std::isnan(broken.weights.at(0)));
  }
  CHECK(error_of([] {
          make("conditional-bernoulli", {{"least", "1"}});
        }) == "[conditional-bernoulli] least is 1 and variant simple. Use variant=probmoe.");
}
