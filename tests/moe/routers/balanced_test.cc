// x-moe, hash, deepseek-v1, deepseek-v3, loss-free against plain loops over their formulas.

#include <algorithm>

#include <doctest/doctest.h>

#include "moe/layer.h"
#include "ops/ops.h"
#include "tests/moe/router_cases.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using namespace moegrad::test;
using Ids = std::vector<std::int32_t>;

namespace {

constexpr std::int64_t kTokens = 5, kModel = 3, kExperts = 6, kActive = 2;
const LayerSize kSize{kModel, 1, 1, kExperts, kActive};

Tensor features() { return Rng{4, 0, 0}.normal({kTokens, kModel}, DType::f64); }

Parameters declared(const Router& router, const LayerSize& size) {
  Parameters parameters;
  Rng rng{9, 0, 0};
  router.declare(size, "", parameters, rng);
  return parameters;
}

Weights bind(Tape& tape, const Parameters& parameters) {
  Weights weights;
  for (const Parameter& p : parameters) {
    weights.set(p.name, p.trained ? tape.parameter(p) : tape.constant(p.value));
  }
  return weights;
}

double sigmoid_of(double z) { return 1.0 / (1.0 + std::exp(-z)); }

// cos(x W, e_i) of a token for every expert.
std::vector<double> cosines(const Tensor& x, std::int64_t t, const Tensor& w, const Tensor& e) {
  const std::int64_t d = w.size(1);
  std::vector<double> h(static_cast<std::size_t>(d), 0.0);
  for (std::int64_t j = 0; j < d; ++j) {
    for (std::int64_t i = 0; i < kModel; ++i) {
      h[static_cast<std::size_t>(j)] += x.at(t * kModel + i) * w.at(i * d + j);
    }
  }
  std::vector<double> out;
  for (std::int64_t i = 0; i < e.size(0); ++i) {
    double product = 0.0;
    double hh = 0.0;
    double ee = 0.0;
    for (std::int64_t j = 0; j < d; ++j) {
      const double a = h[static_cast<std::size_t>(j)];
      const double b = e.at(i * d + j);
      product += a * b;
      hh += a * a;
      ee += b * b;
    }
    out.push_back(product / std::sqrt(hh * ee));
  }
  return out;
}

}  // namespace

TEST_CASE("x-moe: temperature and both norms; sigmoid or softmax weights; balance loss") {
  for (const std::string gate : {"sigmoid", "softmax"}) {
    const std::unique_ptr<Router> router = router_of("x-moe", {{"gate", gate}, {"balance", "0.4"}});
    const Parameters parameters = declared(*router, kSize);
    Tape tape;
    const Weights weights = bind(tape, parameters);
    const Tensor x = features();
    const Routing r = router->route(kSize, {tape.constant(x), weights, true});
    const Tensor w = weights.at("router.project").value();
    const Tensor e = weights.at("router.embedding").value();
    std::vector<double> counts(kExperts, 0.0);
    std::vector<double> means(kExperts, 0.0);
    for (std::int64_t t = 0; t < kTokens; ++t) {
      const std::vector<double> s = cosines(x, t, w, e);
      std::vector<double> sorted = s;
      std::sort(sorted.rbegin(), sorted.rend());
      double all = 0.0;
      double chosen = 0.0;
      for (const double v : s) all += std::exp(v / 0.07);
      for (std::int64_t j = 0; j < kActive; ++j) {
        chosen += std::exp(sorted[static_cast<std::size_t>(j)] / 0.07);
      }
      for (std::int64_t j = 0; j < kActive; ++j) {
        const double v = sorted[static_cast<std::size_t>(j)];
        const auto i = static_cast<std::size_t>(r.selected.data<std::int32_t>()[t * kActive + j]);
        CHECK(s[i] == doctest::Approx(v).epsilon(1e-12));
        counts[i] += 1.0 / (kTokens * kActive);
        const double expected =
            gate == "sigmoid" ? sigmoid_of(v / 0.07) : std::exp(v / 0.07) / chosen;
        CHECK(r.weights.value().at(t * kActive + j) == doctest::Approx(expected).epsilon(1e-9));
      }
      for (std::size_t i = 0; i < s.size(); ++i) means[i] += std::exp(s[i] / 0.07) / all / kTokens;
    }
    double loss = 0.0;
    for (std::size_t i = 0; i < counts.size(); ++i) loss += 0.4 * kExperts * counts[i] * means[i];
    CHECK(r.auxiliary.value().item() == doctest::Approx(loss).epsilon(1e-9));
    // The length of a token's features does not matter, nor that of an embedding.
    Tensor scaled = x.clone();
    for (double& v : scaled.write_values<double>()) v *= 50.0;
    Tensor embedding = e.clone();
    for (double& v : embedding.write_values<double>()) v *= 3.0;
    Weights other;
    for (const auto& [name, value] : weights) {
      other.set(name, name == "router.embedding" ? tape.constant(embedding) : value);
    }
    const Routing same = router->route(kSize, {tape.constant(scaled), other, false});
    for (std::int64_t i = 0; i < r.logits.value().numel(); ++i) {
      CHECK(same.logits.value().at(i) == doctest::Approx(r.logits.value().at(i)).epsilon(1e-6));
    }
  }
}

