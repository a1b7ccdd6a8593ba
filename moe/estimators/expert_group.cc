// expert-group: dense backpropagation by group means (Panda et al., ICLR 2025 submission).
//
//   G(x)    the top-G experts by p (`groups`, default 2, independent of k); R(x) the selected
//   C_ij    = {x' : i in G(x'), j in M(x')}, M = R if k < G, else G (of those that ran)
//   means   Ebar_ij = sum_{x' in C_ij} E_j(x') / max(1, |C_ij|); an empty group is 0
//   E_j(x)  ~ V_j(x) = (1/G) sum_{i in G(x)} Ebar_ij for j off R(x)
//   router  gbar_j = <g, E_j(x)> on R, <g, V_j(x)> off R; p is the full softmax, never renormalised
//   experts (`experts` = mean)
//           A_ij = sum_{x: i in G(x), j off R(x)} (p_j(x)/G) g(x)
//           dL/dE_j(x') += sum_{i: x' in C_ij} A_ij / |C_ij|
//
// `forward`: the value gets + sum_{off R} p_j V_j too (a token then sees others of its batch).
// `weighted`: the means are weighted by p_i(x'), detached, and divided by the sum of these weights.
// `minimum-score`: x is in group i only where p_i(x) is at least this; 1/G is then 1/|G(x)|.

#include <algorithm>

#include "moe/dispatch.h"
#include "moe/dispatch_cases.h"
#include "moe/estimators/surrogate.h"
#include "moe/registry.h"
#include "moe/values.h"
#include "ops/checks.h"
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

// Who is in which group, from frozen scores and selections; constants of the pass.
struct Groups {
  Tensor ids;      // i32 [N, G]; -1 below the minimum score
  Tensor weights;  // [N, G]: p of the group where the means are weighted; else undefined
  Plan plan;       // of the groups: slots [N G] sorted by group
  Tensor off;      // [N, E]: 1/|G(x)| off R, 0 on R
  bool members_only = false;
};

// [N, E]: 1/|G(x)| off R(x), 0 on R(x).
Tensor shares_off(const Tensor& ids, const Tensor& selected, std::int64_t experts, DType dtype) {
  const auto full = [&](const Shape& shape, double value) {
    return Tensor::full(shape, value, DType::f64, ids.device());
  };
  const Tensor one = full({}, 1.0);
  const Tensor zero = full({}, 0.0);
  const Tensor member = take_columns(full({ids.size(0), experts}, 1.0), ids);
  const Tensor count = reduce_rows(Reduction::sum, member);
  const Tensor share = compute<functor::Div>(where(greater(count, zero), one, zero),
                                             compute<functor::Maximum>(count, one));
  return where(flags_of(selected, experts), zero.to(dtype), share.to(dtype));
}

// ids [N, G], and -1 where the score [N, G] is below the least.
Tensor of_least_score(const Tensor& ids, const Tensor& score, double least) {
  const Tensor s = score.to(DType::f64);
  return where(greater(scalar_like(s, least), s), scalar_like(ids, -1.0), ids);
}

// `order`: what ranks the experts of a token where the scores round to equal numbers; undefined:
// the scores do.
Groups make_groups(Var scores, const Tensor& order, const Tensor& selected, const Plan& plan,
                   const GroupOptions& o) {
  const std::int64_t experts = plan.experts;
  if (o.groups > experts) {
    fail("expert-group", "groups is {} with {} experts. Use groups <= experts.", o.groups, experts);
  }
  const Tensor p = stop_gradient(scores).value();
  const std::int64_t tokens = p.size(0);
  Groups groups;
  groups.ids = scores.tape().decisions().decide("groups", DType::i32, {tokens, o.groups}, [&] {
    const Tensor ids = largest_places(order.defined() ? order : p, o.groups);
    return o.minimum_score > 0.0 ? of_least_score(ids, take_columns(p, ids), o.minimum_score) : ids;
  });
  if (o.weighted) groups.weights = take_columns(p, groups.ids);
  groups.plan = make_plan(groups.ids, experts);
  groups.off = shares_off(groups.ids, selected, experts, p.dtype());
  groups.members_only = plan.choices >= o.groups;  // M = G
  return groups;
}

