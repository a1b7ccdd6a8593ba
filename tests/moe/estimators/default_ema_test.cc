// default-ema: the running means by plain loops, and what they stand for.

#include <cmath>

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "ops/ops.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

using Values = std::map<std::string, std::string>;

LayerFixture fixture(const std::string& estimator, Values options, bool training = true) {
  LayerConfig c;
  c.size = {3, 4, 2, 4, 1};
  c.estimator = estimator;
  c.activation = Activation::gelu;
  c.options = std::move(options);
  return random_fixture(c, 6, training);
}

std::size_t index_of(const LayerFixture& f, const std::string& name) {
  return static_cast<std::size_t>(std::find(f.names.begin(), f.names.end(), name) -
                                  f.names.begin());
}

LayerOutput forward(const LayerFixture& f, Tape& tape, std::vector<Var>& leaves, Weights& weights) {
  for (const Tensor& v : f.values) leaves.push_back(tape.variable(v));
  return Layer(f.config).forward(f.input(leaves, weights));
}

}  // namespace

TEST_CASE("means, value and router gradient by plain loops") {
  for (const bool weighted : {false, true}) {
    for (const bool in_forward : {true, false}) {
      for (const Form form : {Form::fused, Form::written}) {
        LayerFixture f = fixture("default-ema", {{"beta", "0.7"},
                                                 {"weighted", weighted ? "true" : "false"},
                                                 {"forward", in_forward ? "true" : "false"}});
        for (double& b : f.values[index_of(f, "router.bias")].write_values<double>()) b = 0.0;
        f.values[index_of(f, "router.bias")].write<double>()[2] = -50.0;  // expert 2 has no token
        PassOptions options;
        options.form = form;
        const LayerPass pass = run_pass(f, options);

        Tape tape;
        std::vector<Var> leaves;
        Weights weights;
        Layer layer(f.config);
        for (const Tensor& v : f.values) leaves.push_back(tape.variable(v));
        layer.set_form(form);
        const LayerOutput out = layer.forward(f.input(leaves, weights));
        REQUIRE(out.updates.size() == 1);
        CHECK(out.updates[0].first == "estimator.mean");

        LayerFixture plain = f;
        plain.config.estimator = "sparse";
        plain.config.options.clear();
        const Tensor sparse = run_pass(plain).y;
        const Tensor p = out.routing.scores.value();
        const Tensor stored = f.state.at(0).second;
        const Tensor g = random_cotangent(pass.y.shape());
        double mean[4][2];
        for (std::int64_t e = 0; e < 4; ++e) {
          for (std::int64_t d = 0; d < 2; ++d) {
            double total = 0.0;
            double sum_of = 0.0;
            for (std::int64_t t = 0; t < 6; ++t) {
              if (pass.selected.data<std::int32_t>()[t] != e) continue;
              const double w = weighted ? p.at(t * 4 + e) : 1.0;
              total += w;
              sum_of += w * sparse.at(t * 2 + d) / p.at(t * 4 + e);  // E_e(x) = y/p
            }
            mean[e][d] = stored.at(e * 2 + d);
            if (total > 0.0) mean[e][d] = 0.7 * mean[e][d] + 0.3 * sum_of / total;
            CHECK(out.updates[0].second.at(e * 2 + d) ==
                  doctest::Approx(mean[e][d]).epsilon(1e-13));
            if (e == 2) CHECK(mean[e][d] == stored.at(e * 2 + d));
          }
        }
        std::vector<double> bias(4, 0.0);
        for (std::int64_t t = 0; t < 6; ++t) {
          std::vector<double> gbar(4, 0.0);
          double average = 0.0;
          for (std::int64_t e = 0; e < 4; ++e) {
            const bool on = pass.selected.data<std::int32_t>()[t] == e;
            for (std::int64_t d = 0; d < 2; ++d) {
              const double v = on ? sparse.at(t * 2 + d) / p.at(t * 4 + e) : mean[e][d];
              gbar[static_cast<std::size_t>(e)] += g.at(t * 2 + d) * v;
            }
            average += p.at(t * 4 + e) * gbar[static_cast<std::size_t>(e)];
          }
          for (std::int64_t e = 0; e < 4; ++e) {
            bias[static_cast<std::size_t>(e)] +=
                p.at(t * 4 + e) * (gbar[static_cast<std::size_t>(e)] - average);
          }
          for (std::int64_t d = 0; d < 2; ++d) {
            double y = sparse.at(t * 2 + d);
            for (std::int64_t e = 0; in_forward && e < 4; ++e) {
              if (pass.selected.data<std::int32_t>()[t] != e) y += p.at(t * 4 + e) * mean[e][d];
            }
            CHECK(pass.y.at(t * 2 + d) == doctest::Approx(y).epsilon(1e-13));
          }
        }
        for (std::int64_t e = 0; e < 4; ++e) {
          CHECK(pass.gradients[index_of(f, "router.bias")].at(e) ==
                doctest::Approx(bias[static_cast<std::size_t>(e)]).epsilon(1e-11));
        }
        if (!in_forward && form == Form::fused) CHECK(pass.y.same_bits(sparse));
      }
    }
  }
}

