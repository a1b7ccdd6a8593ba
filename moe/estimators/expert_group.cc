// expert-group: dense backpropagation by group means (Panda et al., ICLR 2025 submission).
//
//   G(x)    the top-G experts by p (`groups`, default 2, independent of k); R(x) the selected
//   C_ij    = {x' : i in G(x'), j in M(x')}, M = R if k < G, else G (of those that ran)
//   means   Ebar_ij = sum_{x' in C_ij} E_j(x') / max(1, |C_ij|); an empty group is 0
//   E_j(x)  ~ V_j(x) = (1/G) sum_{i in G(x)} Ebar_ij for j off R(x)
//   router  gbar_j = <g, E_j(x)> on R, <g, V_j(x)> off R; p is the full softmax, never renormalised
//   experts A_ij = sum_{x: i in G(x), j off R(x)} (p_j(x)/G) g(x)                 (`experts` =
//   mean)
//           dL/dE_j(x') += sum_{i: x' in C_ij} A_ij / |C_ij|
//
// `forward`: the value gets + sum_{off R} p_j V_j too (a token then sees others of its batch).
// `weighted`: the means are weighted by p_i(x'), detached, and divided by the sum of these weights.
// `minimum-score`: x is in group i only where p_i(x) is at least this; 1/G is then 1/|G(x)|.

#include "moe/dispatch.h"
#include "moe/dispatch_cases.h"
#include "moe/estimators/surrogate.h"
#include "moe/registry.h"
#include "ops/ops.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

struct GroupOptions {
  std::int64_t groups = 2;
  bool experts = false;
  bool forward = false;
  bool weighted = false;
  double minimum_score = 0.0;
};

constexpr int kMul = BinaryFunctors::index_of<functor::Mul>();

// x [rows, cols] times factor, one for each row or one for each element.
Tensor scaled(const Tensor& x, const Tensor& factor) {
  const std::int64_t rows = factor.numel();
  const std::int64_t cols = rows == 0 ? 0 : x.numel() / rows;
  const Tensor out = Tensor::empty(x.shape(), x.dtype(), x.device());
  kernels(x.device()).binary(kMul, rows, cols, x, {cols, 1}, factor, {1, 0}, out);
  return out;
}

// Who is in which group, from frozen scores and selections; constants of the pass.
struct Groups {
  Tensor ids;         // i32 [N, G]; -1 below the minimum score
  Plan plan;          // of the groups: slots [N G] sorted by group
  Tensor membership;  // [S, E]: weight of slot (x', j) in group i; 0 outside C_ij
  Tensor off;         // [N, E]: 1/|G(x)| off R, 0 on R
};

Groups make_groups(Var scores, const Tensor& selected, const Plan& plan, const GroupOptions& o) {
  const std::int64_t experts = plan.experts;
  if (o.groups > experts) {
    fail("expert-group", "groups is {} with {} experts. Use groups <= experts.", o.groups, experts);
  }
  const Tensor p = stop_gradient(scores).value().to(DType::f64);
  const std::int64_t tokens = p.size(0);
  const std::int64_t g = o.groups;
  Groups groups;
  groups.ids = scores.tape().decisions().decide("groups", DType::i32, {tokens, g}, [&] {
    Tensor ids = Tensor::empty({tokens, g}, DType::i32);
    kernels(Device::cpu).top_k(p, g, ids);
    std::int32_t* id = ids.data<std::int32_t>();
    for (std::int64_t i = 0; i < ids.numel(); ++i) {
      if (p.at(i / g * experts + id[i]) < o.minimum_score) id[i] = -1;
    }
    return ids;
  });
  groups.plan = make_plan(groups.ids, experts);
  const Tensor membership = Tensor::zeros({plan.slots(), experts}, DType::f64);
  const Tensor off = Tensor::zeros({tokens, experts}, DType::f64);
  const std::int32_t* id = groups.ids.data<std::int32_t>();
  const std::int32_t* chosen = selected.data<std::int32_t>();
  const std::int32_t* order = plan.order.data<std::int32_t>();
  const bool only_groups = plan.choices >= g;  // M = G
  for (std::int64_t s = 0; s < plan.slots(); ++s) {
    const std::int64_t t = order[s] / plan.choices;
    bool contributes = !only_groups;
    for (std::int64_t m = 0; m < g; ++m) {
      contributes = contributes || id[t * g + m] == chosen[order[s]];
    }
    for (std::int64_t m = 0; contributes && m < g; ++m) {
      const std::int64_t i = id[t * g + m];
      if (i < 0) continue;
      membership.data<double>()[s * experts + i] = o.weighted ? p.at(t * experts + i) : 1.0;
    }
  }
  for (std::int64_t t = 0; t < tokens; ++t) {
    double count = 0.0;
    for (std::int64_t m = 0; m < g; ++m) count += id[t * g + m] >= 0 ? 1.0 : 0.0;
    double* row = off.data<double>() + t * experts;
    for (std::int64_t e = 0; e < experts; ++e) row[e] = count > 0.0 ? 1.0 / count : 0.0;
    for (std::int64_t j = 0; j < plan.choices; ++j) {
      if (chosen[t * plan.choices + j] >= 0) row[chosen[t * plan.choices + j]] = 0.0;
    }
  }
  groups.membership = membership.to(scores.dtype());
  groups.off = off.to(scores.dtype());
  return groups;
}