// The router's cotangent is one product for each group, g_i Ebar_i^T.
struct CombineGroups {
  static constexpr std::string_view name = "combine_groups";
  static constexpr std::string_view summary =
      "combine of the selected experts, group means standing for the others in the gradient";
  static constexpr std::string_view source = "Panda et al., ICLR 2025 submission";
  static constexpr Claim claim = Claim::surrogate;
  static constexpr Needs needs = Needs::inputs;
  // h [S, D], weights [N, k], p [N, E]; constants: the plan, and those of Groups.
  enum : int { kH, kWeights, kScores, kOff, kPlan, kGroups, kIds, kGroupWeights, kInputs };
  static constexpr std::size_t required = kGroupWeights;
  struct Attributes {
    PlanSize plan, groups;
    bool experts = false;
    bool forward = false;
    bool members_only = false;
  };

  static Tensor forward(Forward& in, const Attributes& a) {
    const Tensor& h = in[kH];
    const Plan plan(a.plan, in[kPlan]);
    const std::int64_t experts = plan.experts;
    Kernels& k = kernels(h.device());
    Tensor y = h.like({plan.tokens, h.size(1)});
    k.slots_to_tokens(h, in[kWeights], plan.inverse(), y);
    if (!a.forward && !in.saves()) return y;
    const Tensor inverse = h.like({experts, experts});
    const Tensor means = h.like({experts, experts, h.size(1)});
    k.group_means(h, sets(a, plan, in[kIds], in[kGroupWeights]), inverse, means);
    in.save(means);
    in.save(inverse);
    if (a.forward) {
      const Plan groups(a.groups, in[kGroups]);
      const Tensor rows = spread(compute<functor::Mul>(in[kScores], in[kOff]), groups);
      const Tensor parts = h.like({rows.size(0), h.size(1)});
      k.grouped_matmul(rows, means, false, groups.offsets(), parts);
      const Tensor added = y.like();
      k.slots_to_tokens(parts, Tensor(), groups.inverse(), added);
      k.accumulate(1.0, added, y);
    }
    return y;
  }

  static void backward(Backward& b, const Attributes& a) {
    const Plan plan(a.plan, b.input(kPlan));
    const Plan groups(a.groups, b.input(kGroups));
    Kernels& k = kernels(b.dy().device());
    if (b.wants(kWeights)) {
      const Tensor dw = b.dy().like(b.input_shape(kWeights));
      k.slot_products(b.dy(), b.input(kH), plan.inverse(), dw);
      b.add(kWeights, dw);
    }
    const bool through_means = a.experts && b.wants(kH);
    Tensor by_group;  // g in the groups' slots
    if (through_means || b.wants(kScores)) by_group = spread(b.dy(), groups);
    if (b.wants(kScores)) {
      const Tensor products = b.dy().like({by_group.size(0), plan.experts});
      k.grouped_matmul(by_group, b.saved(0), true, groups.offsets(), products);
      const Tensor sums = b.dy().like(b.input_shape(kScores));
      k.slots_to_tokens(products, Tensor(), groups.inverse(), sums);
      b.add(kScores, compute<functor::Mul>(sums, b.input(kOff)));
    }
    if (!b.wants(kH)) return;
    const Tensor dh = b.dy().like(b.input_shape(kH));
    k.tokens_to_slots(b.dy(), b.input(kWeights), plan.order(), plan.choices, dh);
    if (through_means) {
      const Tensor share = spread(compute<functor::Mul>(b.input(kScores), b.input(kOff)), groups);
      const Tensor dmeans = b.dy().like(b.saved(0).shape());
      k.grouped_outer(share, by_group, groups.offsets(), dmeans);  // A
      k.group_means_backward(dmeans, b.saved(1),
                             sets(a, plan, b.input(kIds), b.input(kGroupWeights)), dh);
    }
    b.add(kH, dh);
  }
  static std::vector<OperationCase> cases();

