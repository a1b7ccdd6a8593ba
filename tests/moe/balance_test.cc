// The losses that balance experts: what they count, what they normalise, which router has which.

#include "moe/balance.h"

#include <cmath>

#include <doctest/doctest.h>

#include "moe/layer.h"
#include "moe/registry.h"
#include "ops/ops.h"
#include "tests/moe/router_cases.h"
#include "tests/temporary_files.h"
#include "train/modules.h"

using namespace moegrad;
using moegrad::test::error_of;
using moegrad::test::router_of;
using moegrad::test::square_size;

namespace {

double sigmoid_at(double o) { return 1.0 / (1.0 + std::exp(-o)); }

// The layer of a router on tokens of four features, with nothing but the losses of `options`.
LayerConfig config_of(const RouterEntry& entry, const std::map<std::string, std::string>& options) {
  LayerConfig config;
  config.size = {4, 3, 2, 4, std::max<std::int64_t>(entry.least_active, 1)};
  if (entry.most_active >= 2) config.size.active = 2;
  config.router = entry.name;
  for (const std::string& name : entry.traits.losses) config.options[name] = "0";
  if (default_aux(entry) > 0.0) config.options["aux"] = "0";
  for (const auto& [name, value] : options) config.options[name] = value;
  return config;
}

struct Losses {
  double value = 0.0;
  double slope = 0.0;  // the largest gradient of a parameter of the router
};
Losses losses_of(const LayerConfig& config, bool training = true) {
  const Layer layer(config);
  Parameters parameters;
  Rng rng{3, 1, 0};
  layer.declare("", parameters, rng);
  for (Parameter& p : parameters) {
    if (p.router && p.trained) p.value = rng.normal(p.value.shape(), DType::f64);
  }
  const auto run = [&](Tape& tape, const Weights& weights, std::uint64_t stream, bool train) {
    LayerInput in{tape.constant(Rng{4, stream, 0}.normal({12, 4}, DType::f64)), weights, train};
    in.ids = Tensor::zeros({12}, DType::i32, Device::cpu);
    in.sequence = 4;
    return layer.forward(in);
  };
  {  // a step on other tokens: in the first one threshold is expert choice, with equal loads
    Tape before({.rng = Rng{5, 1, 0}});
    for (const auto& [name, value] : run(before, bind(before, parameters, ""), 1, true).updates) {
      parameters.find(name)->value = value;
    }
  }
  Tape tape({.rng = Rng{5, 0, 0}});
  const LayerOutput out = run(tape, bind(tape, parameters, ""), 0, training);
  if (!out.auxiliary.defined()) return {};
  Losses losses{out.auxiliary.value().item()};
  if (!out.auxiliary.needs_gradient()) return losses;
  const Gradients g = tape.backward(out.auxiliary);
  for (const Parameter& p : parameters) {
    if (!p.router || !p.trained) continue;
    for (const double v : g[p].to_vector()) losses.slope = std::fmax(losses.slope, std::abs(v));
  }
  return losses;
}

}  // namespace

// arXiv:2412.19437, eq. 18: f_i counts TopK(s) alone. Both tokens have the larger s at expert 0;
// the bias sends both to expert 1.
TEST_CASE("deepseek-v3: the balance counts the affinities alone, without bias and groups") {
  const auto router = router_of("deepseek-v3", {{"balance", "1"}, {"bias-rate", "0"}});
  Tape tape;
  Weights weights;
  const Var w = tape.variable(Tensor::of<double>({1, 2}, {2.0, 0.0}));
  weights.set("router.weight", w);
  weights.set("router.balance", tape.constant(Tensor::of<double>({2}, {0.0, 1.0})));
  LayerInput in{tape.constant(Tensor::of<double>({2, 1}, {1.0, 1.0})), weights};
  in.sequence = 2;
  const Routing r = router->route({1, 1, 1, 2, 1}, in);
  CHECK(r.selected.to_vector() == std::vector<double>{1, 1});
  const double s0 = sigmoid_at(2.0), s1 = 0.5, all = s0 + s1;
  CHECK(r.auxiliary.value().item() == doctest::Approx(2.0 * s0 / all).epsilon(1e-14));
  CHECK(r.auxiliary.value().item() == doctest::Approx(1.275781).epsilon(1e-6));
  const Tensor g = tape.backward(r.auxiliary)[w];
  CHECK(g.at(0) == doctest::Approx(2.0 * s0 * (1.0 - s0) * s1 / (all * all)).epsilon(1e-12));
  CHECK(g.at(1) == doctest::Approx(-2.0 * s0 * s1 * (1.0 - s1) / (all * all)).epsilon(1e-12));

  // Four experts in two groups of which one is kept: expert 2 is the second largest of TopK(s), and
  // the group of 0 and 1 is taken.
  const auto grouped = router_of("deepseek-v3", {{"balance", "1"}, {"groups", "2"}});
  const Tensor o = Tensor::of<double>({1, 4}, {3.0, 0.0, 1.0, -9.0});
  Tape other;
  Weights identity = test::identity_weights(other, 4);
  identity.set("router.balance", other.constant(Tensor::zeros({4}, DType::f64, Device::cpu)));
  const Routing one = grouped->route(square_size(4, 2), {other.constant(o), identity});
  CHECK(one.selected.to_vector() == std::vector<double>{0, 1});
  double sum = 0.0;
  for (std::int64_t e = 0; e < 4; ++e) sum += sigmoid_at(o.at(e));
  const double expected = 4.0 * 0.5 * (sigmoid_at(3.0) + sigmoid_at(1.0)) / sum;
  CHECK(one.auxiliary.value().item() == doctest::Approx(expected).epsilon(1e-12));
}

