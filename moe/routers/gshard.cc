// gshard: two experts for each token, the second one by chance (Lepikhin et al., arXiv:2006.16668,
// algorithm 1).
//
//   g = softmax(x W + b);  S = TopK(g, 2);  w_i = g_i / (g_1 + g_2 + 1e-9)
//   training    the second expert is kept with probability min(1, w_2 / second-threshold), without
//               gradient; 0.5 is the paper's 2 w_2, 0.2 that of later code, 0 keeps all
//   inference   both are kept
//   capacity    C = max(capacity-min, floor(capacity N/E)) for the N tokens that run together; all
//               first choices queue before all second ones. 2 holds both choices of all tokens at
//               balance. The weight of the other choice stays as it is
//   auxiliary   balance E sum_i c_i m_i, c_i the fraction of the tokens whose first choice is i,
//               before dropping and without gradient, m_i the mean of g_i (E^2 mean(c m))
//
// With a capacity a token's second choice gives way to the first choices of tokens behind it.

#include <algorithm>
#include <cmath>

#include "moe/balance.h"
#include "moe/capacity.h"
#include "moe/registry.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

struct GshardSettings {
  double threshold, balance, capacity;
  std::int64_t least;
};

class GshardRouter : public Router {
 public:
  explicit GshardRouter(const GshardSettings& settings) : settings_(settings) {}

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.scores = softmax(r.logits);
    r.selected = top_k_indices(r.logits, 2, "selected");
    const Var both = take_columns(r.scores, r.selected);
    const Var normaliser = sum(both, 1, true) + 1e-9;
    r.log_normaliser = log(normaliser);
    r.weights = both / normaliser;
    const std::int64_t tokens = in.x.size(0);
    r.add_loss("balance", settings_.balance,
               switch_auxiliary(r.scores, columns_of(r.selected, 0, 1)));
    if (in.training && settings_.threshold > 0.0) drop_by_chance(r);
    const std::int64_t capacity =
        std::max(settings_.least, capacity_down(settings_.capacity, tokens, size.experts));
    select_within(r, in, r.selected, size.experts, capacity);
    r.weights = kept_weights(r.weights, r.selected);
    return r;
  }

 private:
  void drop_by_chance(Routing& r) const {
    Tape& tape = r.weights.tape();
    const std::int64_t tokens = r.weights.size(0);
    const Tensor second = columns_of(r.weights.value().to(DType::f64), 1, 2);
    const Tensor one = scalar_like(second, 1.0);
    const Tensor keep = compute<functor::Minimum>(
        compute<functor::Div>(second, scalar_like(second, settings_.threshold)), one);
    const Tensor kept = tape.decisions().categorical(
        "second", joined(compute<functor::Sub>(one, keep), keep), tape.rng());
    const Tensor second_choice =
        where(kept.reshape({tokens, 1}), columns_of(r.selected, 1, 2), scalar_like(kept, -1.0));
    r.selected = joined(columns_of(r.selected, 0, 1), second_choice);
  }

  GshardSettings settings_;
};

}  // namespace

RouterEntry gshard_router() {
  return {.name = "gshard",
          .summary = "two experts for each token, the second kept by chance, with a capacity",
          .source = "Lepikhin et al. 2020, arXiv:2006.16668",
          .formula =
              "g = softmax(x W + b), S = TopK(g, 2), w_i = g_i/(g_1 + g_2 + 1e-9)\n"
              "training: the second is kept with probability min(1, w_2/second-threshold)\n"
              "an expert takes C = max(capacity-min, floor(capacity N/E)) choices, all first ones\n"
              "before all second ones\n"
              "loss: balance E sum_i c_i m_i, c the fractions of first choices, m the mean of g",
          .claim = Claim::documented,
          .traits = {.samples = true,
                     .causal = false,
                     .in_order = true,
                     .auxiliary = "fractions of first choices times mean scores (balance)",
                     .losses = {"balance"}},
          .options = {option::number(
                          "second-threshold",
                          "weight from which the second expert is always kept; 0 keeps it always")
                          .initially("0.5")
                          .from(0.0, 1.0)
                          .tried({"0", "0.2"}),
                      balance_option(),
                      option::number("capacity", "room of an expert, in parts of N/E choices")
                          .initially("2")
                          .from(1e-6, 1e6)
                          .tried({"1e6", "0.5"}),
                      least_capacity_option("choices")},
          .make = [](const Options& o) -> std::unique_ptr<Router> {
            return std::make_unique<GshardRouter>(
                GshardSettings{o.number("second-threshold"), o.number("balance"),
                               o.number("capacity"), o.integer("capacity-min")});
          },
          .recorded = {{{}, 4, 2, 0.263003125554, 0.038028761129, 0.222746975130, 0.003949048111},
                       {{}, 8, 2, 0.644748002295, 0.114644670888, 0.200584837371, 0.030242846029},
                       {{{"second-threshold", "0.2"}},
                        8,
                        2,
                        0.733531874685,
                        0.105546575870,
                        0.278328640744,
                        0.0}},
          .least_active = 2,
          .most_active = 2,
          .draws = {"selected", "second"}};
}

}  // namespace moegrad
