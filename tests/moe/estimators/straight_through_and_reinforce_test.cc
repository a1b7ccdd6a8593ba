// st, reinmax, gumbel-st, gumbel-softmax and reinforce: one drawn expert, by their formulas.

#include <cmath>

#include <doctest/doctest.h>

#include "autograd/expectation.h"
#include "moe/checks/check.h"
#include "ops/ops.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

constexpr std::int64_t kExperts = 4;
const std::vector<double> kLogits = {0.4, -0.8, 1.1, 0.2};
const double kCotangent[2] = {0.6, -1.1};

using Values = std::map<std::string, std::string>;

LayerConfig config_of(const std::string& estimator, Values options = {}) {
  LayerConfig c;
  c.size = {kExperts, 1, 2, kExperts, 1};
  c.router = "categorical";
  c.estimator = estimator;
  c.options = std::move(options);
  return c;
}

Tensor outputs() { return Rng{8, 0, 0}.uniform({kExperts, 2}, DType::f64, -1.5, 2.0); }

// Logits are x, experts are constant.
void set_weights(Weights& weights, Tape& tape, Var b2) {
  Tensor identity = Tensor::zeros({kExperts, kExperts}, DType::f64, Device::cpu);
  for (std::int64_t e = 0; e < kExperts; ++e) identity.write<double>()[e * (kExperts + 1)] = 1.0;
  weights.set("router.weight", tape.constant(identity));
  weights.set("experts.w1",
              tape.constant(Tensor::zeros({kExperts, kExperts, 1}, DType::f64, Device::cpu)));
  weights.set("experts.w2",
              tape.constant(Tensor::zeros({kExperts, 1, 2}, DType::f64, Device::cpu)));
  weights.set("experts.b2", b2);
  weights.set("estimator.baseline.weight",
              tape.constant(Tensor::of<double>({4, 1}, {0.3, -0.2, 0.5, 0.1})));
  weights.set("estimator.baseline.bias", tape.constant(Tensor::of<double>({1}, {0.4})));
}

struct Pass {
  Tensor y, logits, experts;
};

Pass pass(const LayerConfig& config, const Tensor& noise, Form form, std::int32_t drawn) {
  Decisions decisions;
  decisions.give("selected", Tensor::of<std::int32_t>({1, 1}, {drawn}));
  decisions.give("noise", noise);
  Tape tape({.decisions = &decisions});
  const Var x = tape.variable(Tensor::of<double>({1, kExperts}, kLogits));
  const Var b2 = tape.variable(outputs());
  Weights weights;
  set_weights(weights, tape, b2);
  Layer layer(config);
  layer.set_form(form);
  const LayerOutput out = layer.forward(x, weights, true);
  const Var loss =
      sum(out.y * tape.constant(Tensor::of<double>({1, 2}, {kCotangent[0], kCotangent[1]})));
  const Gradients g = tape.backward(loss, {.retain = true});
  return {out.y.value(), g[x], g[b2]};
}

std::vector<double> softmax_of(std::vector<double> z, double temperature = 1.0) {
  double sum = 0.0;
  for (double& v : z) sum += v = std::exp(v / temperature);
  for (double& v : z) v /= sum;
  return z;
}

// q_i (gbar_i - sum_j q_j gbar_j)
std::vector<double> jacobian(const std::vector<double>& q) {
  const Tensor e = outputs();
  std::vector<double> gbar;
  double mean = 0.0;
  for (std::size_t i = 0; i < q.size(); ++i) {
    const auto at = static_cast<std::int64_t>(2 * i);
    gbar.push_back(kCotangent[0] * e.at(at) + kCotangent[1] * e.at(at + 1));
    mean += q[i] * gbar[i];
  }
  for (std::size_t i = 0; i < q.size(); ++i) gbar[i] = q[i] * (gbar[i] - mean);
  return gbar;
}

void check_equal(const Tensor& got, const std::vector<double>& expected) {
  for (std::size_t i = 0; i < expected.size(); ++i) {
    CHECK(got.at(static_cast<std::int64_t>(i)) == doctest::Approx(expected[i]).epsilon(1e-12));
  }
}

// A nonlinear loss of each row of y.
Var losses_of(Var y) {
  const Var c = y.tape().constant(Tensor::of<double>({2}, {1.2, -0.7}));
  const Var inner = sum(y * c, 1);
  return exp(0.5 * inner) + inner * square(inner);
}

}  // namespace