TEST_CASE("a sequence's balance loss is of its own tokens") {
  Tape tape;
  const Tensor p = Tensor::of<double>({4, 2}, {0.9, 0.1, 0.7, 0.3, 0.2, 0.8, 0.4, 0.6});
  const Tensor choice = Tensor::of<std::int32_t>({4, 1}, {0, 0, 1, 0});
  const double first = 2.0 * 0.8;
  const double second = 2.0 * (0.5 * 0.3 + 0.5 * 0.7);
  CHECK(switch_auxiliary(tape.constant(p), choice, Sequences(4, 2)).value().item() ==
        doctest::Approx((first + second) / 2.0).epsilon(1e-14));
  CHECK(expert_counts(choice, 2, Sequences(4, 2)).to_vector() == std::vector<double>{2, 0, 1, 1});
  CHECK(expert_counts(choice, 2).to_vector() == std::vector<double>{3, 1});
}

// Tokens (1, 0) and (0, 1), a choice for each expert: perfect balance, the minimum.
TEST_CASE("aux normalises scores that do not sum to 1") {
  const RouterEntry& entry = router_entry("deepseek-v3");
  LayerConfig config;
  config.size = {2, 1, 1, 2, 1};
  config.router = "deepseek-v3";
  config.options = {{"balance", "0"}, {"aux", "1"}, {"shared", "0"}};
  config.biases = false;
  Tape tape;
  Weights weights;
  const Var bias = tape.variable(Tensor::zeros({2}, DType::f64, Device::cpu));
  weights.set("router.weight", tape.constant(test::identity(2)));
  weights.set("router.bias", bias);
  weights.set("router.balance", tape.constant(Tensor::zeros({2}, DType::f64, Device::cpu)));
  weights.set("experts.w1", tape.constant(Tensor::full({2, 2, 1}, 1.0, DType::f64, Device::cpu)));
  weights.set("experts.w2", tape.constant(Tensor::full({2, 1, 1}, 1.0, DType::f64, Device::cpu)));
  const LayerOutput out = Layer(config).forward(tape.constant(test::identity(2)), weights, true);
  CHECK(out.auxiliary.value().item() == doctest::Approx(1.0).epsilon(1e-14));
  const Tensor g = tape.backward(out.auxiliary)[bias];
  CHECK(std::abs(g.at(0)) < 1e-15);
  CHECK(std::abs(g.at(1)) < 1e-15);
  CHECK(entry.traits.losses == std::vector<std::string>{"balance"});

  // Far below 0 the sum of the scores is tiny, in f32 it is 0; their shares are not.
  for (const DType dtype : {DType::f32, DType::f64}) {
    Tape low;
    Weights identity;
    identity.set("router.weight", low.constant(test::identity(2).to(dtype)));
    identity.set("router.balance", low.constant(Tensor::zeros({2}, dtype, Device::cpu)));
    const Tensor o = Tensor::of<double>({1, 2}, {-300.0, -301.0}).to(dtype);
    const Routing r =
        router_of("deepseek-v3")->route(square_size(2, 1), {low.constant(o), identity});
    CHECK(switch_auxiliary(r).value().item() ==
          doctest::Approx(2.0 * sigmoid_at(1.0)).epsilon(1e-5));
  }
}

// Three tokens choose expert 0, one expert 1; room for one each.
TEST_CASE("aux counts the choices before a full expert drops any") {
  LayerConfig config;
  config.size = {1, 1, 1, 2, 1};
  config.router = "switch";
  config.options = {
      {"balance", "0"}, {"jitter", "0"}, {"aux", "1"}, {"capacity", "0.5"}, {"capacity-min", "1"}};
  config.biases = false;
  Tape tape;
  Weights weights;
  const Var w = tape.variable(Tensor::of<double>({1, 2}, {1.0, -1.0}));
  weights.set("router.weight", w);
  weights.set("experts.w1", tape.constant(Tensor::full({2, 1, 1}, 1.0, DType::f64, Device::cpu)));
  weights.set("experts.w2", tape.constant(Tensor::full({2, 1, 1}, 1.0, DType::f64, Device::cpu)));
  const Var x = tape.constant(Tensor::of<double>({4, 1}, {1.0, 1.0, 1.0, -1.0}));
  const LayerOutput out = Layer(config).forward(x, weights, true);
  CHECK(out.plan.slots() == 2);
  const double g = sigmoid_at(2.0);
  const double p0 = (3.0 * g + 1.0 - g) / 4.0;
  CHECK(out.auxiliary.value().item() ==
        doctest::Approx(2.0 * (0.75 * p0 + 0.25 * (1.0 - p0))).epsilon(1e-14));
  // d/dw_0 = 2 (3/4 - 1/4) dP_0, dP_0 = g (1 - g) (3 - 1)/4
  const Tensor slope = tape.backward(out.auxiliary)[w];
  CHECK(slope.at(0) == doctest::Approx(0.5 * g * (1.0 - g)).epsilon(1e-12));
  CHECK(slope.at(1) == doctest::Approx(-0.5 * g * (1.0 - g)).epsilon(1e-12));

  for (const char* name : {"switch", "gshard", "v-moe"}) {
    CAPTURE(name);
    std::map<std::string, std::string> options = {{"aux", "1"}};
    const std::string least = std::string(name) == "v-moe" ? "capacity-multiple" : "capacity-min";
    options[least] = "1";
    options["capacity"] = "1e6";
    const Losses roomy = losses_of(config_of(router_entry(name), options));
    options["capacity"] = "0.3";
    const Losses full = losses_of(config_of(router_entry(name), options));
    CHECK(roomy.value == full.value);
    CHECK(roomy.slope == full.slope);
    CHECK(roomy.slope > 1e-3);
  }
}