// A cosine is of directions alone: 1e-25 and 1e25 times the features, whose squares f32 does not
// hold.
TEST_CASE("x-moe and soft-moe: the length of a token does not matter, however small or large") {
  for (const char* name : {"x-moe", "soft-moe"}) {
    CAPTURE(name);
    const std::unique_ptr<Router> router = router_of(name);
    const Parameters parameters = declared(*router, kSize);
    std::vector<std::vector<double>> results;
    for (const double length : {1.0, 1e-25, 1e25}) {
      Tape tape;
      Weights weights;
      for (const Parameter& p : parameters) {
        weights.set(p.name, tape.constant(p.value.to(DType::f32)));
      }
      Tensor x = features().clone();
      for (double& v : x.write_values<double>()) v *= length;
      const Routing r = router->route(kSize, {tape.constant(x.to(DType::f32)), weights, true});
      results.push_back((r.mix.defined() ? r.mix : r.logits).value().to_vector());
      for (std::size_t i = 0; i < results[0].size(); ++i) {
        CHECK(results.back()[i] == doctest::Approx(results[0][i]).epsilon(1e-4));
      }
    }
  }
}

TEST_CASE("x-moe: initial embeddings, the floor of the temperature, and a token of zeros") {
  const std::unique_ptr<Router> router = router_of("x-moe");
  Parameters parameters = declared(*router, kSize);
  const Tensor e = parameters.find("router.embedding")->value;
  CHECK(e.shape() == Shape{kExperts, kExperts / 2});
  for (std::int64_t a = 0; a < 3; ++a) {
    for (std::int64_t b = 0; b < 3; ++b) {
      double product = 0.0;
      for (std::int64_t i = 0; i < kExperts; ++i) product += e.at(i * 3 + a) * e.at(i * 3 + b);
      CHECK(product == doctest::Approx(a == b ? 0.01 : 0.0).epsilon(1e-12));
    }
  }
  Parameter& theta = *parameters.find("router.log_temperature");
  CHECK(std::exp(theta.value.item()) == doctest::Approx(0.07));
  theta.value = Tensor::scalar(-50.0);
  Tape tape;
  const Weights weights = bind(tape, parameters);
  const Var x = tape.variable(Tensor::zeros({kTokens, kModel}, DType::f64, Device::cpu));
  const Routing zero = router->route(kSize, {x, weights, true});
  CHECK(zero.weights.value().at(0) == 0.5);
  const Gradients g = tape.backward(sum(square(zero.weights)) + zero.auxiliary);
  for (const double v : g[x].to_vector()) CHECK(std::isfinite(v));
  const Routing cold = router->route(kSize, {tape.constant(features()), weights, true});
  const std::vector<double> s = cosines(features(), 0, weights.at("router.project").value(), e);
  CHECK(cold.logits.value().at(0) == doctest::Approx(s[0] / 1e-4).epsilon(1e-9));
}

TEST_CASE("hash: a fixed table by id and seed, weight 1; refuses tokens without ids") {
  const std::unique_ptr<Router> router = router_of("hash");
  CHECK(declared(*router, kSize).size() == 0);
  Tape tape;
  const Weights none;
  const LayerSize size{1, 1, 1, 4, 1};
  const auto experts_of = [&](const Router& of, const Ids& ids) {
    const auto n = static_cast<std::int64_t>(ids.size());
    LayerInput in{tape.variable(Tensor::zeros({n, 1}, DType::f64, Device::cpu)), none, true};
    in.ids = Tensor::of<std::int32_t>({n}, ids);
    const Routing r = of.route(size, in);
    CHECK(r.weights.value().to_vector() == std::vector<double>(ids.size(), 1.0));
    CHECK_FALSE(r.weights.needs_gradient());
    return ids_of(r.selected);
  };
  Ids many;
  for (std::int32_t id = 0; id < 4000; ++id) many.push_back(id);
  const Ids table = experts_of(*router, many);
  CHECK(experts_of(*router, {17, 3, 17}) == Ids{table[17], table[3], table[17]});
  for (std::int32_t e = 0; e < 4; ++e) {  // 1000 +- 5.5 standard deviations
    CHECK(std::abs(std::count(table.begin(), table.end(), e) - 1000) < 150);
  }
  CHECK(experts_of(*router_of("hash", {{"hash-seed", "7"}}), many) != table);
  const Var x = tape.variable(Tensor::zeros({2, 1}, DType::f64, Device::cpu));
  CHECK(error_of([&] {
          router->route(size, {x, none, true});
        }).find("no ids") != std::string::npos);
  CHECK(error_of([&] { experts_of(*router, {0, -3}); }).find("index is -3") != std::string::npos);
}