TEST_CASE("the gradients of st, reinmax, gumbel-st and gumbel-softmax") {
  // o + noise is largest at expert 3.
  const Tensor noise = Tensor::of<double>({1, kExperts}, {0.5, 1.7, -0.6, 2.1});
  const std::vector<double> p = softmax_of(kLogits);
  std::vector<double> noisy = kLogits;
  for (std::size_t i = 0; i < 4; ++i) noisy[i] += noise.at(static_cast<std::int64_t>(i));
  const Tensor e = outputs();
  for (const Form form : {Form::fused, Form::written}) {
    const auto drawn_only = [&](const Pass& got) {
      for (std::int64_t d = 0; d < 2; ++d) CHECK(got.y.at(d) == doctest::Approx(e.at(6 + d)));
      for (std::int64_t i = 0; i < 8; ++i) {
        CHECK(got.experts.at(i) == doctest::Approx(i < 6 ? 0.0 : kCotangent[i - 6]).epsilon(1e-14));
      }
    };
    const Pass st = pass(config_of("st"), noise, form, 3);
    drawn_only(st);
    check_equal(st.logits, jacobian(p));

    for (const double tau : {1.0, 0.6}) {
      const Values options = {{"temperature", tau == 1.0 ? "1" : "0.6"}};
      const Pass reinmax = pass(config_of("reinmax", options), noise, form, 3);
      drawn_only(reinmax);
      std::vector<double> half = softmax_of(kLogits, tau);
      half[3] += 1.0;
      for (double& v : half) v *= 0.5;
      std::vector<double> expected = jacobian(half);
      const std::vector<double> other = jacobian(p);
      for (std::size_t i = 0; i < 4; ++i) expected[i] = 2.0 * expected[i] - 0.5 * other[i];
      check_equal(reinmax.logits, expected);

      const std::vector<double> q = softmax_of(noisy, tau);
      std::vector<double> relaxed = jacobian(q);
      for (double& v : relaxed) v /= tau;
      const Pass gumbel = pass(config_of("gumbel-st", options), noise, form, 3);
      drawn_only(gumbel);
      check_equal(gumbel.logits, relaxed);

      const Pass mixture = pass(config_of("gumbel-softmax", options), noise, form, 3);
      check_equal(mixture.logits, relaxed);
      for (std::int64_t d = 0; d < 2; ++d) {
        double y = 0.0;
        for (std::size_t i = 0; i < 4; ++i) {
          const auto at = static_cast<std::int64_t>(2 * i) + d;
          y += q[i] * e.at(at);
          CHECK(mixture.experts.at(at) == doctest::Approx(q[i] * kCotangent[d]).epsilon(1e-13));
        }
        CHECK(mixture.y.at(d) == doctest::Approx(y).epsilon(1e-13));
      }
    }
  }
}

// Given only the drawn expert, the noise has the law of the noise with which it was drawn: the
// largest o + G is at D, and over draws of D the mean of each G is Euler's constant.
TEST_CASE("noise drawn given the choice") {
  constexpr std::int64_t kTokens = 20000;
  std::vector<double> rows;
  for (std::int64_t t = 0; t < kTokens; ++t) {
    rows.insert(rows.end(), kLogits.begin(), kLogits.end());
  }
  const Tensor x = Tensor::of<double>({kTokens, kExperts}, rows);
  const std::vector<double> p = softmax_of(kLogits);
  std::vector<std::int32_t> drawn;
  for (std::int64_t t = 0; t < kTokens; ++t) {
    const double u = (static_cast<double>(t) + 0.5) / kTokens;
    drawn.push_back(u < p[0] ? 0 : u < p[0] + p[1] ? 1 : u < p[0] + p[1] + p[2] ? 2 : 3);
  }
  Decisions decisions = Decisions::recorder();
  decisions.give("selected", Tensor::of<std::int32_t>({kTokens, 1}, drawn));
  Tape tape({.gradients = false, .rng = Rng{5, 0, 0}, .decisions = &decisions});
  Weights weights;
  set_weights(weights, tape, tape.constant(outputs()));
  Layer(config_of("gumbel-softmax")).forward(tape.constant(x), weights, true);
  const Tensor noise = decisions.recorded("conditional noise").at(0);
  double mean[kExperts] = {};
  double square[kExperts] = {};
  for (std::int64_t t = 0; t < kTokens; ++t) {
    std::int64_t best = 0;
    for (std::int64_t e = 0; e < kExperts; ++e) {
      const double g = noise.at(t * kExperts + e);
      mean[e] += g / kTokens;
      square[e] += g * g / kTokens;
      if (x.at(e) + g > x.at(best) + noise.at(t * kExperts + best)) best = e;
    }
    REQUIRE(best == drawn[static_cast<std::size_t>(t)]);
  }
  // Standard errors: 0.0091 of the mean, and of the variance pi^2/6 about 0.03.
  for (std::int64_t e = 0; e < kExperts; ++e) {
    CHECK(std::abs(mean[e] - 0.5772156649) < 0.04);
    CHECK(std::abs(square[e] - mean[e] * mean[e] - 1.6449340668) < 0.13);
  }
}

