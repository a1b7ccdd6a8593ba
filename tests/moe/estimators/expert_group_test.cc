// expert-group against its formulas in plain loops, the worked case of the paper, and the
// identities between estimators.

#include <algorithm>
#include <cmath>
#include <numeric>

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "moe/dispatch.h"
#include "ops/ops.h"

using namespace moegrad;

namespace {

LayerConfig config(const std::string& estimator, std::map<std::string, std::string> options = {}) {
  LayerConfig c;
  c.size = {3, 4, 2, 5, 2};
  c.estimator = estimator;
  c.activation = Activation::silu;
  c.options = std::move(options);
  return c;
}

// E_j(x_t) for all tokens and experts: [N][E][Dout].
using Outputs = std::vector<std::vector<std::vector<double>>>;
Outputs expert_outputs(const LayerFixture& f) {
  const LayerSize& s = f.config.size;
  const auto at = [&](const std::string& name, std::int64_t i) {
    const auto n =
        static_cast<std::size_t>(std::find(f.names.begin(), f.names.end(), name) - f.names.begin());
    return f.values[n].at(i);
  };
  Outputs out;
  for (std::int64_t t = 0; t < f.values[0].size(0); ++t) {
    out.emplace_back();
    for (std::int64_t e = 0; e < s.experts; ++e) {
      std::vector<double> y;
      for (std::int64_t o = 0; o < s.output; ++o) y.push_back(at("experts.b2", e * s.output + o));
      for (std::int64_t h = 0; h < s.hidden; ++h) {
        double pre = at("experts.b1", e * s.hidden + h);
        for (std::int64_t d = 0; d < s.model; ++d) {
          pre +=
              f.values[0].at(t * s.model + d) * at("experts.w1", (e * s.model + d) * s.hidden + h);
        }
        const double act = pre / (1.0 + std::exp(-pre));
        for (std::int64_t o = 0; o < s.output; ++o) {
          y[static_cast<std::size_t>(o)] +=
              act * at("experts.w2", (e * s.hidden + h) * s.output + o);
        }
      }
      out.back().push_back(y);
    }
  }
  return out;
}

std::vector<std::vector<double>> softmax_scores(const LayerFixture& f) {
  const LayerSize& s = f.config.size;
  std::vector<std::vector<double>> p;
  for (std::int64_t t = 0; t < f.values[0].size(0); ++t) {
    p.emplace_back();
    double sum = 0.0;
    for (std::int64_t e = 0; e < s.experts; ++e) {
      double o = f.values[2].at(e);
      for (std::int64_t d = 0; d < s.model; ++d) {
        o += f.values[0].at(t * s.model + d) * f.values[1].at(d * s.experts + e);
      }
      p.back().push_back(std::exp(o));
      sum += p.back().back();
    }
    for (double& v : p.back()) v /= sum;
  }
  return p;
}

std::vector<std::size_t> top(const std::vector<double>& p, std::size_t k) {
  std::vector<std::size_t> order(p.size());
  std::iota(order.begin(), order.end(), 0U);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return p[a] > p[b]; });
  order.resize(k);
  return order;
}

bool contains(const std::vector<std::size_t>& list, std::size_t x) {
  return std::find(list.begin(), list.end(), x) != list.end();
}

double inner(const std::vector<double>& a, const std::vector<double>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

// The gradient of the router's bias by the formulas at the top of moe/estimators/expert_group.cc.
std::vector<double> plain_bias_gradient(const LayerFixture& f, std::size_t groups,
                                        const std::vector<std::vector<double>>& g) {
  const Outputs out = expert_outputs(f);
  const auto p = softmax_scores(f);
  const std::size_t n = p.size();
  const std::size_t experts = p[0].size();
  const auto k = static_cast<std::size_t>(f.config.size.active);
  std::vector<double> gradient(experts, 0.0);
  for (std::size_t x = 0; x < n; ++x) {
    const auto selected = top(p[x], k);
    const auto own_groups = top(p[x], groups);
    std::vector<double> cotangent(experts, 0.0);
    for (std::size_t j = 0; j < experts; ++j) {
      if (contains(selected, j)) {
        cotangent[j] = inner(g[x], out[x][j]);
        continue;
      }
      for (const std::size_t i : own_groups) {
        std::vector<double> mean(g[x].size(), 0.0);
        double count = 0.0;
        for (std::size_t other = 0; other < n; ++other) {
          const auto members = top(p[other], k < groups ? k : groups);
          if (!contains(top(p[other], groups), i) || !contains(members, j)) continue;
          count += 1.0;
          for (std::size_t d = 0; d < mean.size(); ++d) mean[d] += out[other][j][d];
        }
        for (double& m : mean) m /= std::max(1.0, count);
        cotangent[j] += inner(g[x], mean) / static_cast<double>(groups);
      }
    }
    const double average = inner(p[x], cotangent);
    for (std::size_t q = 0; q < experts; ++q) gradient[q] += p[x][q] * (cotangent[q] - average);
  }
  return gradient;
}

std::vector<std::vector<double>> cotangents(std::int64_t tokens, std::int64_t width) {
  const Tensor c = random_cotangent({tokens, width});
  std::vector<std::vector<double>> rows;
  for (std::int64_t t = 0; t < tokens; ++t) rows.push_back(c.rows(t, t + 1).to_vector());
  return rows;
}

}  // namespace

