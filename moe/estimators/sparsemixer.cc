// sparsemixer and sparsemixer-v2: the router gradient of one drawn expert, by quadrature along the
// ray from 0 to p_D E_D (Liu et al., arXiv:2310.00811; v2, "GRIN", arXiv:2409.12136).
//
//   J = sum_i p_i f(p_i E_i);  dJ = d0 + d1
//   d0 = sum_i f(p_i E_i) dp_i,  d1 = sum_i p_i df(p_i E_i)
//   y = w E_D,  w = s p_D,  s the router's factor (Routing::scale; 1 where it has none)
//   router   v1: 2 <g, E_D> dp_D,  v2: <g, E_D> dp_D, without s: c = 2/s and 1/s on w
//   experts  s p_D g
//
// With phi(u) = f(u E_D), <g, E_D> = phi'(s p_D), and without the argmax rule
//   v1  p (phi'(p) + phi'(p/2)) = d1 + midpoint rule of d0: all of dJ, for phi quadratic
//   v2  p (phi'(p)/4 + 3 phi'(p/3)/4), Radau's rule: d0 alone, for phi cubic

#include "moe/estimators/surrogate.h"
#include "moe/registry.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

class SparsemixerEstimator : public Estimator {
 public:
  SparsemixerEstimator(std::string name, double factor, std::int64_t most)
      : name_(std::move(name)), factor_(factor), most_(most) {}

  void check(const LayerSize& size, const RouterEntry&) const override {
    if (size.active <= most_) return;
    fail(name_, "k is {}. It is defined for k <= {}.", size.active, most_);
  }

  bool weights_alone(bool) const override { return true; }

  Combined combine(const EstimatorInput& in) const override {
    const Routing& r = in.routing;
    if (!in.training()) return in.experts.mixture(in.x, r.weights, in.plan);
    const Tensor w = r.weights.value();
    Tensor factor = Tensor::full(w.shape(), factor_, w.dtype(), w.device());
    if (r.scale.defined()) factor = compute<functor::Div>(factor, r.scale);
    return in.experts.mixture(in.x, scaled_gradient(r.weights, factor), in.plan);
  }

 private:
  std::string name_;
  double factor_;
  std::int64_t most_;
};

}  // namespace

EstimatorEntry sparsemixer_estimator() {
  return {.name = "sparsemixer",
          .summary = "one drawn expert; the midpoint rule along its ray, twice its router gradient",
          .source = "Liu et al. 2023, arXiv:2310.00811",
          .formula =
              "y = s p_D E_D; router: dL/dz = 2 <g, E_D> p_D (1_D - p), without s;\n"
              "experts get s p_D g. Exact for the gradient of sum_i p_i f(p_i E_i), f quadratic",
          .claim = Claim::biased_order,
          .traits = {.order = 2},
          .make = [](const Options&) -> std::unique_ptr<Estimator> {
            return std::make_unique<SparsemixerEstimator>("sparsemixer", 2.0, 1);
          },
          .routers = {"sparsemixer"}};
}

EstimatorEntry sparsemixer_v2_estimator() {
  return {.name = "sparsemixer-v2",
          .summary = "one or two drawn experts; a third-order rule along the ray",
          .source = "Liu et al. 2024, arXiv:2409.12136",
          .formula =
              "y = s p_D E_D; router: dL/dz = <g, E_D> p_D (1_D - p), without s;\n"
              "experts get s p_D g. Exact for sum_i f(p_i E_i) dp_i, f cubic",
          .claim = Claim::biased_order,
          .traits = {.order = 3, .choice_alone = true},
          .make = [](const Options&) -> std::unique_ptr<Estimator> {
            return std::make_unique<SparsemixerEstimator>("sparsemixer-v2", 1.0, 2);
          },
          .routers = {"sparsemixer-v2", "top-k"}};
}

}  // namespace moegrad