TEST_CASE("gumbel-st is biased, beyond the error of integrating its conditional noise") {
  const Program loss = [&](Tape& tape, std::span<const Var> in) {
    Weights weights;
    set_weights(weights, tape, tape.constant(outputs()));
    return sum(losses_of(Layer(config_of("gumbel-st")).forward(in[0], weights, true).y));
  };
  ExpectationOptions options;
  options.samples = 2000;
  const Tensor logits = Tensor::of<double>({1, kExperts}, kLogits);
  const Expectation e = expectation(loss, std::vector<Tensor>{logits}, options);
  CHECK(!e.exact);
  CHECK(e.noise);
  CHECK(e.biased());
  CHECK(std::isfinite(e.total_variance));
}

TEST_CASE("reinforce is unbiased for a loss that is not linear, with each baseline") {
  const Tensor e = outputs();
  const std::vector<double> p = softmax_of(kLogits);
  std::vector<double> loss;
  for (std::int64_t i = 0; i < kExperts; ++i) {
    const double inner = 1.2 * e.at(2 * i) - 0.7 * e.at(2 * i + 1);
    loss.push_back(std::exp(0.5 * inner) + inner * inner * inner);
  }
  double mean = 0.0;
  for (std::size_t i = 0; i < 4; ++i) mean += p[i] * loss[i];
  std::vector<double> variances;
  for (const auto& way : {std::pair("none", "2"),
                          {"leave-one-out", "2"},
                          {"learned", "1"},
                          {"built-in", "2"},
                          {"built-in", "3"},
                          {"built-in", "4"}}) {
    const auto& baseline = way.first;
    const auto& samples = way.second;
    CAPTURE(baseline);
    CAPTURE(samples);
    Values values = {{"baseline", baseline}, {"samples", samples}};
    if (std::string_view(baseline) == "built-in") values["copies"] = samples;
    const Layer layer(config_of("reinforce", values));
    CHECK(layer.estimator().needs_losses());
    const Program program = [&](Tape& tape, std::span<const Var> in) {
      Weights weights;
      set_weights(weights, tape, in[1]);
      const std::int64_t n = layer.estimator().samples();
      const LayerInput input{gather_rows(in[0], Tensor::zeros({n}, DType::i32, Device::cpu)),
                             weights, true};
      const LayerOutput out = layer.forward(input);
      return layer.objective(losses_of(out.y), out, input);
    };
    ExpectationOptions options;
    options.bias = false;
    const Expectation x = expectation(program, {Tensor::of<double>({1, 4}, kLogits), e}, options);
    for (std::size_t q = 0; q < 4; ++q) {
      CHECK(std::abs(x.gradient[0].at(static_cast<std::int64_t>(q)) - p[q] * (loss[q] - mean)) <
            1e-10);
    }
    for (std::int64_t i = 0; i < kExperts; ++i) {  // the experts: p_i f'(E_i)
      const double inner = 1.2 * e.at(2 * i) - 0.7 * e.at(2 * i + 1);
      const double slope = 0.5 * std::exp(0.5 * inner) + 3.0 * inner * inner;
      CHECK(x.gradient[1].at(2 * i) ==
            doctest::Approx(p[static_cast<std::size_t>(i)] * slope * 1.2).epsilon(1e-12));
    }
    variances.push_back(0.0);
    for (std::int64_t q = 0; q < 4; ++q) variances.back() += x.variance[0].at(q);
  }
  CHECK(variances[0] != doctest::Approx(variances[1]));
  // More of the experts among the samples, less variance; all of them, none.
  CHECK(variances[3] < variances[1]);
  CHECK(variances[4] < variances[3]);
  CHECK(variances[5] < 1e-20);
}