TEST_CASE("deepseek-v1: the softmax scores of the top k, a shared expert, the balance loss") {
  const Tensor o = Tensor::of<double>({1, 4}, {0.0, -1.0, 0.5, -2.0});
  Tape tape;
  const Routing r =
      router_of("deepseek-v1")
          ->route(square_size(4, 2), {tape.constant(o), identity_weights(tape, 4), true});
  CHECK(ids_of(r.selected) == Ids{2, 0});  // an exact zero is a logit like any other
  const std::vector<double> g = softmax_row(o, 0);
  CHECK(r.weights.value().at(0) == doctest::Approx(g[2]).epsilon(1e-13));
  CHECK(r.weights.value().at(1) == doctest::Approx(g[0]).epsilon(1e-13));
  LayerConfig config;
  config.size = {3, 4, 2, 4, 2};
  config.router = "deepseek-v1";
  Parameters parameters;
  Rng rng;
  Layer(config).declare("", parameters, rng);
  CHECK(parameters.find("shared.w1") != nullptr);
  const LayerOutput out =
      Layer(config).forward(tape.constant(features()), bind(tape, parameters), true);
  CHECK(out.auxiliary.value().item() == doctest::Approx(0.01).epsilon(0.5));
}

TEST_CASE("deepseek-v3: sigmoid scores, selection by s + b, weights by s alone") {
  constexpr std::int64_t kRows = 40;
  const Tensor o = Rng{7, 0, 0}.normal({kRows, kExperts}, DType::f64, 0.0, 1.5);
  const std::vector<double> b = {0.0, 0.6, -0.6, 0.3, 0.0, -0.2};
  for (const std::int64_t groups : {1, 3}) {
    const std::int64_t kept = groups == 1 ? 1 : 2;
    const std::unique_ptr<Router> router =
        router_of("deepseek-v3", {{"groups", std::to_string(groups)},
                                  {"kept-groups", std::to_string(kept)},
                                  {"scale", "1.5"}});
    Tape tape;
    Weights weights = identity_weights(tape, kExperts);
    weights.set("router.balance", tape.constant(Tensor::of<double>({kExperts}, b)));
    const Var x = tape.variable(o);
    const Routing r = router->route(square_size(kExperts, 3), {x, weights, true});
    for (std::int64_t t = 0; t < kRows; ++t) {
      const std::int64_t each = kExperts / groups;
      std::vector<std::pair<double, std::int64_t>> by_group;
      std::vector<double> s;
      for (std::int64_t e = 0; e < kExperts; ++e) s.push_back(sigmoid_of(o.at(t * kExperts + e)));
      const auto affinity = [&](std::int64_t e) {
        return s[static_cast<std::size_t>(e)] + b[static_cast<std::size_t>(e)];
      };
      for (std::int64_t g = 0; g < groups; ++g) {
        std::vector<double> a;
        for (std::int64_t e = g * each; e < (g + 1) * each; ++e) a.push_back(affinity(e));
        std::sort(a.rbegin(), a.rend());
        by_group.emplace_back(-(a[0] + a[1]), g);
      }
      std::sort(by_group.begin(), by_group.end());
      std::vector<std::pair<double, std::int64_t>> left;
      for (std::int64_t g = 0; g < kept; ++g) {
        const std::int64_t group = by_group[static_cast<std::size_t>(g)].second;
        for (std::int64_t e = group * each; e < (group + 1) * each; ++e) {
          left.emplace_back(-affinity(e), e);
        }
      }
      std::sort(left.begin(), left.end());
      double total = 0.0;
      for (std::size_t j = 0; j < 3; ++j) total += s[static_cast<std::size_t>(left[j].second)];
      for (std::size_t j = 0; j < 3; ++j) {
        const std::int64_t e = left[j].second;
        const std::int64_t at = t * 3 + static_cast<std::int64_t>(j);
        CHECK(r.selected.at(at) == static_cast<double>(e));
        CHECK(r.weights.value().at(at) ==
              doctest::Approx(1.5 * s[static_cast<std::size_t>(e)] / total).epsilon(1e-12));
      }
    }
  }
}