 private:
  static GroupSets sets(const Attributes& a, const Plan& plan, const Tensor& ids,
                        const Tensor& weights) {
    return {.ids = ids,
            .weights = weights,
            .offsets = plan.offsets(),
            .order = plan.order(),
            .choices = plan.choices,
            .members_only = a.members_only};
  }
  static Tensor spread(const Tensor& x, const Plan& groups) {
    Tensor out = x.like({groups.slots(), x.size(1)});
    kernels(x.device()).tokens_to_slots(x, Tensor(), groups.order(), groups.choices, out);
    return out;
  }
};

Var fused_groups(Var h, Var weights, Var scores, const Plan& plan, const Groups& groups,
                 const GroupOptions& o) {
  Var inputs[CombineGroups::kInputs];
  inputs[CombineGroups::kH] = h;
  inputs[CombineGroups::kWeights] = weights;
  inputs[CombineGroups::kScores] = scores;
  inputs[CombineGroups::kOff] = h.tape().constant(groups.off);
  inputs[CombineGroups::kPlan] = index_for(h, plan.table);
  inputs[CombineGroups::kGroups] = index_for(h, groups.plan.table);
  inputs[CombineGroups::kIds] = index_for(h, groups.ids);
  if (o.weighted) inputs[CombineGroups::kGroupWeights] = h.tape().constant(groups.weights);
  return apply<CombineGroups>(inputs,
                              {plan, groups.plan, o.experts, o.forward, groups.members_only});
}

// The definition: every pair (slot of C_ij, group i) is added to its mean, every unselected expert
// of every token reads its means.
Var written_groups(Var h, Var weights, Var scores, const Tensor& selected, const Plan& plan,
                   const Groups& groups, const GroupOptions& o) {
  const std::int64_t experts = plan.experts;
  const std::int64_t g = o.groups;
  Tape& tape = h.tape();
  const Device device = h.value().device();
  const Plan rest_plan = make_plan(complement(selected, experts), experts);
  // The lists are made on the host, from copies of who is where.
  const Tensor ids = groups.ids.to(Device::cpu);
  const Tensor group_weights = groups.weights.to(Device::cpu);
  const Tensor off = groups.off.to(Device::cpu);
  const Tensor chosen = selected.to(Device::cpu);
  const Tensor order = plan.order().to(Device::cpu);
  const Tensor rest_order = rest_plan.order().to(Device::cpu);
  const std::int32_t* const id = ids.data<std::int32_t>();
  std::vector<std::int32_t> from;
  std::vector<std::int32_t> to;
  std::vector<double> weight;
  std::vector<double> sums(static_cast<std::size_t>(experts * experts), 0.0);  // by [i, j]
  for (std::int64_t s = 0; s < plan.slots(); ++s) {
    const std::int32_t place = order.data<std::int32_t>()[s];
    if (place < 0) continue;
    const std::int64_t t = place / plan.choices;
    const std::int32_t j = chosen.data<std::int32_t>()[place];
    if (groups.members_only && std::count(id + t * g, id + (t + 1) * g, j) == 0) continue;
    for (std::int64_t m = t * g; m < (t + 1) * g; ++m) {
      if (id[m] < 0) continue;
      from.push_back(static_cast<std::int32_t>(s));
      to.push_back(static_cast<std::int32_t>(id[m] * experts + j));
      weight.push_back(o.weighted ? group_weights.at(m) : 1.0);
      sums[static_cast<std::size_t>(to.back())] += weight.back();
    }
  }
  const auto pairs = static_cast<std::int64_t>(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) {
    const double sum = sums[static_cast<std::size_t>(to[i])];
    weight[i] *= sum > 0.0 ? 1.0 / sum : 0.0;
  }
  const auto factors = [&](const std::vector<double>& values) {
    const Shape column = {static_cast<std::int64_t>(values.size()), 1};
    return tape.constant(Tensor::of<double>(column, values).to(h.dtype()).to(device));
  };
  const Var rows = gather_rows(h, Tensor::of<std::int32_t>({pairs}, from)) * factors(weight);
  const Var means =
      scatter_add_rows(rows, Tensor::of<std::int32_t>({pairs}, to), experts * experts);

  Unselected rest;
  rest.plan = rest_plan;
  rest.scores = scores;
  rest.experts = o.experts;
  std::vector<std::int32_t> read;
  std::vector<double> share;
  for (std::int64_t s = 0; s < rest.plan.slots(); ++s) {
    const std::int32_t place = rest_order.data<std::int32_t>()[s];
    const std::int64_t t = place / experts;
    const std::int64_t j = place % experts;
    for (std::int64_t m = t * g; m < (t + 1) * g; ++m) {
      read.push_back(place < 0 || id[m] < 0 ? -1 : static_cast<std::int32_t>(id[m] * experts + j));
    }
    share.push_back(place < 0 ? 0.0 : off.at(place));
  }
  const std::int64_t slots = rest.plan.slots();
  const Var means_read = gather_rows(means, Tensor::of<std::int32_t>({slots * g}, read));
  rest.values = sum(reshape(means_read, {slots, g, h.size(1)}), 1) * factors(share);
  if (!o.forward) return written_surrogate(h, weights, plan, rest);
  const Var values = o.experts ? rest.values : stop_gradient(rest.values);
  return written_sparse(h, weights, plan) + combine(values, rest.scores, rest.plan);
}

