// soft-moe: each expert works on p mixtures of the tokens of a sequence
// (Puigcerver et al., arXiv:2308.00951).
//
//   logits = s xhat Phihat: tokens x of a sequence and slots Phi [D, E p], each divided by its norm
//   D = softmax of the logits over the L tokens;  C = softmax over all E p slots
//   rows = D^T X, row (b, e, p) for expert e;  y = C f(rows)
//
// Training and inference are the same; nothing is selected and nothing is dropped, so that the
// gradient is exact. A token's output depends on every token of its sequence: not causal (with
// sequences of one token it is the dense mixture C). k is ignored: a row uses one expert with
// weight 1. The routing that others see is that of the rows: scores 1 for the row's expert and
// logits 0 or -1e4, constants: the layer's balance losses are refused. A token of
// zeros has the direction 0, without a gradient. s starts at 1, Phi normal with deviation D^-1/2.

#include <cmath>

#include "moe/registry.h"
#include "moe/routers/directions.h"
#include "moe/sequences.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr double kBehindTheTokens = -1e30;  // exp of it is 0, and differences with it are finite

class SoftMoERouter : public Router {
 public:
  explicit SoftMoERouter(std::int64_t slots) : slots_(slots) {}

  std::int64_t choices(const LayerSize&) const override { return 1; }

  void declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
               const Rng& rng) const override {
    const double deviation = 1.0 / std::sqrt(static_cast<double>(size.model));
    const std::string start(prefix);
    const std::string name = start + "router.slots";
    parameters
        .add(name, rng.named(name).normal({size.model, size.experts * slots_}, DType::f64, 0.0,
                                          deviation))
        .decays = true;
    parameters.add(start + "router.scale", Tensor::full({1}, 1.0, DType::f64, Device::cpu));
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    const Sequences sequences(in);
    const std::int64_t batch = sequences.count();
    const std::int64_t slots = size.experts * slots_;
    const Var directions = transpose(unit_rows(transpose(in.weights.at("router.slots"))));
    const Var scale = reshape(in.weights.at("router.scale"), {});
    const Var logits =
        sequences.split(scale * matmul(unit_rows(in.x), directions), kBehindTheTokens);
    Routing r;
    r.rows = reshape(matmul(softmax(logits, 1), sequences.split(in.x), true),
                     {batch * slots, size.model});
    r.mix = softmax(logits, 2);
    describe_rows(size, batch * slots, r);
    return r;
  }

 private:
  void describe_rows(const LayerSize& size, std::int64_t rows, Routing& r) const {
    r.selected = cycle({rows, 1}, slots_, size.experts, r.mix.value().device());
    r.weights = constant_like(r.mix, {rows, 1}, 1.0);
    const Tensor scores = put_columns(r.weights.value(), r.selected, size.experts);
    Tape& tape = r.mix.tape();
    r.scores = tape.constant(scores);
    r.logits = tape.constant(compute<functor::Affine>(scores, {1e4, -1e4}));
  }

  std::int64_t slots_;
};

}  // namespace

RouterEntry soft_moe_router() {
  return {.name = "soft-moe",
          .summary = "each expert works on mixtures of the tokens of a sequence",
          .source = "Puigcerver et al. 2023, arXiv:2308.00951",
          .formula =
              "logits = s xhat Phihat over the tokens of a sequence and E p slots, normalised;\n"
              "D = softmax over tokens, C = softmax over slots; y = C f(D^T X); not causal",
          .claim = Claim::exact,
          .traits = {.causal = false,
                     .softmax = false,
                     .linear = false,
                     .picks_largest = false,
                     .sparse_training = false,
                     .sparse_inference = false,
                     .constant_aux = "selects nothing",
                     .constant_logits = true},
          .options = {option::integer("slots", "p: rows of each expert, for each sequence")
                          .initially("1")
                          .from(1, 4096)
                          .tried({"3"})},
          .make = [](const Options& o) -> std::unique_ptr<Router> {
            return std::make_unique<SoftMoERouter>(o.integer("slots"));
          },
          .draws = {}};
}

}  // namespace moegrad
