#pragma once

#include "autograd/tape.h"
#include "moe/plan.h"
#include "moe/router.h"

namespace moegrad {

// x, with its gradient times `factor`, element by element; undefined: 1.
Var scaled_gradient(Var x, const Tensor& factor);

// The experts that a token did not select, and what stands for their outputs there.
struct Unselected {
  Plan plan;             // choices of the unselected experts
  Var values;            // [S', D] V_i, in the slots of the plan
  Var scores;            // p_i [N, choices]: of complement(), the scores [N, E] themselves
  bool experts = false;  // V_i get the gradient p_i g
};

// The surrogate of moe/estimator.h written out, with c = 1.
//   y = combine(h, sg w) + combine(sg h, w - sg w) + sum_{off R} (p_i - sg p_i) sg(V_i)
//     + sum_{off R} sg(p_i) (V_i - sg V_i)                                        when `experts`
Var written_surrogate(Var h, Var weights, const Plan& plan, const Unselected& rest);

// The scores p [N, E] as experts off R have them: of renormalised weights with the gradient of p/S,
// S held constant.
Var scores_off(const Routing& routing);

// y = combine(h, sg w) + combine(sg h, w - sg w): the sparse layer written out.
Var written_sparse(Var h, Var weights, const Plan& plan);

}  // namespace moegrad