// 1 / max(1, |C_ij|) by [j, i]; with weights 1 / sum, 0 for an empty group.
Tensor inverse_counts(const Groups& groups, const Plan& plan, bool weighted) {
  const Tensor sums = Tensor::empty({plan.experts, plan.experts}, groups.membership.dtype());
  kernels(sums.device()).grouped_sum(groups.membership, plan.offsets, sums);
  const Tensor inverse = sums.to(DType::f64).clone();
  for (double& c : inverse.values<double>()) {
    c = weighted ? (c > 0.0 ? 1.0 / c : 0.0) : 1.0 / std::max(1.0, c);
  }
  return inverse.to(sums.dtype());
}

// [a, b, D] as [b, a, D].
Tensor swapped(const Tensor& x) {
  const Tensor out = Tensor::empty({x.size(1), x.size(0), x.size(2)}, x.dtype(), x.device());
  kernels(x.device()).swap_axes(x, 1, x.size(0), 1, x.size(1), x.size(2), out);
  return out;
}

// Inputs: h [S, D], weights [N, k], p [N, E]; constants: order, inverse, offsets of the plan;
// order, inverse, offsets of the groups' plan; membership [S, E]; inverse counts [E, E]; off [N,
// E]. The means are group sums by one product for each expert, membership_j^T h_j; the router's
// cotangent is one product for each group, g_i Ebar_i^T.
struct CombineGroups {
  static constexpr std::string_view name = "combine_groups";
  static constexpr std::string_view summary =
      "combine of the selected experts, group means standing for the others in the gradient";
  static constexpr std::string_view source = "Panda et al., ICLR 2025 submission";
  static constexpr Claim claim = Claim::surrogate;
  static constexpr Needs needs = Needs::inputs;
  struct Attributes {
    std::int64_t groups = 2;
    bool experts = false;
    bool forward = false;
  };

  static Tensor forward(Forward& in, const Attributes& a) {
    Kernels& k = kernels(in[0].device());
    const std::int64_t experts = in[2].size(1);
    const std::int64_t width = in[0].size(1);
    const Tensor sums = Tensor::empty({experts, experts, width}, in[0].dtype(), in[0].device());
    k.grouped_outer(in[9], in[0], in[5], sums);
    const Tensor means = swapped(scaled(sums, in[10]));  // [i, j, D]
    in.save(means);
    const Tensor y = Tensor::empty({in[4].size(0), width}, in[0].dtype(), in[0].device());
    k.slots_to_tokens(in[0], in[1], in[4], y);
    if (a.forward) {
      const Tensor rows = spread(
          scaled(in[2].reshape({in[2].numel()}), in[11]).reshape(in[2].shape()), in[6], a.groups);
      const Tensor parts = Tensor::empty({rows.size(0), width}, y.dtype(), y.device());
      k.grouped_matmul(rows, means, false, in[8], parts);
      const Tensor added = Tensor::empty(y.shape(), y.dtype(), y.device());
      k.slots_to_tokens(parts, Tensor(), in[7], added);
      k.accumulate(1.0, added, y);
    }
    return y;
  }

  static void backward(Backward& b, const Attributes& a) {
    Kernels& k = kernels(b.dy().device());
    const auto like = [&](const Shape& shape) {
      return Tensor::empty(shape, b.dy().dtype(), b.dy().device());
    };
    const Tensor by_group = spread(b.dy(), b.input(6), a.groups);  // g in the groups' slots
    if (b.wants(1)) {
      const Tensor dw = like(b.input_shape(1));
      k.slot_products(b.dy(), b.input(0), b.input(4), dw);
      b.add(1, dw);
    }
    if (b.wants(2)) {
      const std::int64_t experts = b.input_shape(2)[1];
      const Tensor products = like({by_group.size(0), experts});
      k.grouped_matmul(by_group, b.saved(0), true, b.input(8), products);
      const Tensor sums = like(b.input_shape(2));
      k.slots_to_tokens(products, Tensor(), b.input(7), sums);
      b.add(2, scaled(sums.reshape({sums.numel()}), b.input(11)).reshape(sums.shape()));
    }
    if (!b.wants(0)) return;
    const Tensor dh = like(b.input_shape(0));
    k.tokens_to_slots(b.dy(), b.input(1), b.input(3), b.input_shape(1)[1], dh);
    if (a.experts) k.accumulate(1.0, through_means(b, by_group, a.groups), dh);
    b.add(0, dh);
  }
  static std::vector<OperationCase> cases();

