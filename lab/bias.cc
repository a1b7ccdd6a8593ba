#include "lab/bias.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <optional>

#include "moe/moments.h"
#include "moe/registry.h"
#include "ops/ops.h"
#include "tensor/cpu_parallel.h"

namespace moegrad {
namespace {

constexpr std::int64_t kFeatures = 3;
constexpr std::int64_t kHiddenWidth = 4;
constexpr std::int64_t kOutputWidth = 4;
constexpr std::int64_t kContext = 16;  // tokens, where others of the batch can matter
constexpr int kWarmUp = 30;            // passes that fill a moving average

// Streams of random numbers: of the setting of a draw, and of its passes.
Rng setting_rng(const Rng& draw, std::uint64_t what) { return draw.split(64 * draw.stream + what); }
Rng pass_rng(const Rng& draw, std::uint64_t pass) {
  return draw.split(0x70617373'00000000U + (draw.stream << 20U) + pass);
}

double dot(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0.0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
std::vector<double> minus(std::vector<double> a, const std::vector<double>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) a[i] -= b[i];
  return a;
}
double norm(const std::vector<double>& a) { return std::sqrt(dot(a, a)); }

// The layer on one draw of tokens, parameters and loss: the same numbers for every router and
// estimator. The first E columns of x are the logits; the experts read the others. All tokens are
// one sequence. Shared experts are left out, as they are in the dense layer.
class Setting {
 public:
  Setting(const BiasCase& of, const Rng& rng) : of_(of) {
    const RouterEntry& router = router_entry(of.router);
    tokens_ = router.traits.samples || router.traits.continuous ? 1 : kContext;
    config_.size = {of.experts + kFeatures, kHiddenWidth, kOutputWidth, of.experts, of.active};
    config_.router = of.router;
    config_.estimator = of.estimator;
    config_.activation = Activation::silu;
    config_.options = of.options;
    config_.options.try_emplace("shared", "0");
    const std::int64_t experts = of.experts;
    x_ = Tensor::empty({tokens_, experts + kFeatures}, DType::f64);
    const auto normal = [&](std::uint64_t stream, const Shape& shape, double deviation) {
      return setting_rng(rng, stream).normal(shape, DType::f64, 0.0, deviation);
    };
    const Tensor logits = normal(1, {kContext, experts}, of.scale);
    const Tensor features = normal(2, {kContext, kFeatures}, 1.0);
    for (std::int64_t i = 0; i < x_.numel(); ++i) {
      const std::int64_t t = i / (experts + kFeatures);
      const std::int64_t c = i % (experts + kFeatures);
      x_.data<double>()[i] =
          c < experts ? logits.at(t * experts + c) : features.at(t * kFeatures + c - experts);
    }
    direction_ = normal(3, {1, kOutputWidth}, 1.0);
    target_ = normal(4, {1, kOutputWidth}, 1.0);
    matrix_ = normal(5, {kOutputWidth, kOutputWidth}, 1.0);
    declare(rng);
  }

  std::int64_t experts() const { return of_.experts; }

  // The logits of the token that is studied, moved by `shift` at one place.
  Tensor tokens(std::int64_t place = 0, double shift = 0.0) const {
    if (shift == 0.0) return x_;
    const Tensor x = x_.clone();
    x.write<double>()[place] += shift;
    return x;
  }

  std::vector<double> softmax_weights() const {
    std::vector<double> logits;
    for (std::int64_t e = 0; e < experts(); ++e) logits.push_back(x_.at(e));
    return softmax_of(logits);
  }

  // The gradient of the logits in the dense softmax layer.
  std::vector<double> dense_gradient() const {
    LayerConfig dense = config_;
    dense.router = "softmax";
    dense.estimator = "sparse";
    dense.options.clear();
    Tape tape;
    const Var x = tape.variable(x_);
    const Var y = Layer(dense).forward(x, weights(tape), true).y;
    return logits_of(tape.backward(sum(losses_of(slice(y, 0, 0, 1))))[x]);
  }

  struct Pass {
    double loss = 0.0;
    std::vector<double> weights;   // by expert
    std::vector<double> gradient;  // of the logits
    double evaluations = 0.0;
  };
  Pass run(const Layer& layer, const Tensor& tokens, Tape& tape, bool gradient) {
    const Estimator& estimator = layer.estimator();
    const std::int64_t copies = estimator.samples();
    const Var one = tape.variable(tokens);
    const Var x = copies == 1 ? one : concat(std::vector<Var>(size_of(copies), one), 0);
    const Weights w = weights(tape);
    LayerInput in{x, w, true};
    in.sequence = x.size(0);
    const LayerOutput out = layer.forward(in);
    const Var losses = losses_of(slice(out.y, 0, 0, copies));
    const Var loss =
        estimator.needs_losses() ? estimator.objective(losses, out.routing, in) : mean(losses);
    Pass pass;
    pass.loss = mean(losses).value().item();
    updates_ = out.updates;
    if (!gradient) return pass;
    pass.weights.assign(size_of(experts()), 0.0);
    const std::int64_t k = out.routing.selected.size(1);
    for (std::int64_t j = 0; j < copies * k; ++j) {
      const std::int32_t e = out.routing.selected.data<std::int32_t>()[j];
      if (e < 0) continue;
      pass.weights[size_of(e)] += out.routing.weights.value().at(j) / static_cast<double>(copies);
    }
    pass.evaluations = estimator_entry(of_.estimator).traits.dense
                           ? static_cast<double>(experts())
                           : static_cast<double>(out.plan.slots()) / static_cast<double>(tokens_);
    pass.gradient.assign(size_of(experts()), 0.0);
    if (loss.needs_gradient()) pass.gradient = logits_of(tape.backward(loss)[one]);
    return pass;
  }

  // Passes that move the estimator's state, as training would.
  void warm_up(const Layer& layer, const Rng& rng) {
    for (int i = 0; i < kWarmUp; ++i) {
      Tape tape({.gradients = false, .rng = pass_rng(rng, static_cast<std::uint64_t>(i))});
      run(layer, x_, tape, false);
      if (updates_.empty()) return;
      for (const auto& [name, value] : updates_) {
        if (!name.starts_with("estimator.")) continue;  // the router is as it was made
        if (Parameter* p = parameters_.find(name)) p->value = value.to(DType::f64);
      }
    }
  }

  const LayerConfig& config() const { return config_; }

 private:
  // Experts of size one, blind to the logits; the identity as the router's matrix, and no bias.
  void declare(const Rng& rng) {
    Rng own = setting_rng(rng, 6);
    Layer(config_).declare("", parameters_, own);
    std::uint64_t stream = 7;
    for (Parameter& p : parameters_) {
      if (p.name == "router.weight") {
        p.value = Tensor::zeros(p.value.shape(), DType::f64);
        for (std::int64_t e = 0; e < experts(); ++e) {
          p.value.data<double>()[e * experts() + e] = 1.0;
        }
      }
      if (!p.name.starts_with("experts.")) continue;
      p.value = setting_rng(rng, stream++).normal(p.value.shape(), DType::f64);
      if (p.name != "experts.w1") continue;
      const std::int64_t rows = p.value.size(1);
      for (std::int64_t i = 0; i < p.value.numel(); ++i) {
        if (i / kHiddenWidth % rows < experts()) p.value.data<double>()[i] = 0.0;
      }
    }
  }

  Weights weights(Tape& tape) const {
    Weights w;
    for (const Parameter& p : parameters_) {
      if (p.name != "router.bias") w.set(p.name, tape.constant(p.value));
    }
    return w;
  }

  static std::size_t size_of(std::int64_t n) { return static_cast<std::size_t>(n); }

  std::vector<double> logits_of(const Tensor& dx) const {
    std::vector<double> gradient;
    for (std::int64_t e = 0; e < experts(); ++e) gradient.push_back(dx.at(e));
    return gradient;
  }

  // y [R, kOutputWidth] -> [R]
  Var losses_of(Var y) const {
    Tape& tape = y.tape();
    if (of_.loss == "linear") return sum(y * tape.constant(direction_), 1);
    const Var away = y - tape.constant(target_);
    if (of_.loss == "quadratic") return 0.5 * sum(square(away), 1);
    if (of_.loss == "cubic") return sum(square(away) * away, 1) / 3.0;
    return sum(tanh(matmul(away, tape.constant(matrix_))) * tape.constant(direction_), 1);
  }

  const BiasCase& of_;
  LayerConfig config_;
  std::int64_t tokens_ = 1;
  Tensor x_;
  Parameters parameters_;
  Tensor direction_, target_, matrix_;
  Updates updates_;
};

struct Weighted {
  double probability;
  Setting::Pass pass;
};

// Every outcome of the draws, or nothing where there are more than the limit.
std::optional<std::vector<Weighted>> enumerate(Setting& s, const Layer& layer, const Tensor& x,
                                               bool gradient, std::int64_t limit, const Rng& rng) {
  Decisions decisions = Decisions::enumerator();
  std::vector<Weighted> all;
  do {
    if (static_cast<std::int64_t>(all.size()) == limit) return std::nullopt;
    Tape tape({.gradients = gradient, .rng = rng, .decisions = &decisions});
    Setting::Pass pass = s.run(layer, x, tape, gradient);
    all.push_back({decisions.probability(), std::move(pass)});
  } while (decisions.next_outcome());
  return all;
}

std::vector<Weighted> sample(Setting& s, const Layer& layer, std::int64_t samples, const Rng& rng) {
  std::vector<Weighted> all;
  for (std::int64_t i = 0; i < samples; ++i) {
    Tape tape({.rng = pass_rng(rng, static_cast<std::uint64_t>(i))});
    all.push_back({1.0 / static_cast<double>(samples), s.run(layer, s.tokens(), tape, true)});
  }
  return all;
}

// d E[loss] / d logits by five points, over all outcomes at each.
std::vector<double> own_gradient(Setting& s, const Layer& layer, std::int64_t limit,
                                 const Rng& rng) {
  constexpr double h = 2e-3;
  const auto expected = [&](std::int64_t place, double shift) {
    double mean = 0.0;
    const auto all = enumerate(s, layer, s.tokens(place, shift), false, limit, rng);
    // A move of the logits can open another outcome only where one had probability zero.
    for (const Weighted& w : all.value()) mean += w.probability * w.pass.loss;
    return mean;
  };
  std::vector<double> gradient;
  for (std::int64_t e = 0; e < s.experts(); ++e) {
    const double near = expected(e, h) - expected(e, -h);
    const double far = expected(e, 2.0 * h) - expected(e, -2.0 * h);
    gradient.push_back((8.0 * near - far) / (12.0 * h));
  }
  return gradient;
}

void add_draw(BiasRow& row, const BiasOptions& options, std::int64_t draw) {
  const RouterEntry& router = router_entry(row.of.router);
  const EstimatorEntry& estimator = estimator_entry(row.of.estimator);
  const Rng rng{options.seed, static_cast<std::uint64_t>(draw), 0};
  Setting s(row.of, rng);
  const Layer layer(s.config());
  s.warm_up(layer, rng);
  std::optional<std::vector<Weighted>> all;
  if (!router.traits.continuous && !estimator.traits.continuous) {
    all = enumerate(s, layer, s.tokens(), true, options.max_outcomes, rng);
  }
  const bool exact = all.has_value();
  if (!exact) all = sample(s, layer, options.samples, rng);

  const std::vector<double> g = s.softmax_weights();
  const std::vector<double> dense = s.dense_gradient();
  std::vector<double> mean_weight(g.size(), 0.0);
  std::vector<double> mean(g.size(), 0.0);
  const double n = static_cast<double>(options.draws);
  for (const auto& [p, pass] : *all) {
    for (std::size_t e = 0; e < g.size(); ++e) {
      mean_weight[e] += p * pass.weights[e];
      mean[e] += p * pass.gradient[e];
    }
    const std::vector<double> off = minus(pass.weights, g);
    row.weight_mse += p * dot(off, off) / n;
    row.evaluations += p * pass.evaluations / n;
  }
  double variance = 0.0;
  for (const auto& [p, pass] : *all) {
    const std::vector<double> d = minus(pass.gradient, mean);
    variance += p * dot(d, d);
  }
  const std::vector<double> bias = minus(mean, dense);
  for (const double d : minus(mean_weight, g)) row.weight_bias_l1 += std::abs(d) / n;
  row.gradient_bias += norm(bias) / n;
  row.gradient_variance += variance / n;
  row.gradient_mse += (variance + dot(bias, bias)) / n;
  if (norm(dense) > 0.0) {
    const double norms = norm(mean) * norm(dense);
    row.cosine += norms > 0.0 ? dot(mean, dense) / norms : 0.0;
    row.norm_ratio += norm(mean) / norm(dense);
    ++row.compared;
  }
  row.exact = row.exact && exact;
  const auto count = static_cast<std::int64_t>(all->size());
  row.outcomes = std::max(row.outcomes, count);
  if (!exact) row.bias_confidence += 1.96 * std::sqrt(variance / static_cast<double>(count)) / n;
  // Four enumerations for each logit.
  row.own_known = row.own_known && exact && count * 4 * s.experts() <= 4 * options.max_outcomes;
  if (row.own_known) {
    row.own_bias += norm(minus(mean, own_gradient(s, layer, options.max_outcomes, rng))) / n;
  }
}

}  // namespace

const std::vector<std::string>& bias_losses() {
  static const std::vector<std::string> names = {"linear", "quadratic", "cubic", "mlp"};
  return names;
}

double passes_of(double cases, const BiasOptions& options) {
  constexpr std::int64_t most = BiasOptions::kMost;
  if (options.draws < 1 || options.max_outcomes < 1 || options.samples < 2 ||
      options.draws > most || options.max_outcomes > most || options.samples > most) {
    fail("study", "{} draws, {} outcomes, {} samples. Give at least 1, 1 and 2, at most {}.",
         options.draws, options.max_outcomes, options.samples, most);
  }
  const std::int64_t each = std::max(options.max_outcomes, options.samples);
  const double passes = cases * static_cast<double>(options.draws) * static_cast<double>(each);
  if (passes > static_cast<double>(BiasOptions::kMostPasses)) {
    fail("study",
         "{} cases x {} draws x {} outcomes or samples are {:.3g} passes through a layer. They may "
         "be {} at most: name fewer cases, or lower --draws, --outcomes or --samples.",
         cases, options.draws, each, passes, BiasOptions::kMostPasses);
  }
  return passes;
}

BiasRow measure_bias(const BiasCase& of, const BiasOptions& options) {
  if (std::find(bias_losses().begin(), bias_losses().end(), of.loss) == bias_losses().end()) {
    fail("study", "there is no loss '{}'. Did you mean '{}'?", of.loss,
         nearest(of.loss, bias_losses()));
  }
  if (!(of.scale >= 0.0) || !std::isfinite(of.scale)) {
    fail("study", "the scale of the logits is {}. Give a number of at least 0.", of.scale);
  }
  passes_of(1.0, options);
  if (!router_entry(of.router).traits.linear) {
    fail("study", "the logits of router {} are not x W: the study cannot set them. Choose another.",
         of.router);
  }
  BiasRow row;
  row.of = of;
  for (std::int64_t draw = 0; draw < options.draws; ++draw) add_draw(row, options, draw);
  if (!row.own_known) row.own_bias = 0.0;
  // 0 / 0 is NaN: undefined.
  row.cosine /= static_cast<double>(row.compared);
  row.norm_ratio /= static_cast<double>(row.compared);
  return row;
}

std::vector<std::pair<std::string, std::string>> bias_pairs() {
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const RouterEntry& router : routers()) {
    if (router.traits.linear) pairs.emplace_back(router.name, "sparse");
  }
  for (const EstimatorEntry& estimator : estimators()) {
    if (estimator.name == "sparse" || estimator.routers.empty()) continue;
    pairs.emplace_back(estimator.routers.front(), estimator.name);
  }
  return pairs;
}

std::vector<BiasRow> study_bias(const std::vector<BiasCase>& cases, const BiasOptions& options,
                                const std::function<void(std::size_t)>& progress,
                                std::vector<std::string>& skipped) {
  passes_of(static_cast<double>(cases.size()), options);
  std::vector<std::optional<BiasRow>> rows(cases.size());
  std::vector<std::string> refused(cases.size());
  std::size_t done = 0;
  std::mutex mutex;
  cpu::parallel_pieces(static_cast<std::int64_t>(cases.size()), [&](std::int64_t piece, int) {
    const auto i = static_cast<std::size_t>(piece);
    try {
      rows[i] = measure_bias(cases[i], options);
    } catch (const std::exception& e) {
      refused[i] = e.what();
    }
    const std::lock_guard lock(mutex);
    ++done;
    if (progress) progress(done);
  });
  std::vector<BiasRow> out;
  for (std::size_t i = 0; i < cases.size(); ++i) {
    if (rows[i]) {
      out.push_back(std::move(*rows[i]));
    } else if (std::find(skipped.begin(), skipped.end(), refused[i]) == skipped.end()) {
      skipped.push_back(refused[i]);
    }
  }
  return out;
}

}  // namespace moegrad
