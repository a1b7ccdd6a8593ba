#include "lab/bias.h"

#include <atomic>
#include <cmath>

#include <doctest/doctest.h>

#include "moe/registry.h"
#include "ops/ops.h"
#include "tensor/stop.h"
#include "tensor/threads.h"
#include "tests/devices.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

BiasCase cell(const char* router, const char* estimator, std::int64_t experts, std::int64_t active,
              const char* loss) {
  return {router, estimator, experts, active, 1.5, loss};
}

// Logits that are no x W, of a weight [E, D], from a router that says they are.
class TanhRouter : public Router {
 public:
  void declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
               const Rng& rng) const override {
    parameters.add(std::string(prefix) + "router.weight",
                   rng.named("weight").normal({size.experts, size.model}, DType::f64));
    parameters.add(std::string(prefix) + "router.gain", Tensor::scalar(1.5));
  }
  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = in.weights.at("router.gain") *
               tanh(matmul(in.x, transpose(in.weights.at("router.weight"))));
    r.scores = softmax(r.logits);
    r.selected = top_k_indices(r.logits, size.active, "selected");
    r.weights = take_columns(r.scores, r.selected);
    return r;
  }
};

bool same(const BiasRow& a, const BiasRow& b) {
  return a.weight_bias_l1 == b.weight_bias_l1 && a.dense_bias == b.dense_bias &&
         a.gradient_variance == b.gradient_variance && a.cosine == b.cosine &&
         a.own_bias == b.own_bias;
}

}  // namespace

TEST_CASE("the dense layer has no bias; a top-k layer's gradient is that of its own loss") {
  for (const std::string& loss : bias_losses()) {
    CAPTURE(loss);
    const BiasRow dense = measure_bias(cell("softmax", "sparse", 5, 2, loss.c_str()));
    CHECK(dense.dense_bias < 1e-12);
    CHECK(dense.weight_bias_l1 < 1e-12);
    CHECK(dense.cosine == doctest::Approx(1.0));
    CHECK(dense.own_bias < 1e-9);
    CHECK(dense.evaluations == 5.0);
    const BiasRow sparse = measure_bias(cell("top-k", "sparse", 5, 2, loss.c_str()));
    CHECK(sparse.own_bias < 1e-9);
    CHECK(sparse.dense_bias > 0.01);
    CHECK(sparse.evaluations == 2.0);
    CHECK(sparse.gradient_variance == 0.0);
    CHECK(sparse.dense_mse >= sparse.dense_bias * sparse.dense_bias);
  }
}

TEST_CASE("routers whose logits are not x W: the gradient of all their parameters") {
  for (const char* router : {"x-moe", "dselect-k", "comet", "smear", "soft-moe"}) {
    CAPTURE(router);
    const BiasRow row = measure_bias(cell(router, "sparse", 4, 2, "mlp"));
    CHECK(row.gradient_of == "router parameters");
    CHECK(row.own_known);
    CHECK(!row.own_biased());
    CHECK(row.own_error < 1e-6);
    // Rows of soft-moe are mixtures of tokens: no logits of a token, no dense layer.
    CHECK(std::isnan(row.dense_bias) == (row.of.router == "soft-moe"));
    CHECK(std::isnan(row.weight_bias_l1) == (row.of.router == "soft-moe"));
  }
  // dselect-k's logits are the logarithms of its weights: it is the dense layer of these itself.
  CHECK(measure_bias(cell("dselect-k", "sparse", 4, 4, "linear")).cosine > 0.99);
  CHECK(measure_bias(cell("top-k", "sparse", 4, 2, "mlp")).gradient_of == "logits");
}

TEST_CASE("a router of the user's own, whose logits are not x W though it says so") {
  add_router({.name = "tanh-router",
              .summary = "a test",
              .source = "a test",
              .formula = "o = c tanh(x W^T)",
              .make = [](const Options&) { return std::make_unique<TanhRouter>(); }});
  const BiasRow row = measure_bias(cell("tanh-router", "sparse", 4, 2, "quadratic"));
  CHECK(row.gradient_of == "router parameters");
  CHECK(row.own_known);
  CHECK(!row.own_biased());
  CHECK(row.dense_bias > 0.01);
  CHECK(row.weight_bias_l1 > 0.01);
  const BiasRow all = measure_bias(cell("tanh-router", "sparse", 4, 4, "quadratic"));
  CHECK(all.dense_bias < 1e-12);
  CHECK(all.cosine == doctest::Approx(1.0));
  CHECK(measure_bias(cell("tanh-router", "ste-dense", 4, 2, "linear")).dense_bias < 1e-12);
}

