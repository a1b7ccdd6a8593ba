// `moegrad layer` against plain loops.

#include <algorithm>
#include <cmath>

#include "moe/layer.h"
#include "moe/registry.h"
#include "tests/app/layer_program.h"

using moegrad::DType;
using moegrad::read_safetensors;
using moegrad::Rng;
using moegrad::Shape;
using moegrad::Tensor;
using moegrad::TensorFile;
using moegrad::test::kD;
using moegrad::test::kE;
using moegrad::test::kH;
using moegrad::test::kN;
using moegrad::test::kO;
using moegrad::test::LayerProgram;
using moegrad::test::numbers;
using moegrad::test::Outcome;
using moegrad::test::random;

namespace {

// Top-k, not renormalised, relu experts: value and router gradient, one token and expert at a time.
struct Plain {
  std::vector<double> y, dweight;
};
Plain plain(const TensorFile& f, std::int64_t k) {
  const auto get = [&](const char* name, std::int64_t i) { return f.at(name).at(i); };
  Plain result{std::vector<double>(kN * kO, 0.0), std::vector<double>(kD * kE, 0.0)};
  for (std::int64_t t = 0; t < kN; ++t) {
    std::vector<double> p(kE);
    double sum = 0.0;
    for (std::int64_t e = 0; e < kE; ++e) {
      double o = get("router.bias", e);
      for (std::int64_t d = 0; d < kD; ++d) {
        o += get("x", t * kD + d) * get("router.weight", d * kE + e);
      }
      p[static_cast<std::size_t>(e)] = std::exp(o);
      sum += std::exp(o);
    }
    for (double& v : p) v /= sum;
    std::vector<double> cotangent(kE, 0.0);
    for (std::int64_t e = 0; e < kE; ++e) {
      int better = 0;
      for (const double v : p) better += v > p[static_cast<std::size_t>(e)] ? 1 : 0;
      if (better >= k) continue;
      for (std::int64_t o = 0; o < kO; ++o) {
        double out = get("experts.b2", e * kO + o);
        for (std::int64_t h = 0; h < kH; ++h) {
          double pre = 0.0;
          for (std::int64_t d = 0; d < kD; ++d) {
            pre += get("x", t * kD + d) * get("experts.w1", (e * kD + d) * kH + h);
          }
          out += std::fmax(pre, 0.0) * get("experts.w2", (e * kH + h) * kO + o);
        }
        result.y[static_cast<std::size_t>(t * kO + o)] += p[static_cast<std::size_t>(e)] * out;
        cotangent[static_cast<std::size_t>(e)] += out * get("dy", t * kO + o);
      }
    }
    double mean = 0.0;
    for (std::size_t e = 0; e < kE; ++e) mean += p[e] * cotangent[e];
    for (std::int64_t d = 0; d < kD; ++d) {
      for (std::size_t e = 0; e < kE; ++e) {
        result.dweight[static_cast<std::size_t>(d) * kE + e] +=
            get("x", t * kD + d) * p[e] * (cotangent[e] - mean);
      }
    }
  }
  return result;
}

}  // namespace

TEST_CASE("top-k, sparse: plain loops give the same") {
  LayerProgram layer;
  const TensorFile in = numbers();
  for (const int k : {1, 2, 4}) {
    CAPTURE(k);
    REQUIRE(layer(in, {"--active", std::to_string(k)}).code == 0);
    const TensorFile out = read_safetensors(layer.out);
    const Plain expected = plain(in, k);
    for (std::int64_t i = 0; i < kN * kO; ++i) {
      CHECK(out.at("y").at(i) ==
            doctest::Approx(expected.y[static_cast<std::size_t>(i)]).epsilon(1e-13));
    }
    for (std::int64_t i = 0; i < kD * kE; ++i) {
      CHECK(out.at("grad.router.weight").at(i) ==
            doctest::Approx(expected.dweight[static_cast<std::size_t>(i)]).epsilon(1e-12));
    }
    CHECK(out.at("scores").shape() == Shape{kN, kE});
    CHECK(out.at("selected").shape() == Shape{kN, k});
    CHECK(out.at("weights").shape() == Shape{kN, k});
    for (const auto& [name, tensor] : in.tensors) {
      if (name != "dy") CHECK(out.at("grad." + name).shape() == tensor.shape());
    }
  }
}

