// remoe: w = relu(o), its sparsity loss and the controller of its coefficient.

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "ops/ops.h"

using namespace moegrad;

namespace {

constexpr std::int64_t kTokens = 3, kExperts = 4;
// Open gates: 2, 3, 0.
const std::vector<double> kLogits = {0.5,  -1.0,  2.0,  -0.25, 1.5, 0.75,
                                     -3.0, 0.125, -1.0, -2.0,  0.0, -0.5};

struct Run {
  Tensor o = Tensor::of<double>({kTokens, kExperts}, kLogits);
  std::int64_t active = 2;
  double lambda = 0.37;
  bool training = true;

  template <class Use>
  void operator()(Use use) const {
    Tape tape;
    const Tensor eye = Tensor::zeros({kExperts, kExperts}, DType::f64, Device::cpu);
    for (std::int64_t e = 0; e < kExperts; ++e) eye.write<double>()[e * kExperts + e] = 1.0;
    Weights weights;
    weights.set("router.weight", tape.constant(eye));
    weights.set("router.lambda", tape.constant(Tensor::of<double>({1}, {lambda})));
    const RouterEntry& entry = router_entry("remoe");
    const Var x = tape.variable(o);
    const LayerSize size{kExperts, 1, 1, kExperts, active};
    use(tape, x,
        entry.make(Options("router remoe", entry.options))->route(size, {x, weights, training}));
  }
};

double updated(const Run& run) {
  double lambda = 0.0;
  run([&](Tape&, Var, const Routing& r) {
    REQUIRE(r.updates.size() == 1);
    CHECK(r.updates[0].first == "router.lambda");
    lambda = r.updates[0].second.item();
  });
  return lambda;
}

}  // namespace

TEST_CASE("remoe: the weights are relu(o), and a gate at or below 0 is not used") {
  for (const bool training : {true, false}) {
    Run run;
    run.training = training;
    run([](Tape& tape, Var x, const Routing& r) {
      const Tensor w = r.weights.value();
      for (std::int64_t i = 0; i < kTokens * kExperts; ++i) {
        const double o = kLogits[static_cast<std::size_t>(i)];
        CHECK(w.at(i) == (o > 0.0 ? o : 0.0));
        CHECK(r.selected.at(i) == (o > 0.0 ? static_cast<double>(i % kExperts) : -1.0));
      }
      const Tensor a = Rng{1, 0, 0}.normal(w.shape(), DType::f64);
      const Gradients g = tape.backward(sum(r.weights * tape.constant(a)));
      for (std::int64_t i = 0; i < a.numel(); ++i) {
        CHECK(g[x].at(i) == (kLogits[static_cast<std::size_t>(i)] > 0.0 ? a.at(i) : 0.0));
      }
    });
  }
}

TEST_CASE("remoe: the sparsity loss, with lambda once, and its gradient") {
  Run{}([](Tape& tape, Var x, const Routing& r) {
    double loss = 0.0;
    double n[kExperts] = {};
    for (std::size_t e = 0; e < kExperts; ++e) {
      double total = 0.0;
      for (std::size_t t = 0; t < kTokens; ++t) {
        const double o = kLogits[t * kExperts + e];
        if (o > 0.0) total += o, n[e] += 1.0;
      }
      loss += 0.37 * kExperts / (2.0 * kTokens * kTokens) * total * n[e];
    }
    CHECK(r.auxiliary.value().item() == doctest::Approx(loss).epsilon(1e-14));
    const Gradients g = tape.backward(r.auxiliary);
    for (std::size_t i = 0; i < kLogits.size(); ++i) {
      const double d = kLogits[i] > 0.0 ? 0.37 * kExperts / 18.0 * n[i % kExperts] : 0.0;
      CHECK(g[x].at(static_cast<std::int64_t>(i)) == doctest::Approx(d).epsilon(1e-14));
    }
  });
}

