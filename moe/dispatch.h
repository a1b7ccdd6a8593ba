#pragma once

#include "autograd/operation_check.h"
#include "autograd/tape.h"
#include "moe/plan.h"

namespace moegrad {

// The operations of a mixture on the tape. Shapes: tokens [N, D], slots [S, D], weights [N, k].
// Plans enter as one integer constant; sums over a token's experts have the fixed order of its
// choices.

// out[s] = x[token of slot s]: [S, D]. Backward sums a token's slots.
Var dispatch(Var x, const Plan& plan);

// y[t] = sum over j of weights[t, j] h[slot of (t, j)]: [N, D].
// Backward: dh[s] = weights dy[t]; dweights[t, j] = <dy[t], h[slot]>.
Var combine(Var h, Var weights, const Plan& plan);

// y[t] = sum over j of h[slot of (t, j)]: [N, D].
Var combine(Var h, const Plan& plan);

// The rows of each expert times its own matrix: x [S, K], w [E, K, M] gives [S, M].
// Backward: dx_e = dy_e w_e^T, dw_e = x_e^T dy_e (exactly zero for an expert without rows).
Var grouped_matmul(Var x, Var w, const Plan& plan);

// x [S, M] plus the bias [E, M] of each row's expert.
Var grouped_bias(Var x, Var bias, const Plan& plan);

// The operations declared here, for the registry.
std::vector<OperationEntry> dispatch_operations();

}  // namespace moegrad
