#include "lab/tape_programs.h"

#include <algorithm>
#include <set>
#include <string>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "lab/tape_page.h"
#include "moe/registry.h"

namespace moegrad {
namespace {

// A small program that has run, with the adjoint of each named value.
class Ran {
 public:
  explicit Ran(const std::string& name) : tape_({.rng = Rng{1}}) {
    for (const SmallProgram& p : small_programs()) {
      if (p.name == name) recorded_ = p.record(tape_);
    }
    REQUIRE(recorded_.output.defined());
    BackwardOptions options{.retain = true};
    for (const auto& named : recorded_.names) {
      if (named.first.needs_gradient()) options.keep.push_back(named.first);
    }
    gradients_ = tape_.backward(recorded_.output, options);
  }
  std::vector<double> value(const std::string& name) const { return of(name).value().to_vector(); }
  std::vector<double> adjoint(const std::string& name) const {
    return gradients_[of(name)].to_vector();
  }

 private:
  Var of(const std::string& name) const {
    for (const auto& [v, n] : recorded_.names) {
      if (n == name) return v;
    }
    FAIL("no value " << name);
    return {};
  }
  Tape tape_;
  Recorded recorded_;
  Gradients gradients_;
};

void check_equal(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) CHECK(a[i] == doctest::Approx(b[i]).epsilon(1e-12));
}

TEST_CASE("small programs: each has a name of its own, and every name is of one value") {
  std::set<std::string> names = {"layer"};
  for (const SmallProgram& p : small_programs()) {
    CHECK(names.insert(p.name).second);
    Tape tape;
    const Recorded r = p.record(tape);
    CHECK(tape.size() <= 40);
    std::set<std::string> values;
    for (const auto& named : r.names) CHECK(values.insert(named.second).second);
  }
}

TEST_CASE("softmax: the adjoint of the logits is (p - 1[label]) / 2") {
  const Ran ran("softmax");
  std::vector<double> want = ran.value("p");
  want[0] -= 1.0;
  want[5] -= 1.0;
  for (double& v : want) v /= 2.0;
  check_equal(ran.adjoint("logits"), want);
}

TEST_CASE("straight-through: the values of the sign, the gradient of tanh") {
  const Ran ran("straight-through");
  CHECK(ran.value("y") == std::vector<double>{-1.0, -1.0, 1.0, 1.0});
  CHECK(ran.value("y") == ran.value("hard"));
  const std::vector<double> dy = ran.adjoint("y");
  const std::vector<double> soft = ran.value("soft");
  std::vector<double> want;
  for (std::size_t i = 0; i < 4; ++i) want.push_back(dy[i] * (1.0 - soft[i] * soft[i]));
  check_equal(ran.adjoint("x"), want);
  CHECK(ran.adjoint("hard") == std::vector<double>(4, 0.0));
}

TEST_CASE("top-k and dense-gradient: one value, two gradients") {
  const Ran sparse("top-k");
  const Ran dense("dense-gradient");
  CHECK(sparse.value("loss") == dense.value("loss"));
  // Experts 1 and 3 are selected.
  const std::vector<double> of_outputs = sparse.adjoint("outputs of experts");
  for (const std::size_t i : {0U, 1U, 4U, 5U}) CHECK(of_outputs[i] == 0.0);
  for (const std::size_t i : {2U, 3U, 6U, 7U}) CHECK(of_outputs[i] != 0.0);
  // dL/do_e = p_e (a_e - sum p a), a_e = <dL/dy, E_e>, in top-k with a_e = 0 off the selected.
  const std::vector<double> p = sparse.value("p");
  const std::vector<double> dy = sparse.adjoint("y");
  const std::vector<double> outputs = sparse.value("outputs of experts");
  std::vector<double> a;
  for (std::size_t e = 0; e < 4; ++e) {
    a.push_back(dy[0] * outputs[2 * e] + dy[1] * outputs[2 * e + 1]);
  }
  const auto of_logits = [&](std::vector<double> parts) {
    double mean = 0.0;
    for (std::size_t e = 0; e < 4; ++e) mean += p[e] * parts[e];
    for (std::size_t e = 0; e < 4; ++e) parts[e] = p[e] * (parts[e] - mean);
    return parts;
  };
  check_equal(dense.adjoint("logits"), of_logits(a));
  check_equal(sparse.adjoint("logits"), of_logits({0.0, a[1], 0.0, a[3]}));
}

TEST_CASE("score-function: the objective has the value of the loss, and L d log p as gradient") {
  const Ran ran("score-function");
  CHECK(ran.value("objective") == ran.value("loss"));
  CHECK(ran.value("score, value 0") == std::vector<double>{0.0});
  check_equal(ran.adjoint("log p of the drawn"), ran.value("loss"));
}

TEST_CASE("twice: the adjoint of x is tanh x + x (1 - tanh^2 x)") {
  const Ran ran("twice");
  const std::vector<double> x = ran.value("x");
  const std::vector<double> y = ran.value("tanh x");
  std::vector<double> want;
  for (std::size_t i = 0; i < 3; ++i) want.push_back(y[i] + x[i] * (1.0 - y[i] * y[i]));
  check_equal(ran.adjoint("x"), want);
}

TEST_CASE("a layer of every router and of every estimator fits on a page, in both forms") {
  const auto check = [](const std::string& router, const std::string& estimator) {
    for (const Form form : {Form::fused, Form::written}) {
      CAPTURE(router);
      CAPTURE(estimator);
      Tape tape({.rng = Rng{1}});
      Parameters parameters;
      LayerProgram program;
      program.form = form;
      program.config.router = router;
      program.config.estimator = estimator;
      const RouterEntry& entry = router_entry(router);
      const bool one = entry.traits.categorical || estimator_entry(estimator).traits.categorical;
      const std::int64_t active =
          one ? 1 : std::clamp<std::int64_t>(2, entry.least_active, entry.most_active);
      program.config.size = {.model = 2, .hidden = 3, .output = 2, .experts = 4, .active = active};
      if (router == "softmax") program.config.size.active = 4;
      const Recorded r = record_layer(tape, program, parameters);
      CHECK(tape.size() <= kMostNodes);
      CHECK(r.output.shape() == Shape{});
      CHECK(tape_page_data(tape, r.output, {.names = r.names}).find("\"x\"") != std::string::npos);
    }
  };
  for (const RouterEntry& router : routers()) check(router.name, "sparse");
  for (const EstimatorEntry& estimator : estimators()) {
    check(estimator.routers.front(), estimator.name);
  }
}

TEST_CASE("a layer: the adjoint of y is dy, parameters are named, no token is refused") {
  Tape tape;
  Parameters parameters;
  LayerProgram program;
  program.config.size = {.model = 2, .hidden = 3, .output = 2, .experts = 4, .active = 2};
  const Recorded r = record_layer(tape, program, parameters);
  std::set<std::string> names;
  for (const auto& named : r.names) names.insert(named.second);
  for (const char* name : {"x", "dy", "router.weight", "experts.w1", "y", "loss", "logits"}) {
    CHECK(names.contains(name));
  }
  program.tokens = 0;
  CHECK_THROWS_WITH_AS(record_layer(tape, program, parameters),
                       "[tape] there are 0 tokens. Give at least 1.", Error);
}

}  // namespace
}  // namespace moegrad
