// noisy-top-k: the sparsely-gated mixture (Shazeer et al., arXiv:1701.06538).
//
//   o = x W_g;  sd = softplus(x W_noise) + 1e-2;  W_g = W_noise = 0 at first
//   training    H = o + sd N(0, 1) for each token and expert
//               S = TopK(H);  w = softmax of H over S
//   inference   the same with H = o
//   auxiliary   importance CV^2(sum_t w_t) + load CV^2(sum_t P_t)
//               CV^2 = Var/(mean^2 + 1e-10), population variance
//               P_ti = Phi((o_ti - thr_ti)/sd_ti): the probability that i is among the k largest
//               when its noise alone is drawn again; thr_ti is the (k+1)-th largest H of the row
//               for i in S and the k-th for the others, a value of H with its gradient, as in the
//               authors' code. Without noise, and for k = E, the load is the number of tokens,
//               which has no gradient
//
// The thresholds are compared with o, so they are values of H and not of softmax(H). No capacity.

#include "moe/balance.h"
#include "moe/noise.h"
#include "moe/registry.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

class NoisyTopKRouter : public Router {
 public:
  NoisyTopKRouter(double importance, double load) : importance_(importance), load_(load) {}

  void declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
               const Rng&) const override {
    const Tensor zero = Tensor::zeros({size.model, size.experts}, DType::f64, Device::cpu);
    parameters.add(std::string(prefix) + "router.weight", zero).decays = true;
    parameters.add(std::string(prefix) + "router.noise", zero.clone()).decays = true;
  }

  ConstantWeights constant_weights(const LayerSize& size) const override {
    return size.active == 1 ? ConstantWeights::renormalised : ConstantWeights::no;
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    Var h = less_largest(r.logits);
    Var deviation;
    Var noise;
    if (in.training) {
      Tape& tape = in.x.tape();
      deviation = softplus(matmul(in.x, in.weights.at("router.noise"))) + 1e-2;
      noise = deviation * tape.constant(normal_noise(h));
      r.noise = noise.value();
      h = h + noise;
    }
    r.scores = softmax(h);
    const Var order = h.tape().constant(noisy_order(r.logits.value(), r.noise));
    r.selected = top_k_indices(order, size.active, "selected");
    r.weights = softmax(take_columns(h, r.selected));
    r.log_normaliser = log(sum(take_columns(r.scores, r.selected), 1, true));
    const Var importance = sum_over_tokens(put_columns(r.weights, r.selected, size.experts));
    const bool smooth = in.training && size.active < size.experts;
    const Var load = smooth ? expected_tokens(r, order.value(), noise, deviation) : tokens(r);
    r.add_loss("importance", importance_, squared_variation(importance, kEpsilon));
    r.add_loss("load", load_, squared_variation(load, kEpsilon));
    return r;
  }

 private:
  static constexpr double kEpsilon = 1e-10;

  // sum_t Phi((o - thr)/sd) with thr = o + noise at its place: the difference of the logits comes
  // first, so that large ones do not round the noise away.
  // `h` is H in f64, less the largest o.
  static Var expected_tokens(const Routing& r, const Tensor& h, Var noise, Var deviation) {
    const std::int64_t rows = h.size(0);
    const std::int64_t k = r.selected.size(1);
    const Tensor is_in = flags_of(r.selected, h.size(1));
    const Tensor last = columns_of(r.selected, k - 1, k);
    // Of the k+1 largest the first that was not selected.
    const Tensor next = noise.tape().decisions().decide("next", DType::i32, {rows, 1}, [&] {
      const Tensor largest = largest_places(h, k + 1);
      const Tensor chosen = take_columns(is_in, largest).to(DType::f32);
      return take_columns(largest, largest_places(compute<functor::Neg>(chosen), 1));
    });
    const auto at_threshold = [&](Var v) {
      return where(is_in, take_columns(v, next), take_columns(v, last));
    };
    const Var margin = (r.logits - at_threshold(r.logits)) - at_threshold(noise);
    return sum_over_tokens(normal_cdf(margin / deviation));
  }

  static Var tokens(const Routing& r) {
    const std::int64_t experts = r.scores.size(1);
    const Tensor counts = expert_counts(r.selected, experts).reshape({experts});
    return r.scores.tape().constant(counts.to(r.scores.dtype()));
  }

  double importance_;
  double load_;
};

}  // namespace

RouterEntry noisy_top_k_router() {
  return {.name = "noisy-top-k",
          .summary = "the k largest logits after trained noise, weighted by the softmax over them",
          .source = "Shazeer et al. 2017, arXiv:1701.06538",
          .formula =
              "training: H = o + sd N(0, 1), o = x W_g, sd = softplus(x W_noise) + 1e-2;\n"
              "S = TopK(H);  w = softmax of H over S\n"
              "inference: H = o\n"
              "losses: importance CV^2(sum_t w_t) + load CV^2(sum_t Phi((o_t - thr_t)/sd_t)),\n"
              "thr the (k+1)-th largest H for i in S, else the k-th",
          .claim = Claim::exact_on_cell,
          .traits = {.continuous = true,
                     .auxiliary = "importance and load (importance, load)",
                     .losses = {"importance", "load"}},
          .options = {option::number("importance",
                                     "coefficient of CV^2 of the summed weights of each expert")
                          .initially("0.01")
                          .from(0.0, 1e6)
                          .tried({"0", "0.7"}),
                      option::number("load",
                                     "coefficient of CV^2 of the expected tokens of each expert")
                          .initially("0.01")
                          .from(0.0, 1e6)
                          .tried({"0", "0.7"})},
          .make = [](const Options& o) -> std::unique_ptr<Router> {
            return std::make_unique<NoisyTopKRouter>(o.number("importance"), o.number("load"));
          },
          .draws = {"selected", "noise"}};
}

}  // namespace moegrad
