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

  Routing route(const LayerSize& size, Var x, const Weights& weights, bool) const override {
    Routing r;
    r.logits = router_logits(x, weights);
    r.scores = softmax(r.logits);
    r.weights = r.scores;
    r.selected = Tensor::empty({x.size(0), size.experts}, DType::i32);
    const std::span<std::int32_t> ids = r.selected.values<std::int32_t>();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      ids[i] = static_cast<std::int32_t>(i % static_cast<std::size_t>(size.experts));
    }
    return r;
  }
};

}  // namespace

RouterEntry softmax_router() {
  return {
      "softmax",
      "all experts, weighted by their softmax scores (active is ignored: it is E)",
      "Jacobs et al. 1991, Neural Computation 3(1)",
      Claim::exact,
      false,
      {},
      [](const Options&) -> std::unique_ptr<Router> { return std::make_unique<SoftmaxRouter>(); }};
}

}  // namespace moegrad
