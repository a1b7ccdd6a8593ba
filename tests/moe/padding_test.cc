// Padding counts nowhere: a masked batch against the batch of its tokens, for every router and
// estimator of the registry, with live random numbers.
#include "moe/padding.h"

#include <cmath>
#include <limits>

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "moe/registry.h"
#include "ops/ops.h"
#include "tests/moe/router_cases.h"

using namespace moegrad;

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

Tensor mask_of(const std::vector<std::int32_t>& rows) {
  return Tensor::of<std::int32_t>({static_cast<std::int64_t>(rows.size())}, rows);
}

LayerConfig config_of(const RouterEntry& router, const std::string& estimator) {
  LayerConfig config;
  config.size = {3, 4, 2, 4, std::min<std::int64_t>(2, router.most_active)};
  config.router = router.name;
  config.estimator = estimator;
  config.activation = Activation::silu;
  config.options = {{"aux", "0.3"}, {"z-loss", "0.2"}, {"shared", "1"}};
  config.force = true;
  return config;
}

// Two sequences of three tokens.
LayerFixture two_sequences(const LayerConfig& config, bool training) {
  LayerFixture f = random_fixture(config, 6, training, 3);
  f.sequence = 3;
  f.attention = Rng{3, 9, 0}.uniform({2, 3, 3}, DType::f64, -1.0, 1.0);
  return f;
}

void check_same(const LayerPass& a, const LayerPass& b, const Tensor& mask) {
  CHECK(close(a.y, with_padding(b.y, mask), 0.0));
  CHECK(a.selected.same_bits(b.selected));
  CHECK(a.weights.same_bits(b.weights));
  CHECK(a.load == b.load);
  CHECK(a.dropped == b.dropped);
  REQUIRE(a.auxiliary.defined() == b.auxiliary.defined());
  if (a.auxiliary.defined()) CHECK(a.auxiliary.item() == b.auxiliary.item());
  for (std::size_t i = 0; i < b.gradients.size(); ++i) {
    CAPTURE(i);
    const Tensor& g = b.gradients[i];
    CHECK(close(a.gradients[i], i == 0 ? with_padding(g, mask) : g, 0.0));
  }
  REQUIRE(a.updates.size() == b.updates.size());
  for (std::size_t i = 0; i < b.updates.size(); ++i) {
    CHECK(a.updates[i].second.same_bits(b.updates[i].second));
  }
}

void check_padding(const LayerConfig& config) {
  CAPTURE(config.router);
  CAPTURE(config.estimator);
  const std::vector<std::vector<std::int32_t>> masks = {
      {0, 1, 1, 1, 0, 1, 1, 1},                       // in front
      {1, 0, 1, 1, 1, 1, 0, 1},                       // in the middle
      {1, 1, 1, 0, 0, 1, 1, 1, 0, 0},                 // behind
      {0, 1, 1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 1, 1, 0},  // a sequence of padding alone
  };
  for (const bool training : {true, false}) {
    CAPTURE(training);
    const LayerFixture f = two_sequences(config, training);
    const LayerPass alone = run_pass(f);
    for (std::size_t m = 0; m < masks.size(); ++m) {
      CAPTURE(m);
      const Tensor mask = mask_of(masks[m]);
      const std::int64_t sequence = m < 2 ? 4 : 5;
      PassOptions options;
      options.cotangent = with_padding(random_cotangent(alone.y.shape()), mask, 1e30);
      for (const double garbage : {0.0, 1e30, kNaN}) {
        CAPTURE(garbage);
        check_same(run_pass(padded(f, mask, sequence, garbage), options), alone, mask);
      }
    }
    LayerFixture ones = f;
    ones.mask = Tensor::full({6}, 1.0, DType::i32, Device::cpu);
    check_same(run_pass(ones), alone, Tensor());
  }
}

// Rows of t, [count, ...].
LayerFixture only(const LayerFixture& f, std::int64_t first, std::int64_t last) {
  LayerFixture part = f;
  part.values[0] = f.values[0].rows(first, last);
  part.ids = f.ids.rows(first, last);
  part.sequence = last - first;
  part.attention = {};
  return part;
}

}  // namespace

TEST_CASE("padding counts nowhere: every router") {
  for (const RouterEntry& router : routers()) check_padding(config_of(router, "sparse"));
}