TEST_CASE("f32 in, f32 out") {
  LayerProgram layer;
  TensorFile in = numbers();
  REQUIRE(layer(in, {"--active", "2"}).code == 0);
  const TensorFile wide = read_safetensors(layer.out);
  for (auto& [name, tensor] : in.tensors) tensor = tensor.to(DType::f32);
  REQUIRE(layer(in, {"--active", "2"}).code == 0);
  const TensorFile narrow = read_safetensors(layer.out);
  for (const auto& [name, tensor] : wide.tensors) {
    const Tensor& other = narrow.at(name);
    CHECK(other.dtype() == (name == "selected" ? DType::i32 : DType::f32));
    for (std::int64_t i = 0; i < tensor.numel(); ++i) {
      CHECK(other.at(i) == doctest::Approx(tensor.at(i)).epsilon(1e-4));
    }
  }
}

TEST_CASE("moesart: given decisions are used, and a seed decides the others") {
  LayerProgram layer;
  TensorFile in = numbers();
  const std::vector<std::string> flags = {"--router", "moesart", "--active", "2"};
  REQUIRE(layer(in, flags).code == 0);
  const TensorFile first = read_safetensors(layer.out);
  REQUIRE(layer(in, flags).code == 0);
  CHECK(read_safetensors(layer.out).at("y").same_bits(first.at("y")));
  auto other = flags;
  other.insert(other.end(), {"--seed", "2"});
  REQUIRE(layer(in, other).code == 0);
  CHECK_FALSE(read_safetensors(layer.out).at("selected").same_bits(first.at("selected")));

  in.tensors["selected"] = Tensor::of<std::int32_t>({kN, 2}, {0, 1, 1, 2, 3, 2, 0, 3, 2, 0});
  in.tensors["unadjusted"] = Tensor::of<std::int32_t>({kN}, {1, 1, 2, 0, 0});
  REQUIRE(layer(in, flags).code == 0);
  const TensorFile out = read_safetensors(layer.out);
  CHECK(out.at("selected").same_bits(in.at("selected")));
  const int place[] = {1, 0, 1, 0, 1};
  for (std::int64_t t = 0; t < kN; ++t) {
    const double g = out.at("scores").at(t * kE + in.at("unadjusted").data<std::int32_t>()[t]);
    CHECK(out.at("weights").at(t * 2 + place[t]) == doctest::Approx(g / (1.0 + g)).epsilon(1e-12));
  }
}

TEST_CASE("auxiliary losses only when asked for") {
  LayerProgram layer;
  REQUIRE(layer(numbers(), {"--active", "2"}).code == 0);
  const TensorFile plain_out = read_safetensors(layer.out);
  CHECK(plain_out.find("auxiliary") == nullptr);
  REQUIRE(
      layer(numbers(), {"--active", "2", "--option", "aux=0.5", "--option", "z-loss=0.1"}).code ==
      0);
  const TensorFile out = read_safetensors(layer.out);
  CHECK(out.find("auxiliary") != nullptr);
  CHECK(out.at("y").same_bits(plain_out.at("y")));
  CHECK_FALSE(out.at("grad.router.weight").same_bits(plain_out.at("grad.router.weight")));
}