TEST_CASE("on another device: the cpu's rows within rounding") {
  const auto near = [](double a, double b, double error = 0.0) {
    if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
    return std::abs(a - b) <= 1e-10 * (1.0 + std::abs(b)) + error;
  };
  const std::vector<BiasCase> cases = {cell("softmax", "sparse", 4, 2, "mlp"),
                                       cell("moesart", "sparse", 4, 2, "linear"),
                                       cell("categorical", "st", 4, 1, "quadratic"),
                                       cell("top-k", "ste-dense", 4, 2, "cubic"),
                                       cell("top-k", "default-ema", 4, 2, "linear"),
                                       cell("gumbel-top-k-st", "sparse", 4, 2, "mlp"),
                                       cell("x-moe", "expert-group", 4, 2, "quadratic"),
                                       cell("categorical", "reinforce", 4, 1, "mlp")};
  BiasOptions options{.draws = 1, .max_outcomes = 30, .samples = 4};
  std::vector<std::string> skipped;
  const std::vector<BiasRow> here = study_bias(cases, options, {}, skipped);
  for (const Device device : test::other_devices()) {
    CAPTURE(name_of(device));
    options.device = device;
    const std::vector<BiasRow> there = study_bias(cases, options, {}, skipped);
    REQUIRE(there.size() == cases.size());
    double apart = 0.0;
    for (std::size_t i = 0; i < cases.size(); ++i) {
      CAPTURE(cases[i].router);
      CAPTURE(cases[i].estimator);
      const BiasRow& a = there[i];
      const BiasRow& b = here[i];
      CHECK(a.device == device);
      CHECK(to_json(a).find(fmt::format("\"device\":\"{}\"", name_of(device))) !=
            std::string::npos);
      CHECK(a.exact == b.exact);
      CHECK(a.outcomes == b.outcomes);
      CHECK(a.evaluations == b.evaluations);
      CHECK(a.gradient_of == b.gradient_of);
      CHECK(near(a.weight_bias_l1, b.weight_bias_l1));
      CHECK(near(a.weight_mse, b.weight_mse));
      CHECK(near(a.dense_bias, b.dense_bias));
      CHECK(near(a.gradient_variance, b.gradient_variance));
      CHECK(near(a.dense_mse, b.dense_mse));
      CHECK(near(a.cosine, b.cosine));
      CHECK(near(a.norm_ratio, b.norm_ratio));
      CHECK(a.own_known == b.own_known);
      CHECK(a.own_biased() == b.own_biased());
      CHECK(near(a.own_bias, b.own_bias, a.own_error + b.own_error));
      if (!std::isnan(b.dense_mse)) apart = std::fmax(apart, std::abs(a.dense_mse - b.dense_mse));
    }
    // Not the cpu's kernels by mistake.
    CHECK((apart == 0.0) == test::has_cpu_bits(device));
  }
}

TEST_CASE("the two biases of straight-through and reinforce") {
  const auto row = [](const char* estimator, const char* loss) {
    return measure_bias(
        {.router = "categorical", .estimator = estimator, .experts = 5, .active = 1, .loss = loss});
  };
  const BiasRow st = row("st", "quadratic");
  CHECK(st.own_biased());
  CHECK(st.own_bias > 1e3 * st.own_error);
  const BiasRow score = row("reinforce", "quadratic");
  CHECK(!score.own_biased());
  CHECK(score.dense_bias > 0.1);
  CHECK(!row("st", "linear").own_biased());
}

TEST_CASE("--own: by Monte Carlo where there are too many outcomes, or noise") {
  BiasOptions options;
  options.draws = 1;
  options.own = true;
  BiasCase of{
      .router = "categorical", .estimator = "st", .experts = 4, .active = 1, .loss = "cubic"};
  const BiasRow exact = measure_bias(of, options);
  options.max_outcomes = 3;
  options.samples = 1000;
  const BiasRow sampled = measure_bias(of, options);
  CHECK(!sampled.exact);
  CHECK(sampled.own_known);
  CHECK(std::abs(sampled.own_bias - exact.own_bias) <= sampled.own_error);
  options.samples = 200;
  const BiasRow noisy = measure_bias(cell("relaxed-top-k", "sparse", 4, 2, "quadratic"), options);
  CHECK(!noisy.exact);
  CHECK(noisy.own_known);
  CHECK(noisy.own_error > 0.0);
}

