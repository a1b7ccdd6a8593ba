#include "moe/layer.h"

#include <doctest/doctest.h>

#include "moe/balance.h"
#include "moe/checks/check.h"
#include "moe/registry.h"
#include "ops/ops.h"
#include "tests/temporary_files.h"
#include "train/modules.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

LayerConfig config() {
  LayerConfig c;
  c.size = {3, 4, 2, 4, 2};
  return c;
}

}  // namespace

TEST_CASE("what a layer refuses of its input") {
  LayerFixture f = random_fixture(config(), 3, true);
  f.values[0] = Tensor::zeros({0, 3}, DType::f64, Device::cpu);
  CHECK(error_of([&] { run_pass(f); }) == "[layer] the batch has 0 tokens. Give at least one.");
  f.values[0] = Tensor::zeros({2, 4}, DType::f64, Device::cpu);
  CHECK(error_of([&] { run_pass(f); }) == "[layer] input is [2, 4]. It must be [tokens, 3].");
  f = random_fixture(config(), 3, true);
  f.names[3] = "experts.w7";
  CHECK(error_of([&] { run_pass(f); }) ==
        "[layer] no parameter 'experts.w1'. Give it with the others.");
}

TEST_CASE("every activation has right gradients through the whole layer") {
  for (const Activation a :
       {Activation::relu, Activation::gelu, Activation::silu, Activation::swiglu}) {
    CAPTURE(name_of(a));
    LayerConfig c = config();
    c.activation = a;
    const LayerFixture f = random_fixture(c, 5, true);
    const GradcheckReport report = gradcheck(
        [&](Tape&, std::span<const Var> in) {
          Weights weights;
          for (std::size_t i = 1; i < in.size(); ++i) weights.set(f.names[i], in[i]);
          return Layer(c).forward(in[0], weights, true).y;
        },
        f.values);
    CHECK_MESSAGE(report.verdict == Verdict::pass, report.text());
    CHECK(report.inputs.size() == (a == Activation::swiglu ? 9 : 7));
  }
}

TEST_CASE("declared parameters are what forward asks for") {
  LayerConfig c = config();
  c.activation = Activation::swiglu;
  c.options["shared"] = "2";
  const Layer layer(c);
  Parameters parameters;
  Rng rng{1, 0, 0};
  layer.declare("moe.", parameters, rng);
  Tape tape;
  Weights weights;
  std::string names;
  for (const Parameter& p : parameters) {
    names += p.name.substr(4) + " ";
    weights.set(p.name.substr(4), tape.parameter(p));
  }
  CHECK(names ==
        "router.weight router.bias experts.w1 experts.b1 experts.w3 experts.b3 experts.w2 "
        "experts.b2 shared.w1 shared.b1 shared.w3 shared.b3 shared.w2 shared.b2 ");
  const LayerOutput out =
      layer.forward(tape.constant(Rng{2, 0, 0}.normal({5, 3}, DType::f64)), weights, true);
  const Gradients g = tape.backward(sum(square(out.y)));
  for (const Parameter& p : parameters) {
    CAPTURE(p.name);
    double size = 0.0;
    for (const double v : g[p].to_vector()) size += std::abs(v);
    CHECK(size > 0.0);
  }
}

TEST_CASE("of every layer, what belongs to the router and which matrices decay") {
  for (const RouterEntry& entry : routers()) {
    CAPTURE(entry.name);
    LayerConfig c = config();
    c.size.active = std::min(c.size.active, entry.most_active);
    c.router = entry.name;
    c.options = {{"shared", "1"}};
    Parameters parameters;
    Rng rng{1, 0, 0};
    Layer(c).declare("any.prefix.", parameters, rng);
    for (const Parameter& p : parameters) {
      CAPTURE(p.name);
      const std::string name = p.name.substr(11);
      CHECK(p.router == name.starts_with("router."));
      const bool expert_matrix = name == "experts.w1" || name == "experts.w2" ||
                                 name == "shared.w1" || name == "shared.w2";
      CHECK(p.decays == (p.router ? p.trained && p.value.rank() == 2 : expert_matrix));
      CHECK(p.rate == 1.0);
    }
  }
}

TEST_CASE("the switch auxiliary loss is E sum f_i P_i, and 1 at balance") {
  Tape tape;
  Routing r;
  r.scores = tape.constant(Tensor::of<double>({2, 3}, {0.5, 0.3, 0.2, 0.1, 0.6, 0.3}));
  r.selected = Tensor::of<std::int32_t>({2, 2}, {0, 1, 1, 2});
  const double expected = 3.0 * (0.25 * 0.3 + 0.5 * 0.45 + 0.25 * 0.25);
  CHECK(switch_auxiliary(r).value().item() == doctest::Approx(expected).epsilon(1e-14));
  r.scores = tape.constant(Tensor::full({3, 3}, 1.0 / 3.0, DType::f64, Device::cpu));
  r.selected = Tensor::of<std::int32_t>({3, 1}, {0, 1, 2});
  CHECK(switch_auxiliary(r).value().item() == doctest::Approx(1.0).epsilon(1e-14));
}

TEST_CASE("the z-loss is the mean of squared logsumexp") {
  Tape tape;
  Routing r;
  r.logits = tape.constant(Tensor::of<double>({2, 2}, {0.0, 0.0, 1.0, 2.0}));
  const double a = std::log(2.0);
  const double b = std::log(std::exp(1.0) + std::exp(2.0));
  CHECK(z_loss(r).value().item() == doctest::Approx((a * a + b * b) / 2.0).epsilon(1e-14));
}

namespace {

constexpr std::int64_t kTokens = 60;

// What a layer on f32 tokens keeps for its backward pass besides its parameters, in elements of 4
// bytes.
std::int64_t kept(const LayerConfig& config) {
  const Layer layer(config);
  Parameters weights;
  Rng rng{.seed = 3};
  layer.declare("", weights, rng);
  std::int64_t bytes = 0;
  for (Parameter& p : weights) {
    p.value = p.value.to(DType::f32);
    bytes += static_cast<std::int64_t>(p.value.bytes());
  }
  Tape tape;
  const Var x = tape.variable(rng.normal({kTokens, config.size.model}, DType::f32));
  const LayerOutput out = layer.forward(x, bind(tape, weights, ""), true);
  return (static_cast<std::int64_t>(tape.bytes_saved()) - bytes) / 4;
}

}  // namespace

TEST_CASE("what a backward pass keeps: the input, the pre-activations, the gates and the plan") {
  for (const Activation activation : {Activation::relu, Activation::gelu, Activation::swiglu}) {
    LayerConfig c;
    c.size = {16, 40, 16, 4, 2};
    c.activation = activation;
    const LayerSize& size = c.size;
    const std::int64_t pre = (activation == Activation::swiglu ? 2 : 1) * kTokens * 2 * size.hidden;
    const std::int64_t plan = 2 * kTokens * 2 + size.experts + 1;  // order, inverse, offsets
    const std::int64_t router =
        kTokens * size.experts + kTokens * 2 * 2;  // scores; ids and weights
    const std::int64_t sparse = kept(c);
    CHECK(sparse >= kTokens * size.model + pre);
    CHECK(sparse <= kTokens * size.model + pre + plan + router);
    for (const char* dense : {"ste-dense", "ste-dense-router"}) {
      // The output, and of the unselected their plan and scores: nothing that they computed.
      c.estimator = dense;
      CHECK(kept(c) <= sparse + kTokens * size.output + 4 * kTokens * size.experts);
    }
  }
}