TEST_CASE("ids, state, sequences and parameters of the router's own") {
  LayerProgram layer;
  TensorFile f = numbers();
  f.tensors["router.balance"] = Tensor::of<double>({kE}, {5.0, 0.0, 0.0, 4.0});
  REQUIRE(layer(f, {"--router", "loss-free", "--active", "2"}).code == 0);
  const TensorFile balanced = read_safetensors(layer.out);
  for (std::int64_t i = 0; i < 2 * kN; ++i) {
    CHECK(balanced.at("selected").at(i) == (i % 2 == 0 ? 0.0 : 3.0));
  }
  CHECK(balanced.at("new.router.balance").at(0) == doctest::Approx(5.0 - 1e-3));
  CHECK(balanced.at("new.router.balance").at(1) == doctest::Approx(1e-3));
  CHECK(balanced.find("grad.router.balance") == nullptr);

  f = numbers();
  f.tensors.erase("router.weight");
  f.tensors.erase("router.bias");
  const std::vector<std::string> hash = {"--router", "hash", "--active", "1"};
  CHECK(layer.refused(f, hash).find("[hash]") != std::string::npos);
  f.tensors["ids"] = Tensor::of<std::int32_t>({kN}, {7, 9, 7, 9, 7});
  REQUIRE(layer(f, hash).code == 0);
  const Tensor chosen = read_safetensors(layer.out).at("selected");
  CHECK(chosen.at(0) == chosen.at(2));
  CHECK(chosen.at(1) == chosen.at(3));

  f.tensors.erase("ids");
  f.tensors["router.slots"] = random({kD, kE}, 20);
  f.tensors["router.scale"] = Tensor::of<double>({1}, {1.0});
  REQUIRE(layer(f, {"--router", "soft-moe", "--active", "1", "--sequence", "5"}).code == 0);
  CHECK(read_safetensors(layer.out).at("y").shape() == Shape({kN, kO}));
  CHECK(layer.refused(f, {"--router", "soft-moe", "--active", "1", "--sequence", "2"}) ==
        "moegrad: [layer] 5 tokens do not divide into sequences of 2. Give whole sequences.\n");
}

TEST_CASE("a causal layer refuses what sees other tokens, unless forced") {
  LayerProgram layer;
  const TensorFile f = numbers();
  const std::vector<std::string> choice = {"--router", "expert-choice", "--active", "2",
                                           "--causal"};
  CHECK(layer.refused(f, choice) ==
        "moegrad: [layer] router expert-choice looks at other tokens of the batch: a causal model "
        "would see the future. Choose another router, or force it.\n");
  std::vector<std::string> forced = choice;
  forced.push_back("--force");
  CHECK(layer(f, forced).code == 0);
  const std::vector<std::string> group = {"--active", "2", "--estimator", "expert-group",
                                          "--causal"};
  CHECK(layer(f, group).code == 0);
  std::vector<std::string> leaking = group;
  leaking.insert(leaking.end(), {"--option", "forward=true"});
  CHECK(
      layer.refused(f, leaking).starts_with("moegrad: [layer] estimator expert-group with these"));
}

TEST_CASE("router part and expert part of two estimators") {
  LayerProgram layer;
  const TensorFile f = numbers();
  REQUIRE(layer(f, {"--active", "2", "--estimator", "ste-dense"}).code == 0);
  const TensorFile dense = read_safetensors(layer.out);
  REQUIRE(layer(f, {"--active", "2", "--router-gradient", "ste-dense-router", "--expert-gradient",
                    "ste-dense"})
              .code == 0);
  const TensorFile parts = read_safetensors(layer.out);
  for (const auto& [name, tensor] : dense.tensors) {
    const std::string label = name;
    CAPTURE(label);
    for (std::int64_t i = 0; i < tensor.numel(); ++i) {
      CHECK(parts.at(name).at(i) == doctest::Approx(tensor.at(i)).epsilon(1e-12));
    }
  }
  CHECK(layer.refused(f, {"--active", "2", "--router-gradient", "reinmax"}) ==
        "moegrad: [layer] reinmax gives its router gradient and its expert gradient together and "
        "cannot be the router gradient alone. Use it as the estimator.\n");
  CHECK(layer.refused(f, {"--active", "2", "--estimator", "reinmax"}) ==
        "moegrad: [layer] estimator reinmax is for a router that draws one expert with weight 1, "
        "and top-k does not. Use --router categorical.\n");
  CHECK(layer.refused(f, {"--active", "4", "--estimator", "expert-group"})
            .starts_with("moegrad: [expert-group] every token uses all 4 experts"));
}