TEST_CASE("deepseek-v3: scores sqrt(softplus), by hand and where they underflow") {
  const auto router = router_of("deepseek-v3", {{"score", "sqrt-softplus"}, {"scale", "1"}});
  for (const DType dtype : {DType::f64, DType::f32}) {
    Tape tape;
    Weights weights;
    weights.set("router.weight", tape.constant(test::identity(3).to(dtype)));
    weights.set("router.balance", tape.constant(Tensor::zeros({3}, dtype, Device::cpu)));
    const Tensor o =
        Tensor::of<double>({3, 3}, {2.0, -1.0, 0.5, 100.0, 64.0, -30.0, -300.0, -302.0, -500.0});
    const Var x = tape.variable(o.to(dtype));
    const Routing r = router->route(square_size(3, 2), {x, weights, false});
    const double a = std::sqrt(std::log1p(std::exp(2.0)));
    const double c = std::sqrt(std::log1p(std::exp(0.5)));
    const double tolerance = dtype == DType::f64 ? 1e-12 : 1e-5;
    const auto close = [&](double got, double want) {
      CHECK(std::abs(got - want) <= tolerance * std::abs(want));
    };
    CHECK(ids_of(r.selected) == std::vector<std::int32_t>{0, 2, 0, 1, 0, 1});
    close(r.scores.value().at(0), a);
    close(r.weights.value().at(0), a / (a + c));
    close(r.weights.value().at(2), 10.0 / 18.0);  // no saturation: sqrt(100), sqrt(64)
    close(r.weights.value().at(4), 1.0 / (1.0 + std::exp(-1.0)));
    // d log s / do is 1/2 where s vanishes: that of the first weight is w (1 - w) / 2.
    const Var loss = sum(slice(slice(r.weights, 0, 2, 3), 1, 0, 1));
    const double w = r.weights.value().at(4);
    const Tensor dx = tape.backward(loss)[x];
    close(dx.at(6), 0.5 * w * (1.0 - w));
    close(dx.at(7), -0.5 * w * (1.0 - w));
    CHECK(dx.at(8) == 0.0);
  }
}

TEST_CASE("deepseek-v3: the balance loss of each sequence") {
  constexpr std::int64_t kLength = 3;
  const Tensor o = Rng{7, 0, 0}.normal({2 * kLength, 4}, DType::f64, 0.0, 1.5);
  Tape tape;
  Weights weights = identity_weights(tape, 4);
  weights.set("router.balance", tape.constant(Tensor::zeros({4}, DType::f64, Device::cpu)));
  for (const std::int64_t length : {kLength, 2 * kLength}) {
    LayerInput in{tape.constant(o), weights, true};
    in.sequence = length == kLength ? kLength : 1;  // 1: the batch is one
    const Routing r = router_of("deepseek-v3", {{"balance", "0.3"}})->route(square_size(4, 2), in);
    double loss = 0.0;
    const std::int64_t sequences = 2 * kLength / length;
    for (std::int64_t b = 0; b < sequences; ++b) {
      double count[4] = {};
      double p[4] = {};
      for (std::int64_t t = b * length; t < (b + 1) * length; ++t) {
        double total = 0.0;
        for (std::int64_t e = 0; e < 4; ++e) total += sigmoid_of(o.at(t * 4 + e));
        for (std::int64_t e = 0; e < 4; ++e) {
          p[e] += sigmoid_of(o.at(t * 4 + e)) / total / static_cast<double>(length);
        }
        for (std::int64_t j = 0; j < 2; ++j) {
          count[r.selected.data<std::int32_t>()[t * 2 + j]] += 1.0;
        }
      }
      for (std::int64_t e = 0; e < 4; ++e) {
        loss += 0.3 / static_cast<double>(sequences) * 4.0 / static_cast<double>(2 * length) *
                count[e] * p[e];
      }
    }
    CHECK(r.auxiliary.value().item() == doctest::Approx(loss).epsilon(1e-12));
  }
}