TEST_CASE("padding counts nowhere: every estimator") {
  for (const EstimatorEntry& estimator : estimators()) {
    for (const std::string& router : estimator.routers) {
      check_padding(config_of(router_entry(router), estimator.name));
    }
  }
  for (const char* estimator : {"attention", "lsh-attention"}) {
    LayerConfig config = config_of(router_entry("top-k"), estimator);
    for (const auto& [name, value] : std::map<std::string, std::string>{
             {"scope", "batch"}, {"forward", "true"}, {"causal", "true"}, {"experts", "mean"}}) {
      LayerConfig other = config;
      other.options[name] = value;
      check_padding(other);
    }
  }
  LayerConfig parts = config_of(router_entry("top-k"), "sparse");
  parts.router_gradient = "ste-dense-router";
  parts.expert_gradient = "attention";
  check_padding(parts);
}

TEST_CASE("padding: sequences of different lengths are those of each alone") {
  const std::vector<std::map<std::string, std::string>> systems = {
      {{"router", "soft-moe"}},
      {{"router", "smear"}, {"dropout", "0"}},
      {{"router", "deepseek-v3"}},
      {{"router", "top-k"}, {"estimator", "attention"}, {"forward", "true"}},
      {{"router", "top-k"}, {"estimator", "attention"}, {"experts", "mean"}},
      {{"router", "top-k"}, {"estimator", "lsh-attention"}, {"planes", "1"}}};
  // Three, none, one and two tokens, by sequences of four rows.
  const Tensor mask = mask_of({0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0});
  constexpr std::int64_t kBounds[] = {0, 3, 4, 6};
  for (const auto& system : systems) {
    LayerConfig config;
    config.size = {3, 4, 2, 4, 2};
    config.activation = Activation::silu;
    config.force = true;
    for (const auto& [name, value] : system) {
      if (name == "router") {
        config.router = value;
      } else if (name == "estimator") {
        config.estimator = value;
      } else {
        config.options[name] = value;
      }
    }
    CAPTURE(config.router);
    CAPTURE(config.estimator);
    for (const bool training : {true, false}) {
      LayerFixture f = random_fixture(config, 6, training, 4);
      f.attention = {};
      LayerFixture together = padded(f, mask, 4, kNaN);
      const Tensor cotangent = random_cotangent({6, 2});
      PassOptions options;
      options.auxiliary = false;
      options.cotangent = with_padding(cotangent, mask);
      const LayerPass all = run_pass(together, options);
      const Tensor y = tokens_alone(all.y, mask);
      std::vector<Tensor> sums;
      double auxiliary = 0.0;
      for (int s = 0; s < 3; ++s) {
        CAPTURE(s);
        options.cotangent = cotangent.rows(kBounds[s], kBounds[s + 1]);
        LayerFixture one = only(f, kBounds[s], kBounds[s + 1]);
        const LayerPass alone = run_pass(one, options);
        CHECK(close(y.rows(kBounds[s], kBounds[s + 1]), alone.y, 1e-14));
        CHECK(close(tokens_alone(all.gradients[0], mask).rows(kBounds[s], kBounds[s + 1]),
                    alone.gradients[0], 1e-13));
        if (alone.auxiliary.defined()) auxiliary += alone.auxiliary.item() / 3.0;
        for (std::size_t i = 1; i < alone.gradients.size(); ++i) {
          if (s == 0)
            sums.push_back(Tensor::zeros(alone.gradients[i].shape(), DType::f64, Device::cpu));
          for (std::int64_t j = 0; j < sums[i - 1].numel(); ++j) {
            sums[i - 1].write<double>()[j] += alone.gradients[i].at(j);
          }
        }
      }
      for (std::size_t i = 0; i < sums.size(); ++i) {
        CHECK(close(all.gradients[i + 1], sums[i], 1e-13));
      }
      if (all.auxiliary.defined()) {
        CHECK(all.auxiliary.item() == doctest::Approx(auxiliary).epsilon(1e-14));
      }
    }
  }
}

// f_i of tokens, not of sequences.
TEST_CASE("padding: the balance loss of merged experts weights a sequence by its tokens") {
  LayerConfig config;
  config.size = {3, 4, 2, 4, 1};
  config.router = "smear";
  config.options = {{"aux", "1"}};
  LayerFixture f = padded(random_fixture(config, 4, false), mask_of({1, 1, 1, 0, 0, 1}), 3, kNaN);
  Tape tape;
  std::vector<Var> leaves;
  for (const Tensor& value : f.values) leaves.push_back(tape.constant(value));
  Weights weights;
  const LayerOutput out = Layer(config).forward(f.input(leaves, weights));
  const Tensor merge = out.routing.merge.value();
  const Tensor p = out.routing.scores.value();
  double expected = 0.0;
  for (std::int64_t e = 0; e < 4; ++e) {
    double mean = 0.0;
    for (std::int64_t t = 0; t < 4; ++t) mean += p.at(t * 4 + e) / 4.0;
    expected += 4.0 * mean * (3.0 * merge.at(e) + merge.at(4 + e)) / 4.0;
  }
  CHECK(out.auxiliary.value().item() == doctest::Approx(expected).epsilon(1e-14));
}

