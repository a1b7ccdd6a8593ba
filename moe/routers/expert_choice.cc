// expert-choice: each expert chooses its tokens (Zhou et al., arXiv:2202.09368).
//
//   g = softmax(x W + b) over the experts;  w_te = g_te
//   expert e takes the C tokens of the largest g_te, of equal ones the first: a token has 0 to E
//   experts, capacity k on average
//   capacity    C = floor(capacity k N/E) of the N tokens that run together, at least 1 and at most
//               N; the paper's capacity factor is capacity k
//
// Training and inference are the same, and no loss is needed: every expert has the same load. Not
// causal: whether a token is taken depends on the tokens behind it.

#include <algorithm>

#include "moe/capacity.h"
#include "moe/registry.h"
#include "moe/score_order.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

// selected [N, E]: e at [t, e] where expert e takes token t, else -1. In the order of the log odds,
// which is that of g: tokens whose g is 1, or 0, in floating point differ in it.
Tensor taken(const Tensor& logits, std::int64_t capacity) {
  const Tensor scores = log_odds(logits);
  const std::int64_t tokens = scores.size(0);
  const std::int64_t experts = scores.size(1);
  const Tensor places = largest_places(transposed(scores), capacity);
  return where(transposed(flags_of(places, tokens)), every_expert(tokens, experts, scores.device()),
               scalar_like(places, -1.0));
}

class ExpertChoiceRouter : public Router {
 public:
  explicit ExpertChoiceRouter(double capacity) : capacity_(capacity) {}

  std::int64_t choices(const LayerSize& size) const override { return size.experts; }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.scores = softmax(r.logits);
    const std::int64_t tokens = in.x.size(0);
    const std::int64_t capacity = std::min(
        tokens, capacity_down(capacity_ * static_cast<double>(size.active), tokens, size.experts));
    r.selected = in.x.tape().decisions().decide("selected", DType::i32, r.scores.shape(),
                                                [&] { return taken(r.logits.value(), capacity); });
    r.most = most_within(size.experts, capacity);
    r.weights = take_columns(r.scores, r.selected);
    return r;
  }

 private:
  double capacity_;
};

}  // namespace

RouterEntry expert_choice_router() {
  return {.name = "expert-choice",
          .summary = "each expert chooses its tokens: equal loads, 0 to E experts for a token",
          .source = "Zhou et al. 2022, arXiv:2202.09368",
          .formula =
              "g = softmax(x W + b); expert e takes the C = floor(capacity k N/E) tokens of the\n"
              "largest g_te, w_te = g_te; the same in training and at inference; not causal",
          .claim = Claim::exact_on_cell,
          .traits = {.causal = false,
                     .picks_largest = false,
                     .constant_aux = "gives every expert the same load"},
          .options = {option::number("capacity", "room of an expert, in parts of k N/E tokens")
                          .initially("1")
                          .from(1e-6, 1e6)
                          .tried({"0.5", "2"})},
          .make = [](const Options& o) -> std::unique_ptr<Router> {
            return std::make_unique<ExpertChoiceRouter>(o.number("capacity"));
          }};
}

}  // namespace moegrad
