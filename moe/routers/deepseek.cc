// deepseek-v1 (Dai et al., arXiv:2401.06066) and deepseek-v3 (arXiv:2412.19437): many experts of a
// fraction of the width, beside shared ones that are always on (the layer's option `shared`).
//
// deepseek-v1
//   g = softmax(x W + b);  S = TopK(g);  w = g on S, not renormalised
//   auxiliary   the layer's `aux`, 0.01: E sum_i f_i P_i, the paper's expert-level loss
//
// deepseek-v3
//   o = x W + b_0;  s = sigmoid(o), or sqrt(log(1 + e^o)) with score=sqrt-softplus (a score function of
//   Kimi K3, below);  a = s + b, for the selection only
//   groups      the E experts are `groups` groups of neighbours, each with the sum of its two
//               largest a for a score; the best `kept-groups` stay
//   S = the k largest a of those
//   w_i = scale s_i / sum_S s_j, written as scale softmax over S of log s: no 0/0 for small s
//   state       b = "router.balance" [E], 0 at first; after each step in training
//               b_i += bias-rate sign(mean count - count_i) (loss-free balancing,
//               arXiv:2408.15664); bias-rate 0 leaves it as it is
//               balancing=quantile (Kimi K3, arXiv:2607.24653): alpha_t the (k+1)-th largest of
//               s_t + b, b_j = -(1 - k/E quantile over t of s_tj - alpha_t), less the mean of b;
//               with all groups kept
//   auxiliary   balance times the mean over sequences of E/(k L) sum_i count_i P_i (eq. 17 to 20),
//               for the L tokens of one, count_i how many have i in TopK(s), without b and groups,
//               P_i the mean of s_i / sum_j s_j; a batch without sequences is one
//
// Training and inference select alike. No capacity: no token is dropped.

#include <cmath>

#include "moe/balance.h"
#include "moe/registry.h"
#include "moe/score_order.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

class DeepseekV1Router : public Router {
 public:
  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.scores = softmax(r.logits);
    r.selected = top_k_indices(r.logits, size.active, "selected");
    r.weights = take_columns(r.scores, r.selected);
    return r;
  }
};

struct DeepseekV3Settings {
  std::int64_t groups, kept;
  double scale, rate, balance;
  bool quantile;
  bool root;  // the scores are sqrt(softplus)
};

// log sqrt(softplus(o)): below -40 softplus(o) is e^o to all digits, and would underflow.
Var log_root_softplus(Var o) {
  const Var low = constant_like(o, {}, -40.0);
  return 0.5 * (log(softplus(maximum(o, low))) + minimum(o - low, constant_like(o, {}, 0.0)));
}

class DeepseekV3Router : public Router {
 public:
  explicit DeepseekV3Router(const DeepseekV3Settings& settings) : settings_(settings) {}

  void check(const LayerSize& size) const override {
    const std::int64_t groups = settings_.groups;
    const std::int64_t kept = settings_.kept;
    if (size.experts % groups != 0) {
      fail("deepseek-v3", "{} experts do not divide into {} groups. Change one of them.",
           size.experts, groups);
    }
    if (kept > groups) {
      fail("deepseek-v3", "kept-groups is {} of {} groups. Use 1 to {}.", kept, groups, groups);
    }
    if (settings_.quantile && kept < groups) {
      fail("deepseek-v3",
           "balancing is quantile with {} of {} groups kept: its thresholds know no groups. Keep "
           "all, or use balancing=sign.",
           kept, groups);
    }
    if (kept * (size.experts / groups) < size.active) {
      fail("deepseek-v3", "k is {} and {} of {} groups hold {} experts. Keep more groups.",
           size.active, kept, groups, kept * (size.experts / groups));
    }
  }

