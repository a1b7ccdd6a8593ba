// dselect-k and comet against loops written from their formulas.

#include <cmath>
#include <limits>

#include <doctest/doctest.h>

#include "moe/registry.h"
#include "ops/ops.h"

using namespace moegrad;

namespace {

using Values = std::vector<double>;
using OptionMap = std::map<std::string, std::string>;

// A router with drawn parameters of this size, on tokens of width D.
struct Case {
  std::string name;
  LayerSize size;
  OptionMap options = {};
  double parameters = 1.5;  // uniform within
  std::int64_t tokens = 6;
  bool training = true;
  Parameters list = {};
  Tensor x = {};

  std::unique_ptr<Router> router() const {
    const RouterEntry& entry = router_entry(name);
    Options o("router " + name, entry.options);
    for (const auto& [key, value] : options) o.set(key, value);
    return entry.make(o);
  }
  Case& draw() {
    Rng rng{3, 0, 0};
    router()->declare(size, "", list, rng);
    for (Parameter& p : list) {
      p.value = rng.uniform(p.value.shape(), DType::f64, -parameters, parameters);
    }
    x = rng.normal({tokens, size.model}, DType::f64);
    return *this;
  }
  template <class Use>
  void run(Use use) const {
    Tape tape;
    Weights weights;
    for (const Parameter& p : list) weights.set(p.name, tape.parameter(p));
    const Var v = tape.variable(x);
    use(tape, v, router()->route(size, {v, weights, training}));
  }
  // x weight + bias of one token
  Values affine(std::int64_t token, const char* weight, const char* bias) {
    const Tensor w = list.find(weight)->value;
    Values out = list.find(bias)->value.to_vector();
    for (std::size_t j = 0; j < out.size(); ++j) {
      for (std::int64_t d = 0; d < size.model; ++d) {
        out[j] += x.at(token * size.model + d) * w.at(d * w.size(1) + static_cast<std::int64_t>(j));
      }
    }
    return out;
  }
};

double step(double z, double gamma) {
  if (z <= -gamma / 2) return 0.0;
  if (z >= gamma / 2) return 1.0;
  return -2.0 * z * z * z / (gamma * gamma * gamma) + 1.5 * z / gamma + 0.5;
}

Values softmax_of(Values o) {
  double sum = 0.0;
  for (double& v : o) sum += v = std::exp(v);
  for (double& v : o) v /= sum;
  return o;
}

// Weights as the experts see them: by expert, 0 for those that are not run.
void check_weights(const Routing& r, std::int64_t token, const Values& w, bool& some_closed) {
  const auto experts = static_cast<std::int64_t>(w.size());
  for (std::int64_t e = 0; e < experts; ++e) {
    const double expected = w[static_cast<std::size_t>(e)];
    const std::int64_t at = token * experts + e;
    CHECK(r.scores.value().at(at) == doctest::Approx(expected).epsilon(1e-12));
    CHECK(r.weights.value().at(at) == r.scores.value().at(at));
    CHECK(r.selected.at(at) == (expected > 0.0 ? static_cast<double>(e) : -1.0));
    some_closed = some_closed || expected == 0.0;
  }
}

bool finite(const Tensor& t) {
  for (const double v : t.to_vector()) {
    if (!std::isfinite(v)) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("dselect-k: selectors, weights and losses") {
  const double gamma = 2.5;
  Case c{"dselect-k", {3, 1, 1, 5, 2}, {{"gamma", "2.5"}, {"entropy", "0.3"}, {"zeta", "0.02"}}};
  c.draw().run([&](Tape&, Var, const Routing& r) {
    double loss = 0.0;
    bool some_closed = false;
    for (std::int64_t t = 0; t < c.tokens; ++t) {
      const Values z = c.affine(t, "router.code", "router.code_bias");
      const Values alpha = softmax_of(c.affine(t, "router.select", "router.select_bias"));
      Values w(5, 0.0);
      for (std::size_t s = 0; s < 2; ++s) {
        double reachable = 0.0;
        for (std::size_t i = 0; i < 5; ++i) {
          double product = 1.0;
          for (std::size_t b = 0; b < 3; ++b) {
            const double one = step(z[s * 3 + b], gamma);
            product *= (i >> b) % 2 == 1 ? one : 1.0 - one;
          }
          w[i] += alpha[s] * product;
          reachable += product;
          loss -= 0.3 * product * std::log(product + 1e-6) / static_cast<double>(c.tokens);
        }
        loss += 0.02 / (reachable + 1e-6) / static_cast<double>(c.tokens);
      }
      check_weights(r, t, w, some_closed);
    }
    CHECK(some_closed);
    CHECK(r.auxiliary.value().item() == doctest::Approx(loss).epsilon(1e-11));
  });
}

TEST_CASE("dselect-k: zeta only where there are codes without an expert") {
  for (const std::int64_t experts : {4, 5}) {
    Case c{"dselect-k", {3, 1, 1, experts, 2}, {{"entropy", "0"}}};
    c.draw().run(
        [&](Tape&, Var, const Routing& r) { CHECK(r.auxiliary.defined() == (experts == 5)); });
  }
}

TEST_CASE("dselect-k: selectors at a code without an expert give zero weights, all finite") {
  Case c{"dselect-k", {3, 1, 1, 5, 2}};
  c.draw();
  c.list.find("router.code")->value = Tensor::zeros({3, 6}, DType::f64, Device::cpu);
  c.list.find("router.code_bias")->value = Tensor::full({6}, 4.0, DType::f64, Device::cpu);
  c.run([&](Tape& tape, Var x, const Routing& r) {
    for (const double e : r.selected.to_vector()) CHECK(e == -1.0);
    CHECK(r.auxiliary.value().item() == doctest::Approx(2e6).epsilon(1e-12));
    CHECK(finite(r.logits.value()));
    const Gradients g = tape.backward(sum(r.weights) + sum(square(r.logits)) + r.auxiliary);
    CHECK(finite(g[x]));
    for (const Parameter& p : c.list) CHECK(finite(g[p]));
  });
}

TEST_CASE("dselect-k: initial parameters are small, biases too") {
  Case c{"dselect-k", {30, 1, 1, 8, 2}, {{"gamma", "3"}}};
  Rng rng{1, 0, 0};
  c.router()->declare(c.size, "", c.list, rng);
  for (const char* name : {"router.code", "router.code_bias"}) {
    double largest = 0.0;
    for (const double v : c.list.find(name)->value.to_vector())
      largest = std::fmax(largest, std::abs(v));
    CHECK(largest <= 0.03);
    CHECK(largest > 0.01);
  }
}

TEST_CASE("comet: leaves of perfect and other trees") {
  const double gamma = 2.5;
  for (const std::int64_t experts : {4, 6, 7}) {
    CAPTURE(experts);
    Case c{"comet", {3, 1, 1, experts, 2}, {{"gamma", "2.5"}, {"entropy", "0.3"}}};
    c.draw().run([&](Tape&, Var, const Routing& r) {
      double loss = 0.0;
      bool some_closed = false;
      const auto n = static_cast<std::size_t>(experts);
      for (std::int64_t t = 0; t < c.tokens; ++t) {
        const Values z = c.affine(t, "router.split", "router.split_bias");
        const Values leaf = c.affine(t, "router.leaf", "router.leaf_bias");
        Values w(n, 0.0);
        double total = 0.0;
        for (std::size_t tree = 0; tree < 2; ++tree) {
          double all = 0.0;
          for (std::size_t i = 0; i < n; ++i) {
            double p = 1.0;  // from the leaf up to the root
            for (std::size_t node = n + i; node > 1; node /= 2) {
              const double left = step(z[tree * (n - 1) + node / 2 - 1], gamma);
              p *= node % 2 == 0 ? left : 1.0 - left;
            }
            all += p;
            loss -= 0.3 * p * std::log(p + 1e-6) / static_cast<double>(c.tokens);
            if (p > 0.0) w[i] += std::exp(leaf[tree * n + i] + std::log(p));
          }
          CHECK(all == doctest::Approx(1.0).epsilon(1e-12));
        }
        for (const double v : w) total += v;
        for (double& v : w) v /= total;
        check_weights(r, t, w, some_closed);
      }
      CHECK(some_closed);
      CHECK(r.auxiliary.value().item() == doctest::Approx(loss).epsilon(1e-11));
    });
  }
}

TEST_CASE("comet: the scores are the softmax of the logits, and sum to 1") {
  Case c{"comet", {3, 1, 1, 6, 3}};
  c.draw().run([&](Tape&, Var, const Routing& r) {
    for (std::int64_t t = 0; t < c.tokens; ++t) {
      double sum = 0.0;
      for (std::int64_t e = 0; e < 6; ++e) sum += r.weights.value().at(t * 6 + e);
      CHECK(sum == doctest::Approx(1.0).epsilon(1e-14));
    }
    CHECK(softmax(r.logits).value().same_bits(r.scores.value()));
  });
}

// All splits go one way, and the leaves that nothing reaches have the largest logits.
TEST_CASE("comet: a leaf of probability 0 has no weight whatever its logit, and no NaN") {
  for (const DType dtype : {DType::f64, DType::f32}) {
    Case c{"comet", {3, 1, 1, 4, 2}};
    c.draw();
    c.list.find("router.split")->value = Tensor::zeros({3, 6}, DType::f64, Device::cpu);
    c.list.find("router.split_bias")->value = Tensor::full({6}, 1.0, DType::f64, Device::cpu);
    c.list.find("router.leaf_bias")->value =
        Tensor::of<double>({8}, {-1e4, 1e4, 1e4, 1e4, -1e4, 1e4, 1e4, 1e4});
    for (Parameter& p : c.list) p.value = p.value.to(dtype);
    c.x = c.x.to(dtype);
    c.run([&](Tape& tape, Var x, const Routing& r) {
      for (std::int64_t t = 0; t < c.tokens; ++t) {
        CHECK(r.weights.value().at(t * 4) == 1.0);
        for (std::int64_t e = 1; e < 4; ++e) CHECK(r.selected.at(t * 4 + e) == -1.0);
      }
      const Var a = tape.constant(Rng{5, 0, 0}.normal(r.weights.shape(), dtype));
      const Gradients g = tape.backward(sum(r.weights * a));
      CHECK(finite(g[x]));
      for (const Parameter& p : c.list) CHECK(finite(g[p]));
    });
  }
}

TEST_CASE("dselect-k and comet: once all bits are settled at most k experts run") {
  for (const char* name : {"dselect-k", "comet"}) {
    CAPTURE(name);
    Case c{name, {3, 1, 1, 8, 3}, {{"gamma", "1e-4"}}};
    c.draw().run([&](Tape&, Var, const Routing& r) {
      for (std::int64_t t = 0; t < c.tokens; ++t) {
        std::int64_t used = 0;
        for (std::int64_t e = 0; e < 8; ++e) used += r.selected.at(t * 8 + e) >= 0.0 ? 1 : 0;
        CHECK(used >= 1);
        CHECK(used <= 3);
      }
    });
  }
}

TEST_CASE("dselect-k and comet: inference is training, and one expert has weight 1") {
  for (const char* name : {"dselect-k", "comet"}) {
    CAPTURE(name);
    Case c{name, {3, 1, 1, 6, 2}};
    Tensor trained;
    c.draw().run([&](Tape&, Var, const Routing& r) { trained = r.weights.value(); });
    c.training = false;
    c.run([&](Tape&, Var, const Routing& r) { CHECK(r.weights.value().same_bits(trained)); });
    Case one{name, {3, 1, 1, 1, 1}};
    one.draw().run([&](Tape&, Var, const Routing& r) {
      for (const double w : r.weights.value().to_vector()) CHECK(w == 1.0);
    });
  }
}
