// ste-dense, its published variants, and what must hold for every estimator.

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "ops/ops.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

LayerFixture fixture(const std::string& estimator, std::map<std::string, std::string> options = {},
                     std::int64_t active = 2) {
  LayerConfig c;
  c.size = {3, 4, 2, 4, active};
  c.estimator = estimator;
  c.activation = Activation::gelu;
  c.options = std::move(options);
  return random_fixture(c, 6, true);
}

std::size_t index_of(const LayerFixture& f, const std::string& name) {
  return static_cast<std::size_t>(std::find(f.names.begin(), f.names.end(), name) -
                                  f.names.begin());
}

// The outputs of all experts for all tokens [N, E, Dout], by the dense layer with one-hot weights.
Tensor all_outputs(const LayerFixture& f) {
  LayerFixture one = f;
  const LayerSize& s = f.config.size;
  const std::int64_t tokens = f.values[0].size(0);
  Tensor out = Tensor::empty({tokens, s.experts, s.output}, DType::f64, Device::cpu);
  one.config.estimator = "sparse";
  one.config.options.clear();
  one.config.size.active = 1;
  one.values[1] = Tensor::zeros({s.model, s.experts}, DType::f64, Device::cpu);
  for (std::int64_t e = 0; e < s.experts; ++e) {
    one.values[2] = Tensor::full({s.experts}, -1e4, DType::f64, Device::cpu);
    one.values[2].write<double>()[e] = 0.0;  // all weight on expert e
    const Tensor y = run_pass(one).y;
    for (std::int64_t t = 0; t < tokens; ++t) {
      for (std::int64_t d = 0; d < s.output; ++d) {
        out.write<double>()[(t * s.experts + e) * s.output + d] = y.at(t * s.output + d);
      }
    }
  }
  return out;
}

Tensor scores_of(const LayerFixture& f) {
  Tape tape;
  return softmax(matmul(tape.constant(f.values[0]), tape.constant(f.values[1])) +
                 tape.constant(f.values[2]))
      .value();
}

// dL/dbias from a given dL/dp [N, E] through the softmax.
std::vector<double> through_softmax(const Tensor& p, const std::vector<double>& dp) {
  const std::int64_t experts = p.size(1);
  std::vector<double> bias(static_cast<std::size_t>(experts), 0.0);
  for (std::int64_t t = 0; t < p.size(0); ++t) {
    double mean = 0.0;
    for (std::int64_t e = 0; e < experts; ++e) {
      mean += p.at(t * experts + e) * dp[static_cast<std::size_t>(t * experts + e)];
    }
    for (std::int64_t e = 0; e < experts; ++e) {
      bias[static_cast<std::size_t>(e)] +=
          p.at(t * experts + e) * (dp[static_cast<std::size_t>(t * experts + e)] - mean);
    }
  }
  return bias;
}

// dL/dp by the formulas, as (gbar_i, selected, sum of the selected scores, ybar) -> dL/dp_i.
using Rule = double (*)(double gbar, double p, bool on, double sum, double mean);

void check_rule(const LayerFixture& f, Rule rule) {
  const LayerPass pass = run_pass(f);
  const Tensor outputs = all_outputs(f);
  const Tensor p = scores_of(f);
  const std::int64_t experts = p.size(1);
  const std::int64_t width = f.config.size.output;
  const std::int64_t k = f.config.size.active;
  const Tensor g = random_cotangent({p.size(0), width});
  std::vector<double> dp;
  for (std::int64_t t = 0; t < p.size(0); ++t) {
    std::vector<double> gbar(static_cast<std::size_t>(experts), 0.0);
    std::vector<bool> on(static_cast<std::size_t>(experts), false);
    double sum = 0.0;
    double mean = 0.0;
    for (std::int64_t e = 0; e < experts; ++e) {
      for (std::int64_t d = 0; d < width; ++d) {
        gbar[static_cast<std::size_t>(e)] +=
            g.at(t * width + d) * outputs.at((t * experts + e) * width + d);
      }
    }
    for (std::int64_t j = 0; j < k; ++j) {
      const auto e = static_cast<std::size_t>(pass.selected.at(t * k + j));
      on[e] = true;
      sum += p.at(t * experts + static_cast<std::int64_t>(e));
      mean += p.at(t * experts + static_cast<std::int64_t>(e)) * gbar[e];
    }
    for (std::size_t e = 0; e < gbar.size(); ++e) {
      dp.push_back(
          rule(gbar[e], p.at(t * experts + static_cast<std::int64_t>(e)), on[e], sum, mean / sum));
    }
  }
  const std::vector<double> expected = through_softmax(p, dp);
  for (std::size_t e = 0; e < expected.size(); ++e) {
    CHECK(pass.gradients[2].at(static_cast<std::int64_t>(e)) ==
          doctest::Approx(expected[e]).epsilon(1e-11));
  }
}

}  // namespace