TEST_CASE("--no-own: in no row, and all else as it is") {
  const BiasCase of = cell("moesart", "sparse", 4, 2, "linear");
  const BiasRow with = measure_bias(of);
  const BiasRow without = measure_bias(of, {.own = false});
  CHECK(with.own_known);
  CHECK(!without.own_known);
  CHECK(std::isnan(without.own_bias));
  CHECK(without.weight_mse == with.weight_mse);
  CHECK(without.dense_bias == with.dense_bias);
}

TEST_CASE("ste-dense has the dense layer's router gradient for a linear loss, and no other") {
  CHECK(measure_bias(cell("top-k", "ste-dense", 6, 2, "linear")).dense_bias < 1e-12);
  CHECK(measure_bias(cell("top-k", "ste-dense", 6, 2, "quadratic")).dense_bias > 0.01);
}

TEST_CASE("unbiased weights give an unbiased gradient of a linear loss, and of no other") {
  for (const char* router : {"unordered-set", "horvitz-thompson"}) {
    CAPTURE(router);
    const BiasRow linear = measure_bias(cell(router, "sparse", 5, 2, "linear"));
    CHECK(linear.exact);
    CHECK(linear.weight_bias_l1 < 1e-12);
    CHECK(linear.dense_bias < 1e-11);
    CHECK(linear.dense_mse == doctest::Approx(linear.gradient_variance));
    CHECK(measure_bias(cell(router, "sparse", 5, 2, "quadratic")).dense_bias > 0.01);
  }
}

TEST_CASE(
    "Monte Carlo agrees with the enumeration within its confidence, and says that it sampled") {
  const BiasCase of = cell("moesart", "sparse", 4, 2, "quadratic");
  BiasOptions options;
  options.draws = 1;
  const BiasRow exact = measure_bias(of, options);
  CHECK(exact.exact);
  CHECK(exact.outcomes == 24);
  options.max_outcomes = 23;
  options.samples = 4000;
  const BiasRow sampled = measure_bias(of, options);
  CHECK(!sampled.exact);
  CHECK(!sampled.own_known);
  CHECK(sampled.outcomes == 4000);
  // The confidence is that of a whole vector: 1.96 times the root of the summed variances.
  CHECK(std::abs(sampled.dense_bias - exact.dense_bias) < sampled.bias_confidence);
  CHECK(sampled.gradient_variance == doctest::Approx(exact.gradient_variance).epsilon(0.1));
  CHECK(sampled.weight_mse == doctest::Approx(exact.weight_mse).epsilon(0.1));
}

TEST_CASE("the same rows at any number of threads; what a layer refuses is left out") {
  const std::vector<BiasCase> cases = {
      cell("moesart", "sparse", 4, 2, "mlp"), cell("moesart", "sparse", 4, 1, "mlp"),
      cell("top-k", "expert-group", 4, 2, "mlp"), cell("top-k", "expert-group", 4, 4, "mlp")};
  std::vector<std::vector<BiasRow>> runs;
  for (const int n : {1, 2}) {
    const ThreadScope threads(n);
    std::vector<std::string> skipped;
    std::size_t last = 0;
    runs.push_back(study_bias(
        cases, {}, [&](std::size_t done) { last = done; }, skipped));
    CHECK(last == cases.size());
    REQUIRE(skipped.size() == 2);
    CHECK(skipped[0] == "[layer] k is 1, too few for router moesart. Use k >= 2.");
    CHECK(skipped[1].starts_with("[expert-group] every token uses all 4 experts"));
  }
  REQUIRE(runs[0].size() == 2);
  for (std::size_t i = 0; i < 2; ++i) CHECK(same(runs[0][i], runs[1][i]));
}

TEST_CASE("what is measured against a dense gradient of 0 is undefined") {
  BiasCase of = cell("top-k", "sparse", 4, 1, "linear");
  of.scale = 1e6;
  const BiasRow row = measure_bias(of);
  CHECK(row.compared == 0);
  CHECK(std::isnan(row.cosine));
  CHECK(std::isnan(row.norm_ratio));
  CHECK(row.dense_bias == 0.0);
  CHECK(measure_bias(cell("top-k", "sparse", 4, 1, "linear")).compared == BiasOptions().draws);
}

