// The experts' networks as operations of the tape, fused (Experts in moe/experts.h says what they
// are, tensor/kernels.h how they are worked out).

#include <cmath>

#include "moe/convolution.h"
#include "moe/dispatch_cases.h"
#include "moe/experts.h"
#include "ops/checks.h"

namespace moegrad {
namespace {

// The inputs; those from kB1 on may be left out. Of a straight-through mixture kOther is y, of a
// dense backward one it is the weights of the choices that run on the way back alone, and kRest
// their plan.
enum : int { kX, kPlan, kW1, kW2, kB1, kB2, kW3, kB3, kWeights, kOther, kRest, kInputs };

struct ExpertAttributes {
  Activation activation = Activation::relu;
  PlanSize plan;
  std::int64_t rest_choices = 0;
  PlanSize rest() const { return {plan.tokens, rest_choices, plan.experts}; }
};

template <class Input>
ExpertTensors tensors_of(Input input) {
  return {.w1 = input(kW1),
          .b1 = input(kB1),
          .w3 = input(kW3),
          .b3 = input(kB3),
          .w2 = input(kW2),
          .b2 = input(kB2)};
}

void require_experts(std::string_view name, const Forward& in, const PlanSize& plan) {
  const Tensor& x = in[kX];
  const Tensor& w1 = in[kW1];
  const Tensor& w2 = in[kW2];
  const std::int64_t experts = plan.experts;
  if (x.rank() != 2 || x.size(0) != plan.tokens) {
    fail(name, "input is {} and the plan has {} tokens. Give one row for each.", x.shape(),
         plan.tokens);
  }
  if (w1.rank() != 3 || w1.size(0) != experts || w1.size(1) != x.size(1) || w2.rank() != 3 ||
      w2.size(0) != experts || w2.size(1) != w1.size(2)) {
    fail(name, "rows {} and matrices {} and {} for {} experts. Give [N, D], [E, D, H], [E, H, O].",
         x.shape(), w1.shape(), w2.shape(), experts);
  }
  const auto same = [&](std::size_t place, const Shape& shape, const char* what) {
    if (!in[place].defined() || in[place].shape() == shape) return;
    fail(name, "{} is {} and must be {}.", what, in[place].shape(), shape);
  };
  same(kB1, {experts, w1.size(2)}, "b1");
  same(kB2, {experts, w2.size(2)}, "b2");
  same(kW3, w1.shape(), "w3");
  same(kB3, {experts, w1.size(2)}, "b3");
  same(kWeights, {plan.tokens, plan.choices}, "weights");
}

// h [S, O] of the plan's choices; keeps the pre-activations.
Tensor experts_forward(std::string_view name, Forward& in, const ExpertAttributes& a) {
  require_experts(name, in, a.plan);
  const Plan plan(a.plan, in[kPlan]);
  const Tensor& x = in[kX];
  ExpertSlots slots{plan.order(), plan.offsets(), plan.choices};
  if (in.saves()) {
    const Shape hidden = {plan.slots(), in[kW1].size(2)};
    slots.a = x.like(hidden);
    in.save(slots.a);
    if (in[kW3].defined()) {
      slots.c = x.like(hidden);
      in.save(slots.c);
    }
  }
  Tensor h = x.like({plan.slots(), in[kW2].size(2)});
  const ExpertTensors w = tensors_of([&](std::size_t i) { return in[i]; });
  kernels(x.device()).experts(a.activation, w, x, slots, h);
  return h;
}

// y [N, O] of the plan's choices.
Tensor mixture_forward(std::string_view name, Forward& in, const ExpertAttributes& a) {
  const Tensor h = experts_forward(name, in, a);
  Tensor y = h.like({a.plan.tokens, h.size(1)});
  kernels(h.device()).slots_to_tokens(h, in[kWeights], Plan(a.plan, in[kPlan]).inverse(), y);
  return y;
}

Tensor wanted(Backward& b, int i) { return b.wants(i) ? b.dy().like(b.input_shape(i)) : Tensor(); }

// The slots of the plan at `place` with its weights, and what is wanted of them.
ExpertSlotsBackward slots_of(Backward& b, const PlanSize& size, int place, int weights) {
  const Plan plan(size, b.input(place));
  ExpertSlotsBackward slots;
  slots.order = plan.order();
  slots.offsets = plan.offsets();
  slots.choices = plan.choices;
  slots.weights = b.input(weights);
  slots.dweights = wanted(b, weights);
  if (b.wants(kX)) slots.dslots = b.dy().like({plan.slots(), b.input_shape(kX)[1]});
  return slots;
}

// Adds the gradients of all inputs but y, from the adjoint of y [N, O] where there are weights, of
// h [S, O] where there are none.
void experts_backward(Backward& b, const ExpertAttributes& a,
                      std::initializer_list<ExpertSlotsBackward> plans) {
  Kernels& k = kernels(b.dy().device());
  const ExpertTensors w = tensors_of([&](int i) { return b.input(i); });
  const ExpertTensors dw = tensors_of([&](int i) { return wanted(b, i); });
  k.experts_backward(a.activation, w, b.input(kX), b.dy(), plans, dw);
  const PlanSize sizes[] = {a.plan, a.rest()};
  constexpr int kPlaces[] = {kPlan, kRest};
  constexpr int kWeightsOf[] = {kWeights, kOther};
  Tensor dx;
  std::size_t i = 0;
  for (const ExpertSlotsBackward& slots : plans) {
    if (slots.dweights.defined()) b.add(kWeightsOf[i], slots.dweights);
    if (slots.dslots.defined()) {
      const Tensor part = b.dy().like(b.input_shape(kX));
      k.slots_to_tokens(slots.dslots, Tensor(), Plan(sizes[i], b.input(kPlaces[i])).inverse(),
                        part);
      if (dx.defined()) k.accumulate(1.0, part, dx);
      if (!dx.defined()) dx = part;
    }
    ++i;
  }
  const auto add = [&](int place, const Tensor& gradient) {
    if (gradient.defined()) b.add(place, gradient);
  };
  add(kX, dx);
  add(kW1, dw.w1);
  add(kW2, dw.w2);
  add(kB1, dw.b1);
  add(kB2, dw.b2);
  add(kW3, dw.w3);
  add(kB3, dw.b3);
}

// With the pre-activations that the way there kept.
ExpertSlotsBackward kept_slots(Backward& b, const ExpertAttributes& a) {
  ExpertSlotsBackward slots = slots_of(b, a.plan, kPlan, kWeights);
  slots.a = b.saved(0);
  if (b.input(kW3).defined()) slots.c = b.saved(1);
  return slots;
}

// The walls of relu: where a pre-activation is 0.
void experts_cell(std::span<const Tensor> in, const ExpertAttributes& a, Cell& cell) {
  if (a.activation != Activation::relu) return;
  const Tensor& x = in[kX];
  const Tensor& w1 = in[kW1];
  const Tensor& b1 = in[kB1];
  const auto walls_of = [&](const Plan& plan) {
    const Tensor order = plan.order();
    const Tensor bounds = plan.offsets();
    const std::int32_t* const offsets = bounds.data<std::int32_t>();
    for (std::int64_t e = 0; e < w1.size(0); ++e) {
      for (std::int64_t s = offsets[e]; s < offsets[e + 1]; ++s) {
        const std::int64_t t = order.data<std::int32_t>()[s] / plan.choices;
        for (std::int64_t h = 0; h < w1.size(2); ++h) {
          double sum = b1.defined() ? b1.at(e * w1.size(2) + h) : 0.0;
          for (std::int64_t d = 0; d < x.size(1); ++d) {
            sum += x.at(t * x.size(1) + d) * w1.at((e * w1.size(1) + d) * w1.size(2) + h);
          }
          cell.distance(std::abs(sum));
          cell.signature(sum > 0.0 ? 1U : 0U);
        }
      }
    }
  };
  walls_of(Plan(a.plan, in[kPlan]));
  if (in[kRest].defined()) walls_of(Plan(a.rest(), in[kRest]));
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
    const Plan rest = make_plan(complement(s.tensor(), s.experts), s.experts);
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
      std::vector<CaseInput> inputs = {{{plan.tokens, d}}, {{e, d, h}}, {{e, h, o}}};
      if (weighted) inputs.push_back({{plan.tokens, plan.choices}});
      if (biases) inputs.insert(inputs.end(), {{{e, h}}, {{e, o}}});
      if (gated) inputs.insert(inputs.end(), {{{e, d, h}}, {{e, h}}});
      if (kind == Kind::straight_through) inputs.push_back({{plan.tokens, o}});
      if (kind == Kind::dense_backward) inputs.push_back({{plan.tokens, rest.choices}});
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
  static constexpr std::size_t required = kB1;
  using Attributes = ExpertAttributes;

  static void backward(Backward& b, const Attributes& a) {
    experts_backward(b, a, {kept_slots(b, a)});
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

  static Tensor forward(Forward& in, const Attributes& a) {
    Tensor y = mixture_forward(name, in, a);
    const Shape choices = {a.plan.tokens, a.rest_choices};
    if (!(in[kOther].shape() == choices)) {
      fail(name, "the weights of the rest are {} and its choices {}. They must agree.",
           in[kOther].shape(), choices);
    }
    return y;
  }
  static void backward(Backward& b, const Attributes& a) {
    experts_backward(b, a, {kept_slots(b, a), slots_of(b, a.rest(), kRest, kOther)});
  }
  static std::vector<OperationCase> cases() { return expert_cases(Kind::dense_backward); }
};

struct StraightThroughMixture : ExpertOperation {
  static constexpr std::string_view name = "straight_through_mixture";
  static constexpr std::string_view summary =
      "y, with the gradient of y and a mixture: experts that ran for their gradient alone";
  static constexpr std::string_view source = "Panda et al., ICLR 2025 submission";
  static constexpr Claim claim = Claim::surrogate;

  static Tensor forward(Forward& in, const Attributes& a) {
    require_experts(name, in, a.plan);
    const Tensor& y = in[kOther];
    const Shape shape = {a.plan.tokens, in[kW2].size(2)};
    if (!(y.shape() == shape)) {
      fail(name, "y is {} and the mixture {}. They must agree.", y.shape(), shape);
    }
    return y;
  }
  static void backward(Backward& b, const Attributes& a) {
    b.add(kOther, b.dy());
    experts_backward(b, a, {slots_of(b, a.plan, kPlan, kWeights)});
  }
  static std::vector<OperationCase> cases() { return expert_cases(Kind::straight_through); }
};

// An input that is optional for some of the operations, and not for this one: an Error where it is
// undefined.
Var given(Var v) {
  static_cast<void>(v.tape());
  return v;
}

template <class Op>
Var apply_experts(const Experts& e, Var x, const Plan& plan, Var weights = {}, Var other = {},
                  const Plan& rest = {}) {
  e.require_gate();
  Var inputs[kInputs];
  inputs[kX] = x;
  inputs[kPlan] = index_for(x, plan.table);
  inputs[kW1] = e.w1;
  inputs[kW2] = e.w2;
  inputs[kB1] = e.b1;
  inputs[kB2] = e.b2;
  inputs[kW3] = e.w3;
  inputs[kB3] = e.b3;
  inputs[kWeights] = weights;
  inputs[kOther] = other;
  if (rest.table.defined()) inputs[kRest] = index_for(x, rest.table);
  return apply<Op>(inputs, {e.activation, plan, rest.choices});
}

}  // namespace

Var fused_experts(const Experts& experts, Var x, const Plan& plan) {
  return apply_experts<ExpertOutputs>(experts, x, plan);
}

Var fused_mixture(const Experts& experts, Var x, Var weights, const Plan& plan) {
  return apply_experts<Mixture>(experts, x, plan, given(weights));
}

Var fused_dense_backward_mixture(const Experts& experts, Var x, Var weights, const Plan& plan,
                                 Var rest_weights, const Plan& rest) {
  if (plan.tokens != rest.tokens || plan.experts != rest.experts) {
    fail(DenseBackwardMixture::name,
         "plans of {} and {} tokens and {} and {} experts. They must agree.", plan.tokens,
         rest.tokens, plan.experts, rest.experts);
  }
  return apply_experts<DenseBackwardMixture>(experts, x, plan, given(weights), given(rest_weights),
                                             rest);
}

Var fused_straight_through_mixture(const Experts& experts, Var y, Var x, Var weights,
                                   const Plan& plan) {
  return apply_experts<StraightThroughMixture>(experts, x, plan, given(weights), given(y));
}

std::vector<OperationEntry> expert_operations() {
  return {entry_of<ExpertOutputs>(), entry_of<Mixture>(), entry_of<DenseBackwardMixture>(),
          entry_of<StraightThroughMixture>(), entry_of<ConvolutionalExperts>()};
}

}  // namespace moegrad
