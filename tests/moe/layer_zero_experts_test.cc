// Experts that return x, against a layer whose last experts compute x: relu(x) - relu(-x).

#include <algorithm>

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "moe/layer.h"
#include "ops/ops.h"
#include "tests/devices.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

constexpr std::int64_t kModel = 3, kOwn = 4, kZero = 2, kTokens = 9;

LayerConfig config_of(const RouterEntry& router, std::int64_t experts) {
  LayerConfig config;
  config.size = {kModel, 2 * kModel, kModel, experts,
                 std::clamp<std::int64_t>(2, router.least_active, router.most_active)};
  config.router = router.name;
  return config;
}

// A parameter of kOwn experts with kZero more behind them, that compute x.
Tensor with_identities(const std::string& name, const Tensor& own) {
  const Shape& shape = own.shape();
  const std::int64_t each = own.numel() / kOwn;
  Tensor all = Tensor::zeros({(kOwn + kZero) * each}, DType::f64, Device::cpu);
  double* const v = all.write<double>();
  std::copy_n(own.data<double>(), own.numel(), v);
  for (std::int64_t e = kOwn; e < kOwn + kZero; ++e) {
    for (std::int64_t i = 0; i < kModel; ++i) {
      double* const matrix = v + e * each;
      if (name == "experts.w1") {  // [D, 2 D]
        matrix[i * 2 * kModel + i] = 1.0;
        matrix[i * 2 * kModel + kModel + i] = -1.0;
      } else if (name == "experts.w2") {  // [2 D, D]
        matrix[i * kModel + i] = 1.0;
        matrix[(kModel + i) * kModel + i] = -1.0;
      }
    }
  }
  return shape.rank() == 3 ? all.reshape({kOwn + kZero, shape[1], shape[2]})
                           : all.reshape({kOwn + kZero, shape[1]});
}

bool selects(const RouterEntry& router) {
  return router.name != "soft-moe" && router.name != "smear";
}

}  // namespace

TEST_CASE("zero experts: of every router that selects, a layer whose last experts compute x") {
  double of_zero = 0.0;
  for (const RouterEntry& router : routers()) {
    if (!selects(router)) continue;
    CAPTURE(router.name);
    for (const bool training : {true, false}) {
      LayerConfig config = config_of(router, kOwn);
      config.options = {{"zero", std::to_string(kZero)}};
      if (router.traits.constant_aux[0] == '\0') config.options["aux"] = "0.3";
      const LayerFixture f = random_fixture(config, kTokens, training);
      LayerFixture all = f;
      all.config.size.experts = kOwn + kZero;
      all.config.options.erase("zero");
      for (std::size_t i = 0; i < f.names.size(); ++i) {
        if (!f.names[i].starts_with("experts.")) continue;
        all.values[i] = with_identities(f.names[i], f.values[i]);
      }
      const LayerPass mine = run_pass(f);
      const LayerPass theirs = run_pass(all);
      CHECK(mine.selected.same_bits(theirs.selected));
      CHECK(close(mine.y, theirs.y, 1e-13));
      for (std::size_t i = 0; i < f.names.size(); ++i) {
        CAPTURE(f.names[i]);
        const Tensor& g = mine.gradients[i];
        const bool of_experts = f.names[i].starts_with("experts.");
        const Tensor& expected = theirs.gradients[i];
        const Tensor first = of_experts ? expected.rows(0, kOwn) : expected;
        CHECK(close(g, first, 1e-12, theirs.rounding[i]));
      }
      for (std::size_t e = 0; e < kOwn; ++e) CHECK(mine.load[e] == theirs.load[e]);
      for (std::size_t e = kOwn; e < kOwn + kZero; ++e) of_zero += theirs.load[e];
      for (const Device device : test::other_devices()) {
        const LayerPass there = run_pass(on(device, f));
        CHECK(there.selected.same_bits(mine.selected));
        CHECK(close(there.y, mine.y, 1e-12));
      }
    }
  }
  CHECK(of_zero > 100.0);
}

TEST_CASE("zero experts: how many experts a token runs") {
  LayerConfig config = config_of(router_entry("top-k"), kOwn);
  config.options = {{"zero", "2"}};
  Parameters parameters;
  Layer(config).declare("", parameters, Rng{1, 0, 0});
  CHECK(parameters.find("router.weight")->value.shape() == Shape{kModel, kOwn + kZero});
  CHECK(parameters.find("experts.w1")->value.size(0) == kOwn);
  Tape tape;
  Weights weights;
  for (const Parameter& p : parameters) weights.set(p.name, tape.constant(p.value));
  const Var x = tape.constant(Rng{2, 0, 0}.normal({kTokens, kModel}, DType::f64));
  const LayerOutput out = Layer(config).forward(x, weights, true);
  double own = 0.0;
  for (const double e : out.routing.selected.to_vector()) own += e < kOwn ? 1.0 : 0.0;
  CHECK(own < 2.0 * kTokens);
  CHECK(out.experts_of_a_token().item() == doctest::Approx(own / kTokens).epsilon(1e-14));
}

TEST_CASE("zero experts: what is refused") {
  const auto said = [](const char* router, const char* estimator, std::int64_t output) {
    LayerConfig config;
    config.size = {kModel, 4, output, kOwn, 2};
    config.router = router;
    config.estimator = estimator;
    config.options = {{"zero", "1"}};
    return error_of([&] { run_pass(random_fixture(config, 4, true)); });
  };
  CHECK(said("top-k", "sparse", kModel) == "no error");
  CHECK(said("top-k", "sparse", 2).find("2 of 3 features") != std::string::npos);
  CHECK(said("top-k", "ste-dense", kModel).find("knows no experts that return x") !=
        std::string::npos);
  for (const char* router : {"soft-moe", "smear"}) {
    CHECK(said(router, "sparse", kModel).find("selects no experts") != std::string::npos);
  }
}
