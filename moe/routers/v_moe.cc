// v-moe: the vision mixture (Riquelme et al., arXiv:2106.05974).
//
//   o = x W + b;  g = softmax(o)
//   training    o' = o + N(0, 1)/E;  p = softmax(o');  S = TopK(p);  w = p on S, not renormalised
//   inference   the same with o' = o
//   capacity    C = ceil(capacity N k/E), up to a multiple of capacity-multiple, for the N tokens
//               that run together. All first choices queue before all second ones,
//               tokens in their order or, with batch-priority, by their largest p, descending
//   auxiliary   balance/2 (CV^2(sum_t g_t) + CV^2(mean_t P_t)),  CV^2 = variance/mean^2
//               P_ti = 1 - Phi((tau_t - o_ti) E), tau_t the k-th largest o' of the row, with its
//               gradient as in the authors' code; in training only
//
// CV^2 is written as variance over squared mean: the gradient of a standard deviation does not
// exist at perfect balance. With a capacity a token's choices give way to those of tokens behind
// it.

#include "moe/balance.h"
#include "moe/capacity.h"
#include "moe/noise.h"
#include "moe/registry.h"
#include "moe/score_order.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

struct VMoeSettings {
  double balance, capacity;
  std::int64_t multiple;
  bool priority;
};

class VMoeRouter : public Router {
 public:
  explicit VMoeRouter(const VMoeSettings& settings) : settings_(settings) {}

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    const double half = 0.5 * settings_.balance;
    r.add_loss("importance", half, squared_variation(sum_over_tokens(softmax(r.logits)), 0.0));
    Var noisy = less_largest(r.logits);
    Var noise;
    if (in.training) {
      r.noise = normal_noise(noisy, 1.0 / static_cast<double>(size.experts));
      noise = in.x.tape().constant(r.noise);
      noisy = noisy + noise;
    }
    r.scores = softmax(noisy);
    const Tensor order = noisy_order(r.logits.value(), r.noise);
    r.choice = top_k_indices(in.x.tape().constant(order), size.active, "selected");
    if (in.training) {
      // tau = o + noise at the k-th place; the difference of the logits comes first, so that large
      // ones do not round the noise away.
      const auto last = [&](Var v) {
        return slice(take_columns(v, r.choice), 1, size.active - 1, size.active);
      };
      const Var margin = (r.logits - last(r.logits)) - last(noise);
      const Var wins = normal_cdf(margin * static_cast<double>(size.experts));
      r.add_loss("load", half, squared_variation(mean_over_tokens(wins), 0.0));
    }
    select(r, in, order, size);
    r.weights = take_columns(r.scores, r.selected);
    return r;
  }

 private:
  // `noisy`: o' in f64, less the largest o.
  void select(Routing& r, const LayerInput& in, const Tensor& noisy, const LayerSize& size) const {
    const std::int64_t tokens = noisy.size(0);
    const std::int64_t capacity =
        capacity_up(settings_.capacity, tokens * size.active, size.experts, settings_.multiple);
    Tensor queue;
    if (settings_.priority) {
      queue = r.scores.tape().decisions().decide("queue", DType::i32, {1, tokens}, [&] {
        const Tensor largest = reduce_rows(Reduction::max, log_odds(noisy));
        return largest_places(largest.reshape({1, tokens}), tokens);
      });
    }
    select_within(r, in, r.choice, size.experts, capacity, queue);
  }

  VMoeSettings settings_;
};

}  // namespace

RouterEntry v_moe_router() {
  return {
      .name = "v-moe",
      .summary = "the k largest noisy softmax scores, with a capacity and batch priority",
      .source = "Riquelme et al. 2021, arXiv:2106.05974",
      .formula =
          "training: o' = x W + b + N(0, 1)/E, p = softmax(o'), S = TopK(p), w = p on S\n"
          "inference: o' = o\n"
          "an expert takes C = ceil(capacity N k/E) choices, up to a multiple of\n"
          "capacity-multiple; with batch-priority tokens of larger max p come first\n"
          "loss: balance/2 (CV^2(sum_t softmax(o_t)) + CV^2(mean_t Phi((o_t - tau_t) E))),\n"
          "tau_t the k-th largest o'",
      .claim = Claim::exact_on_cell,
      .traits = {.continuous = true,
                 .causal = false,
                 .in_order = true,
                 .auxiliary = "importance and load (balance)",
                 .losses = {"balance"}},
      .options = {option::number("balance",
                                 "coefficient of the mean of the importance and load losses")
                      .initially("0.01")
                      .from(0.0, 1e6)
                      .tried({"0.7"}),
                  option::number("capacity", "room of an expert, in parts of N k/E choices")
                      .initially("1.05")
                      .from(1e-6, 1e6)
                      .tried({"1e6", "0.5"}),
                  option::integer("capacity-multiple",
                                  "the room of an expert is rounded up to a multiple of this")
                      .initially("4")
                      .from(1, 1e6)
                      .tried({"1"}),
                  option::flag("batch-priority", "tokens with the largest scores choose first")},
      .make = [](const Options& o) -> std::unique_ptr<Router> {
        return std::make_unique<VMoeRouter>(VMoeSettings{o.number("balance"), o.number("capacity"),
                                                         o.integer("capacity-multiple"),
                                                         o.flag("batch-priority")});
      },
      .draws = {"selected", "noise", "queue"}};
}

}  // namespace moegrad
