// smear: one expert for each sequence, whose parameters are a mean of all experts' parameters
// (Muqeeth, Liu & Raffel, arXiv:2306.03745).
//
//   h_b = mean of LayerNorm(x) over sequence b;  o = h W + b;  p = softmax(o)
//   theta_b = sum_e p_be theta_e;  y = f(x; theta_b)
//   training    each expert of each sequence is dropped with probability `dropout` (0.1) and p made
//               up of the others; where all of them were dropped, none is
//
// Inference drops nothing. A token's output depends on every token of its sequence: not causal. k
// is ignored. The LayerNorm has no scale and shift of its own: W and b hold them. The routing that
// others see: `selected` is the sequence, with weight 1; scores and logits of a token are those of
// its sequence before dropout, and the balance losses are made of them.

#include <vector>

#include "moe/balance.h"
#include "moe/registry.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr double kDropped = -1e30;  // exp of it is 0, and differences with it are finite

class SmearRouter : public Router {
 public:
  explicit SmearRouter(double dropout) : dropout_(dropout) {}

  std::int64_t choices(const LayerSize&) const override { return 1; }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    const std::int64_t tokens = in.x.size(0);
    const Sequences sequences(in);
    const Var normal = layer_norm(in.x, constant_like(in.x, {size.model}, 1.0),
                                  constant_like(in.x, {size.model}, 0.0));
    const Var logits = router_logits(mean_over_tokens(normal, sequences), in.weights);
    Var kept = logits;
    if (in.training && dropout_ > 0.0) {
      kept = where(drawn(logits), logits, constant_like(in.x, {}, kDropped));
    }
    Routing r;
    r.merge = softmax(kept);
    const Device device = in.x.value().device();
    r.selected = sequences.of_tokens(tokens, device).reshape({tokens, 1});
    r.weights = constant_like(in.x, {tokens, 1}, 1.0);
    r.logits = gather_rows(logits, r.selected.reshape({tokens}));
    r.scores = softmax(r.logits);
    return r;
  }

 private:
  // i32 [B, E], the shape of the logits: 1 for the experts that stay; all where none would.
  Tensor drawn(Var logits) const {
    Tape& tape = logits.tape();
    const std::int64_t all = logits.size(0) * logits.size(1);
    const Device device = logits.value().device();
    const Tensor dropped = Tensor::full({all, 1}, dropout_, DType::f64, device);
    const Tensor stays = Tensor::full({all, 1}, 1.0 - dropout_, DType::f64, device);
    const Tensor kept = tape.decisions()
                            .categorical("expert-dropout", joined(dropped, stays), tape.rng())
                            .reshape(logits.shape());
    const Tensor any = reduce_rows(Reduction::max, kept.to(DType::f32));
    const Tensor none = greater(Tensor::full(kept.shape(), 0.5, DType::f32, device), any);
    return where(none, scalar_like(kept, 1.0), kept);
  }

  double dropout_;
};

}  // namespace

RouterEntry smear_router() {
  return {.name = "smear",
          .summary = "one expert for each sequence: a weighted mean of the experts' parameters",
          .source = "Muqeeth, Liu & Raffel 2023, arXiv:2306.03745",
          .formula =
              "p = softmax(W mean over the sequence of LayerNorm(x) + b);\n"
              "y = f(x; sum_e p_e theta_e); not causal\n"
              "training drops each expert with probability 0.1 and makes p up of the others",
          .claim = Claim::exact_on_cell,
          .traits = {.samples = true,
                     .causal = false,
                     .softmax = false,
                     .linear = false,
                     .picks_largest = false,
                     .sparse_training = false,
                     .sparse_inference = false},
          .options = {option::number("dropout", "probability to drop an expert in training")
                          .initially("0.1")
                          .from(0.0, 0.99)
                          .tried({"0", "0.5"})},
          .make = [](const Options& o) -> std::unique_ptr<Router> {
            return std::make_unique<SmearRouter>(o.number("dropout"));
          },
          .draws = {"expert-dropout"}};
}

}  // namespace moegrad