  void declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
               const Rng& rng) const override {
    Router::declare(size, prefix, parameters, rng);
    parameters.add(std::string(prefix) + "router.balance",
                   Tensor::zeros({size.experts}, DType::f64, Device::cpu), false);
  }

  ConstantWeights constant_weights(const LayerSize& size) const override {
    return size.active == 1 ? ConstantWeights::renormalised : ConstantWeights::no;
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.log_scores = settings_.root ? log_root_softplus(r.logits) : -softplus(-r.logits);
    r.scores = settings_.root ? exp(r.log_scores) : sigmoid(r.logits);
    const std::int64_t tokens = in.x.size(0);
    const std::int64_t k = size.active;
    const Tensor bias = in.weights.at("router.balance").value();
    r.selected = in.x.tape().decisions().decide("selected", DType::i32, {tokens, k}, [&] {
      return top_biased(settings_.root ? Score::root_softplus : Score::sigmoid, r.scores.value(),
                        r.logits.value(), bias, k, settings_.groups, settings_.kept);
    });
    const Var chosen = take_columns(r.log_scores, r.selected);
    r.weights = settings_.scale * softmax(chosen);
    r.log_normaliser = logsumexp(chosen, 1, true) - std::log(settings_.scale);
    if (settings_.balance > 0.0) {
      const Sequences sequences = in.sequence > 1 ? Sequences(in) : Sequences(tokens);
      r.add_loss("balance", settings_.balance,
                 switch_auxiliary(softmax(r.log_scores), top_k_indices(r.logits, k, "largest"),
                                  sequences));
    }
    if (in.training && settings_.quantile) {
      r.updates.emplace_back("router.balance", quantile_bias(bias, r.scores.value(), k));
    } else if (in.training && settings_.rate > 0.0) {
      r.updates.emplace_back("router.balance", balanced_bias(bias, r.selected, settings_.rate));
    }
    return r;
  }

 private:
  DeepseekV3Settings settings_;
};

}  // namespace

RouterEntry deepseek_v1_router() {
  return {.name = "deepseek-v1",
          .summary = "top-k of fine-grained experts beside a shared one",
          .source = "Dai et al. 2024, arXiv:2401.06066",
          .formula =
              "g = softmax(x W + b), S = TopK(g), w = g on S, not renormalised\n"
              "y = sum of the shared experts + sum_S w_i f_i; the same at inference\n"
              "loss: aux E sum_i f_i P_i, f the fractions of the choices, P the mean of g",
          .claim = Claim::exact_on_cell,
          .traits = {.auxiliary = "fractions times mean scores (the layer's aux)"},
          .make = [](const Options&) -> std::unique_ptr<Router> {
            return std::make_unique<DeepseekV1Router>();
          },
          .layer_options = {{"shared", "1"}, {"aux", "0.01"}}};
}

RouterEntry deepseek_v3_router() {
  return {
      .name = "deepseek-v3",
      .summary = "sigmoid scores, selection limited to groups and balanced by a bias",
      .source = "DeepSeek-AI 2024, arXiv:2412.19437",
      .formula =
          "s = sigmoid(x W + b_0), or sqrt(log(1 + e^(x W + b_0)));\n"
          "S = the k largest s + b within the kept-groups best groups\n"
          "(a group's score: the sum of its two largest s + b); w = scale s / sum_S s\n"
          "y = sum of the shared experts + sum_S w_i f_i; the same at inference\n"
          "loss: balance E/(k L) sum_i count_i P_i of each sequence, count those of TopK(s)\n"
          "alone, P the mean of s/sum s\n"
          "after each step in training b_i += bias-rate sign(mean count - count_i), or b_i =\n"
          "-(1 - k/E quantile over t of s_ti - alpha_t) less its mean, alpha_t the (k+1)-th "
          "largest\n"
          "of s_t + b",
      .claim = Claim::exact_on_cell,
      .traits = {.softmax = false,
                 .picks_largest = false,
                 .state = "router.balance",
                 .auxiliary = "counts times mean shares in a sequence (balance)",
                 .losses = {"balance"}},
      .options = {option::number("balance", "coefficient of the balance loss of each sequence")
                      .initially("0.0001")
                      .from(0.0, 1e6)
                      .tried({"0.7"}),
                  option::integer("groups", "groups of neighbouring experts")
                      .initially("1")
                      .from(1, 1e6)
                      .tried({"2"}),
                  option::integer("kept-groups", "groups that a token may choose from")
                      .initially("1")
                      .from(1, 1e6),
                  option::number("scale", "the sum of a token's weights")
                      .initially("2.5")
                      .from(1e-6, 1e6)
                      .tried({"1"}),
                  option::number("bias-rate", "step of the balancing bias; 0 leaves it as it is")
                      .initially("0.001")
                      .from(0.0, 1.0)
                      .tried({"0", "0.1"}),
                  balancing_option(),
                  option::choice(
                      "score", {"sigmoid", "sqrt-softplus"},
                      "what makes scores of logits; the second grows on with large ones")},
      .make = [](const Options& o) -> std::unique_ptr<Router> {
        return std::make_unique<DeepseekV3Router>(DeepseekV3Settings{
            o.integer("groups"), o.integer("kept-groups"), o.number("scale"), o.number("bias-rate"),
            o.number("balance"), o.choice("balancing") == "quantile",
            o.choice("score") == "sqrt-softplus"});
      },
      .layer_options = {{"shared", "1"}}};
}

}  // namespace moegrad