TEST_CASE("the router's gradient of sparse and ste-dense, and the published variants") {
  check_rule(fixture("sparse"),
             [](double g, double, bool on, double, double) { return on ? g : 0.0; });
  for (const char* name : {"ste-dense", "ste-dense-router"}) {
    CAPTURE(name);
    check_rule(fixture(name), [](double g, double, bool, double, double) { return g; });
    check_rule(
        fixture(name, {{"cotangent", "weighted"}}),
        [](double g, double p, bool on, double, double) { return (p + (on ? 1.0 : 0.0)) * g; });
    check_rule(fixture(name, {{"renormalise", "true"}}),
               [](double g, double, bool on, double s, double m) { return (on ? g - m : g) / s; });
    check_rule(fixture(name, {{"renormalise", "true"}, {"renormalised", "gated"}}),
               [](double g, double, bool, double s, double m) { return (g - m) / s; });
    check_rule(
        fixture(name, {{"renormalise", "true"}, {"renormalised", "conventional"}}),
        [](double g, double, bool on, double s, double m) { return on ? (g - m) / s : 0.0; });
  }
}

TEST_CASE("ste-dense: an unselected expert gets p_i g, ste-dense-router gives it nothing") {
  const LayerFixture f = fixture("ste-dense");
  const LayerPass pass = run_pass(f);
  const LayerPass router_only = run_pass(fixture("ste-dense-router"));
  const LayerPass sparse = run_pass(fixture("sparse"));
  const std::size_t b2 = index_of(f, "experts.b2");
  const Tensor p = scores_of(f);
  const Tensor g = random_cotangent(pass.y.shape());
  for (std::int64_t e = 0; e < 4; ++e) {
    for (std::int64_t d = 0; d < 2; ++d) {
      double expected = 0.0;  // db2_e = sum_t p_te g_t: on and off R alike
      for (std::int64_t t = 0; t < 6; ++t) expected += p.at(t * 4 + e) * g.at(t * 2 + d);
      CHECK(pass.gradients[b2].at(e * 2 + d) == doctest::Approx(expected).epsilon(1e-12));
    }
  }
  for (std::size_t i = 3; i < f.names.size(); ++i) {
    CHECK(router_only.gradients[i].same_bits(sparse.gradients[i]));
  }
}

TEST_CASE("inference is the plain sparse layer's, bit for bit, for every backward-only estimator") {
  for (const EstimatorEntry& entry : estimators()) {
    if (!entry.traits.backward_only) continue;
    CAPTURE(entry.name);
    LayerFixture f = fixture("sparse");
    f.config.estimator = entry.name;
    f.config.router = entry.routers.front();
    f.config.size.active =
        std::min(f.config.size.active, router_entry(f.config.router).most_active);
    f = random_fixture(f.config, 6, false);
    const LayerPass pass = run_pass(f);
    f.config.estimator = "sparse";
    CHECK(pass.y.same_bits(run_pass(f).y));
  }
}

TEST_CASE("more groups than experts") {
  CHECK(error_of([] {
          run_pass(fixture("expert-group", {{"groups", "5"}}));
        }) == "[expert-group] groups is 5 with 4 experts. Use groups <= experts.");
}

TEST_CASE("a mixture with a dense backward pass refuses weights of other choices") {
  const Tensor selected = Tensor::of<std::int32_t>({2, 2}, {0, 1, 2, 0});
  const Plan plan = make_plan(selected, 3);
  const Plan rest = make_plan(complement(selected, 3), 3);
  Tape tape;
  const auto zeros = [&](const Shape& shape) {
    return tape.variable(Tensor::zeros(shape, DType::f64, Device::cpu));
  };
  Experts experts;
  experts.w1 = zeros({3, 4, 5});
  experts.w2 = zeros({3, 5, 4});
  const Var x = zeros({2, 4});
  CHECK(experts.dense_backward_mixture(x, zeros({2, 2}), plan, zeros({2, 3}), rest).shape() ==
        Shape{2, 4});
  CHECK(error_of([&] {
          experts.dense_backward_mixture(x, zeros({2, 1}), plan, zeros({2, 3}), rest);
        }) == "[dense_backward_mixture] weights is [2, 1] and must be [2, 2].");
  CHECK(error_of([&] {
          experts.dense_backward_mixture(x, zeros({2, 2}), plan, zeros({2, 1}), rest);
        }) ==
        "[dense_backward_mixture] the weights of the rest are [2, 1] and its choices [2, 3]. They "
        "must agree.");
  CHECK(error_of([&] {
          experts.dense_backward_mixture(x, zeros({2, 2}), plan, zeros({1, 3}),
                                         make_plan(complement(selected.rows(0, 1), 3), 3));
        }) ==
        "[dense_backward_mixture] plans of 2 and 1 tokens and 3 and 3 experts. They must agree.");
  experts.b3 = zeros({3, 5});
  CHECK(error_of([&] {
          experts.mixture(x, zeros({2, 2}), plan);
        }) ==
        "[experts] relu without w3 and with b3. swiglu has w3, and b3 perhaps; the others have "
        "neither.");
  experts.b3 = {};
  CHECK(error_of([&] { experts.mixture(x, {}, plan); }) ==
        "[tape] a Var without a value is used. Make one with tape.constant() or variable().");
}
