// moesart: k experts sampled from the softmax and re-weighted to approximate it
// (Ibrahim et al., ICLR 2024 submission 449; the formulas are those of the authors' released code).
//
//   o = (x W + b)/tau;  g = softmax(o)
//   training    S = k experts sampled without replacement from g (k >= 2); j = uniform draw from S
//               adj_j = o_j;  adj_i = o_i - log((k-1) g_i) for i in S\{j};  w = softmax(adj) over S
//               in closed form w_j = g_j/(1+g_j), w_i = 1/((k-1)(1+g_j))
//   inference   S = TopK(o), w = 1/k
//   auxiliary   lasso * mean over tokens of sum_{i not in TopK(g)} g_i
//
// `weighting`: small-random (above); zero, all k adjusted by log(k g), constant weights 1/k; large,
// no adjustment, the softmax of o over S. Only g_j carries a gradient, and it reaches all E logits
// with no further expert evaluated.

#include <cmath>

#include "moe/balance.h"
#include "moe/registry.h"
#include "moe/sampling.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

enum class Weighting { small_random, zero, large };

class MoesartRouter : public Router {
 public:
  MoesartRouter(Weighting weighting, bool replacement, double temperature, double lasso)
      : weighting_(weighting),
        replacement_(replacement),
        temperature_(temperature),
        lasso_(lasso) {}

  ConstantWeights constant_weights(const LayerSize&) const override {
    return weighting_ == Weighting::zero ? ConstantWeights::constant : ConstantWeights::no;
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    if (temperature_ != 1.0) r.logits = r.logits / temperature_;
    r.scores = softmax(r.logits);
    const std::int64_t k = size.active;
    if (in.training) {
      r.selected = sample_experts(r.logits, k, replacement_);
      r.weights = training_weights(r, k);
    } else {
      r.selected = top_k_indices(r.logits, k, "selected");
      r.weights = uniform(r, k);
    }
    if (lasso_ > 0.0) {
      const Tensor outside = complement(top_k_indices(r.logits, k, "lasso"), size.experts);
      r.add_loss("lasso", lasso_, mean_over_tokens(sum(take_columns(r.scores, outside), 1)));
    }
    return r;
  }

 private:
  static Var uniform(const Routing& r, std::int64_t k) {
    return constant_like(r.logits, {r.logits.size(0), k}, 1.0 / static_cast<double>(k));
  }

  Var training_weights(const Routing& r, std::int64_t k) const {
    if (weighting_ == Weighting::zero) return uniform(r, k);
    if (weighting_ == Weighting::large) return softmax(take_columns(r.logits, r.selected));
    // All adj_i less logsumexp(o): log g_j for j, and -log(k-1) for the others. No log of a g that
    // underflowed, and no large numbers for large logits.
    Tape& tape = r.logits.tape();
    const std::int64_t tokens = r.logits.size(0);
    const Tensor even =
        Tensor::full({tokens, k}, 1.0 / static_cast<double>(k), DType::f64, r.selected.device());
    const Tensor j = tape.decisions().categorical("unadjusted", even, tape.rng());
    const Tensor is_j = flags_of(j.reshape({tokens, 1}), k);
    const Var log_g = take_columns(log_softmax(r.logits), r.selected);
    const double rest = -std::log(static_cast<double>(k) - 1.0);
    return softmax(where(is_j, log_g, constant_like(r.logits, {}, rest)));
  }

  Weighting weighting_;
  bool replacement_;
  double temperature_;
  double lasso_;
};

// By enumeration of the fixed case of moe/moments.h.
std::vector<RecordedBias> recorded_figures() {
  return {{{}, 4, 2, 0.164175704829, 0.205981292047, 0.342810262677, 0.014005636950},
          {{}, 8, 2, 0.014176283834, 0.476857521927, 0.313024536466, 0.021678271892},
          {{}, 8, 4, 0.254045633236, 0.102583215895, 0.335724472764, 0.012342275582},
          {{{"weighting", "large"}},
           8,
           2,
           0.248999829651,
           0.306137949266,
           0.168796266751,
           0.114600901303},
          {{{"weighting", "zero"}}, 8, 2, 0.105983173582, 0.284713502089, 0.403711606021, 0.0}};
}

}  // namespace

RouterEntry moesart_router() {
  return {.name = "moesart",
          .summary = "k experts sampled from the softmax, re-weighted to approximate it",
          .source = "Ibrahim et al., ICLR 2024 submission 449",
          .formula =
              "training: S = k experts sampled from g = softmax((x W + b)/tau), j uniform in S;\n"
              "w = softmax over S of o_j for j and o_i - log((k-1) g_i) for the others,\n"
              "that is w_j = g_j/(1+g_j), w_i = 1/((k-1)(1+g_j))\n"
              "inference: S = TopK(o), w = 1/k",
          .claim = Claim::documented,
          .traits = {.samples = true, .auxiliary = "trimmed lasso (lasso)", .losses = {"lasso"}},
          .options = {option::choice("weighting", {"small-random", "zero", "large"},
                                     "how the sampled experts are re-weighted"),
                      option::flag("replacement", "sample with replacement"),
                      option::number("temperature", "divides the logits")
                          .initially("1")
                          .from(1e-6, 1e6)
                          .tried({"0.7"}),
                      option::number(
                          "lasso", "coefficient of the trimmed lasso, the score outside the top k")
                          .initially("0")
                          .from(0.0, 1e6)
                          .tried({"0.5"})},
          .make = [](const Options& o) -> std::unique_ptr<Router> {
            const std::string& name = o.choice("weighting");
            const Weighting weighting = name == "zero"    ? Weighting::zero
                                        : name == "large" ? Weighting::large
                                                          : Weighting::small_random;
            return std::make_unique<MoesartRouter>(weighting, o.flag("replacement"),
                                                   o.number("temperature"), o.number("lasso"));
          },
          .recorded = recorded_figures(),
          .least_active = 2,
          .draws = {"selected", "unadjusted"}};
}

}  // namespace moegrad
