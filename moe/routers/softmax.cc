// softmax: the dense mixture (Jacobs et al., Neural Computation 3, 1991).
//
//   p = softmax(x W + b);  every token uses all E experts with w = p
//
// Training and inference are the same. The reference that every bias is measured against.

#include "moe/registry.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

class SoftmaxRouter : public Router {
 public:
  std::int64_t choices(const LayerSize& size) const override { return size.experts; }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.scores = softmax(r.logits);
    r.weights = r.scores;
    r.selected = every_expert(in.x.size(0), size.experts, in.x.value().device());
    return r;
  }
};

}  // namespace

RouterEntry softmax_router() {
  return {.name = "softmax",
          .summary = "all experts, weighted by their softmax scores (active is ignored: it is E)",
          .source = "Jacobs et al. 1991, Neural Computation 3(1)",
          .formula = "w = softmax(x W + b) over all E experts, in training and at inference",
          .claim = Claim::exact,
          .traits = {.picks_largest = false,
                     .sparse_training = false,
                     .sparse_inference = false,
                     .constant_aux = "gives every token to every expert"},
          .make = [](const Options&) -> std::unique_ptr<Router> {
            return std::make_unique<SoftmaxRouter>();
          }};
}

}  // namespace moegrad
