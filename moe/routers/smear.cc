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
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr double kDropped = -1e30;  // exp of it is 0, and differences with it are finite

class SmearRouter : public Router {
 public:
  explicit SmearRouter(double dropout) : dropout_(dropout) {}

  std::int64_t choices(const LayerSize&) const override { return 1; }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Tape& tape = in.x.tape();
    const DType dtype = in.x.dtype();
    const std::int64_t tokens = in.x.size(0);
    const Sequences sequences(in);
    const std::int64_t batch = sequences.count();
    const Var normal =
        layer_norm(in.x, tape.constant(Tensor::full({size.model}, 1.0, dtype, Device::cpu)),
                   tape.constant(Tensor::zeros({size.model}, dtype, Device::cpu)));
    const Var logits = router_logits(mean_over_tokens(normal, sequences), in.weights);
    Var kept = logits;
    if (in.training && dropout_ > 0.0) {
      kept = where(drawn(tape, batch, size.experts), logits,
                   tape.constant(Tensor::full({}, kDropped, dtype, Device::cpu)));
    }
    Routing r;
    r.merge = softmax(kept);
    r.selected = Tensor::empty({tokens, 1}, DType::i32, Device::cpu);
    for (std::int64_t t = 0; t < tokens; ++t) {
      r.selected.write<std::int32_t>()[t] = static_cast<std::int32_t>(sequences.of(t));
    }
    r.weights = tape.constant(Tensor::full({tokens, 1}, 1.0, dtype, Device::cpu));
    r.logits = gather_rows(logits, r.selected.reshape({tokens}));
    r.scores = softmax(r.logits);
    return r;
  }

 private:
  // i32 [B, E]: 1 for the experts that stay.
  Tensor drawn(Tape& tape, std::int64_t batch, std::int64_t experts) const {
    std::vector<double> probabilities;
    for (std::int64_t i = 0; i < batch * experts; ++i) {
      probabilities.insert(probabilities.end(), {dropout_, 1.0 - dropout_});
    }
    const Tensor drawn = tape.decisions().categorical(
        "expert-dropout", Tensor::of<double>({batch * experts, 2}, probabilities), tape.rng());
    Tensor kept = drawn.clone().reshape({batch, experts});
    for (std::int64_t b = 0; b < batch; ++b) {
      Tensor row = kept.rows(b, b + 1);
      bool any = false;
      for (const std::int32_t keep : row.values<const std::int32_t>()) any = any || keep != 0;
      if (any) continue;
      for (std::int32_t& keep : row.write_values<std::int32_t>()) keep = 1;
    }
    return kept;
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
