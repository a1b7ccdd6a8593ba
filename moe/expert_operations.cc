// The experts' networks as operations of the tape, fused (Experts in moe/experts.h says what they
// are, tensor/kernels.h how they are worked out).

#include <cmath>

#include "moe/dispatch_cases.h"
#include "moe/experts.h"
#include "ops/shape.h"

namespace moegrad {
namespace {

// Inputs: x, order, inverse, offsets, w1, w2, and then those of weights, b1, b2, w3, b3, y and of
// order, inverse, offsets of the choices that run forward that there are, in this order.
struct ExpertAttributes {
  Activation activation = Activation::relu;
  bool weights = false, b1 = false, b2 = false, w3 = false, b3 = false, y = false, ran = false;
  std::int64_t choices = 1;
};

struct Places {
  explicit Places(const ExpertAttributes& a)
      : weights(a.weights ? next++ : -1),
        b1(a.b1 ? next++ : -1),
        b2(a.b2 ? next++ : -1),
        w3(a.w3 ? next++ : -1),
        b3(a.b3 ? next++ : -1),
        y(a.y ? next++ : -1),
        ran_order(a.ran ? next++ : order),
        ran_inverse(a.ran ? next++ : inverse),
        ran_offsets(a.ran ? next++ : offsets) {}
  static constexpr int x = 0, order = 1, inverse = 2, offsets = 3, w1 = 4, w2 = 5;
  int next = 6;
  int weights, b1, b2, w3, b3, y, ran_order, ran_inverse, ran_offsets;
};

template <class Input>
ExpertTensors tensors_of(const Places& at, Input input) {
  const auto optional = [&](int place) { return place < 0 ? Tensor() : input(place); };
  return {input(Places::w1), optional(at.b1),   optional(at.w3),
          optional(at.b3),   input(Places::w2), optional(at.b2)};
}

Tensor tensor_like(const Tensor& t, const Shape& shape) {
  return Tensor::empty(shape, t.dtype(), t.device());
}

void require_experts(std::string_view name, const Forward& in, const Places& at) {
  const Tensor& x = in[Places::x];
  const std::int64_t experts = in[Places::offsets].size(0) - 1;
  const Tensor& w1 = in[Places::w1];
  const Tensor& w2 = in[Places::w2];
  if (x.rank() != 2 || x.size(0) != in[Places::inverse].size(0)) {
    fail(name, "input is {} and the plan has {} tokens. Give one row for each.", x.shape(),
         in[Places::inverse].size(0));
  }
  if (w1.rank() != 3 || w1.size(0) != experts || w1.size(1) != x.size(1) || w2.rank() != 3 ||
      w2.size(0) != experts || w2.size(1) != w1.size(2)) {
    fail(name, "rows {} and matrices {} and {} for {} experts. Give [N, D], [E, D, H], [E, H, O].",
         x.shape(), w1.shape(), w2.shape(), experts);
  }
  const auto same = [&](int place, const Shape& shape, const char* what) {
    if (place >= 0 && !(in[static_cast<std::size_t>(place)].shape() == shape)) {
      fail(name, "{} is {} and must be {}.", what, in[static_cast<std::size_t>(place)].shape(),
           shape);
    }
  };
  same(at.b1, {experts, w1.size(2)}, "b1");
  same(at.b2, {experts, w2.size(2)}, "b2");
  same(at.w3, w1.shape(), "w3");
  same(at.b3, {experts, w1.size(2)}, "b3");
  same(at.weights, in[Places::inverse].shape(), "weights");
}

// h [S, O] of the choices that run forward; keeps the pre-activations.
Tensor experts_forward(std::string_view name, Forward& in, const ExpertAttributes& a) {
  const Places at(a);
  require_experts(name, in, at);
  const auto input = [&](int i) -> const Tensor& { return in[static_cast<std::size_t>(i)]; };
  const Tensor& x = in[Places::x];
  const std::int64_t slots = input(at.ran_order).size(0);
  const Shape hidden = {slots, in[Places::w1].size(2)};
  Tensor first;
  Tensor third;
  if (in.saves()) {
    first = tensor_like(x, hidden);
    in.save(first);
    if (a.w3) {
      third = tensor_like(x, hidden);
      in.save(third);
    }
  }
  Tensor h = tensor_like(x, {slots, in[Places::w2].size(2)});
  kernels(x.device())
      .experts(a.activation, tensors_of(at, input), x, input(at.ran_order), input(at.ran_offsets),
               input(at.ran_inverse).size(1), first, third, h);
  return h;
}

// y [N, O] of the choices that run forward: the first of each token.
Tensor mixture_forward(std::string_view name, Forward& in, const ExpertAttributes& a) {
  const Tensor h = experts_forward(name, in, a);
  const Places at(a);
  const Tensor& inverse = in[static_cast<std::size_t>(at.ran_inverse)];
  const Tensor& all = in[static_cast<std::size_t>(at.weights)];
  Kernels& k = kernels(h.device());
  Tensor weights = all;
  if (a.ran) {
    weights = tensor_like(h, inverse.shape());
    k.copy_block(all, 0, all.size(1), all.size(0), weights.size(1), 0, weights.size(1), weights);
  }
  Tensor y = tensor_like(h, {in[Places::x].size(0), h.size(1)});
  k.slots_to_tokens(h, weights, inverse, y);
  return y;
}

// From the adjoint of y [N, O] where there are weights, of h [S, O] where there are none, and the
// pre-activations of the choices that ran; undefined where none did.
void experts_backward(Backward& b, const ExpertAttributes& a, const Tensor& first,
                      const Tensor& third) {
  const Places at(a);
  Kernels& k = kernels(b.dy().device());
  const auto wanted = [&](int place) {
    return place >= 0 && b.wants(place) ? tensor_like(b.dy(), b.input_shape(place)) : Tensor();
  };
  const ExpertTensors w = tensors_of(at, [&](int i) { return b.input(i); });
  const ExpertTensors dw = tensors_of(at, wanted);
  const Tensor dweights = wanted(at.weights);
  const std::int64_t slots = b.input_shape(Places::order)[0];
  Tensor dslots;
  if (b.wants(Places::x)) dslots = tensor_like(b.dy(), {slots, b.input_shape(Places::x)[1]});
  k.experts_backward(a.activation, w, b.input(Places::x), b.input(Places::order),
                     b.input(Places::offsets), a.choices, first, third,
                     first.defined() ? b.input(at.ran_inverse) : Tensor(), b.dy(),
                     a.weights ? b.input(at.weights) : Tensor(), dslots, dweights, dw);
  if (dslots.defined()) {
    const Tensor dx = tensor_like(b.dy(), b.input_shape(Places::x));
    k.slots_to_tokens(dslots, Tensor(), b.input(Places::inverse), dx);
    b.add(Places::x, dx);
  }
  const auto add = [&](int place, const Tensor& gradient) {
    if (gradient.defined()) b.add(place, gradient);
  };
  add(at.weights, dweights);
  add(Places::w1, dw.w1);
  add(Places::w2, dw.w2);
  add(at.b1, dw.b1);
  add(at.b2, dw.b2);
  add(at.w3, dw.w3);
  add(at.b3, dw.b3);
}

// The walls of relu: where a pre-activation is 0.
void experts_cell(std::span<const Tensor> in, const ExpertAttributes& a, Cell& cell) {
  if (a.activation != Activation::relu) return;
  const Places at(a);
  const Tensor& x = in[Places::x];
  const Tensor& w1 = in[Places::w1];
  const std::int32_t* const offsets = in[Places::offsets].data<std::int32_t>();
  for (std::int64_t e = 0; e < w1.size(0); ++e) {
    for (std::int64_t s = offsets[e]; s < offsets[e + 1]; ++s) {
      const std::int64_t t = in[Places::order].data<std::int32_t>()[s] / a.choices;
      for (std::int64_t h = 0; h < w1.size(2); ++h) {
        double sum = at.b1 < 0 ? 0.0 : in[static_cast<std::size_t>(at.b1)].at(e * w1.size(2) + h);
        for (std::int64_t d = 0; d < x.size(1); ++d) {
          sum += x.at(t * x.size(1) + d) * w1.at((e * w1.size(1) + d) * w1.size(2) + h);
        }
        cell.distance(std::abs(sum));
        cell.signature(sum > 0.0 ? 1U : 0U);
      }
    }
  }
}

enum class Kind { outputs, mixture, dense_backward, straight_through };

// The first shared selection with every activation, the others with one each; with biases and
// without. Inputs x, w1, w2, then weights (of a mixture), b1, b2, w3, b3, and y (straight through)
// or the weights of the rest (dense backward).
std::vector<OperationCase> expert_cases(Kind kind) {
  const bool weighted = kind != Kind::outputs;
  const bool surrogate = kind == Kind::dense_backward || kind == Kind::straight_through;
  constexpr Activation kActivations[] = {Activation::relu, Activation::gelu, Activation::silu,
                                         Activation::swiglu};
  std::vector<OperationCase> cases;
  std::size_t number = 0;
  for (const Selection& s : selections()) {
    const Plan plan = s.plan();
    const Plan rest = make_plan(unselected(s.tensor(), s.experts), s.experts);
    const std::int64_t e = plan.experts;
    const std::int64_t d = e == 1 ? 1 : 3;
    const std::int64_t h = e == 1 ? 1 : 4;
    const std::int64_t o = e == 1 ? 1 : 2;
    ++number;
    for (std::size_t i = 0; i < 4; ++i) {
      if (number > 1 && i != number % 4) continue;
      const Activation activation = kActivations[i];
      const bool biases = activation != Activation::silu;
      const bool gated = activation == Activation::swiglu;
      std::vector<CaseInput> inputs = {{{plan.tokens(), d}}, {{e, d, h}}, {{e, h, o}}};
      if (weighted) inputs.push_back({{plan.tokens(), plan.choices}});
      if (biases) inputs.insert(inputs.end(), {{{e, h}}, {{e, o}}});
      if (gated) inputs.insert(inputs.end(), {{{e, d, h}}, {{e, h}}});
      if (kind == Kind::straight_through) inputs.push_back({{plan.tokens(), o}});
      if (kind == Kind::dense_backward) inputs.push_back({{plan.tokens(), rest.choices}});
      const auto program = [=](Form form) {
        return [=](Tape&, std::span<const Var> x) {
          Experts experts;
          experts.activation = activation;
          experts.form = form;
          experts.w1 = x[1];
          experts.w2 = x[2];
          std::size_t next = weighted ? 4 : 3;
          if (biases) experts.b1 = x[next++];
          if (biases) experts.b2 = x[next++];
          if (gated) experts.w3 = x[next++];
          if (gated) experts.b3 = x[next++];
          switch (kind) {
            case Kind::outputs:
              return experts(x[0], plan);
            case Kind::mixture:
              return experts.mixture(x[0], x[3], plan);
            case Kind::dense_backward:
              return experts.dense_backward_mixture(x[0], x[3], plan, x[next], rest);
            default:
              return experts.straight_through_mixture(x[next], x[0], x[3], plan);
          }
        };
      };
      cases.push_back({std::string(s.label) + ", " + std::string(name_of(activation)),
                       std::move(inputs), program(surrogate ? Form::automatic : Form::fused),
                       program(Form::written)});
    }
  }
  return cases;
}

// What the operations share.
struct ExpertOperation {
  static constexpr std::string_view source = "MegaBlocks, arXiv:2211.15841; ScatterMoE, 2403.08245";
  static constexpr Claim claim = Claim::exact_on_cell;
  static constexpr Needs needs = Needs::inputs;
  using Attributes = ExpertAttributes;