// Two tokens whose hard choice is expert 0: 2 P_0.
TEST_CASE("relaxed-top-k: aux counts the hard choice, not the experts that all run") {
  const auto router = router_of("relaxed-top-k", {{"temperature", "1"}});
  Decisions decisions;
  decisions.give("noise", Tensor::zeros({2, 2}, DType::f64, Device::cpu));
  Tape tape({.decisions = &decisions});
  const Var x = tape.variable(Tensor::of<double>({2, 2}, {2.0, 0.0, 1.0, 0.0}));
  const Routing r = router->route(square_size(2, 1), {x, test::identity_weights(tape, 2)});
  CHECK(r.selected.to_vector() == std::vector<double>{0, 1, 0, 1});
  const Var aux = switch_auxiliary(r);
  CHECK(aux.value().item() == doctest::Approx(sigmoid_at(2.0) + sigmoid_at(1.0)).epsilon(1e-12));
  const double slope = sigmoid_at(2.0) * sigmoid_at(-2.0);
  const Tensor g = tape.backward(aux)[x];
  CHECK(g.at(0) == doctest::Approx(slope).epsilon(1e-12));
  CHECK(g.at(1) == doctest::Approx(-slope).epsilon(1e-12));
}

TEST_CASE("of every router, aux and z-loss have a gradient or are refused") {
  for (const RouterEntry& entry : routers()) {
    for (const char* loss : {"aux", "z-loss"}) {
      CAPTURE(entry.name);
      CAPTURE(loss);
      const RouterTraits& t = entry.traits;
      const bool refused =
          std::string(loss) == "aux" ? t.constant_aux[0] != '\0' : t.constant_logits;
      LayerConfig config = config_of(entry, {{loss, "1"}});
      if (refused) {
        CHECK(
            error_of([&] { const Layer layer(config); }) ==
            fmt::format("[layer] {} is 1, and router {} {}: the loss would be a constant. Leave it "
                        "out, or choose another router.",
                        loss, entry.name, t.constant_aux));
        config.force = true;
        CHECK(losses_of(config).slope < 1e-14);  // it is one
      } else {
        CHECK(losses_of(config).slope > 1e-4);
      }
    }
  }
}

TEST_CASE("aux is off unless the router's paper has it; a layer says which losses it has") {
  const auto losses = [](const char* router, std::map<std::string, std::string> options = {}) {
    LayerConfig config;
    config.size = {3, 4, 2, 4, std::min<std::int64_t>(2, router_entry(router).most_active)};
    config.router = router;
    config.options = std::move(options);
    return Layer(config).losses();
  };
  CHECK(losses("top-k") == "none");
  CHECK(losses("loss-free") == "none");
  CHECK(losses("softmax") == "none");
  CHECK(losses("loss-free", {{"aux", "0.01"}, {"z-loss", "0.5"}}) == "aux=0.01, z-loss=0.5");
  CHECK(losses("deepseek-v1") == "aux=0.01");
  CHECK(losses("deepseek-v1", {{"aux", "0"}}) == "none");
  CHECK(losses("deepseek-v3") == "balance=0.0001");
  CHECK(losses("noisy-top-k", {{"load", "0"}}) == "importance=0.01");
  for (const RouterEntry& entry : routers()) {
    CAPTURE(entry.name);
    const bool has = !entry.traits.losses.empty() || default_aux(entry) > 0.0;
    CHECK(has == (entry.traits.auxiliary[0] != '\0'));
    // Each is the coefficient of a loss: with all at 0 nothing is added.
    const Losses none = losses_of(config_of(entry, {}));
    CHECK(none.value == 0.0);
    for (const std::string& name : entry.traits.losses) {
      CAPTURE(name);
      // dselect-k's reachability is of other numbers of experts.
      LayerConfig config = config_of(entry, {{name, "0.5"}});
      if (name == "zeta") config.size.experts = 3;
      CHECK(losses_of(config).value != 0.0);
    }
  }
}
