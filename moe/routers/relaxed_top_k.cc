// relaxed-top-k: a continuous k-hot vector by k rounds of softmax, each without what the rounds
// before took (Xie & Ermon, arXiv:1901.10517).
//
//   o = x W + b;  r^1 = o + G, G Gumbel noise in training only
//   p^m = softmax(r^m/t);  r^(m+1) = r^m + log(1 - p^m);  khot = sum of p^1 .. p^k
//   training    every token uses all E experts with w = khot/k: sum_i khot_i = k, and the weights
//               of a token sum to 1
//   inference   S = TopK(o), w = 1/k: what khot/k tends to for t -> 0, without noise
//
// gumbel-top-k-st: straight-through (Bengio et al., arXiv:1308.3432). S = TopK(o + G) in training,
// a sample of k without replacement; w = 1/k on S with the gradient of khot/k. S and w at inference
// as above. With the estimator sparse only experts of S give the router a gradient; a dense one
// gives it all of khot/k, which is the scores.
//
// log(1 - p) is taken from the logits, without the paper's floor of 1 - p at a tiny number: beneath
// it, where logits differ by more than about 87, the expert of an earlier round was taken again.
// Subtracting the largest logit before the noise changes nothing but the rounding. The balance loss
// counts the k largest of o + G where all experts run.

#include "moe/noise.h"
#include "moe/registry.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

// Beside any logit e to it is 0, and differences with it are finite.
constexpr double kLeftOut = -1e30;

// [N, E], each row with the sum k; `added` is the noise. In every round what is added to the logits
// is added to their difference from the logit of the one that leads then: in f32 nothing of it is
// rounded away for those that matter.
//
// Only the largest of a row may have a share near 1: its log(1 - p) is logsumexp of the others less
// that of all, without cancellation or underflow, and its p is made of that, so that the gradient
// is not a difference of nearly equal numbers either.
Var relaxed_k_hot(Var logits, Var added, std::int64_t k, double temperature) {
  Tape& tape = logits.tape();
  const Tensor o = logits.value();
  const std::int64_t experts = o.size(1);
  const auto number = [&](double v) { return constant_like(logits, {}, v); };
  Var k_hot;
  for (std::int64_t round = 0; round < k; ++round) {
    Tensor total = o;
    if (added.defined()) {
      total = o.clone();
      kernels(o.device()).accumulate(1.0, added.value(), total);
    }
    Var s = logits - tape.constant(take_columns(o, largest_places(total, 1)));
    if (added.defined()) s = s + added;
    s = s / temperature;
    // No decision: what is made of it is the same function whichever of them it is.
    const Tensor is_top = flags_of(largest_places(s.value(), 1), experts);
    const Var p = softmax(s);
    const Var others = logsumexp(where(is_top, number(kLeftOut), s), 1, true);
    const Var rest_of_top = others - logsumexp(s, 1, true);
    const Var share = where(is_top, 1.0 - exp(rest_of_top), p);
    k_hot = round == 0 ? share : k_hot + share;
    if (round + 1 == k) break;
    const Var rest = where(is_top, rest_of_top, log(1.0 - where(is_top, number(0.5), p)));
    added = added.defined() ? added + rest : rest;
  }
  return k_hot;
}

class RelaxedTopKRouter : public Router {
 public:
  RelaxedTopKRouter(bool straight_through, double temperature)
      : straight_through_(straight_through), temperature_(temperature) {}

  std::int64_t choices(const LayerSize& size) const override {
    return straight_through_ ? size.active : size.experts;
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Tape& tape = in.x.tape();
    const std::int64_t tokens = in.x.size(0);
    const std::int64_t k = size.active;
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    const DType dtype = r.logits.dtype();
    Tensor drawn;
    Var noise;
    if (in.training) {
      const Shape& shape = r.logits.shape();
      drawn = tape.decisions().decide("noise", DType::f64, shape, [&] {
        return tape.rng().gumbel(shape, DType::f64, r.logits.value().device());
      });
      r.noise = drawn.to(dtype);
      noise = tape.constant(r.noise);
    }
    const Tensor noisy = noisy_order(r.logits.value(), drawn);
    const auto largest = [&](const char* kind) {
      return top_k_indices(tape.constant(noisy), k, kind);
    };
    r.scores = relaxed_k_hot(r.logits, noise, k, temperature_) / static_cast<double>(k);
    if (in.training && !straight_through_) {
      r.selected = every_expert(tokens, size.experts, noisy.device());
      r.choice = largest("choice");
      r.weights = r.scores;
      return r;
    }
    r.selected = largest("selected");
    r.weights = constant_like(r.logits, {tokens, k}, 1.0 / static_cast<double>(k));
    if (in.training) r.weights = straight_through(r.weights, take_columns(r.scores, r.selected));
    return r;
  }

 private:
  bool straight_through_;
  double temperature_;
};

RouterEntry entry(bool straight_through) {
  RouterEntry e;
  e.traits.samples = straight_through;
  e.traits.continuous = true;
  e.traits.sparse_training = straight_through;
  e.options = {option::number("temperature", "t: divides the logits of each round")
                   .initially("0.1")
                   .from(1e-3, 1e6)
                   .tried({"0.7"})};
  e.make = [straight_through](const Options& o) -> std::unique_ptr<Router> {
    return std::make_unique<RelaxedTopKRouter>(straight_through, o.number("temperature"));
  };
  e.draws = {"noise", "selected"};
  return e;
}

}  // namespace

RouterEntry relaxed_top_k_router() {
  RouterEntry e = entry(false);
  e.name = "relaxed-top-k";
  e.summary = "a continuous k-hot vector over all experts, by k rounds of softmax";
  e.source = "Xie & Ermon 2019, arXiv:1901.10517";
  e.formula =
      "r^1 = o + G; p^m = softmax(r^m/t); r^(m+1) = r^m + log(1 - p^m)\n"
      "training: w = sum_m p^m / k over all E; inference: S = TopK(o), w = 1/k";
  e.claim = Claim::exact_on_cell;
  return e;
}

RouterEntry gumbel_top_k_st_router() {
  RouterEntry e = entry(true);
  e.name = "gumbel-top-k-st";
  e.summary = "k experts sampled by Gumbel top-k, with the gradient of the relaxed k-hot vector";
  e.source = "Xie & Ermon 2019, arXiv:1901.10517; Bengio et al. 2013, arXiv:1308.3432";
  e.formula =
      "training: S = TopK(o + G), w = 1/k on S with the gradient of khot/k of relaxed-top-k\n"
      "inference: S = TopK(o), w = 1/k";
  e.claim = Claim::surrogate;
  return e;
}

}  // namespace moegrad
