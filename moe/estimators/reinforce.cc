// reinforce: the score-function gradient of one expert D drawn from p = softmax(o), y = E_D
// (Williams 1992; the leave-one-out baseline: Kool et al., DeepRLStructPred 2019).
//
//   objective  mean(loss) + mean(sg(loss - b) log p_D), whose gradient has the mean d E[loss] for
//              any loss, as b does not depend on the draw
//   b          none           0
//              leave-one-out  the mean loss of the other `samples` - 1 copies of the token
//              built-in       for samples S drawn without replacement (the router's `copies` =
//                             `samples`; Kool et al., arXiv:2002.06043), see below
//              learned        sg(x) v + c, trained by mean((sg(loss) - b)^2), which is added to
//                             the objective
//
// built-in: with P^A(T) the probability to draw the set T when the experts of A are left out,
//   R(S,s) = P^s(S\s)/P(S), R_s(S,t) = P^{s,t}(S\{s,t})/P^s(S\s), R_s(S,s) = 1
//   objective  mean over tokens of sum_S sg(p_s R(S,s)) loss_s
//              + sum_S sg(p_s R(S,s) (loss_s - sum_{t in S} p_t R_s(S,t) loss_t)) log p_s
//
// The experts get the sparse layer's gradient. `samples` copies of each token run, one behind the
// other. Inference is the sparse layer.

#include <cmath>
#include <set>
#include <span>

#include "moe/dispatch.h"
#include "moe/estimators/surrogate.h"
#include "moe/noise.h"
#include "moe/probability/log_space.h"
#include "moe/probability/sets.h"
#include "moe/registry.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr const char* kWeight = "estimator.baseline.weight";
constexpr const char* kBias = "estimator.baseline.bias";
constexpr std::int64_t kMostInSet = 6;

// Of the samples of one token: p_s R(S,s) [n], and p_t R_s(S,t) [n, n] by row s.
struct SetWeights {
  std::vector<double> first, others;
};

// R_s(S,t) is R(S\s, t) where s is no expert at all.
SetWeights set_weights(std::span<const double> logits, const std::vector<std::int32_t>& set) {
  const std::size_t n = set.size();
  const double total = log_sum_exp(logits);
  SetWeights w{set_probability(logits, set).first, std::vector<double>(n * n)};
  for (std::size_t s = 0; s < n; ++s) {
    std::vector<double> left(logits.begin(), logits.end());
    left.erase(left.begin() + set[s]);
    std::vector<std::int32_t> rest;
    for (const std::int32_t t : set) {
      if (t != set[s]) rest.push_back(t > set[s] ? t - 1 : t);
    }
    const std::vector<double> log_ratio = set_probability(left, rest).log_ratio;
    for (std::size_t t = 0; t < n; ++t) {
      const double ratio = t == s ? 0.0 : log_ratio[t < s ? t : t - 1];
      w.others[s * n + t] = std::exp(logits[static_cast<std::size_t>(set[t])] - total + ratio);
    }
  }
  return w;
}

class ReinforceEstimator : public Estimator {
 public:
  explicit ReinforceEstimator(const Options& o)
      : samples_(o.integer("samples")), baseline_(o.choice("baseline")) {}

  void check(const LayerSize&, const RouterEntry&) const override {
    if (baseline_ == "built-in" && samples_ > kMostInSet) {
      fail("reinforce",
           "the built-in baseline adds up the orders of {} samples. Use at most {}, or another "
           "baseline.",
           samples_, kMostInSet);
    }
    if ((baseline_ != "leave-one-out" && baseline_ != "built-in") || samples_ > 1) return;
    fail("reinforce",
         "the {} baseline needs the losses of other samples, and samples is {}. Use "
         "samples >= 2, or another baseline.",
         baseline_, samples_);
  }
  void declare(const LayerSize& size, std::string_view prefix,
               Parameters& parameters) const override {
    if (baseline_ != "learned") return;
    parameters
        .add(std::string(prefix) + kWeight, Tensor::zeros({size.model, 1}, DType::f64, Device::cpu))
        .decays = true;
    parameters.add(std::string(prefix) + kBias, Tensor::zeros({1}, DType::f64, Device::cpu));
  }

  Combined combine(const EstimatorInput& in) const override {
    return fused(in.x.tape())
               ? in.experts.mixture(in.x, in.routing.weights, in.plan)
               : written_sparse(in.experts(in.x, in.plan), in.routing.weights, in.plan);
  }