TEST_CASE("the product of cases, draws and outcomes or samples is bounded") {
  const BiasCase of = cell("top-k", "sparse", 4, 2, "linear");
  const auto error = [&](std::int64_t draws, std::int64_t outcomes, std::int64_t samples) {
    const BiasOptions options{.draws = draws, .max_outcomes = outcomes, .samples = samples};
    return error_of([&] { measure_bias(of, options); });
  };
  CHECK(error(1'000'000, 1'000'000, 1'000'000) ==
        "[study] 1 cases x 1000000 draws x 1000000 outcomes or samples are 1e+12 passes through a "
        "layer. They may be 1000000000 at most: name fewer cases, or lower --draws, --outcomes or "
        "--samples.");
  CHECK(error(1001, 1'000'000, 2) != "no error");
  CHECK(error(1001, 1, 1'000'000) != "no error");
  CHECK(passes_of(1e3, {.draws = 1000, .max_outcomes = 1000}) == 1e9);
  CHECK(error_of([] { passes_of(1001, {.draws = 1000, .max_outcomes = 1000}); }) != "no error");
  CHECK(error_of([] { passes_of(1e30, {}); }) != "no error");
  std::vector<std::string> skipped;
  CHECK(error_of([&] {
          study_bias({of, of}, {.draws = 501, .max_outcomes = 1'000'000}, {}, skipped);
        }).starts_with("[study] 2 cases x 501 draws x 1000000 outcomes or samples"));
}

TEST_CASE("what the study refuses") {
  CHECK(error_of([] { measure_bias(cell("top-k", "sparse", 4, 2, "quartic")); }) ==
        "[study] there is no loss 'quartic'. Did you mean 'quadratic'?");
  CHECK(error_of([] { measure_bias(cell("hash", "sparse", 4, 1, "linear")); }) ==
        "[study] router hash has no trained parameters: there is no gradient to study. Choose "
        "another.");
  CHECK(error_of([] { measure_bias({.router = "top-k", .scale = -1.0}); }) ==
        "[study] the scale of the logits is -1. Give a number of at least 0.");
}

TEST_CASE("a grid has every combination; what is not named is the default") {
  const BiasGrid grid{.routers = {"top-k", "moesart"},
                      .estimators = {"sparse", "expert-group"},
                      .experts = {4, 8},
                      .active = {2},
                      .scales = {1.0, 2.0, 3.0},
                      .losses = {"linear", "mlp"}};
  const std::vector<BiasCase> cases = bias_cases(grid, {});
  REQUIRE(cases.size() == 2 * 2 * 2 * 3 * 2);
  CHECK(cases[0].router == "top-k");
  CHECK(cases[1].loss == "mlp");
  CHECK(cases[2].scale == 2.0);
  CHECK(cases[6].experts == 8);
  CHECK(cases[12].estimator == "expert-group");
  CHECK(cases[24].router == "moesart");
  BiasGrid one{.experts = {4}, .active = {2}, .scales = {1.0}, .losses = {"linear"}};
  CHECK(bias_cases(one, {}).size() == bias_pairs().size());
  one.estimators = {"expert-group"};
  for (const BiasCase& of : bias_cases(one, {})) CHECK(of.estimator == "expert-group");
  one.estimators = {"no"};
  CHECK(error_of([&] { bias_cases(one, {}); }).find("'no'") != std::string::npos);
  CHECK(error_of([&] { bias_cases(grid, {.draws = 1'000'000}); }) != "no error");
}

TEST_CASE("a study ends where it is asked to stop") {
  const std::vector<BiasCase> cases(5, cell("moesart", "sparse", 4, 2, "linear"));
  for (const int n : {1, 2}) {
    const ThreadScope threads(n);
    std::vector<std::string> skipped;
    std::atomic<int> stop{0};
    std::size_t told = 0;
    const auto progress = [&](std::size_t done) {
      told = done;
      stop = 2;
    };
    const StopScope scope(&stop);
    CHECK_THROWS_AS(study_bias(cases, {}, progress, skipped), Interruption);
    CHECK(told <= static_cast<std::size_t>(n));
    CHECK(skipped.empty());
  }
}
