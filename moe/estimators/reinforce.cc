// reinforce: the score-function gradient of one expert D drawn from p = softmax(o), y = E_D
// (Williams 1992; the leave-one-out baseline: Kool et al., DeepRLStructPred 2019).
//
//   objective  mean(loss) + mean(sg(loss - b) log p_D), whose gradient has the mean d E[loss] for
//              any loss, as b does not depend on the draw
//   b          none           0
//              leave-one-out  the mean loss of the other `samples` - 1 copies of the token
//              learned        sg(x) v + c, trained by mean((sg(loss) - b)^2), added to the
//              objective
//
// The experts get the sparse layer's gradient. `samples` copies of each token run, one behind the
// other. Inference is the sparse layer.

#include "moe/dispatch.h"
#include "moe/estimators/surrogate.h"
#include "moe/registry.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr const char* kWeight = "estimator.baseline.weight";
constexpr const char* kBias = "estimator.baseline.bias";

class ReinforceEstimator : public Estimator {
 public:
  explicit ReinforceEstimator(const Options& o)
      : samples_(o.integer("samples")), baseline_(o.choice("baseline")) {}

  void check(const LayerSize&, const RouterEntry&) const override {
    if (baseline_ != "leave-one-out" || samples_ > 1) return;
    fail("reinforce",
         "the leave-one-out baseline needs the losses of other samples, and samples is {}. Use "
         "samples >= 2, or another baseline.",
         samples_);
  }
  void declare(const LayerSize& size, std::string_view prefix,
               Parameters& parameters) const override {
    if (baseline_ != "learned") return;
    parameters.add(std::string(prefix) + kWeight, Tensor::zeros({size.model, 1}, DType::f64));
    parameters.add(std::string(prefix) + kBias, Tensor::zeros({1}, DType::f64));
  }

  Combined combine(const EstimatorInput& in) const override {
    const Var h = in.experts(dispatch(in.x, in.plan), in.plan);
    return fused(in.x.tape()) ? moegrad::combine(h, in.routing.weights, in.plan)
                              : written_sparse(h, in.routing.weights, in.plan);
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
    if (baseline_ == "learned") {
      const Var product = matmul(stop_gradient(layer.x), layer.weights.at(kWeight));
      const Var b = reshape(product + layer.weights.at(kBias), {rows});
      return path + score(stop_gradient(b)) + mean(square(loss - b));
    }
    return path + mean(loss * reshape(log_p, {rows}));
  }

 private:
  std::int64_t samples_;
  std::string baseline_;
};

}  // namespace

EstimatorEntry reinforce_estimator() {
  return {
      .name = "reinforce",
      .summary = "the score function: unbiased for any loss, from the losses of the draws",
      .source = "Williams 1992; Kool et al. 2019",
      .formula =
          "y = E_D; objective mean(loss) + mean(sg(loss - b) log p_D), the baseline b\n"
          "0, the mean of the token's other samples, or learned from x",
      .claim = Claim::unbiased,
      .traits = {.categorical = true, .by_parts = false},
      .options = {{"baseline",
                   OptionSpec::Kind::choice,
                   "none",
                   "what is taken off the loss: nothing, the mean loss of the other samples, or "
                   "a linear function of x",
                   0,
                   0,
                   {"none", "leave-one-out", "learned"}},
                  {"samples",
                   OptionSpec::Kind::integer,
                   "1",
                   "copies of each token that run",
                   1,
                   1024,
                   {},
                   {"2", "3"}}},
      .make = [](const Options& o) -> std::unique_ptr<Estimator> {
        return std::make_unique<ReinforceEstimator>(o);
      },
      .routers = {"categorical"}};
}

}  // namespace moegrad