TEST_CASE("inference: the stored means with forward, the sparse layer without") {
  LayerFixture f = fixture("default-ema", {}, false);
  Tape tape;
  std::vector<Var> leaves;
  Weights weights;
  const LayerOutput out = forward(f, tape, leaves, weights);
  CHECK(out.updates.empty());
  LayerFixture plain = f;
  plain.config.estimator = "sparse";
  const Tensor sparse = run_pass(plain).y;
  const Tensor p = out.routing.scores.value();
  const Tensor stored = f.state.at(0).second;
  for (std::int64_t t = 0; t < 6; ++t) {
    for (std::int64_t d = 0; d < 2; ++d) {
      double y = sparse.at(t * 2 + d);
      for (std::int64_t e = 0; e < 4; ++e) {
        if (out.routing.selected.data<std::int32_t>()[t] != e) {
          y += p.at(t * 4 + e) * stored.at(e * 2 + d);
        }
      }
      CHECK(out.y.value().at(t * 2 + d) == doctest::Approx(y).epsilon(1e-14));
    }
  }
  CHECK(run_pass(fixture("default-ema", {{"forward", "false"}}, false)).y.same_bits(sparse));
}

// Every token's output of an expert is the same: its running mean after one pass with beta = 0, its
// group mean and the output itself are one and the same, if every expert is used and every group
// has every expert. So beta = 0, and each token in all groups.
TEST_CASE("constant experts: default-ema = expert-group = ste-dense in the router gradient") {
  const auto constant = [](const std::string& estimator, Values options) {
    LayerConfig c;
    c.size = {4, 4, 2, 4, 2};
    c.estimator = estimator;
    c.options = std::move(options);
    LayerFixture f = random_fixture(c, 8, true);
    for (double& w : f.values[index_of(f, "experts.w2")].write_values<double>()) w = 0.0;
    return f;
  };
  const LayerFixture f = constant("default-ema", {{"beta", "0"}, {"forward", "false"}});
  const LayerPass ema = run_pass(f);
  const LayerPass group = run_pass(constant("expert-group", {{"groups", "4"}}));
  const LayerPass dense = run_pass(constant("ste-dense", {}));
  bool used[4] = {};
  for (const std::int32_t e : ema.selected.values<std::int32_t>()) used[e] = true;
  REQUIRE((used[0] && used[1] && used[2] && used[3]));
  for (const char* name : {"router.weight", "router.bias"}) {
    const std::size_t i = index_of(f, name);
    CHECK(close(ema.gradients[i], dense.gradients[i], 1e-13));
    CHECK(close(group.gradients[i], dense.gradients[i], 1e-13));
  }
}

TEST_CASE("a causal model refuses the forward means, and takes them backward only") {
  LayerConfig c;
  c.size = {3, 4, 2, 4, 1};
  c.estimator = "default-ema";
  c.causal = true;
  CHECK(error_of([&] { const Layer layer(c); }) ==
        "[layer] estimator default-ema with these options gives a token what others computed: a "
        "causal model would see the future. Choose another, or force it.");
  c.options = {{"forward", "false"}};
  const Layer layer(c);
  CHECK_FALSE(layer.estimator().leaks());
}
