#pragma once

#include "autograd/tape.h"
#include "moe/plan.h"

namespace moegrad {

// The experts that a token did not select, and what stands for their outputs there.
struct Rest {
  Plan plan;             // choices of the unselected experts
  Var values;            // [S', D] V_i, in the slots of the plan
  Var scores;            // [N, r] p_i
  Tensor on;             // [N, k] c_i of the selected; undefined: 1
  Tensor off;            // [N, r] c_i of the others; undefined: 1
  bool gated = false;    // the cotangent of p_i is <g, V_i - y> instead of <g, V_i>
  bool experts = false;  // V_i get the gradient p_i g
};

// The surrogate of moe/estimator.h written out: its definition.
//   y = combine(h, sg w) + combine(sg h, c (w - sg w)) + sum_{off R} c_i (p_i - sg p_i) sg(V_i)
//     + sum_{off R} sg(p_i) (V_i - sg V_i)                                        when `experts`
Var written_surrogate(Var h, Var weights, const Plan& plan, const Rest& rest);

// The same, fused where told. The value has the bits of combine(h, weights).
Var combine_dense(Var h, Var weights, const Plan& plan, const Rest& rest, bool fused);

// Nothing stands for the experts that were not selected.
Rest no_rest(Var h, const Plan& plan);

// i32 [N, E]: 1 where a token selected the expert, else 0.
Tensor selected_flags(const Tensor& selected, std::int64_t experts);

// y = combine(h, sg w) + combine(sg h, w - sg w): the sparse layer written out.
Var written_sparse(Var h, Var weights, const Plan& plan);

}  // namespace moegrad
