#pragma once

#include "moe/experts.h"
#include "moe/plan.h"
#include "moe/router.h"

namespace moegrad {

// What an estimator is given.
struct EstimatorInput {
  Var x;  // [N, D]
  const Routing& routing;
  const Plan& plan;
  const Experts& experts;
  bool training;
};

// How the gradient passes the selection: from routing and experts to y [N, Dout]. The forward value
// is the sparse layer's; the backward pass is that of one surrogate (docs/design.md):
//
//   y = sum_{i in R} sg(w_i) E_i(x)                          value; experts and input
//     + sum_i c_i (w_i - sg w_i) sg(V_i)                     router; value 0
//     + sum_{i not in R} sg(p_i) (A_i - sg A_i)              optional, experts off R; value 0
//
// Each exists twice: written out from stop_gradient and plain operations (the definition), and
// fused. `form` says which; automatic is fused with live decisions and written out otherwise, so
// that checks with replayed decisions see the definition.
enum class Form { automatic, fused, written };

class Estimator {
 public:
  virtual ~Estimator() = default;
  virtual Var combine(const EstimatorInput& in) const = 0;
  Form form = Form::automatic;

 protected:
  bool fused(Tape& tape) const {
    return form == Form::fused || (form == Form::automatic && tape.decisions().live());
  }
};

}  // namespace moegrad
