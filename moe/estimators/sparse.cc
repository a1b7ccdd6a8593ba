// sparse: the conventional gradient of a sparse mixture (Shazeer et al., arXiv:1701.06538).
//
//   y = sum_{i in R} w_i E_i(x);  dL/dw_i = <g, E_i> on R, 0 off R;  experts get w_i g

#include "moe/dispatch.h"
#include "moe/estimators/surrogate.h"
#include "moe/registry.h"

namespace moegrad {
namespace {

class SparseEstimator : public Estimator {
 public:
  bool weights_alone(bool) const override { return true; }

  Combined combine(const EstimatorInput& in) const override {
    return fused(in.x.tape())
               ? in.experts.mixture(in.x, in.routing.weights, in.plan)
               : written_sparse(in.experts(in.x, in.plan), in.routing.weights, in.plan);
  }
};

}  // namespace

EstimatorEntry sparse_estimator() {
  return {.name = "sparse",
          .summary = "the conventional gradient: nothing passes the selection",
          .source = "Shazeer et al. 2017, arXiv:1701.06538",
          .formula = "y = sum_{i in R} w_i E_i(x);  dL/dw_i = <g, E_i> on R, 0 off R",
          .make = [](const Options&) -> std::unique_ptr<Estimator> {
            return std::make_unique<SparseEstimator>();
          }};
}

}  // namespace moegrad
