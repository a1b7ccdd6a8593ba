// The router part of one estimator with the expert part of another.

#include <doctest/doctest.h>

#include "autograd/gradcheck.h"
#include "moe/checks/check.h"
#include "ops/ops.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

LayerConfig config_of(const std::string& router_part, const std::string& expert_part,
                      const std::string& router = "top-k") {
  LayerConfig c;
  c.size = {3, 4, 2, 4, router == "sparsemixer" ? 1 : 2};
  c.router = router;
  c.router_gradient = router_part;
  c.expert_gradient = expert_part;
  c.activation = Activation::gelu;
  return c;
}

// Value and every gradient of two layers.
void check_same(const LayerConfig& parts, const std::string& whole, double tolerance = 1e-12) {
  for (const Form form : {Form::fused, Form::written}) {
    const LayerFixture f = random_fixture(parts, 7, true);
    LayerFixture other = f;
    other.config.router_gradient.clear();
    other.config.expert_gradient.clear();
    other.config.estimator = whole;
    PassOptions options;
    options.given = decisions_of(f);
    options.form = form;
    const LayerPass a = run_pass(f, options);
    const LayerPass b = run_pass(other, options);
    CHECK(close(a.y, b.y, tolerance));
    for (std::size_t i = 0; i < f.names.size(); ++i) {
      CAPTURE(f.names[i]);
      CHECK(close(a.gradients[i], b.gradients[i], tolerance));
    }
  }
}

}  // namespace

TEST_CASE("parts that are those of a third estimator") {
  for (const char* router : {"top-k", "moesart"}) {
    CAPTURE(router);
    check_same(config_of("sparse", "sparse", router), "sparse");
    check_same(config_of("ste-dense-router", "ste-dense", router), "ste-dense");
    check_same(config_of("ste-dense-router", "sparse", router), "ste-dense-router");
    check_same(config_of("sparse", "ste-dense-router", router), "sparse");
    check_same(config_of("ste-dense", "ste-dense-router", router), "ste-dense-router");
    check_same(config_of("expert-group", "sparse", router), "expert-group");
  }
}

TEST_CASE("one part alone leaves the other to the estimator") {
  LayerConfig c = config_of("ste-dense-router", "");
  c.estimator = "ste-dense";
  check_same(c, "ste-dense");
}

TEST_CASE("each part gets its gradient from its own estimator alone") {
  LayerConfig c = config_of("sparse", "expert-group");
  c.options = {{"experts", "mean"}};
  const LayerFixture f = random_fixture(c, 7, true);
  LayerFixture router = f;
  router.config.expert_gradient.clear();
  router.config.router_gradient.clear();
  router.config.options.clear();
  LayerFixture experts = router;
  experts.config.estimator = "expert-group";
  experts.config.options = c.options;
  const LayerPass both = run_pass(f);
  const LayerPass r = run_pass(router);
  const LayerPass e = run_pass(experts);
  CHECK(both.y.same_bits(r.y));
  for (std::size_t i = 1; i < f.names.size(); ++i) {  // x gets both
    CAPTURE(f.names[i]);
    const bool of_router = f.names[i].starts_with("router.");
    CHECK(close(both.gradients[i], (of_router ? r : e).gradients[i], 1e-12));
    CHECK_FALSE(close(both.gradients[i], (of_router ? e : r).gradients[i], 1e-6));
  }
}

TEST_CASE("sparsemixer's router with expert-group's experts against differences") {
  LayerConfig c = config_of("sparsemixer", "expert-group", "sparsemixer");
  c.options = {{"experts", "mean"}, {"epsilon", "1"}};
  c.activation = Activation::silu;
  const LayerFixture f = random_fixture(c, 6, true);
  const Program program = [&](Tape&, std::span<const Var> in) {
    Weights weights;
    return Layer(c).forward(f.input(in, weights)).y;
  };
  const GradcheckReport report = gradcheck(program, f.values);
  INFO(report.text());
  CHECK(report.verdict == Verdict::pass);

  PassOptions options;
  options.given = decisions_of(f);
  options.form = Form::written;
  const LayerPass written = run_pass(f, options);
  options.form = Form::fused;
  const LayerPass fused = run_pass(f, options);
  LayerFixture whole = f;
  whole.config.router_gradient.clear();
  whole.config.expert_gradient.clear();
  whole.config.estimator = "sparsemixer";
  whole.config.options.erase("experts");
  const LayerPass sparsemixer = run_pass(whole, options);
  CHECK(fused.y.same_bits(sparsemixer.y));
  for (std::size_t i = 0; i < f.names.size(); ++i) {
    CHECK(close(fused.gradients[i], written.gradients[i], 1e-12));
    if (f.names[i].starts_with("router.")) {
      CHECK(close(fused.gradients[i], sparsemixer.gradients[i], 1e-12));
    }
  }
}

TEST_CASE("the state of a part is declared and updated") {
  const LayerConfig c = config_of("default-ema", "expert-group");
  const LayerFixture f = random_fixture(c, 7, true);
  REQUIRE(f.state.size() == 1);
  CHECK(f.state[0].first == "estimator.mean");
  Tape tape;
  std::vector<Var> leaves;
  for (const Tensor& v : f.values) leaves.push_back(tape.constant(v));
  Weights weights;
  const Updates updates = Layer(c).forward(f.input(leaves, weights)).updates;
  REQUIRE(updates.size() == 1);
  CHECK(updates[0].first == "estimator.mean");
  CHECK_FALSE(updates[0].second.same_bits(f.state[0].second));
}

TEST_CASE("inference is the router part's") {
  LayerFixture f = random_fixture(config_of("ste-dense-router", "expert-group"), 5, false);
  const Tensor y = run_pass(f).y;
  f.config.router_gradient.clear();
  f.config.expert_gradient.clear();
  CHECK(y.same_bits(run_pass(f).y));
}

TEST_CASE("what cannot be combined") {
  const auto refused = [](LayerConfig c) { return error_of([&] { const Layer layer(c); }); };
  LayerConfig c = config_of("reinmax", "sparse", "categorical");
  c.size.active = 1;
  CHECK(refused(c) ==
        "[layer] reinmax gives its router gradient and its expert gradient together and cannot be "
        "the router gradient alone. Use it as the estimator.");
  c = config_of("", "reinforce", "categorical");
  c.size.active = 1;
  CHECK(refused(c) ==
        "[layer] reinforce gives its router gradient and its expert gradient together and cannot "
        "be the expert gradient alone. Use it as the estimator.");
  c = config_of("", "");
  c.estimator = "st";
  CHECK(refused(c) ==
        "[layer] estimator st is for a router that draws one expert with weight 1, and top-k does "
        "not. Use --router categorical.");
  c = config_of("sparse", "expert-group");
  c.size.active = 4;
  CHECK(refused(c) ==
        "[expert-group] every token uses all 4 experts: there is none for a group mean to stand "
        "for. Use a router with k < E, or the estimator sparse.");
  c = config_of("sparsemixer", "sparse");
  CHECK(refused(c) == "[sparsemixer] k is 2. It is defined for k <= 1.");
}
