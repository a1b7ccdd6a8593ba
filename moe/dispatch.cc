#include "moe/dispatch.h"

#include "moe/dispatch_cases.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

Tensor like(const Tensor& t, const Shape& shape) {
  return Tensor::empty(shape, t.dtype(), t.device());
}

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

// Inputs: x, order, inverse.
struct Dispatch {
  static constexpr std::string_view name = "dispatch";
  static constexpr std::string_view summary = "the tokens' rows, sorted by expert";
  static constexpr std::string_view source = "ScatterMoE, arXiv:2403.08245";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  struct Attributes {
    std::int64_t choices = 1;
  };

  static Tensor forward(Forward& in, const Attributes& a) {
    require_rows(name, in[0], in[2].size(0), "tokens");
    Tensor out = like(in[0], {in[1].size(0), in[0].size(1)});
    kernels(out.device()).tokens_to_slots(in[0], Tensor(), in[1], a.choices, out);
    return out;
  }
  static void backward(Backward& b, const Attributes&) {
    Tensor dx = like(b.dy(), b.input_shape(0));
    kernels(dx.device()).slots_to_tokens(b.dy(), Tensor(), b.input(2), dx);
    b.add(0, dx);
  }
  static std::vector<OperationCase> cases() {
    return cases_of(
        [](const Plan& p) {
          return std::vector<CaseInput>{{{p.tokens(), width(p)}}};
        },
        [](const Plan& p) {
          return [p](Tape&, std::span<const Var> x) { return moegrad::dispatch(x[0], p); };
        });
  }
};

// Inputs: h, weights, order, inverse.
struct Combine {
  static constexpr std::string_view name = "combine";
  static constexpr std::string_view summary = "each token's weighted sum over its experts' rows";
  static constexpr std::string_view source = "ScatterMoE, arXiv:2403.08245";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  using Attributes = NoAttributes;

  static Tensor forward(Forward& in, const Attributes&) {
    require_rows(name, in[0], in[2].size(0), "slots");
    if (!(in[1].shape() == in[3].shape())) {
      fail(name, "weights are {} and the plan's choices {}. They must agree.", in[1].shape(),
           in[3].shape());
    }
    Tensor y = like(in[0], {in[3].size(0), in[0].size(1)});
    kernels(y.device()).slots_to_tokens(in[0], in[1], in[3], y);
    return y;
  }
  static void backward(Backward& b, const Attributes&) {
    Kernels& k = kernels(b.dy().device());
    if (b.wants(0)) {
      Tensor dh = like(b.dy(), b.input_shape(0));
      k.tokens_to_slots(b.dy(), b.input(1), b.input(2), b.input_shape(1)[1], dh);
      b.add(0, dh);
    }
    if (b.wants(1)) {
      Tensor dw = like(b.dy(), b.input_shape(1));
      k.slot_products(b.dy(), b.input(0), b.input(3), dw);
      b.add(1, dw);
    }
  }
  static std::vector<OperationCase> cases() {
    return cases_of(
        [](const Plan& p) {
          return std::vector<CaseInput>{{{p.slots(), width(p)}}, {{p.tokens(), p.choices}}};
        },
        [](const Plan& p) {
          return [p](Tape&, std::span<const Var> x) { return moegrad::combine(x[0], x[1], p); };
        });
  }
};

// Inputs: h, order, inverse.
struct CombineSum {
  static constexpr std::string_view name = "combine_sum";
  static constexpr std::string_view summary = "each token's sum over its experts' rows";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  struct Attributes {
    std::int64_t choices = 1;
  };