// Eight rows of zeros tie: without a mask all choose expert 0 and fill it before the tokens come.
TEST_CASE("padding takes no room") {
  LayerConfig config;
  config.size = {4, 3, 2, 4, 1};
  config.router = "switch";
  config.options = {{"capacity", "2"}, {"jitter", "0"}};
  LayerFixture f = random_fixture(config, 12, true);
  f.sequence = 1;
  std::fill_n(f.values[0].write<double>(), 8 * 4, 0.0);
  for (std::size_t i = 1; i < f.names.size(); ++i) {
    if (f.names[i] == "router.weight") f.values[i] = test::identity(4);
    if (f.names[i] == "router.bias") f.values[i] = Tensor::zeros({4}, DType::f64, Device::cpu);
  }
  const Tensor tokens = Tensor::of<double>(
      {4, 4}, {2, 1, 0, 0, 3, 0, 1, 0, 0, 2, 0, 1, 0, 0, 0, 4});  // experts 0, 0, 1, 3
  std::copy_n(tokens.data<double>(), 16, f.values[0].write<double>() + 32);
  CHECK(run_pass(f).dropped > 0.0);
  f.mask = mask_of({0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1});
  const LayerPass pass = run_pass(f);
  CHECK(pass.load == std::vector<double>{2, 1, 0, 1});
  CHECK(pass.dropped == 0.0);
}

TEST_CASE("padding: the losses of padding are in no objective") {
  for (const char* baseline : {"none", "leave-one-out", "built-in", "learned"}) {
    CAPTURE(baseline);
    LayerConfig config;
    config.size = {3, 4, 2, 4, 1};
    config.router = "categorical";
    config.estimator = "reinforce";
    config.options = {{"baseline", baseline}, {"samples", "2"}};
    if (std::string(baseline) == "built-in") config.options["copies"] = "2";
    const LayerFixture f = random_fixture(config, 6, true);
    const Tensor mask = mask_of({0, 0, 1, 1, 1, 1, 0, 0, 1, 1});
    const auto objective = [&](const LayerFixture& fixture, const Tensor& losses) {
      const Layer layer(config);
      Tape tape({.rng = Rng{3, 0, 0}});
      std::vector<Var> leaves;
      for (const Tensor& value : fixture.values) leaves.push_back(tape.variable(value));
      Weights weights;
      const LayerInput in = fixture.input(leaves, weights);
      const LayerOutput out = layer.forward(in);
      const Var o = layer.objective(sum(out.y, 1) + tape.constant(losses), out, in);
      std::vector<double> numbers = {o.value().item()};
      const Gradients g = tape.backward(o);
      for (std::size_t i = 1; i < leaves.size(); ++i) {
        const std::vector<double> all = g[leaves[i]].to_vector();
        numbers.insert(numbers.end(), all.begin(), all.end());
      }
      return numbers;
    };
    const Tensor losses = random_cotangent({6});
    CHECK(objective(padded(f, mask, 10, kNaN), with_padding(losses, mask, 1e30)) ==
          objective(f, losses));
  }
}