TEST_CASE("the learned baseline is trained by its squared error, and nothing else is") {
  Decisions decisions;
  decisions.give("selected", Tensor::of<std::int32_t>({2, 1}, {1, 3}));
  Tape tape({.decisions = &decisions});
  const Tensor rows = Tensor::of<double>({2, 4}, {0.4, -0.8, 1.1, 0.2, 0.1, 0.3, -0.5, 0.9});
  const Var x = tape.variable(rows);
  const Var w = tape.variable(Tensor::of<double>({4, 1}, {0.3, -0.2, 0.5, 0.1}));
  const Var c = tape.variable(Tensor::of<double>({1}, {0.4}));
  Weights weights;
  weights.set("estimator.baseline.weight", w);
  weights.set("estimator.baseline.bias", c);
  Weights others;
  set_weights(others, tape, tape.constant(outputs()));
  for (const auto& [name, v] : others) {
    if (!name.starts_with("estimator.")) weights.set(name, v);
  }
  const Layer layer(config_of("reinforce", {{"baseline", "learned"}}));
  const LayerInput input{x, weights, true};
  const LayerOutput out = layer.forward(input);
  const Var losses = losses_of(out.y);
  const Tensor l = losses.value();
  const Gradients g = tape.backward(layer.objective(losses, out, input));
  double bias = 0.0;
  for (std::int64_t t = 0; t < 2; ++t) {
    double b = 0.4;
    const double v[4] = {0.3, -0.2, 0.5, 0.1};
    for (std::int64_t d = 0; d < 4; ++d) b += rows.at(t * 4 + d) * v[d];
    bias += -(l.at(t) - b);  // mean of two of 2 (b - loss)
    const std::vector<double> z = {rows.at(t * 4), rows.at(t * 4 + 1), rows.at(t * 4 + 2),
                                   rows.at(t * 4 + 3)};
    const std::vector<double> p = softmax_of(z);
    const std::size_t drawn = t == 0 ? 1 : 3;
    for (std::size_t q = 0; q < 4; ++q) {
      const double expected = 0.5 * (l.at(t) - b) * ((q == drawn ? 1.0 : 0.0) - p[q]);
      CHECK(g[x].at(t * 4 + static_cast<std::int64_t>(q)) ==
            doctest::Approx(expected).epsilon(1e-12));
    }
  }
  CHECK(g[c].at(0) == doctest::Approx(bias).epsilon(1e-12));
}

TEST_CASE("inference is the sparse layer's; what they refuse") {
  for (const char* name : {"st", "reinmax", "gumbel-st", "gumbel-softmax", "reinforce"}) {
    CAPTURE(name);
    LayerFixture f = random_fixture(config_of(name), 5, false);
    const LayerPass mine = run_pass(f);
    f.config.estimator = "sparse";
    CHECK(mine.y.same_bits(run_pass(f).y));
    CHECK(error_of([&] {
            LayerConfig c = config_of(name);
            c.router = "top-k";
            const Layer layer(c);
          }) == std::string("[layer] estimator ") + name +
                    " is for a router that draws one expert with weight 1, and top-k does not. Use "
                    "--router categorical.");
  }
  CHECK(error_of([] {
          const Layer layer(config_of("reinforce", {{"baseline", "leave-one-out"}}));
        }) ==
        "[reinforce] the leave-one-out baseline needs the losses of other samples, and samples is "
        "1. Use samples >= 2, or another baseline.");
  const auto run_copies = [](const Values& options, std::int64_t tokens) {
    return error_of([&] {
      const Layer layer(config_of("reinforce", options));
      Decisions decisions;
      decisions.give("selected", Tensor::full({tokens, 1}, 1.0, DType::i32, Device::cpu));
      Tape tape({.decisions = &decisions});
      Weights weights;
      set_weights(weights, tape, tape.constant(outputs()));
      const LayerInput input{
          tape.constant(Tensor::zeros({tokens, kExperts}, DType::f64, Device::cpu)), weights};
      const LayerOutput out = layer.forward(input);
      layer.objective(losses_of(out.y), out, input);
    });
  };
  CHECK(run_copies({{"baseline", "built-in"}, {"samples", "2"}}, 4) ==
        "[reinforce] the built-in baseline is of samples without replacement, and a token drew an "
        "expert twice. Give the router copies=2.");
  CHECK(
      run_copies({{"baseline", "built-in"}, {"samples", "2"}, {"copies", "2"}}, 3) ==
      "[categorical] 3 rows are not 2 copies of each token that draw different ones of 4 experts. "
      "Give whole copies, and copies <= experts.");
  CHECK(run_copies({{"samples", "2"}}, 3) ==
        "[reinforce] losses are [3] for 3 rows in 2 samples of each token. Give one for each.");
}
