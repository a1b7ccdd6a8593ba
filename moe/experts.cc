#include "moe/experts.h"

#include <array>

#include "moe/convolution.h"
#include "moe/dispatch.h"
#include "moe/options.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr std::array<std::string_view, 4> kNames = {"relu", "gelu", "silu", "swiglu"};

Var linear(Var rows, Var w, Var b, const Plan& plan) {
  const Var product = grouped_matmul(rows, w, plan);
  return b.defined() ? grouped_bias(product, b, plan) : product;
}

}  // namespace

std::string_view name_of(Activation activation) {
  return kNames[static_cast<std::size_t>(activation)];
}

Activation activation_of(std::string_view name) {
  for (std::size_t i = 0; i < kNames.size(); ++i) {
    if (kNames[i] == name) return static_cast<Activation>(i);
  }
  const std::array<std::string, 4> names = {"relu", "gelu", "silu", "swiglu"};
  fail("experts", "no activation '{}'. Did you mean '{}'?", name, nearest(name, names));
}

bool is_fused(Form form, Tape& tape) {
  return form == Form::fused || (form == Form::automatic && tape.decisions().live());
}

void Experts::require_gate() const {
  const bool gated = activation == Activation::swiglu;
  if (w3.defined() == gated && (gated || !b3.defined())) return;
  fail("experts", "{} {} w3{}. swiglu has w3, and b3 perhaps; the others have neither.",
       name_of(activation), w3.defined() ? "with" : "without", b3.defined() ? " and with b3" : "");
}

Var Experts::operator()(Var x, const Plan& plan) const {
  if (kind == ExpertKind::convolutional) return convolutional_experts(*this, x, plan);
  require_gate();
  if (fused(x.tape())) return fused_experts(*this, x, plan);
  const Var rows = dispatch(x, plan);
  const Var first = linear(rows, w1, b1, plan);
  Var hidden;
  switch (activation) {
    case Activation::relu:
      hidden = relu(first);
      break;
    case Activation::gelu:
      hidden = gelu(first);
      break;
    case Activation::silu:
      hidden = silu(first);
      break;
    case Activation::swiglu:
      hidden = silu(first) * linear(rows, w3, b3, plan);
      break;
  }
  return linear(hidden, w2, b2, plan);
}

Var Experts::mixture(Var x, Var weights, const Plan& plan) const {
  if (fused(x.tape())) return fused_mixture(*this, x, weights, plan);
  return combine((*this)(x, plan), weights, plan);
}

Var Experts::dense_backward_mixture(Var x, Var weights, const Plan& plan, Var rest_weights,
                                    const Plan& rest) const {
  if (fused(x.tape())) {
    return fused_dense_backward_mixture(*this, x, weights, plan, rest_weights, rest);
  }
  return straight_through_mixture(mixture(x, weights, plan), x, rest_weights, rest);
}

Var Experts::straight_through_mixture(Var y, Var x, Var weights, const Plan& plan) const {
  if (fused(x.tape())) {
    return fused_straight_through_mixture(*this, y, x, weights, plan);
  }
  return straight_through(y, y + mixture(x, weights, plan));
}

Experts Experts::detached() const {
  Experts copy = *this;
  for (Var* v : {&copy.w1, &copy.w2, &copy.w3, &copy.b1, &copy.b2, &copy.b3}) {
    if (v->defined()) *v = stop_gradient(*v);
  }
  return copy;
}

Experts Experts::merged(Var weights) const {
  Experts copy = *this;
  for (Var* v : {&copy.w1, &copy.w2, &copy.w3, &copy.b1, &copy.b2, &copy.b3}) {
    if (!v->defined()) continue;
    const std::int64_t each = v->value().numel() / count();
    const Var sums = matmul(weights, reshape(*v, {count(), each}));
    const std::int64_t groups = weights.size(0);
    Shape shape = v->shape();
    shape[0] = groups;
    *v = reshape(sums, shape);
  }
  return copy;
}

}  // namespace moegrad
