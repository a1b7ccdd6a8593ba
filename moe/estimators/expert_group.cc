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

// Who is in which group, from frozen scores and selections; constants of the pass.
struct Groups {
  Tensor ids;      // i32 [N, G]; -1 below the minimum score
  Tensor weights;  // [N, G]: p of the group where the means are weighted; else [0, G]
  Plan plan;       // of the groups: slots [N G] sorted by group
  Tensor off;      // [N, E]: 1/|G(x)| off R, 0 on R
  bool members_only = false;
};

// [N, E]: 1/|G(x)| off R(x), 0 on R(x).
Tensor shares_off(const Tensor& ids, const Tensor& selected, std::int64_t experts, DType dtype) {
  const std::int64_t tokens = ids.size(0);
  const std::int64_t g = ids.size(1);
  const Tensor share = Tensor::empty({tokens}, DType::f64, Device::cpu);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const std::int32_t* const id = ids.data<std::int32_t>() + t * g;
    const auto count = static_cast<double>(g - std::count(id, id + g, -1));
    share.write<double>()[t] = count > 0.0 ? 1.0 / count : 0.0;
  }
  Kernels& k = kernels(ids.device());
  const Tensor on = selected_flags(selected, experts);
  Tensor off = Tensor::empty(on.shape(), dtype, Device::cpu);
  k.where(on, tokens, experts, Tensor::zeros({1}, dtype, Device::cpu), {0, 0}, share.to(dtype),
          {1, 0}, off);
  return off;
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
  Kernels& k = kernels(p.device());
  const auto p_of = [&](const Tensor& ids) {
    Tensor out = Tensor::empty(ids.shape(), p.dtype(), Device::cpu);
    k.take_columns(p, ids, out);
    return out;
  };
  Groups groups;
  groups.ids = scores.tape().decisions().decide("groups", DType::i32, {tokens, o.groups}, [&] {
    Tensor ids = Tensor::empty({tokens, o.groups}, DType::i32, Device::cpu);
    k.top_k(order.defined() ? order : p, o.groups, ids);
    if (o.minimum_score > 0.0) {
      const Tensor score = p_of(ids).to(DType::f64);
      for (std::int64_t i = 0; i < ids.numel(); ++i) {
        if (score.data<double>()[i] < o.minimum_score) ids.write<std::int32_t>()[i] = -1;
      }
    }
    return ids;
  });
  groups.weights =
      o.weighted ? p_of(groups.ids) : Tensor::empty({0, o.groups}, p.dtype(), Device::cpu);
  groups.plan = make_plan(groups.ids, experts);
  groups.off = shares_off(groups.ids, selected, experts, p.dtype());
  groups.members_only = plan.choices >= o.groups;  // M = G
  return groups;
}

// Inputs: h [S, D], weights [N, k], p [N, E]; constants: order, inverse, offsets of the plan;
// order, inverse, offsets of the groups' plan; ids, weights and off of the groups. The router's
// cotangent is one product for each group, g_i Ebar_i^T.
struct CombineGroups {
  static constexpr std::string_view name = "combine_groups";
  static constexpr std::string_view summary =
      "combine of the selected experts, group means standing for the others in the gradient";
  static constexpr std::string_view source = "Panda et al., ICLR 2025 submission";
  static constexpr Claim claim = Claim::surrogate;
  static constexpr Needs needs = Needs::inputs;
  struct Attributes {
    bool experts = false;
    bool forward = false;
    bool members_only = false;
  };

