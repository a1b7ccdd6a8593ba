#pragma once

#include <string_view>

#include "autograd/tape.h"
#include "moe/plan.h"

namespace moegrad {

enum class Activation { relu, gelu, silu, swiglu };
std::string_view name_of(Activation activation);
// An Error that names the nearest for any other name than relu, gelu, silu, swiglu.
Activation activation_of(std::string_view name);

// E experts as Vars of one tape, each a network of two matrices, act(x w1 + b1) w2 + b2, or of
// three (SwiGLU, arXiv:2002.05202), (silu(x w1 + b1) * (x w3 + b3)) w2 + b2. w1, w3 [E, D, H], w2
// [E, H, Dout]; the biases b1, b3 [E, H], b2 [E, Dout] may be undefined.
struct Experts {
  Activation activation = Activation::relu;
  Var w1, w2, w3;
  Var b1, b2, b3;

  std::int64_t count() const { return w1.size(0); }
  std::int64_t output_width() const { return w2.size(2); }
  // rows [S, D] in the slots of the plan -> [S, Dout]
  Var operator()(Var rows, const Plan& plan) const;
  // The same numbers as constants: no gradient, nothing recorded.
  Experts detached() const;
  // G experts, each a sum of all: parameter'_g = sum_e weights[g, e] parameter_e, for [G, E].
  Experts merged(Var weights) const;
};

}  // namespace moegrad
