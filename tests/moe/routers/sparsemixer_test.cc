// sparsemixer and sparsemixer-v2 by their formulas, and the bias that the argmax rule adds.

#include <cmath>

#include <doctest/doctest.h>

#include "autograd/expectation.h"
#include "moe/checks/check.h"
#include "ops/ops.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

using Values = std::map<std::string, std::string>;

LayerSize size_of(std::int64_t experts, std::int64_t active) {
  return {experts, 1, 2, experts, active};
}

std::unique_ptr<Router> router(const std::string& name, const Values& values = {}) {
  const RouterEntry& entry = router_entry(name);
  Options options("router " + name, entry.options);
  for (const auto& [key, value] : values) options.set(key, value);
  return entry.make(options);
}

Tensor identity(std::int64_t n) {
  Tensor t = Tensor::zeros({n, n}, DType::f64, Device::cpu);
  for (std::int64_t i = 0; i < n; ++i) t.write<double>()[i * n + i] = 1.0;
  return t;
}

Weights identity_weights(Tape& tape, std::int64_t experts) {
  Weights weights;
  weights.set("router.weight", tape.constant(identity(experts)));
  weights.set("router.omega", tape.constant(Tensor::full({2}, 1.0, DType::f64, Device::cpu)));
  return weights;
}

// Softmax over the allowed of one row, exactly 0 elsewhere.
std::vector<double> masked_softmax(const std::vector<double>& z, const std::vector<bool>& allowed) {
  std::vector<double> p(z.size(), 0.0);
  double sum = 0.0;
  for (std::size_t e = 0; e < z.size(); ++e) {
    if (allowed[e]) sum += std::exp(z[e]);
  }
  for (std::size_t e = 0; e < z.size(); ++e) {
    if (allowed[e]) p[e] = std::exp(z[e]) / sum;
  }
  return p;
}

// A layer whose logits are x and whose experts are constant.
struct Constant {
  LayerConfig config;
  Tensor outputs;  // [E, 2]

  LayerOutput operator()(Tape& tape, Var x, bool training = true) const {
    const std::int64_t e = config.size.experts;
    weights_ = identity_weights(tape, e);
    weights_.set("experts.w1", tape.constant(Tensor::zeros({e, e, 1}, DType::f64, Device::cpu)));
    weights_.set("experts.w2", tape.constant(Tensor::zeros({e, 1, 2}, DType::f64, Device::cpu)));
    weights_.set("experts.b2", tape.constant(outputs));
    return Layer(config).forward(x, weights_, training);
  }

 private:
  mutable Weights weights_;
};

Constant constant_layer(const std::string& name, std::int64_t experts, std::int64_t active,
                        Values options = {}) {
  Constant c;
  c.config.size = size_of(experts, active);
  c.config.router = name;
  c.config.estimator = name;
  c.config.options = std::move(options);
  c.outputs = Rng{8, 0, 0}.uniform({experts, 2}, DType::f64, -1.5, 2.0);
  return c;
}

}  // namespace

TEST_CASE("the mask leaves out who is too far below the largest, by exact zeros") {
  // 2 epsilon max(|z|, z_max): largest 5: 4.2 stays, 3.9 goes; largest -1: -1.2 stays, -1.3 goes
  const Tensor z = Tensor::of<double>({3, 4}, {5.0, 4.2, 3.9, 4.5, -1.0, -1.2, -1.3, -9.0,  //
                                               0.0, 0.0, -1e-3, -2.0});
  const std::vector<std::vector<bool>> allowed = {
      {true, true, false, true}, {true, true, false, false}, {true, true, false, false}};
  for (const char* name : {"sparsemixer", "sparsemixer-v2"}) {
    Tape tape;
    const Var x = tape.variable(z);
    const Routing r = router(name)->route(size_of(4, 1), {x, identity_weights(tape, 4), true});
    const Tensor p = r.scores.value();
    const Tensor a = Rng{9, 0, 0}.normal({3, 4}, DType::f64);
    const Gradients g = tape.backward(sum(r.scores * tape.constant(a)));
    for (std::size_t t = 0; t < 3; ++t) {
      std::vector<double> row;
      for (std::size_t e = 0; e < 4; ++e) row.push_back(z.at(static_cast<std::int64_t>(t * 4 + e)));
      const std::vector<double> expected = masked_softmax(row, allowed[t]);
      for (std::size_t e = 0; e < 4; ++e) {
        const auto i = static_cast<std::int64_t>(t * 4 + e);
        CHECK(p.at(i) == doctest::Approx(expected[e]).epsilon(1e-14));
        CHECK((p.at(i) == 0.0) == !allowed[t][e]);
        if (!allowed[t][e]) CHECK(g[x].at(i) == 0.0);
      }
      CHECK(allowed[t][static_cast<std::size_t>(r.selected.data<std::int32_t>()[t])]);
    }
  }
}