Var combine_groups(Var h, Var weights, Var scores, const Tensor& order, const Tensor& selected,
                   const Plan& plan, const GroupOptions& o, bool fused) {
  const Groups groups = make_groups(scores, order, selected, plan, o);
  if (fused) return fused_groups(h, weights, scores, plan, groups, o);
  return written_groups(h, weights, scores, selected, plan, groups, o);
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
          const Device on = x[0].value().device();
          return combine_groups(x[0], x[1], x[2], {}, s.tensor().to(on), {plan, plan.table.to(on)},
                                o, may_fuse && tape.decisions().live());
        };
      };
      cases.push_back({std::string(s.label) + ", " + label,
                       {{{plan.slots(), 3}},
                        {{plan.tokens, plan.choices}},
                        {{plan.tokens, plan.experts}, 0.1, 1.0}},
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
  // One group, of the token's own expert: nobody in it ran another.
  bool weights_alone(bool renormalised) const override {
    return renormalised && options_.groups == 1;
  }

  Combined combine(const EstimatorInput& in) const override {
    const Var h = in.experts(in.x, in.plan);
    const bool use_fused = fused(in.x.tape());
    const Routing& r = in.routing;
    if (!in.training() && !options_.forward) {
      return use_fused ? moegrad::combine(h, r.weights, in.plan)
                       : written_sparse(h, r.weights, in.plan);
    }
    const Tensor order = r.log_scores.defined() ? r.log_scores.value() : Tensor();
    return combine_groups(h, r.weights, r.scores, order, r.selected, in.plan, options_, use_fused);
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
      .options = {option::integer("groups", "G: a token is in the groups of its top G")
                      .initially("2")
                      .from(1, 4096)
                      .tried({"1", "3"}),
                  option::choice("experts", {"none", "mean"},
                                 "gradient of the experts through the means"),
                  option::flag("forward", "add sum p_j V_j to the output too"),
                  option::flag("weighted", "means weighted by the score of the group"),
                  option::number("minimum-score", "least score to be in a group")
                      .initially("0")
                      .from(0, 1)
                      .tried({"0.3"})},
      .make = [](const Options& o) -> std::unique_ptr<Estimator> {
        return std::make_unique<ExpertGroupEstimator>(o);
      }};
}

std::vector<OperationEntry> expert_group_operations() { return {entry_of<CombineGroups>()}; }

}  // namespace moegrad
