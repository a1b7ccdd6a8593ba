// top-k: the k largest logits (Shazeer et al., arXiv:1701.06538, without its noise).
//
//   o = x W + b;  p = softmax(o);  R = TopK(o), of equal logits the lowest expert first
//   w = p on R (default), or with `renormalise` w = softmax of o over R = p / sum_R p
//
// Training and inference are the same. With k = 1 and renormalise w is 1 and the router gets no
// gradient: allowed, and said once by the layer.

#include "moe/registry.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

class TopKRouter : public Router {
 public:
  explicit TopKRouter(bool renormalise) : renormalise_(renormalise) {}

  ConstantWeights constant_weights(const LayerSize& size) const override {
    return renormalise_ && size.active == 1 ? ConstantWeights::renormalised : ConstantWeights::no;
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.scores = softmax(r.logits);
    r.selected = top_k_indices(r.logits, size.active, "selected");
    if (renormalise_) {
      r.weights = softmax(take_columns(r.logits, r.selected));
      r.log_normaliser = log(sum(take_columns(r.scores, r.selected), 1, true));
    } else {
      r.weights = take_columns(r.scores, r.selected);
    }
    return r;
  }

 private:
  bool renormalise_;
};

}  // namespace

RouterEntry top_k_router() {
  return {
      .name = "top-k",
      .summary = "the k experts of the largest logits",
      .source = "Shazeer et al. 2017, arXiv:1701.06538",
      .formula = "R = TopK(x W + b);  w = softmax(x W + b) on R, or renormalised over R",
      .claim = Claim::exact_on_cell,
      .options = {option::flag(
          "renormalise", "weights are the softmax over the selected instead of the full softmax")},
      .make = [](const Options& o) -> std::unique_ptr<Router> {
        return std::make_unique<TopKRouter>(o.flag("renormalise"));
      }};
}

}  // namespace moegrad