  static Tensor forward(Forward& in, const Attributes&) {
    require_rows(name, in[0], in[1].size(0), "slots");
    Tensor y = like(in[0], {in[2].size(0), in[0].size(1)});
    kernels(y.device()).slots_to_tokens(in[0], Tensor(), in[2], y);
    return y;
  }
  static void backward(Backward& b, const Attributes& a) {
    Tensor dh = like(b.dy(), b.input_shape(0));
    kernels(dh.device()).tokens_to_slots(b.dy(), Tensor(), b.input(1), a.choices, dh);
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

// Inputs: x, w, offsets.
struct GroupedMatmul {
  static constexpr std::string_view name = "grouped_matmul";
  static constexpr std::string_view summary = "each expert's rows times its own matrix";
  static constexpr std::string_view source = "MegaBlocks, arXiv:2211.15841";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  using Attributes = NoAttributes;

  static Tensor forward(Forward& in, const Attributes&) {
    const Tensor& x = in[0];
    const Tensor& w = in[1];
    if (x.rank() != 2 || w.rank() != 3 || w.size(0) + 1 != in[2].size(0) ||
        w.size(1) != x.size(1)) {
      fail(name, "rows {} and matrices {} for {} experts. Give [S, K] and [E, K, M].", x.shape(),
           w.shape(), in[2].size(0) - 1);
    }
    Tensor y = like(x, {x.size(0), w.size(2)});
    kernels(y.device()).grouped_matmul(x, w, false, in[2], y);
    return y;
  }
  static void backward(Backward& b, const Attributes&) {
    Kernels& k = kernels(b.dy().device());
    if (b.wants(0)) {
      Tensor dx = like(b.dy(), b.input_shape(0));
      k.grouped_matmul(b.dy(), b.input(1), true, b.input(2), dx);
      b.add(0, dx);
    }
    if (b.wants(1)) {
      Tensor dw = like(b.dy(), b.input_shape(1));
      k.grouped_outer(b.input(0), b.dy(), b.input(2), dw);
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

// Inputs: x, bias, offsets.
struct GroupedBias {
  static constexpr std::string_view name = "grouped_bias";
  static constexpr std::string_view summary = "each expert's rows plus its own bias";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = NoAttributes;

  static Tensor forward(Forward& in, const Attributes&) {
    if (in[0].rank() != 2 || in[1].rank() != 2 || in[1].size(0) + 1 != in[2].size(0) ||
        in[1].size(1) != in[0].size(1)) {
      fail(name, "rows {} and biases {} for {} experts. Give [S, M] and [E, M].", in[0].shape(),
           in[1].shape(), in[2].size(0) - 1);
    }
    Tensor y = like(in[0], in[0].shape());
    kernels(y.device()).grouped_bias(in[0], in[1], in[2], y);
    return y;
  }
  static void backward(Backward& b, const Attributes&) {
    b.add(0, b.dy());
    if (!b.wants(1)) return;
    Tensor dbias = like(b.dy(), b.input_shape(1));
    kernels(dbias.device()).grouped_sum(b.dy(), b.input(2), dbias);
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

Var constant(Var like, const Tensor& t) { return like.tape().constant(t); }

}  // namespace

Var dispatch(Var x, const Plan& plan) {
  return apply<Dispatch>({x, constant(x, plan.order), constant(x, plan.inverse)}, {plan.choices});
}

Var combine(Var h, Var weights, const Plan& plan) {
  return apply<Combine>({h, weights, constant(h, plan.order), constant(h, plan.inverse)});
}

Var combine(Var h, const Plan& plan) {
  return apply<CombineSum>({h, constant(h, plan.order), constant(h, plan.inverse)}, {plan.choices});
}

Var grouped_matmul(Var x, Var w, const Plan& plan) {
  return apply<GroupedMatmul>({x, w, constant(x, plan.offsets)});
}

Var grouped_bias(Var x, Var bias, const Plan& plan) {
  return apply<GroupedBias>({x, bias, constant(x, plan.offsets)});
}

std::vector<OperationEntry> dispatch_operations() {
  return {entry_of<Dispatch>(), entry_of<Combine>(), entry_of<CombineSum>(),
          entry_of<GroupedMatmul>(), entry_of<GroupedBias>()};
}

}  // namespace moegrad