 private:
  static Tensor spread(const Tensor& x, const Tensor& order, std::int64_t groups) {
    const Tensor out = Tensor::empty({order.size(0), x.size(1)}, x.dtype(), x.device());
    kernels(x.device()).tokens_to_slots(x, Tensor(), order, groups, out);
    return out;
  }
  // The gradient that reaches the experts' rows through the means: [S, D].
  static Tensor through_means(Backward& b, const Tensor& by_group, std::int64_t groups) {
    Kernels& k = kernels(b.dy().device());
    const Tensor& p = b.input(2);
    const Tensor share = scaled(p.reshape({p.numel()}), b.input(11)).reshape(p.shape());
    const Tensor a = Tensor::empty({p.size(1), p.size(1), b.dy().size(1)}, p.dtype(), p.device());
    k.grouped_outer(spread(share, b.input(6), groups), by_group, b.input(8), a);  // [i, j, D]
    const Tensor per_row = scaled(swapped(a), b.input(10));                       // [j, i, D]
    const Tensor dh = Tensor::empty(b.input_shape(0), p.dtype(), p.device());
    k.grouped_matmul(b.input(9), per_row, false, b.input(5), dh);
    return dh;
  }
};

Var fused_groups(Var h, Var weights, Var scores, const Plan& plan, const Groups& groups,
                 const Tensor& inverse_count, const GroupOptions& o) {
  Tape& tape = h.tape();
  const auto c = [&](const Tensor& t) { return tape.constant(t); };
  return apply<CombineGroups>({h, weights, scores, c(plan.order), c(plan.inverse), c(plan.offsets),
                               c(groups.plan.order), c(groups.plan.inverse), c(groups.plan.offsets),
                               c(groups.membership), c(inverse_count), c(groups.off)},
                              {o.groups, o.experts, o.forward});
}

// The definition: every pair (slot of C_ij, group i) is added to its mean, every unselected expert
// of every token reads its means.
Var written_groups(Var h, Var weights, Var scores, const Tensor& selected, const Plan& plan,
                   const Groups& groups, const Tensor& inverse_count, const GroupOptions& o) {
  const std::int64_t experts = plan.experts;
  Tape& tape = h.tape();
  std::vector<std::int32_t> from;
  std::vector<std::int32_t> to;
  std::vector<double> weight;
  for (std::int64_t s = 0; s < plan.slots(); ++s) {
    const std::int32_t j = selected.data<std::int32_t>()[plan.order.data<std::int32_t>()[s]];
    for (std::int64_t i = 0; i < experts; ++i) {
      const double m = groups.membership.at(s * experts + i);
      if (m == 0.0) continue;
      from.push_back(static_cast<std::int32_t>(s));
      to.push_back(static_cast<std::int32_t>(i * experts + j));
      weight.push_back(m * inverse_count.at(j * experts + i));
    }
  }
  const auto pairs = static_cast<std::int64_t>(from.size());
  const Var rows = gather_rows(h, Tensor::of<std::int32_t>({pairs}, from)) *
                   tape.constant(Tensor::of<double>({pairs, 1}, weight).to(h.dtype()));
  const Var means =
      scatter_add_rows(rows, Tensor::of<std::int32_t>({pairs}, to), experts * experts);

  const Tensor ids = unselected(selected, experts);
  Rest rest;
  rest.plan = make_plan(ids, experts);
  rest.scores = take_columns(scores, ids);
  rest.experts = o.experts;
  std::vector<std::int32_t> read;
  std::vector<double> share;
  for (std::int64_t s = 0; s < rest.plan.slots(); ++s) {
    const std::int64_t place = rest.plan.order.data<std::int32_t>()[s];
    const std::int64_t t = place / rest.plan.choices;
    const std::int32_t j = ids.data<std::int32_t>()[place];
    for (std::int64_t m = 0; m < o.groups; ++m) {
      const std::int32_t i = groups.ids.data<std::int32_t>()[t * o.groups + m];
      read.push_back(i < 0 ? -1 : static_cast<std::int32_t>(i * experts + j));
    }
    share.push_back(groups.off.at(t * experts + j));
  }
  const std::int64_t slots = rest.plan.slots();
  const Var means_read = gather_rows(means, Tensor::of<std::int32_t>({slots * o.groups}, read));
  const Var summed = sum(reshape(means_read, {slots, o.groups, h.size(1)}), 1);
  rest.values = summed * tape.constant(Tensor::of<double>({slots, 1}, share).to(h.dtype()));
  if (!o.forward) return written_surrogate(h, weights, plan, rest);
  const Var values = o.experts ? rest.values : stop_gradient(rest.values);
  return written_sparse(h, weights, plan) + combine(values, rest.scores, rest.plan);
}

