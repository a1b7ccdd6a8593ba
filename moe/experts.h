#pragma once

#include <string_view>

#include "autograd/operation_check.h"
#include "autograd/tape.h"
#include "moe/plan.h"
#include "tensor/kernels.h"

namespace moegrad {

std::string_view name_of(Activation activation);
// An Error that names the nearest for any other name than relu, gelu, silu, swiglu.
Activation activation_of(std::string_view name);

// Many things of a mixture exist twice: written out from plain operations (the definition), and
// fused. `automatic` is fused with live decisions and written out otherwise, so that checks with
// replayed decisions see the definition.
enum class Form { automatic, fused, written };
bool is_fused(Form form, Tape& tape);

// network: matrices, as below; convolutional: of images (moe/convolution.h), with parameters of the same
// names and another rank. Only networks are fused.
enum class ExpertKind { network, convolutional };

// E experts as Vars of one tape, each a network of two matrices, act(x w1 + b1) w2 + b2, or of
// three (SwiGLU, arXiv:2002.05202), (silu(x w1 + b1) * (x w3 + b3)) w2 + b2. w1, w3 [E, D, H], w2
// [E, H, Dout]; the biases b1, b3 [E, H], b2 [E, Dout] may be undefined.
struct Experts {
  ExpertKind kind = ExpertKind::network;
  Activation activation = Activation::relu;
  Var w1, w2, w3;
  Var b1, b2, b3;
  Form form = Form::automatic;

  std::int64_t count() const { return w1.size(0); }
  std::int64_t output_width() const {
    return kind == ExpertKind::network ? w2.size(2) : w3.size(2);
  }
  // Their outputs for the slots of the plan: tokens x [N, D] -> h [S, Dout]. Fused it is one
  // operation that keeps the pre-activations [S, H] and nothing else.
  Var operator()(Var x, const Plan& plan) const;
  // y[t] = sum over j of weights[t, j] h[slot of (t, j)]: the outputs combined, [N, Dout]. Fused it
  // is one operation that keeps no outputs: dweights[t, j] = <dy[t], h[slot]> is worked out as
  // <w2^T dy[t], act(a)> + <b2, dy[t]>.
  Var mixture(Var x, Var weights, const Plan& plan) const;
  // mixture(x, weights, plan), with the gradient of itself + mixture(x, rest_weights, rest): the
  // experts that tokens selected run, and all are trained. Fused it is one operation that goes
  // through both kinds of rows of an expert together in the backward pass, and keeps the
  // pre-activations of `plan` alone for it.
  Var dense_backward_mixture(Var x, Var weights, const Plan& plan, Var rest_weights,
                             const Plan& rest) const;
  // y [N, Dout], with the gradient of y + mixture(x, weights, plan): what experts that a token did
  // not select have to tell. Fused it is one operation that works in the backward pass alone, and
  // keeps nothing but its inputs for it.
  Var straight_through_mixture(Var y, Var x, Var weights, const Plan& plan) const;
  // An Error where w3 and b3 are not those of the activation.
  void require_gate() const;
  // The same numbers without their gradient.
  Experts detached() const;
  // G experts, each a sum of all: parameter'_g = sum_e weights[g, e] parameter_e, for [G, E].
  Experts merged(Var weights) const;

 private:
  bool fused(Tape& tape) const { return kind == ExpertKind::network && is_fused(form, tape); }
};

// The fused forms of Experts, as operations (moe/expert_operations.cc).
Var fused_experts(const Experts& experts, Var x, const Plan& plan);
Var fused_mixture(const Experts& experts, Var x, Var weights, const Plan& plan);
Var fused_dense_backward_mixture(const Experts& experts, Var x, Var weights, const Plan& plan,
                                 Var rest_weights, const Plan& rest);
Var fused_straight_through_mixture(const Experts& experts, Var y, Var x, Var weights,
                                   const Plan& plan);
// For the registry.
std::vector<OperationEntry> expert_operations();

}  // namespace moegrad