TEST_CASE("draws and factors have their probabilities, with and without the argmax rule") {
  const std::vector<double> z = {4.0, 4.3, 4.1};
  const std::vector<double> p = masked_softmax(z, {true, true, true});
  for (const bool first : {true, false}) {
    for (const bool rule : {true, false}) {
      const auto r = router(first ? "sparsemixer" : "sparsemixer-v2",
                            {{"argmax-rule", rule ? "true" : "false"}});
      const double small = first ? 1.0 / 2.0 : 1.0 / 3.0;
      const double chance = first ? 1.0 / 2.0 : 3.0 / 4.0;
      double mass[3][2] = {};
      Decisions decisions = Decisions::enumerator();
      do {
        Tape tape({.decisions = &decisions});
        const Routing routing = r->route(
            size_of(3, 1),
            {tape.constant(Tensor::of<double>({1, 3}, z)), identity_weights(tape, 3), true});
        const auto d = static_cast<std::size_t>(routing.selected.data<std::int32_t>()[0]);
        const double s = routing.scale.at(0);
        CHECK((s == 1.0 || s == small));
        CHECK(routing.weights.value().at(0) == doctest::Approx(s * p[d]).epsilon(1e-14));
        mass[d][s == 1.0 ? 0 : 1] += decisions.probability();
      } while (decisions.next_outcome());
      for (std::size_t d = 0; d < 3; ++d) {
        const double smaller = rule && d == 1 ? 0.0 : chance;
        CHECK(mass[d][1] == doctest::Approx(p[d] * smaller).epsilon(1e-13));
        CHECK(mass[d][0] == doctest::Approx(p[d] * (1.0 - smaller)).epsilon(1e-13));
      }
    }
  }
}

TEST_CASE("v2 with k = 2: the second draw is of the rest, with its own mask") {
  // Without expert 0 the largest is 4.2 and 3.4 comes back in.
  const std::vector<double> z = {5.0, 4.2, 3.4, 0.1};
  double seen = 0.0;
  Decisions decisions = Decisions::enumerator();
  do {
    Tape tape({.decisions = &decisions});
    const Var x = tape.variable(Tensor::of<double>({1, 4}, z));
    const Routing r =
        router("sparsemixer-v2")->route(size_of(4, 2), {x, identity_weights(tape, 4), true});
    const auto d1 = static_cast<std::size_t>(r.selected.data<std::int32_t>()[0]);
    const auto d2 = static_cast<std::size_t>(r.selected.data<std::int32_t>()[1]);
    CHECK(d1 <= 1);
    const std::vector<bool> rest = d1 == 0 ? std::vector<bool>{false, true, true, false}
                                           : std::vector<bool>{true, false, false, false};
    const std::vector<double> p = masked_softmax(z, rest);
    CHECK(p[d2] > 0.0);
    CHECK(r.weights.value().at(1) == doctest::Approx(r.scale.at(1) * p[d2]).epsilon(1e-14));
    const Tensor second = Tensor::of<double>({1, 2}, {0.0, 1.0});
    const Gradients g = tape.backward(sum(r.weights * tape.constant(second)));
    for (std::size_t e = 0; e < 4; ++e) {  // nothing for the logit of D1
      const double expected = r.scale.at(1) * p[d2] * ((e == d2 ? 1.0 : 0.0) - p[e]);
      CHECK(g[x].at(static_cast<std::int64_t>(e)) ==
            doctest::Approx(rest[e] ? expected : 0.0).epsilon(1e-13));
    }
    seen += decisions.probability();
  } while (decisions.next_outcome());
  CHECK(seen == doctest::Approx(1.0));
}