TEST_CASE("deepseek-v3: vanishing scores have weights and gradients; refusals") {
  const std::unique_ptr<Router> router = router_of("deepseek-v3", {{"scale", "1"}});
  for (const DType dtype : {DType::f32, DType::f64}) {
    Tape tape;
    Weights weights;
    weights.set("router.weight", tape.constant(identity(3).to(dtype)));
    weights.set("router.balance", tape.constant(Tensor::zeros({3}, dtype, Device::cpu)));
    const Var x = tape.variable(Tensor::of<double>({1, 3}, {-1e4, -1e4, -1e4}).to(dtype));
    const Routing r = router->route(square_size(3, 2), {x, weights, true});
    CHECK(r.weights.value().to_vector() == std::vector<double>{0.5, 0.5});
    const Tensor c = Tensor::of<double>({1, 2}, {1.0, 3.0}).to(dtype);
    const Tensor dx = tape.backward(sum(r.weights * tape.constant(c)))[x];
    CHECK(dx.to_vector() == std::vector<double>{-0.5, 0.5, 0.0});
  }
  const auto refusal = [](std::map<std::string, std::string> options) {
    return error_of([&] { router_of("deepseek-v3", options)->check(square_size(6, 4)); });
  };
  CHECK(refusal({{"groups", "4"}}).find("4 groups") != std::string::npos);
  CHECK(refusal({{"kept-groups", "2"}}).find("2 of 1 groups") != std::string::npos);
  CHECK(refusal({{"groups", "2"}}).find("hold 3 experts") != std::string::npos);
  CHECK(refusal({{"groups", "2"}, {"kept-groups", "2"}}) == "no error");
}

// The trap: a bias that is declared, and never updated because it has no gradient.
TEST_CASE("the balancing bias is updated in training, without gradient, and evens the load") {
  for (const std::string name : {"loss-free", "deepseek-v3"}) {
    const std::unique_ptr<Router> router = router_of(name, {{"bias-rate", "0.05"}});
    Parameters parameters = declared(*router, square_size(3, 1));
    Parameter& bias = *parameters.find("router.balance");
    CHECK_FALSE(bias.trained);
    parameters.find("router.weight")->value = identity(3);
    // All six tokens prefer expert 0, some of them only by little.
    const Tensor o = Tensor::of<double>(
        {6, 3}, {2, 0, -1, 1.5, 0, -1, 0.5, 0.4, 0, 0.5, 0, 0.3, 0.5, 0.2, 0, 0.5, 0, 0.4});
    Ids first;
    std::vector<int> load;
    for (int step = 0; step < 40; ++step) {
      Tape tape;
      const Weights weights = bind(tape, parameters);
      const Routing r = router->route(square_size(3, 1), {tape.constant(o), weights, true});
      load.assign(3, 0);
      for (const std::int32_t e : ids_of(r.selected)) ++load[static_cast<std::size_t>(e)];
      REQUIRE(r.updates.size() == 1);
      CHECK(r.updates[0].first == "router.balance");
      const std::vector<double> before = bias.value.to_vector();
      bias.value = r.updates[0].second;
      for (std::size_t e = 0; e < 3; ++e) {
        const double change = load[e] < 2 ? 0.05 : load[e] > 2 ? -0.05 : 0.0;
        CHECK(bias.value.at(static_cast<std::int64_t>(e)) == doctest::Approx(before[e] + change));
      }
      if (step == 0) CHECK(load == std::vector<int>{6, 0, 0});
      CHECK(router->route(square_size(3, 1), {tape.constant(o), weights, false}).updates.empty());
    }
    CHECK(*std::max_element(load.begin(), load.end()) <= 3);
  }
}

TEST_CASE("loss-free: the bias selects and does not weigh; at b = 0 it is top-k") {
  const Tensor o = Tensor::of<double>({2, 4}, {0.0, -1.0, 0.5, -2.0, -3.0, 0.0, 0.1, -1.0});
  Tape tape;
  const Var x = tape.variable(o);
  Weights weights = identity_weights(tape, 4);
  const Routing top = router_of("top-k")->route(square_size(4, 2), {x, weights, true});
  weights.set("router.balance", tape.constant(Tensor::zeros({4}, DType::f64, Device::cpu)));
  const Routing r = router_of("loss-free")->route(square_size(4, 2), {x, weights, true});
  CHECK(r.selected.same_bits(top.selected));
  CHECK(r.weights.value().same_bits(top.weights.value()));
  Weights biased = identity_weights(tape, 4);
  biased.set("router.balance", tape.constant(Tensor::of<double>({4}, {0.0, 0.0, 0.0, 1.0})));
  const Routing moved = router_of("loss-free")->route(square_size(4, 2), {x, biased, true});
  CHECK(ids_of(moved.selected) == Ids{3, 2, 3, 2});
  CHECK(moved.weights.value().at(0) == doctest::Approx(softmax_row(o, 0)[3]).epsilon(1e-13));
}