TEST_CASE("the router's gradient is that of the formulas, for every number of groups") {
  for (const int groups : {1, 2, 3, 5}) {
    CAPTURE(groups);
    const LayerFixture f =
        random_fixture(config("expert-group", {{"groups", std::to_string(groups)}}), 9, true);
    const LayerPass pass = run_pass(f);
    const std::vector<double> expected =
        plain_bias_gradient(f, static_cast<std::size_t>(groups), cotangents(9, 2));
    for (std::size_t e = 0; e < expected.size(); ++e) {
      CHECK(pass.gradients[2].at(static_cast<std::int64_t>(e)) ==
            doctest::Approx(expected[e]).epsilon(1e-11));
    }
  }
}

// E = 4, k = G = 2, x -> {1, 3}, y -> {1, 2}, z -> {2, 3}, p_2(x) = 0.2: the approximation at x is
// 0.2 (E_2(y) + E_2(z))/2; expert 0 is in no group and gives 0.
TEST_CASE("the worked case") {
  // Logits are log p; the experts are rows of numbers: w1 reads the token's own feature.
  const std::vector<std::vector<double>> p = {
      {0.1, 0.4, 0.2, 0.3}, {0.05, 0.5, 0.35, 0.1}, {0.02, 0.08, 0.6, 0.3}};
  LayerFixture f;
  f.config = config("expert-group", {{"forward", "true"}});
  f.config.size = {5, 1, 1, 4, 2};
  f.config.activation = Activation::relu;
  std::vector<double> x;
  const double feature[] = {1.0, 2.0, 5.0};
  for (std::size_t t = 0; t < 3; ++t) {
    for (const double v : p[t]) x.push_back(std::log(v));
    x.push_back(feature[t]);
  }
  Tensor weight = Tensor::zeros({5, 4}, DType::f64, Device::cpu);
  for (std::int64_t e = 0; e < 4; ++e) weight.write<double>()[e * 4 + e] = 1.0;
  Tensor w1 = Tensor::zeros({4, 5, 1}, DType::f64, Device::cpu);
  const double slope[] = {7.0, 1.0, 3.0, 2.0};  // E_e(t) = slope_e feature_t
  for (std::int64_t e = 0; e < 4; ++e) w1.write<double>()[e * 5 + 4] = slope[e];
  f.names = {"x", "router.weight", "experts.w1", "experts.w2"};
  f.values = {Tensor::of<double>({3, 5}, x), weight, w1,
              Tensor::full({4, 1, 1}, 1.0, DType::f64, Device::cpu)};
  const double y = run_pass(f).y.at(0);
  f.config.options.clear();
  const double sparse = run_pass(f).y.at(0);
  CHECK(sparse == doctest::Approx(0.4 * 1.0 * 1.0 + 0.3 * 2.0 * 1.0));
  CHECK(y - sparse == doctest::Approx(0.2 * (3.0 * 2.0 + 3.0 * 5.0) / 2.0).epsilon(1e-13));
}

// Experts that ignore their input: every group that somebody is in has the expert's own output as
// its mean. With 400 tokens every pair of the 5 experts is some token's top 2.
TEST_CASE("equal outputs within groups: expert-group has ste-dense's router gradient") {
  LayerConfig wide = config("expert-group");
  wide.size.model = 8;
  LayerFixture f = random_fixture(wide, 400, true);
  for (std::size_t i = 0; i < f.names.size(); ++i) {
    if (f.names[i] == "experts.w2")
      f.values[i] = Tensor::zeros(f.values[i].shape(), DType::f64, Device::cpu);
  }
  const LayerPass group = run_pass(f);
  f.config.estimator = "ste-dense";
  const LayerPass dense = run_pass(f);
  f.config.estimator = "sparse";
  const LayerPass sparse = run_pass(f);
  CHECK(group.y.same_bits(dense.y));
  for (const std::size_t router : {1U, 2U}) {
    CHECK(close(group.gradients[router], dense.gradients[router], 1e-12));
    CHECK_FALSE(close(group.gradients[router], sparse.gradients[router], 1e-2));
  }
}

// The means of group i of expert j reach only experts that ran: an expert nobody selected gets
// zero.
TEST_CASE("experts through the means") {
  LayerFixture f = random_fixture(config("expert-group", {{"experts", "mean"}}), 6, true);
  f.values[2].write<double>()[4] = -1e4;
  const LayerPass pass = run_pass(f);
  f.config.options.clear();
  const LayerPass router_only = run_pass(f);
  for (std::size_t i = 3; i < f.names.size(); ++i) {
    const Tensor& g = pass.gradients[i];
    for (std::int64_t e = g.numel() / 5 * 4; e < g.numel(); ++e) CHECK(g.at(e) == 0.0);
    CHECK_FALSE(close(g, router_only.gradients[i], 1e-6));
  }
}