  static void backward(Backward& b, const Attributes& a) {
    experts_backward(b, a, b.saved(0), a.w3 ? b.saved(1) : Tensor());
  }
  static void cell(std::span<const Tensor> in, const Attributes& a, Cell& cell) {
    experts_cell(in, a, cell);
  }
};

struct ExpertOutputs : ExpertOperation {
  static constexpr std::string_view name = "expert_outputs";
  static constexpr std::string_view summary =
      "each token's rows through the networks of its experts";

  static Tensor forward(Forward& in, const Attributes& a) { return experts_forward(name, in, a); }
  static std::vector<OperationCase> cases() { return expert_cases(Kind::outputs); }
};

struct Mixture : ExpertOperation {
  static constexpr std::string_view name = "mixture";
  static constexpr std::string_view summary =
      "dispatch, experts and weighted combine in one: the sparse layer behind its router";

  static Tensor forward(Forward& in, const Attributes& a) { return mixture_forward(name, in, a); }
  static std::vector<OperationCase> cases() { return expert_cases(Kind::mixture); }
};

struct DenseBackwardMixture : ExpertOperation {
  static constexpr std::string_view name = "dense_backward_mixture";
  static constexpr std::string_view summary =
      "a mixture of selected experts, with the gradient of that of selected and unselected ones";
  static constexpr std::string_view source = "Panda et al., ICLR 2025 submission";
  static constexpr Claim claim = Claim::surrogate;