Var combine_groups(Var h, Var weights, Var scores, const Tensor& selected, const Plan& plan,
                   const GroupOptions& o, bool fused) {
  const Groups groups = make_groups(scores, selected, plan, o);
  const Tensor inverse_count = inverse_counts(groups, plan, o.weighted);
  if (fused) return fused_groups(h, weights, scores, plan, groups, inverse_count, o);
  return written_groups(h, weights, scores, selected, plan, groups, inverse_count, o);
}

std::vector<OperationCase> CombineGroups::cases() {
  std::vector<OperationCase> cases;
  const std::pair<const char*, GroupOptions> variants[] = {
      {"router only", {2, false, false, false, 0.0}},
      {"experts too", {2, true, false, false, 0.0}},
      {"forward too", {2, true, true, false, 0.0}},
      {"weighted, one group, minimum score", {1, true, false, true, 0.4}},
      {"more groups than k", {3, true, true, false, 0.0}}};
  for (const Selection& s : selections()) {
    for (const auto& [label, o] : variants) {
      if (o.groups > s.experts) continue;
      const Plan plan = s.plan();
      const auto program = [s, plan, o = o](bool may_fuse) {
        return [s, plan, o, may_fuse](Tape& tape, std::span<const Var> x) {
          return combine_groups(x[0], x[1], x[2], s.tensor(), plan, o,
                                may_fuse && tape.decisions().live());
        };
      };
      cases.push_back({std::string(s.label) + ", " + label,
                       {{{plan.slots(), 3}},
                        {{plan.tokens(), plan.choices}},
                        {{plan.tokens(), plan.experts}, 0.1, 1.0}},
                       program(true),
                       program(false)});
    }
  }
  return cases;
}

class ExpertGroupEstimator : public Estimator {
 public:
  explicit ExpertGroupEstimator(const Options& o)
      : options_{o.integer("groups"), o.choice("experts") == "mean", o.flag("forward"),
                 o.flag("weighted"), o.number("minimum-score")} {}

  void check(const LayerSize& size, const RouterEntry& router) const override {
    if (size.active == size.experts || !router.traits.sparse_training) {
      fail("expert-group",
           "every token uses all {} experts: there is none for a group mean to stand for. Use a "
           "router with k < E, or the estimator sparse.",
           size.experts);
    }
  }
  bool leaks() const override { return options_.forward; }

  Combined combine(const EstimatorInput& in) const override {
    const Var h = in.experts(in.x, in.plan);
    const bool use_fused = fused(in.x.tape());
    const Routing& r = in.routing;
    if (!in.training() && !options_.forward) {
      return use_fused ? moegrad::combine(h, r.weights, in.plan)
                       : written_sparse(h, r.weights, in.plan);
    }
    return combine_groups(h, r.weights, r.scores, r.selected, in.plan, options_, use_fused);
  }

 private:
  GroupOptions options_;
};

}  // namespace

EstimatorEntry expert_group_estimator() {
  return {
      .name = "expert-group",
      .summary = "group means of other tokens stand for the unselected experts in the gradient",
      .source = "Panda et al., ICLR 2025 submission",
      .formula =
          "G(x) = top-G experts by p; Ebar_ij = mean of E_j over the tokens of group i that ran "
          "j;\n"
          "V_j(x) = (1/G) sum_{i in G(x)} Ebar_ij for j off R(x), dL/dp_j = <g, V_j>",
      .options = {{"groups",
                   OptionSpec::Kind::integer,
                   "2",
                   "G: a token is in the groups of its top G",
                   1,
                   4096,
                   {},
                   {"1", "3"}},
                  {"experts",
                   OptionSpec::Kind::choice,
                   "none",
                   "gradient of the experts through the means",
                   0,
                   0,
                   {"none", "mean"}},
                  {"forward", OptionSpec::Kind::flag, "false", "add sum p_j V_j to the output too"},
                  {"weighted", OptionSpec::Kind::flag, "false",
                   "means weighted by the score of the group"},
                  {"minimum-score",
                   OptionSpec::Kind::number,
                   "0",
                   "least score to be in a group",
                   0,
                   1,
                   {},
                   {"0.3"}}},
      .make = [](const Options& o) -> std::unique_ptr<Estimator> {
        return std::make_unique<ExpertGroupEstimator>(o);
      }};
}

std::vector<OperationEntry> expert_group_operations() { return {entry_of<CombineGroups>()}; }

}  // namespace moegrad
