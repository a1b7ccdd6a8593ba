#include "moe/estimators/surrogate.h"

#include "moe/dispatch.h"
#include "ops/ops.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

// x - sg x: zero, with the gradient of x.
Var gradient_only(Var x) { return x - stop_gradient(x); }

Var scaled(Var x, const Tensor& factor) {
  return factor.defined() ? x * x.tape().constant(factor) : x;
}

}  // namespace

Var written_sparse(Var h, Var weights, const Plan& plan) {
  return combine(h, stop_gradient(weights), plan) +
         combine(stop_gradient(h), gradient_only(weights), plan);
}

Var written_surrogate(Var h, Var weights, const Plan& plan, const Rest& rest) {
  const Var value = combine(h, stop_gradient(weights), plan);
  const Var on = scaled(gradient_only(weights), rest.on);
  const Var off = scaled(gradient_only(rest.scores), rest.off);
  Var y = value + combine(stop_gradient(h), on, plan) +
          combine(stop_gradient(rest.values), off, rest.plan);
  if (rest.gated) y = y - sum(off, 1, true) * stop_gradient(value);
  if (rest.experts) {
    y = y + combine(gradient_only(rest.values), stop_gradient(rest.scores), rest.plan);
  }
  return y;
}

Tensor selected_flags(const Tensor& selected, std::int64_t experts) {
  Kernels& k = kernels(selected.device());
  const Tensor times = Tensor::empty({selected.size(0), experts}, DType::f32);
  k.put_columns(Tensor::full(selected.shape(), 1.0, DType::f32), selected, times);
  Tensor flags = Tensor::empty(times.shape(), DType::i32);
  k.greater(times, Tensor::zeros(times.shape(), DType::f32), flags);
  return flags;
}

Rest no_rest(Var h, const Plan& plan) {
  Tape& tape = h.tape();
  Rest rest;
  rest.plan = make_plan(Tensor::empty({plan.tokens(), 0}, DType::i32), plan.experts);
  rest.values = tape.constant(Tensor::empty({0, h.size(1)}, h.dtype()));
  rest.scores = tape.constant(Tensor::empty({plan.tokens(), 0}, h.dtype()));
  return rest;
}

}  // namespace moegrad