namespace {

// What the layer declares, with the initial values, and what it reads besides.
TensorFile numbers_for(const moegrad::LayerConfig& config, moegrad::Parameters& declared) {
  Rng rng{9, 0, 0};
  moegrad::Layer(config).declare("", declared, rng);
  TensorFile file;
  for (const moegrad::Parameter& p : declared) file.tensors[p.name] = p.value;
  file.tensors["x"] = random({kN, kD}, 1);
  file.tensors["dy"] = random({kN, kO}, 2);
  if (config.router == "hash") {
    file.tensors["ids"] = Tensor::of<std::int32_t>({kN}, {7, 9, 7, 9, 7});
  }
  return file;
}

void check_runs(LayerProgram& layer, const std::string& router, const std::string& estimator) {
  CAPTURE(router);
  CAPTURE(estimator);
  const moegrad::RouterEntry& entry = moegrad::router_entry(router);
  moegrad::LayerConfig config;
  config.router = router;
  config.estimator = estimator;
  const std::int64_t active =
      std::clamp<std::int64_t>(2, entry.least_active, std::min(kE, entry.most_active));
  config.size = {kD, kH, kO, kE, active};
  moegrad::Parameters declared;
  const TensorFile in = numbers_for(config, declared);
  for (const char* mode : {"--train", "--eval"}) {
    CAPTURE(mode);
    std::filesystem::remove(layer.out);
    const Outcome outcome = layer(in, {"--router", router, "--estimator", estimator, "--active",
                                       std::to_string(active), mode});
    const bool silent = mode == std::string("--train") && !moegrad::Layer(config).router_learns();
    CHECK(outcome.err.empty() != silent);
    CHECK(outcome.err.starts_with(silent ? "moegrad: [" + router + "] with k = " : ""));
    REQUIRE(outcome.code == 0);
    CHECK(outcome.out.starts_with(router + " / " + estimator + ", 5 tokens, "));
    const TensorFile out = read_safetensors(layer.out);
    CHECK(out.at("y").shape() == Shape{kN, kO});
    CHECK(out.at("grad.x").shape() == Shape{kN, kD});
    for (const moegrad::Parameter& p : declared) {
      if (p.trained) CHECK(out.at("grad." + p.name).shape() == p.value.shape());
    }
    for (const auto& [name, tensor] : out.tensors) {
      const std::string label = name;
      for (const double v : tensor.to_vector()) CHECK_MESSAGE(std::isfinite(v), label);
    }
  }
}

}  // namespace

TEST_CASE("every router and every estimator runs, in training and at inference") {
  LayerProgram layer;
  for (const moegrad::RouterEntry& entry : moegrad::routers()) {
    check_runs(layer, entry.name, "sparse");
  }
  for (const moegrad::EstimatorEntry& entry : moegrad::estimators()) {
    for (const std::string& router : entry.routers) check_runs(layer, router, entry.name);
  }
}

TEST_CASE("smear: the load is that of the merged experts") {
  LayerProgram layer;
  moegrad::LayerConfig config;
  config.router = "smear";
  config.size = {kD, kH, kO, kE, 1};
  moegrad::Parameters declared;
  const Outcome outcome =
      layer(numbers_for(config, declared), {"--router", "smear", "--active", "1", "--eval"});
  REQUIRE(outcome.code == 0);
  const Tensor scores = read_safetensors(layer.out).at("scores");  // of sequences of one token
  double first = 0.0;
  for (std::int64_t t = 0; t < kN; ++t) first += scores.at(t * kE);
  CHECK(outcome.out.find(fmt::format("load {}", first)) != std::string::npos);
}