// As a model does it: the labels and ids of padding are -1 and 0.
TEST_CASE("padding: with an embedding and a cross-entropy it changes nothing of a step") {
  constexpr std::int32_t kPadding = 0;
  constexpr std::int32_t kIgnored = -1;
  LayerConfig config;
  config.size = {3, 4, 3, 4, 2};
  config.options = {{"aux", "0.1"}};
  const Layer layer(config);
  const LayerFixture f = random_fixture(config, 1, true);
  const Tensor words = Rng{4, 0, 0}.normal({5, 3}, DType::f64);
  const auto step = [&](bool padding) {
    Tape tape;
    const Var table = tape.variable(words);
    std::vector<Var> leaves;
    for (const Tensor& value : f.values) leaves.push_back(tape.variable(value));
    Weights weights;
    f.input(leaves, weights);
    if (!padding) {
      const Var x = embedding(table, Tensor::of<std::int32_t>({5}, {3, 1, 4, 2, 2}));
      const LayerOutput out = layer.forward(x, weights, true);
      const Tensor labels = Tensor::of<std::int32_t>({5}, {0, 2, 1, 1, 2});
      const Var loss = cross_entropy(x + out.y, labels) + out.auxiliary;
      return std::pair(loss.value().item(), tape.backward(loss)[table].to_vector());
    }
    const Tensor ids = Tensor::of<std::int32_t>({8}, {3, 1, 4, 0, 2, 2, 0, 0});
    const Tensor labels = Tensor::of<std::int32_t>({8}, {0, 2, 1, -1, 1, 2, -1, -1});
    const Var x = embedding(table, ids, kPadding);
    LayerInput in{x, weights, true};
    in.sequence = 4;  // rows of a sequence, padding among them
    in.mask = Tensor::of<std::int32_t>({8}, {1, 1, 1, 0, 1, 1, 0, 0});
    const LayerOutput out = layer.forward(in);
    const Var loss = cross_entropy(x + out.y, labels, kIgnored) + out.auxiliary;
    return std::pair(loss.value().item(), tape.backward(loss)[table].to_vector());
  };
  const auto [value, gradient] = step(false);
  const auto [masked_value, masked_gradient] = step(true);
  CHECK(masked_value == doctest::Approx(value).epsilon(1e-15));
  REQUIRE(gradient.size() == masked_gradient.size());
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    CHECK(masked_gradient[i] == doctest::Approx(gradient[i]).epsilon(1e-14));
  }
}

TEST_CASE("padding: the copies of a token have one mask") {
  const auto error = [](const std::string& estimator, const std::vector<std::int32_t>& rows,
                        bool training) {
    LayerConfig config;
    config.size = {3, 4, 2, 4, 1};
    config.router = "categorical";
    config.estimator = estimator;
    config.options[estimator == "sparse" ? "copies" : "samples"] = "2";
    LayerFixture f = random_fixture(config, 6, training);
    f.mask = mask_of(rows);
    const Layer layer(config);
    Tape tape;
    std::vector<Var> leaves;
    for (const Tensor& value : f.values) leaves.push_back(tape.variable(value));
    Weights weights;
    const LayerInput in = f.input(leaves, weights);
    try {
      const LayerOutput out = layer.forward(in);
      if (training) layer.objective(sum(out.y, 1), out, in);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  for (const char* estimator : {"sparse", "reinforce"}) {
    CAPTURE(estimator);
    CHECK(error(estimator, {0, 0, 1, 1, 1, 1}, true) == "no error");
    CHECK(error(estimator, {0, 1, 1, 0, 1, 1}, false) == "no error");
    CHECK(error(estimator, {1, 1, 1, 0, 1, 0}, true) ==
          "[mask] row 4 is a token, and not all of the 2 rows that are its copies are. Give copies "
          "of a token the same mask.");
    CHECK(error(estimator, {0, 1, 1, 0, 1, 1}, true) ==
          "[mask] row 1 is a token, and not all of the 2 rows that are its copies are. Give copies "
          "of a token the same mask.");
    CHECK(error(estimator, {1, 1, 0, 0, 1, 0}, true) ==
          "[mask] 3 rows are tokens, with 2 copies of each. Give copies of a token the same mask.");
  }
}

TEST_CASE("what is no mask") {
  LayerConfig config;
  config.size = {3, 4, 2, 4, 2};
  LayerFixture f = random_fixture(config, 4, true);
  const auto error = [&](const Tensor& mask) {
    f.mask = mask;
    try {
      run_pass(f);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("no error");
  };
  const std::string form = " for 4 rows. It must be i32 [4], 1 for a token, 0 for padding.";
  CHECK(error(mask_of({1, 1, 1})) == "[mask] the mask is i32 [3]" + form);
  CHECK(error(mask_of({1, 1, 1, 0}).reshape({2, 2})) == "[mask] the mask is i32 [2, 2]" + form);
  CHECK(error(Tensor::full({4}, 1.0, DType::f32, Device::cpu)) ==
        "[mask] the mask is f32 [4]" + form);
  CHECK(error(mask_of({1, 2, 1, 1})) ==
        "[mask] row 1 has the mask 2. Use 1 for a token, 0 for padding.");
  CHECK(error(mask_of({1, 0, 1, -1})) ==
        "[mask] row 3 has the mask -1. Use 1 for a token, 0 for padding.");
  CHECK(error(mask_of({0, 0, 0, 0})) == "[mask] all 4 rows are padding. Give at least one token.");
  CHECK(error(mask_of({0, 0, 1, 0})) == "no error");
  f.ids = Tensor::zeros({3}, DType::i32, Device::cpu);
  CHECK(error(mask_of({0, 0, 1, 0})) ==
        "[mask] the ids are i32 [3] for 4 rows. Give one i32 id for each.");
}
