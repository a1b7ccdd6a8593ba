// relaxed-top-k: a continuous k-hot vector by k rounds of softmax, each without what the rounds
// before took (Xie & Ermon, arXiv:1901.10517).
//
//   o = x W + b;  r^1 = o + G, G Gumbel noise in training only
//   p^m = softmax(r^m/t);  r^(m+1) = r^m + log max(1 - p^m, tiny);  khot = sum of p^1 .. p^k
//   training    every token uses all E experts with w = khot/k: sum_i khot_i = k, and the weights
//   of
//               a token sum to 1
//   inference   S = TopK(o), w = 1/k: what khot/k tends to for t -> 0, without noise
//
// gumbel-top-k-st: straight-through (Bengio et al., arXiv:1308.3432). S = TopK(o + G) in training,
// a sample of k without replacement; w = 1/k on S with the gradient of khot/k. S and w at inference
// as above. With the estimator sparse only experts of S give the router a gradient; a dense one
// gives it all of khot/k, which is the scores.
//
// 1 - p is summed over the others, without cancellation; tiny is the least normal f32, and where it
// stands in there is no gradient. Logits that differ by more than about 87 use it up: the first is
// then taken again. Subtracting the largest logit before the noise changes nothing but the
// rounding.

#include "moe/registry.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr double kTiny = 1.17549435e-38;

// sum of the other elements of each row [N, E]
Var sum_of_others(Var p) {
  const std::int64_t n = p.size(1);
  const Tensor others = Tensor::full({n, n}, 1.0, DType::f64);
  for (std::int64_t i = 0; i < n; ++i) others.write<double>()[i * n + i] = 0.0;
  return matmul(p, p.tape().constant(others.to(p.dtype())));
}

// log max(x, tiny), elementwise
Var log_above_tiny(Var x) {
  Tape& tape = x.tape();
  const Tensor usable = tape.decisions().decide("above tiny", DType::i32, x.shape(), [&] {
    const Tensor value = x.value();
    Tensor out = Tensor::empty(value.shape(), DType::i32);
    for (std::int64_t i = 0; i < value.numel(); ++i) {
      out.data<std::int32_t>()[i] = value.at(i) > kTiny ? 1 : 0;
    }
    return out;
  });
  return log(where(usable, x, tape.constant(Tensor::full({}, kTiny, x.dtype()))));
}

// [N, E], each row with the sum k
Var relaxed_k_hot(Var r, std::int64_t k, double temperature) {
  Var k_hot;
  for (std::int64_t round = 0; round < k; ++round) {
    const Var p = softmax(r / temperature);
    k_hot = round == 0 ? p : k_hot + p;
    if (round + 1 < k) r = r + log_above_tiny(sum_of_others(p));
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
    Var noisy = r.logits - stop_gradient(max(r.logits, 1, true));
    if (in.training) {
      const Shape& shape = r.logits.shape();
      r.noise = tape.decisions()
                    .decide("noise", DType::f64, shape,
                            [&] { return tape.rng().gumbel(shape, DType::f64); })
                    .to(dtype);
      noisy = noisy + tape.constant(r.noise);
    }
    r.scores = relaxed_k_hot(noisy, k, temperature_) / static_cast<double>(k);
    if (in.training && !straight_through_) {
      r.selected = every_expert(tokens, size.experts);
      r.weights = r.scores;
      return r;
    }
    r.selected = top_k_indices(noisy, k, "selected");
    r.weights = tape.constant(Tensor::full({tokens, k}, 1.0 / static_cast<double>(k), dtype));
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
  e.options = {{"temperature",
                OptionSpec::Kind::number,
                "0.1",
                "t: divides the logits of each round",
                1e-3,
                1e6,
                {},
                {"0.7"}}};
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
      "r^1 = o + G; p^m = softmax(r^m/t); r^(m+1) = r^m + log max(1 - p^m, tiny)\n"
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