// 5 of 12 gates are open: k = 1 wants 3, k = 2 wants 6.
TEST_CASE("remoe: lambda grows where too many gates are open and shrinks where not") {
  Run run;
  run.active = 1;
  CHECK(updated(run) == doctest::Approx(0.37 * 1.2).epsilon(1e-15));
  run.active = 2;
  CHECK(updated(run) == doctest::Approx(0.37 / 1.2).epsilon(1e-15));
  run.o = run.o.clone();
  run.o.write<double>()[1] = 0.1;
  CHECK(updated(run) == doctest::Approx(0.37 / 1.2).epsilon(1e-15));  // exactly as many as wanted
  run.lambda = 1e-30;
  CHECK(updated(run) == 1e-30);
  run.training = false;
  run([](Tape&, Var, const Routing& r) {
    CHECK(r.updates.empty());
    CHECK_FALSE(r.auxiliary.defined());
  });
}

TEST_CASE("remoe: lambda starts at its option and is state, not trained") {
  const RouterEntry& entry = router_entry("remoe");
  Options options("router remoe", entry.options);
  Parameters parameters;
  Rng rng;
  entry.make(options)->declare({3, 4, 2, 4, 2}, "m.", parameters, rng);
  REQUIRE(parameters.find("m.router.lambda") != nullptr);
  CHECK(parameters.find("m.router.lambda")->value.item() == 1e-8);
  CHECK_FALSE(parameters.find("m.router.lambda")->trained);
}

TEST_CASE("remoe: a batch without an open gate gives 0 and no gradient") {
  LayerConfig config;
  config.size = {3, 4, 2, 4, 2};
  config.router = "remoe";
  LayerFixture f = random_fixture(config, 3, true);
  for (std::size_t i = 0; i < f.names.size(); ++i) {
    if (f.names[i] == "router.bias")
      f.values[i] = Tensor::full({4}, -50.0, DType::f64, Device::cpu);
  }
  const LayerPass pass = run_pass(f);
  for (const double y : pass.y.to_vector()) CHECK(y == 0.0);
  for (const Tensor& g : pass.gradients) {
    for (const double v : g.to_vector()) CHECK(v == 0.0);
  }
}

// A task that wants all gates open: without the controller 8 stay open. Closed gates have no
// gradient, but W is shared by the tokens, so that they open again.
TEST_CASE("remoe: training is steered to k open gates in the mean") {
  constexpr std::int64_t kBatch = 64, kMany = 8;
  constexpr int kSteps = 500;
  const RouterEntry& entry = router_entry("remoe");
  const auto router = entry.make(Options("router remoe", entry.options));
  const LayerSize size{kMany, 1, 1, kMany, 2};
  Parameters parameters;
  Rng rng{1, 0, 0};
  router->declare(size, "", parameters, rng);
  const Tensor x = rng.normal({kBatch, kMany}, DType::f64);
  const Tensor target = rng.uniform({kBatch, kMany}, DType::f64, 0.5, 1.5);
  double open = 0.0;
  for (int step = 0; step < kSteps; ++step) {
    Tape tape;
    Weights weights;
    for (const Parameter& p : parameters) {
      weights.set(p.name, p.trained ? tape.parameter(p) : tape.constant(p.value));
    }
    const Routing r = router->route(size, {tape.constant(x), weights, true});
    const Var loss = mean(squared_difference(relu(r.logits), tape.constant(target))) + r.auxiliary;
    const Gradients g = tape.backward(loss);
    for (Parameter& p : parameters) {
      if (!p.trained) continue;
      for (std::int64_t i = 0; i < p.value.numel(); ++i) p.value.write<double>()[i] -= g[p].at(i);
    }
    parameters.find("router.lambda")->value = r.updates[0].second;
    if (step < kSteps - 200) continue;
    for (const double e : r.selected.to_vector()) open += e >= 0.0 ? 1.0 / (200.0 * kBatch) : 0.0;
  }
  CHECK(open == doctest::Approx(2.0).epsilon(0.1));
}
