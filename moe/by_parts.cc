#include "moe/by_parts.h"

#include <utility>

#include "ops/ops.h"

namespace moegrad {
namespace {

class ByParts : public Estimator {
 public:
  ByParts(std::unique_ptr<Estimator> router, std::unique_ptr<Estimator> experts)
      : router_(std::move(router)), experts_(std::move(experts)) {}

  void check(const LayerSize& size, const RouterEntry& router) const override {
    router_->check(size, router);
    experts_->check(size, router);
  }
  void declare(const LayerSize& size, std::string_view prefix,
               Parameters& parameters) const override {
    router_->declare(size, prefix, parameters);
    experts_->declare(size, prefix, parameters);
  }
  bool leaks() const override { return router_->leaks() || experts_->leaks(); }
  bool weights_alone(bool renormalised) const override {
    return router_->weights_alone(renormalised);
  }

  Combined combine(const EstimatorInput& in) const override {
    if (!in.training()) return router_->combine(in);
    router_->form = form;
    experts_->form = form;
    const auto held = [&](Var v) { return v.defined() ? stop_gradient(v) : v; };
    const Experts fixed = in.experts.detached();
    Combined out = router_->combine({held(in.x), in.routing, in.plan, fixed, in.layer});
    Routing routing = in.routing;
    routing.weights = held(routing.weights);
    routing.scores = held(routing.scores);
    routing.logits = held(routing.logits);
    routing.log_scores = held(routing.log_scores);
    routing.log_normaliser = held(routing.log_normaliser);
    const Combined b = experts_->combine({in.x, routing, in.plan, in.experts, in.layer});
    out.y = out.y + (b.y - stop_gradient(b.y));
    out.updates.insert(out.updates.end(), b.updates.begin(), b.updates.end());
    return out;
  }

 private:
  std::unique_ptr<Estimator> router_;
  std::unique_ptr<Estimator> experts_;
};

}  // namespace

std::unique_ptr<Estimator> by_parts(std::unique_ptr<Estimator> router,
                                    std::unique_ptr<Estimator> experts) {
  return std::make_unique<ByParts>(std::move(router), std::move(experts));
}

}  // namespace moegrad
