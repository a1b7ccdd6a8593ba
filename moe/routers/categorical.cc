// categorical: one expert drawn from the softmax, with weight 1. The choice that the estimators of
// a categorical variable are about (straight-through, Gumbel-softmax, reinmax, the score function);
// without one of them the router gets no gradient.
//
//   o = x W + b;  p = softmax(o)
//   training    D = argmax(o + G), G Gumbel noise (Gumbel 1954; Maddison et al., arXiv:1411.0030),
//               which is a draw from p;  w = 1, a constant
//   inference   D = argmax(o), of equal logits the lowest expert;  w = 1
//
// `copies` = n > 1: rows n t .. n t + n - 1 are copies of one token, which draw without replacement
// (the order of Gumbel top-k, Kool et al., arXiv:1903.06059): for the baseline of samples without
// replacement of the estimator reinforce. There is no G then.
//
// Routing::noise is G, Routing::log_probability log p_D (differentiable). Where the draw is
// enumerated, or was given without its noise, D is a draw from p and there is no G.

#include "moe/noise.h"
#include "moe/padding.h"
#include "moe/registry.h"
#include "moe/sampling.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

class CategoricalRouter : public Router {
 public:
  explicit CategoricalRouter(std::int64_t copies) : copies_(copies) {}

  ConstantWeights constant_weights(const LayerSize&) const override {
    return ConstantWeights::constant;
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    if (size.active != 1) {
      fail("categorical", "k is {}. One expert is drawn: use k = 1.", size.active);
    }
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.scores = softmax(r.logits);
    if (in.training && copies_ > 1) {
      require_whole_copies(in, copies_);
      draw_copies(r);
    } else if (in.training) {
      draw(r);
    } else {
      r.selected = top_k_indices(r.logits, 1, "selected");
    }
    r.weights = constant_like(r.logits, {r.logits.size(0), 1}, 1.0);
    r.log_probability = take_columns(log_softmax(r.logits), r.selected);
    return r;
  }

 private:
  void draw_copies(Routing& r) const {
    const std::int64_t rows = r.logits.size(0);
    if (rows % copies_ != 0 || copies_ > r.logits.size(1)) {
      fail("categorical",
           "{} rows are not {} copies of each token that draw different ones of {} experts. Give "
           "whole copies, and copies <= experts.",
           rows, copies_, r.logits.size(1));
    }
    const std::int64_t experts = r.logits.size(1);
    const Tensor copies = r.logits.value().reshape({rows / copies_, copies_ * experts});
    const Var first = r.logits.tape().constant(columns_of(copies, 0, experts));
    r.selected = sample_experts(first, copies_, false).reshape({rows, 1});
  }

  static void draw(Routing& r) {
    Tape& tape = r.logits.tape();
    Decisions& decisions = tape.decisions();
    const bool drawn = decisions.mode() == Decisions::Mode::enumerate || decisions.has("selected");
    if (drawn && !decisions.has("noise")) {
      r.selected = sample_experts(r.logits, 1, false);
      return;
    }
    const Tensor logits = r.logits.value();
    const Tensor noise = decisions.decide("noise", DType::f64, logits.shape(), [&] {
      return tape.rng().gumbel(logits.shape(), DType::f64, logits.device());
    });
    r.selected = decisions.decide("selected", DType::i32, {logits.size(0), 1},
                                  [&] { return largest_places(noisy_order(logits, noise), 1); });
    r.noise = noise.to(logits.dtype());
  }

  std::int64_t copies_;
};

}  // namespace

RouterEntry categorical_router() {
  return {
      .name = "categorical",
      .summary = "one expert drawn from the softmax, with weight 1",
      .source = "Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030",
      .formula =
          "training: D = argmax(o + Gumbel noise), a draw from softmax(o), o = x W + b\n"
          "inference: D = argmax(o)\n"
          "w = 1; the router learns by an estimator for a categorical choice",
      .claim = Claim::documented,
      .traits = {.samples = true, .categorical = true},
      .options = {option::integer("copies",
                                  "rows that are copies of one token and draw without replacement")
                      .initially("1")
                      .from(1, 8)},
      .make = [](const Options& o) -> std::unique_ptr<Router> {
        return std::make_unique<CategoricalRouter>(o.integer("copies"));
      },
      // Unbiased weights, and no gradient at all.
      .recorded = {{{}, 4, 1, 0, 0.488517115017, 0.522712102970, 0},
                   {{}, 8, 1, 0, 0.754118007126, 0.403711606021, 0}},
      .most_active = 1,
      .draws = {"selected", "noise"}};
}

}  // namespace moegrad