TEST_CASE("inference: the largest, s = 1, the mask on") {
  const std::vector<double> z = {4.2, 5.0, 3.4, 0.1};
  Tape tape;
  const Var x = tape.constant(Tensor::of<double>({1, 4}, z));
  const Routing r =
      router("sparsemixer-v2")->route(size_of(4, 2), {x, identity_weights(tape, 4), false});
  CHECK(r.selected.data<std::int32_t>()[0] == 1);
  CHECK(r.selected.data<std::int32_t>()[1] == 0);
  CHECK_FALSE(r.scale.defined());
  CHECK(r.weights.value().at(0) ==
        doctest::Approx(masked_softmax(z, {true, true, false, false})[1]).epsilon(1e-14));
  CHECK(r.weights.value().at(1) ==
        doctest::Approx(masked_softmax(z, {true, false, true, false})[0]).epsilon(1e-14));
}

TEST_CASE("the balance loss: v1 of the masked softmax, v2 of the softmax") {
  const Tensor z = Tensor::of<double>({2, 3}, {5.0, 4.5, 1.0, 2.0, 4.0, 3.9});
  for (const bool first : {true, false}) {
    Tape tape;
    const Routing r =
        router(first ? "sparsemixer" : "sparsemixer-v2", {{"alpha", "0.3"}})
            ->route(size_of(3, 1), {tape.constant(z), identity_weights(tape, 3), true});
    std::vector<double> mean(3, 0.0);
    for (std::size_t t = 0; t < 2; ++t) {
      std::vector<double> row;
      for (std::size_t e = 0; e < 3; ++e) row.push_back(z.at(static_cast<std::int64_t>(t * 3 + e)));
      std::vector<bool> allowed = {true, true, true};
      if (first) allowed[t == 0 ? 2 : 0] = false;
      const std::vector<double> p = masked_softmax(row, allowed);
      for (std::size_t e = 0; e < 3; ++e) mean[e] += p[e] / 2.0;
    }
    double expected = 0.0;
    for (const std::int32_t e : r.selected.values<std::int32_t>()) {
      expected += 0.3 * 3.0 * 0.5 * mean[static_cast<std::size_t>(e)];
    }
    CHECK(r.auxiliary.value().item() == doctest::Approx(expected).epsilon(1e-14));
  }
}

TEST_CASE("the gradients: c <g, E_D> p_D (1_D - p) without s, experts s p_D g, omega") {
  const std::vector<double> z = {4.0, 4.3, 4.1};
  const std::vector<double> p = masked_softmax(z, {true, true, true});
  for (const bool first : {true, false}) {
    for (const int half : {0, 1}) {
      for (const Form form : {Form::fused, Form::written}) {
        Constant c = constant_layer(first ? "sparsemixer" : "sparsemixer-v2", 3, 1);
        Decisions decisions;
        decisions.give("selected", Tensor::of<std::int32_t>({1, 1}, {2}));
        decisions.give("half", Tensor::of<std::int32_t>({1}, {half}));
        Tape tape({.decisions = &decisions});
        const Var x = tape.variable(Tensor::of<double>({1, 3}, z));
        const Var b2 = tape.variable(c.outputs);
        const Tensor gain = Tensor::of<double>({2}, {0.7, 1.4});
        const Var omega = tape.variable(gain);
        Weights weights;
        weights.set("router.weight", tape.constant(identity(3)));
        weights.set("router.omega", omega);
        weights.set("experts.w1", tape.constant(Tensor::zeros({3, 3, 1}, DType::f64, Device::cpu)));
        weights.set("experts.w2", tape.constant(Tensor::zeros({3, 1, 2}, DType::f64, Device::cpu)));
        weights.set("experts.b2", b2);
        Layer layer(c.config);
        layer.set_form(form);
        const LayerOutput out = layer.forward(x, weights, true);
        const Tensor y = out.y.value();
        const double g[2] = {0.6, -1.1};
        const Gradients gradients =
            tape.backward(sum(out.y * tape.constant(Tensor::of<double>({1, 2}, {g[0], g[1]}))));
        const double s = half == 0 ? 1.0 : first ? 1.0 / 2.0 : 1.0 / 3.0;
        double product = 0.0;
        for (std::int64_t d = 0; d < 2; ++d) {
          const double o = first ? gain.at(d) : 1.0;
          const double e = c.outputs.at(2 * 2 + d);
          product += g[d] * o * e;
          CHECK(y.at(d) == doctest::Approx(o * s * p[2] * e).epsilon(1e-14));
          CHECK(gradients[b2].at(4 + d) == doctest::Approx(s * p[2] * o * g[d]).epsilon(1e-14));
          CHECK(gradients[b2].at(d) == 0.0);
          if (first) {
            CHECK(gradients[omega].at(d) == doctest::Approx(s * p[2] * e * g[d]).epsilon(1e-14));
          }
        }
        for (std::size_t q = 0; q < 3; ++q) {
          const double expected =
              (first ? 2.0 : 1.0) * product * p[2] * ((q == 2 ? 1.0 : 0.0) - p[q]);
          CHECK(gradients[x].at(static_cast<std::int64_t>(q)) ==
                doctest::Approx(expected).epsilon(1e-13));
        }
      }
    }
  }
}

