#include "moe/dispatch.h"

#include "moe/dispatch_cases.h"
#include "ops/checks.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

void require_rows(std::string_view operation, const Tensor& x, std::int64_t rows,
                  std::string_view of) {
  if (x.rank() != 2 || x.size(0) != rows) {
    fail(operation, "input is {} and the plan has {} {}. Give one row for each.", x.shape(), rows,
         of);
  }
}

// The width of the rows of a case: 1 where everything else is 1.
std::int64_t width(const Plan& p) { return p.experts == 1 ? 1 : 3; }

// A case for each shared selection: the inputs made by `inputs`, the program by `program`.
template <class MakeInputs, class MakeProgram>
std::vector<OperationCase> cases_of(MakeInputs inputs, MakeProgram program) {
  std::vector<OperationCase> cases;
  for (const Selection& s : selections()) {
    const Plan plan = s.plan();
    cases.push_back({s.label, inputs(plan), program(plan)});
  }
  return cases;
}

// Inputs: x, plan.
struct Dispatch {
  static constexpr std::string_view name = "dispatch";
  static constexpr std::string_view summary = "the tokens' rows, sorted by expert";
  static constexpr std::string_view source = "ScatterMoE, arXiv:2403.08245";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = PlanSize;

  static Tensor forward(Forward& in, const Attributes& a) {
    const Plan plan(a, in[1]);
    require_rows(name, in[0], plan.tokens, "tokens");
    Tensor out = in[0].like({plan.slots(), in[0].size(1)});
    kernels(out.device()).tokens_to_slots(in[0], Tensor(), plan.order(), plan.choices, out);
    return out;
  }
  static void backward(Backward& b, const Attributes& a) {
    Tensor dx = b.dy().like(b.input_shape(0));
    kernels(dx.device()).slots_to_tokens(b.dy(), Tensor(), Plan(a, b.input(1)).inverse(), dx);
    b.add(0, dx);
  }
  static std::vector<OperationCase> cases() {
    return cases_of(
        [](const Plan& p) {
          return std::vector<CaseInput>{{{p.tokens, width(p)}}};
        },
        [](const Plan& p) {
          return [p](Tape&, std::span<const Var> x) { return moegrad::dispatch(x[0], p); };
        });
  }
};

// Inputs: h, weights, plan.
struct Combine {
  static constexpr std::string_view name = "combine";
  static constexpr std::string_view summary = "each token's weighted sum over its experts' rows";
  static constexpr std::string_view source = "ScatterMoE, arXiv:2403.08245";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  using Attributes = PlanSize;

  static Tensor forward(Forward& in, const Attributes& a) {
    const Plan plan(a, in[2]);
    require_rows(name, in[0], plan.slots(), "slots");
    const Shape choices = {plan.tokens, plan.choices};
    if (!(in[1].shape() == choices)) {
      fail(name, "weights are {} and the plan's choices {}. They must agree.", in[1].shape(),
           choices);
    }
    Tensor y = in[0].like({plan.tokens, in[0].size(1)});
    kernels(y.device()).slots_to_tokens(in[0], in[1], plan.inverse(), y);
    return y;
  }
  static void backward(Backward& b, const Attributes& a) {
    const Plan plan(a, b.input(2));
    Kernels& k = kernels(b.dy().device());
    if (b.wants(0)) {
      Tensor dh = b.dy().like(b.input_shape(0));
      k.tokens_to_slots(b.dy(), b.input(1), plan.order(), plan.choices, dh);
      b.add(0, dh);
    }
    if (b.wants(1)) {
      Tensor dw = b.dy().like(b.input_shape(1));
      k.slot_products(b.dy(), b.input(0), plan.inverse(), dw);
      b.add(1, dw);
    }
  }
  static std::vector<OperationCase> cases() {
    return cases_of(
        [](const Plan& p) {
          return std::vector<CaseInput>{{{p.slots(), width(p)}}, {{p.tokens, p.choices}}};
        },
        [](const Plan& p) {
          return [p](Tape&, std::span<const Var> x) { return moegrad::combine(x[0], x[1], p); };
        });
  }
};

// Inputs: h, plan.
struct CombineSum {
  static constexpr std::string_view name = "combine_sum";
  static constexpr std::string_view summary = "each token's sum over its experts' rows";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = PlanSize;

  static Tensor forward(Forward& in, const Attributes& a) {
    const Plan plan(a, in[1]);
    require_rows(name, in[0], plan.slots(), "slots");
    Tensor y = in[0].like({plan.tokens, in[0].size(1)});
    kernels(y.device()).slots_to_tokens(in[0], Tensor(), plan.inverse(), y);
    return y;
  }
  static void backward(Backward& b, const Attributes& a) {
    const Plan plan(a, b.input(1));
    Tensor dh = b.dy().like(b.input_shape(0));
    kernels(dh.device()).tokens_to_slots(b.dy(), Tensor(), plan.order(), plan.choices, dh);
    b.add(0, dh);
  }
  static std::vector<OperationCase> cases() {
    return cases_of(
        [](const Plan& p) {
          return std::vector<CaseInput>{{{p.slots(), width(p)}}};
        },
        [](const Plan& p) {
          return [p](Tape&, std::span<const Var> x) { return moegrad::combine(x[0], p); };
        });
  }
};