  static Tensor forward(Forward& in, const Attributes& a) {
    Kernels& k = kernels(in[0].device());
    const auto like = [&](const Shape& shape) {
      return Tensor::empty(shape, in[0].dtype(), in[0].device());
    };
    const std::int64_t experts = in[2].size(1);
    const std::int64_t width = in[0].size(1);
    Tensor y = like({in[4].size(0), width});
    k.slots_to_tokens(in[0], in[1], in[4], y);
    if (!a.forward && !in.saves()) return y;
    const Tensor inverse = like({experts, experts});
    const Tensor means = like({experts, experts, width});
    k.group_means(in[0], sets([&](int i) { return in[static_cast<std::size_t>(i)]; }, a), inverse,
                  means);
    in.save(means);
    in.save(inverse);
    if (a.forward) {
      const Tensor rows = spread(product(in[2], in[11]), in[6], in[9].size(1));
      const Tensor parts = like({rows.size(0), width});
      k.grouped_matmul(rows, means, false, in[8], parts);
      const Tensor added = like(y.shape());
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
    if (b.wants(1)) {
      const Tensor dw = like(b.input_shape(1));
      k.slot_products(b.dy(), b.input(0), b.input(4), dw);
      b.add(1, dw);
    }
    const bool through_means = a.experts && b.wants(0);
    Tensor by_group;  // g in the groups' slots
    if (through_means || b.wants(2)) by_group = spread(b.dy(), b.input(6), b.input_shape(9)[1]);
    if (b.wants(2)) {
      const Tensor products = like({by_group.size(0), b.input_shape(2)[1]});
      k.grouped_matmul(by_group, b.saved(0), true, b.input(8), products);
      const Tensor sums = like(b.input_shape(2));
      k.slots_to_tokens(products, Tensor(), b.input(7), sums);
      b.add(2, product(sums, b.input(11)));
    }
    if (!b.wants(0)) return;
    const Tensor dh = like(b.input_shape(0));
    k.tokens_to_slots(b.dy(), b.input(1), b.input(3), b.input_shape(1)[1], dh);
    if (through_means) {
      const Tensor share =
          spread(product(b.input(2), b.input(11)), b.input(6), b.input_shape(9)[1]);
      const Tensor dmeans = like(b.saved(0).shape());
      k.grouped_outer(share, by_group, b.input(8), dmeans);  // A
      k.group_means_backward(dmeans, b.saved(1), sets([&](int i) { return b.input(i); }, a), dh);
    }
    b.add(0, dh);
  }
  static std::vector<OperationCase> cases();

 private:
  template <class Input>
  static GroupSets sets(Input&& input, const Attributes& a) {
    const Tensor weights = input(10);
    return {.ids = input(9),
            .weights = weights.size(0) > 0 ? weights : Tensor(),
            .offsets = input(5),
            .order = input(3),
            .choices = input(4).size(1),
            .members_only = a.members_only};
  }
  static Tensor product(const Tensor& a, const Tensor& b) {
    Tensor out = Tensor::empty(a.shape(), a.dtype(), a.device());
    const Layout same{a.numel(), 1};
    kernels(a.device()).binary(kMul, 1, a.numel(), a, same, b, same, out);
    return out;
  }
  static Tensor spread(const Tensor& x, const Tensor& order, std::int64_t groups) {
    Tensor out = Tensor::empty({order.size(0), x.size(1)}, x.dtype(), x.device());
    kernels(x.device()).tokens_to_slots(x, Tensor(), order, groups, out);
    return out;
  }
};

Var fused_groups(Var h, Var weights, Var scores, const Plan& plan, const Groups& groups,
                 const GroupOptions& o) {
  Tape& tape = h.tape();
  const auto c = [&](const Tensor& t) { return tape.constant(t); };
  return apply<CombineGroups>({h, weights, scores, c(plan.order), c(plan.inverse), c(plan.offsets),
                               c(groups.plan.order), c(groups.plan.inverse), c(groups.plan.offsets),
                               c(groups.ids), c(groups.weights), c(groups.off)},
                              {o.experts, o.forward, groups.members_only});
}

// The definition: every pair (slot of C_ij, group i) is added to its mean, every unselected expert
// of every token reads its means.
Var written_groups(Var h, Var weights, Var scores, const Tensor& selected, const Plan& plan,
                   const Groups& groups, const GroupOptions& o) {
  const std::int64_t experts = plan.experts;
  const std::int64_t g = o.groups;
  Tape& tape = h.tape();
  const std::int32_t* const id = groups.ids.data<std::int32_t>();
  std::vector<std::int32_t> from;
  std::vector<std::int32_t> to;
  std::vector<double> weight;
  std::vector<double> sums(static_cast<std::size_t>(experts * experts), 0.0);  // by [i, j]
  for (std::int64_t s = 0; s < plan.slots(); ++s) {
    const std::int32_t place = plan.order.data<std::int32_t>()[s];
    const std::int64_t t = place / plan.choices;
    const std::int32_t j = selected.data<std::int32_t>()[place];
    if (groups.members_only && std::count(id + t * g, id + (t + 1) * g, j) == 0) continue;
    for (std::int64_t m = t * g; m < (t + 1) * g; ++m) {
      if (id[m] < 0) continue;
      from.push_back(static_cast<std::int32_t>(s));
      to.push_back(static_cast<std::int32_t>(id[m] * experts + j));
      weight.push_back(o.weighted ? groups.weights.at(m) : 1.0);
      sums[static_cast<std::size_t>(to.back())] += weight.back();
    }
  }
  const auto pairs = static_cast<std::int64_t>(from.size());
  for (std::size_t i = 0; i < from.size(); ++i) {
    const double sum = sums[static_cast<std::size_t>(to[i])];
    weight[i] *= sum > 0.0 ? 1.0 / sum : 0.0;
  }
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
    const std::int64_t place = rest.plan.order.data<const std::int32_t>()[s];
    const std::int64_t t = place / rest.plan.choices;
    const std::int32_t j = ids.data<std::int32_t>()[place];
    for (std::int64_t m = t * g; m < (t + 1) * g; ++m) {
      read.push_back(id[m] < 0 ? -1 : static_cast<std::int32_t>(id[m] * experts + j));
    }
    share.push_back(groups.off.at(t * experts + j));
  }
  const std::int64_t slots = rest.plan.slots();
  const Var means_read = gather_rows(means, Tensor::of<std::int32_t>({slots * g}, read));
  const Var summed = sum(reshape(means_read, {slots, g, h.size(1)}), 1);
  rest.values = summed * tape.constant(Tensor::of<double>({slots, 1}, share).to(h.dtype()));
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
          return combine_groups(x[0], x[1], x[2], {}, s.tensor(), plan, o,
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
