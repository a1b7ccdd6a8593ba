// loss-free: top-k balanced by a bias on the selection alone (Wang et al., arXiv:2408.15664).
//
//   g = softmax(x W + b_0);  S = TopK(g + b);  w = g on S (not renormalised by default)
//   after each step in training  b_i += bias-rate sign(mean count - count_i),  b = 0 at first
//   balancing=quantile (Kimi K3, arXiv:2607.24653)  alpha_t the (k+1)-th largest of g_t + b,
//               b_j = -(1 - k/E quantile over t of g_tj - alpha_t), less the mean of b
//
// count_i is how many choices of the step fell on expert i. b is state, "router.balance" [E]: no
// gradient reaches it or comes from it, and the weights do not contain it. Training and inference
// select alike. No loss, no capacity.

#include "moe/balance.h"
#include "moe/registry.h"
#include "moe/score_order.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

class LossFreeRouter : public Router {
 public:
  LossFreeRouter(double rate, bool quantile, bool renormalise)
      : rate_(rate), quantile_(quantile), renormalise_(renormalise) {}

  void declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
               const Rng& rng) const override {
    Router::declare(size, prefix, parameters, rng);
    parameters.add(std::string(prefix) + "router.balance",
                   Tensor::zeros({size.experts}, DType::f64, Device::cpu), false);
  }

  ConstantWeights constant_weights(const LayerSize& size) const override {
    return renormalise_ && size.active == 1 ? ConstantWeights::renormalised : ConstantWeights::no;
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.scores = softmax(r.logits);
    const Tensor bias = in.weights.at("router.balance").value();
    const Shape shape = {in.x.size(0), size.active};
    r.selected = in.x.tape().decisions().decide("selected", DType::i32, shape, [&] {
      return top_biased(Score::softmax, r.scores.value(), r.logits.value(), bias, size.active);
    });
    if (renormalise_) {
      // The bias may select experts whose scores are all tiny.
      r.log_scores = log_softmax(r.logits);
      r.weights = softmax(take_columns(r.logits, r.selected));
      r.log_normaliser = logsumexp(take_columns(r.log_scores, r.selected), 1, true);
    } else {
      r.weights = take_columns(r.scores, r.selected);
    }
    if (in.training) {
      r.updates.emplace_back("router.balance",
                             quantile_ ? quantile_bias(bias, r.scores.value(), size.active)
                                       : balanced_bias(bias, r.selected, rate_));
    }
    return r;
  }

 private:
  double rate_;
  bool quantile_;
  bool renormalise_;
};

}  // namespace

RouterEntry loss_free_router() {
  return {
      .name = "loss-free",
      .summary = "top-k balanced by a bias on the selection alone, without a loss",
      .source = "Wang et al. 2024, arXiv:2408.15664",
      .formula =
          "g = softmax(x W + b_0), S = TopK(g + b), w = g on S, or renormalised over S\n"
          "after each step in training b_i += bias-rate sign(mean count - count_i), or b_i =\n"
          "-(1 - k/E quantile over t of g_ti - alpha_t) less its mean, alpha_t the (k+1)-th "
          "largest\n"
          "of g_t + b",
      .claim = Claim::exact_on_cell,
      .traits = {.picks_largest = false, .state = "router.balance"},
      .options = {option::number("bias-rate", "step of the balancing bias; 0 leaves it as it is")
                      .initially("0.001")
                      .from(0.0, 1.0)
                      .tried({"0.1"}),
                  balancing_option(),
                  option::flag(
                      "renormalise",
                      "weights are the softmax over the selected instead of the full softmax")},
      .make = [](const Options& o) -> std::unique_ptr<Router> {
        return std::make_unique<LossFreeRouter>(
            o.number("bias-rate"), o.choice("balancing") == "quantile", o.flag("renormalise"));
      }};
}

}  // namespace moegrad