// Inputs: x, w, plan.
struct GroupedMatmul {
  static constexpr std::string_view name = "grouped_matmul";
  static constexpr std::string_view summary = "each expert's rows times its own matrix";
  static constexpr std::string_view source = "MegaBlocks, arXiv:2211.15841";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  using Attributes = PlanSize;

  static Tensor forward(Forward& in, const Attributes& a) {
    const Tensor& x = in[0];
    const Tensor& w = in[1];
    if (x.rank() != 2 || w.rank() != 3 || w.size(0) != a.experts || w.size(1) != x.size(1)) {
      fail(name, "rows {} and matrices {} for {} experts. Give [S, K] and [E, K, M].", x.shape(),
           w.shape(), a.experts);
    }
    const Plan plan(a, in[2]);
    require_rows(name, x, plan.slots(), "slots");
    Tensor y = x.like({x.size(0), w.size(2)});
    kernels(y.device()).grouped_matmul(x, w, false, plan.offsets(), y);
    return y;
  }
  static void backward(Backward& b, const Attributes& a) {
    const Tensor offsets = Plan(a, b.input(2)).offsets();
    Kernels& k = kernels(b.dy().device());
    if (b.wants(0)) {
      Tensor dx = b.dy().like(b.input_shape(0));
      k.grouped_matmul(b.dy(), b.input(1), true, offsets, dx);
      b.add(0, dx);
    }
    if (b.wants(1)) {
      Tensor dw = b.dy().like(b.input_shape(1));
      k.grouped_outer(b.input(0), b.dy(), offsets, dw);
      b.add(1, dw);
    }
  }
  static std::vector<OperationCase> cases() {
    return cases_of(
        [](const Plan& p) {
          return std::vector<CaseInput>{{{p.slots(), width(p)}},
                                        {{p.experts, width(p), p.experts == 1 ? 1 : 2}}};
        },
        [](const Plan& p) {
          return
              [p](Tape&, std::span<const Var> x) { return moegrad::grouped_matmul(x[0], x[1], p); };
        });
  }
};

// Inputs: x, bias, plan.
struct GroupedBias {
  static constexpr std::string_view name = "grouped_bias";
  static constexpr std::string_view summary = "each expert's rows plus its own bias";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = PlanSize;

  static Tensor forward(Forward& in, const Attributes& a) {
    if (in[0].rank() != 2 || in[1].rank() != 2 || in[1].size(0) != a.experts ||
        in[1].size(1) != in[0].size(1)) {
      fail(name, "rows {} and biases {} for {} experts. Give [S, M] and [E, M].", in[0].shape(),
           in[1].shape(), a.experts);
    }
    const Plan plan(a, in[2]);
    require_rows(name, in[0], plan.slots(), "slots");
    Tensor y = in[0].like();
    kernels(y.device()).grouped_bias(in[0], in[1], plan.offsets(), y);
    return y;
  }
  static void backward(Backward& b, const Attributes& a) {
    b.add(0, b.dy());
    if (!b.wants(1)) return;
    Tensor dbias = b.dy().like(b.input_shape(1));
    kernels(dbias.device()).grouped_sum(b.dy(), Plan(a, b.input(2)).offsets(), dbias);
    b.add(1, dbias);
  }
  static std::vector<OperationCase> cases() {
    return cases_of(
        [](const Plan& p) {
          return std::vector<CaseInput>{{{p.slots(), width(p)}}, {{p.experts, width(p)}}};
        },
        [](const Plan& p) {
          return
              [p](Tape&, std::span<const Var> x) { return moegrad::grouped_bias(x[0], x[1], p); };
        });
  }
};

}  // namespace

Var dispatch(Var x, const Plan& plan) {
  return apply<Dispatch>({x, index_for(x, plan.table)}, plan);
}

Var combine(Var h, Var weights, const Plan& plan) {
  return apply<Combine>({h, weights, index_for(h, plan.table)}, plan);
}

Var combine(Var h, const Plan& plan) {
  return apply<CombineSum>({h, index_for(h, plan.table)}, plan);
}

Var grouped_matmul(Var x, Var w, const Plan& plan) {
  return apply<GroupedMatmul>({x, w, index_for(x, plan.table)}, plan);
}

Var grouped_bias(Var x, Var bias, const Plan& plan) {
  return apply<GroupedBias>({x, bias, index_for(x, plan.table)}, plan);
}

std::vector<OperationEntry> dispatch_operations() {
  return {entry_of<Dispatch>(), entry_of<Combine>(), entry_of<CombineSum>(),
          entry_of<GroupedMatmul>(), entry_of<GroupedBias>()};
}

}  // namespace moegrad