// The mean gradient for a loss that the version is exact for, by enumeration, against the closed
// form of the exact one: equal without the argmax rule, measurably not with it. One of the four
// experts is masked.
TEST_CASE("the argmax rule adds a bias") {
  const std::vector<double> z = {4.0, 4.3, 4.1, 2.0};
  const std::vector<double> p = masked_softmax(z, {true, true, true, false});
  for (const bool first : {true, false}) {
    for (const bool rule : {false, true}) {
      const Constant layer =
          constant_layer(first ? "sparsemixer" : "sparsemixer-v2", 4, 1,
                         {{"alpha", "0"}, {"argmax-rule", rule ? "true" : "false"}});
      const Program loss = [&](Tape& tape, std::span<const Var> in) {
        const Var y = layer(tape, in[0]).y;
        const Var c = tape.constant(Tensor::of<double>({2}, {1.2, -0.7}));
        return sum(square(sum(y * c, 1)) + sum(y * c, 1));
      };
      ExpectationOptions options;
      options.bias = false;
      const Expectation e = expectation(loss, {Tensor::of<double>({1, 4}, z)}, options);
      double bias = 0.0;
      for (std::size_t q = 0; q < 4; ++q) {
        double expected = 0.0;
        for (std::size_t i = 0; i < 4; ++i) {
          const auto at = static_cast<std::int64_t>(2 * i);
          const double inner = 1.2 * layer.outputs.at(at) - 0.7 * layer.outputs.at(at + 1);
          const double u = p[i] * inner;
          double v = u * u + u;                        // f
          if (first) v += p[i] * inner * (2 * u + 1);  // + p f'
          expected += v * p[i] * ((q == i ? 1.0 : 0.0) - p[q]);
        }
        bias += std::abs(e.gradient[0].at(static_cast<std::int64_t>(q)) - expected);
      }
      CAPTURE(first);
      CAPTURE(rule);
      if (rule) {
        CHECK(bias > 1e-4);
      } else {
        CHECK(bias < 1e-13);
      }
      CHECK(e.gradient[0].at(3) == 0.0);
    }
  }
}

TEST_CASE("on a router without a factor s is 1: twice the sparse gradient, and the sparse one") {
  for (const bool first : {true, false}) {
    LayerConfig c;
    c.size = {3, 4, 2, 4, 1};
    c.activation = Activation::gelu;
    LayerFixture f = random_fixture(c, 5, true);
    const LayerPass sparse = run_pass(f);
    f.config.estimator = first ? "sparsemixer" : "sparsemixer-v2";
    const LayerPass pass = run_pass(f);
    CHECK(pass.y.same_bits(sparse.y));
    for (std::int64_t i = 0; i < pass.gradients[2].numel(); ++i) {
      CHECK(pass.gradients[2].at(i) ==
            doctest::Approx((first ? 2.0 : 1.0) * sparse.gradients[2].at(i)).epsilon(1e-13));
    }
  }
}

TEST_CASE("what they refuse") {
  const auto refused = [](const char* name, std::int64_t k, const char* router) {
    return error_of([&] {
      LayerConfig c;
      c.size = {3, 4, 2, 4, k};
      c.router = router;
      c.estimator = name;
      const Layer layer(c);
    });
  };
  CHECK(refused("sparsemixer", 2, "sparsemixer") ==
        "[layer] k is 2, too many for router sparsemixer. Use k <= 1.");
  CHECK(refused("sparsemixer-v2", 3, "sparsemixer-v2") ==
        "[layer] k is 3, too many for router sparsemixer-v2. Use k <= 2.");
  CHECK(refused("sparsemixer", 2, "top-k") == "[sparsemixer] k is 2. It is defined for k <= 1.");
}