  static Tensor forward(Forward& in, const Attributes& a) { return mixture_forward(name, in, a); }
  static std::vector<OperationCase> cases() { return expert_cases(Kind::dense_backward); }
};

struct StraightThroughMixture : ExpertOperation {
  static constexpr std::string_view name = "straight_through_mixture";
  static constexpr std::string_view summary =
      "y, with the gradient of y and a mixture: experts that ran for their gradient alone";
  static constexpr std::string_view source = "Panda et al., ICLR 2025 submission";
  static constexpr Claim claim = Claim::surrogate;

  static Tensor forward(Forward& in, const Attributes& a) {
    const Places at(a);
    require_experts(name, in, at);
    const Tensor& y = in[static_cast<std::size_t>(at.y)];
    const Shape shape = {in[Places::x].size(0), in[Places::w2].size(2)};
    if (!(y.shape() == shape)) {
      fail(name, "y is {} and the mixture {}. They must agree.", y.shape(), shape);
    }
    return y;
  }
  static void backward(Backward& b, const Attributes& a) {
    b.add(Places(a).y, b.dy());
    experts_backward(b, a, Tensor(), Tensor());
  }
  static std::vector<OperationCase> cases() { return expert_cases(Kind::straight_through); }
};

template <class Op>
Var apply_experts(const Experts& e, Var x, Var weights, const Plan& plan, Var y = Var(),
                  const Plan* ran = nullptr) {
  Tape& tape = x.tape();
  Var inputs[15] = {x,
                    tape.constant(plan.order),
                    tape.constant(plan.inverse),
                    tape.constant(plan.offsets),
                    e.w1,
                    e.w2};
  std::size_t count = 6;
  for (const Var v : {weights, e.b1, e.b2, e.w3, e.b3, y}) {
    if (v.defined()) inputs[count++] = v;
  }
  if (ran != nullptr) {
    for (const Tensor* t : {&ran->order, &ran->inverse, &ran->offsets}) {
      inputs[count++] = tape.constant(*t);
    }
  }
  return apply<Op>(std::span<const Var>(inputs, count),
                   {e.activation, weights.defined(), e.b1.defined(), e.b2.defined(), e.w3.defined(),
                    e.b3.defined(), y.defined(), ran != nullptr, plan.choices});
}

}  // namespace

Var fused_experts(const Experts& experts, Var x, const Plan& plan) {
  return apply_experts<ExpertOutputs>(experts, x, Var(), plan);
}

Var fused_mixture(const Experts& experts, Var x, Var weights, const Plan& plan) {
  return apply_experts<Mixture>(experts, x, weights, plan);
}

Var fused_dense_backward_mixture(const Experts& experts, Var x, Var weights, const Plan& plan,
                                 Var rest_weights, const Plan& rest) {
  if (!(weights.shape() == plan.inverse.shape() && rest_weights.shape() == rest.inverse.shape())) {
    fail(DenseBackwardMixture::name,
         "weights are {} and {} and the plans' choices {} and {}. They must agree.",
         weights.shape(), rest_weights.shape(), plan.inverse.shape(), rest.inverse.shape());
  }
  return apply_experts<DenseBackwardMixture>(experts, x, concat({weights, rest_weights}, 1),
                                             joined(plan, rest), Var(), &plan);
}

Var fused_straight_through_mixture(const Experts& experts, Var y, Var x, Var weights,
                                   const Plan& plan) {
  return apply_experts<StraightThroughMixture>(experts, x, weights, plan, y);
}

std::vector<OperationEntry> expert_operations() {
  return {entry_of<ExpertOutputs>(), entry_of<Mixture>(), entry_of<DenseBackwardMixture>(),
          entry_of<StraightThroughMixture>()};
}

}  // namespace moegrad