  std::int64_t samples() const override { return samples_; }
  bool needs_losses() const override { return true; }
  Var objective(Var losses, const Routing& routing, const LayerInput& layer) const override {
    const Var log_p = routing.log_probability;
    if (!log_p.defined()) {
      fail("reinforce", "the router gives no probability of its draw. Use --router categorical.");
    }
    const std::int64_t rows = log_p.size(0);
    if (losses.rank() != 1 || losses.size(0) != rows || rows % samples_ != 0) {
      fail("reinforce", "losses are {} for {} rows in {} samples of each token. Give one for each.",
           losses.shape(), rows, samples_);
    }
    const Var loss = stop_gradient(losses);
    const Var path = mean(losses);
    const auto score = [&](Var b) { return mean((loss - b) * reshape(log_p, {rows})); };
    if (baseline_ == "leave-one-out" && samples_ > 1) {
      const Var copies = reshape(loss, {rows / samples_, samples_});
      const Var others = sum(copies, 1, true) - copies;
      return path + score(reshape(others / static_cast<double>(samples_ - 1), {rows}));
    }
    if (baseline_ == "built-in" && samples_ > 1) return without_replacement(losses, routing);
    if (baseline_ == "learned") {
      const Var product = matmul(stop_gradient(layer.x), layer.weights.at(kWeight));
      const Var b = reshape(product + layer.weights.at(kBias), {rows});
      return path + score(stop_gradient(b)) + mean(square(loss - b));
    }
    return path + mean(loss * reshape(log_p, {rows}));
  }

 private:
  Var without_replacement(Var losses, const Routing& routing) const {
    const Tensor logits =
        less_largest(stop_gradient(routing.logits).value().to(DType::f64)).to(Device::cpu);
    const Tensor loss = stop_gradient(losses).value().to(Device::cpu);
    const Tensor selected = routing.selected.to(Device::cpu);
    const std::int64_t rows = loss.size(0);
    const std::int64_t experts = logits.size(1);
    const auto n = static_cast<std::size_t>(samples_);
    const Tensor weight = Tensor::empty({rows}, DType::f64, Device::cpu);
    const Tensor score = Tensor::empty({rows}, DType::f64, Device::cpu);
    const double tokens = static_cast<double>(rows) / static_cast<double>(samples_);
    for (std::int64_t t = 0; t < rows; t += samples_) {
      const std::int32_t* drawn = selected.data<std::int32_t>() + t;
      const std::vector<std::int32_t> set(drawn, drawn + samples_);
      if (std::set<std::int32_t>(set.begin(), set.end()).size() != n) {
        fail("reinforce",
             "the built-in baseline is of samples without replacement, and a token drew an expert "
             "twice. Give the router copies={}.",
             samples_);
      }
      const SetWeights w =
          set_weights(logits.values<double>().subspan(static_cast<std::size_t>(t * experts),
                                                      static_cast<std::size_t>(experts)),
                      set);
      for (std::size_t s = 0; s < n; ++s) {
        const std::int64_t at = t + static_cast<std::int64_t>(s);
        double baseline = 0.0;
        for (std::size_t i = 0; i < n; ++i) {
          baseline += w.others[s * n + i] * loss.at(t + static_cast<std::int64_t>(i));
        }
        weight.write<double>()[at] = w.first[s] / tokens;
        score.write<double>()[at] = w.first[s] / tokens * (loss.at(at) - baseline);
      }
    }
    const auto factors = [&](const Tensor& here) {
      return losses.tape().constant(here.to(losses.dtype()).to(losses.value().device()));
    };
    return sum(losses * factors(weight)) +
           sum(reshape(routing.log_probability, {rows}) * factors(score));
  }

  std::int64_t samples_;
  std::string baseline_;
};

}  // namespace

EstimatorEntry reinforce_estimator() {
  return {
      .name = "reinforce",
      .summary = "the score function: unbiased for any loss, from the losses of the draws",
      .source = "Williams 1992; Kool et al. 2019; Kool et al. 2020, arXiv:2002.06043",
      .formula =
          "y = E_D; objective mean(loss) + mean(sg(loss - b) log p_D), the baseline b\n"
          "0, the mean of the token's other samples, learned from x, or (built-in) that of "
          "samples\n"
          "without replacement, when the router's copies = samples",
      .claim = Claim::unbiased,
      .traits = {.categorical = true,
                 .by_parts = false,
                 .on_host = "the weights of the built-in baseline",
                 .on_host_with = {"baseline", "built-in"}},
      .options =
          {option::choice(
               "baseline", {"none", "leave-one-out", "built-in", "learned"},
               "what is taken off the loss: nothing, the mean loss of the other samples, that of "
               "samples without replacement, or a linear function of x"),
           option::integer("samples", "copies of each token that run")
               .initially("1")
               .from(1, 1024)
               .tried({"2", "3"})},
      .make = [](const Options& o) -> std::unique_ptr<Estimator> {
        return std::make_unique<ReinforceEstimator>(o);
      },
      .routers = {"categorical"}};
}

}  // namespace moegrad
