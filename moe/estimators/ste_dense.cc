// ste-dense and ste-dense-router: sparse forward, straight-through dense backward. The upper bound
// of dense backpropagation (Panda et al., ICLR 2025 submission); the router-only form is known as
// DenseMixer.
//
//   router     gbar_i = c_i <g, E_i(x)> for all E experts: one more forward pass of those off R
//   experts    ste-dense: every expert off R gets p_i g; ste-dense-router: none
//
// `cotangent`     plain: c = 1; weighted: c_i = p_i + 1[i in R]
// `renormalised`  for weights p/S renormalised over R, with ybar = sum_R (p_i/S) gbar_i:
//                 partscale  dL/dp_i = (gbar_i - ybar)/S on R, gbar_i/S off R
//                 gated      (gbar_i - ybar)/S everywhere
//                 conventional  (gbar_i - ybar)/S on R, 0 off R

#include "moe/dispatch.h"
#include "moe/dispatch_cases.h"
#include "moe/estimators/surrogate.h"
#include "moe/registry.h"
#include "ops/ops.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

// x *= factor, element by element.
void scale(const Tensor& x, const Tensor& factor) {
  const Layout same{x.numel(), 1};
  kernels(x.device())
      .binary(BinaryFunctors::index_of<functor::Mul>(), 1, x.numel(), x.clone(), same, factor, same,
              x);
}

Tensor ones_if_undefined(const Tensor& t, const Shape& shape, DType dtype) {
  return t.defined() ? t : Tensor::full(shape, 1.0, dtype);
}

// Inputs: h, weights, values, scores, then constants: order, inverse, order and inverse of the
// rest, and the coefficients on and off R.
struct CombineDense {
  static constexpr std::string_view name = "combine_dense";
  static constexpr std::string_view summary =
      "combine of the selected experts, with the dense layer's gradient";
  static constexpr std::string_view source = "Panda et al., ICLR 2025 submission";
  static constexpr Claim claim = Claim::surrogate;
  static constexpr Needs needs = Needs::inputs_and_output;
  struct Attributes {
    bool gated = false;
  };

  static Tensor forward(Forward& in, const Attributes&) {
    Tensor y = Tensor::empty({in[5].size(0), in[0].size(1)}, in[0].dtype(), in[0].device());
    kernels(y.device()).slots_to_tokens(in[0], in[1], in[5], y);
    return y;
  }
  static void backward(Backward& b, const Attributes& a) {
    Kernels& k = kernels(b.dy().device());
    const auto like_input = [&](int i) {
      return Tensor::empty(b.input_shape(i), b.dy().dtype(), b.dy().device());
    };
    if (b.wants(0)) {
      const Tensor dh = like_input(0);
      k.tokens_to_slots(b.dy(), b.input(1), b.input(4), b.input_shape(1)[1], dh);
      b.add(0, dh);
    }
    if (b.wants(1)) {
      const Tensor dw = like_input(1);
      k.slot_products(b.dy(), b.input(0), b.input(5), dw);
      scale(dw, b.input(8));
      b.add(1, dw);
    }
    if (b.wants(2)) {
      const Tensor dv = like_input(2);
      k.tokens_to_slots(b.dy(), b.input(3), b.input(6), b.input_shape(3)[1], dv);
      b.add(2, dv);
    }
    if (b.wants(3)) {
      const Tensor dp = like_input(3);
      k.slot_products(b.dy(), b.input(2), b.input(7), dp);
      if (a.gated) k.accumulate(-1.0, mean_cotangent(b), dp);
      scale(dp, b.input(9));
      b.add(3, dp);
    }
  }
  static std::vector<OperationCase> cases();

 private:
  // <g, y> of each token, repeated for each of its unselected experts: [N, r].
  static Tensor mean_cotangent(Backward& b) {
    Kernels& k = kernels(b.dy().device());
    const Tensor products = b.output().clone();
    scale(products, b.dy());
    const Tensor sums = Tensor::empty({b.dy().size(0)}, b.dy().dtype());
    k.reduce(Reduction::sum, products, {b.dy().size(0), b.dy().size(1), 1}, sums);
    const Tensor repeated = Tensor::empty(b.input_shape(3), b.dy().dtype());
    k.expand(sums, 1.0, {repeated.size(0), repeated.size(1), 1}, repeated);
    return repeated;
  }
};

}  // namespace

Var combine_dense(Var h, Var weights, const Plan& plan, const Rest& rest, bool fused) {
  if (!fused) return written_surrogate(h, weights, plan, rest);
  Tape& tape = h.tape();
  const auto constant = [&](const Tensor& t) { return tape.constant(t); };
  const Tensor on = ones_if_undefined(rest.on, weights.shape(), h.dtype());
  const Tensor off = ones_if_undefined(rest.off, rest.scores.shape(), h.dtype());
  return apply<CombineDense>(
      {h, weights, rest.values, rest.scores, constant(plan.order), constant(plan.inverse),
       constant(rest.plan.order), constant(rest.plan.inverse), constant(on), constant(off)},
      {rest.gated});
}

namespace {

std::vector<OperationCase> CombineDense::cases() {
  std::vector<OperationCase> cases;
  for (const Selection& s : selections()) {
    for (const bool gated : {false, true}) {
      const Plan plan = s.plan();
      Rest rest;
      rest.plan = make_plan(unselected(s.tensor(), s.experts), s.experts);
      rest.gated = gated;
      rest.experts = true;
      const auto program = [plan, rest](bool may_fuse) {
        return [plan, rest, may_fuse](Tape& tape, std::span<const Var> x) {
          Rest r = rest;
          r.values = x[2];
          r.scores = x[3];
          r.on = Rng{3, 1, 0}.uniform(x[1].shape(), DType::f64).to(x[1].dtype());
          r.off = Rng{3, 2, 0}.uniform(x[3].shape(), DType::f64).to(x[3].dtype());
          return combine_dense(x[0], x[1], plan, r, may_fuse && tape.decisions().live());
        };
      };
      const Shape unchosen = rest.plan.inverse.shape();
      cases.push_back({std::string(s.label) + (gated ? ", gated" : ""),
                       {{{plan.slots(), 3}},
                        {{plan.tokens(), plan.choices}},
                        {{rest.plan.slots(), 3}},
                        {unchosen}},
                       program(true),
                       program(false)});
    }
  }
  return cases;
}

class SteDenseEstimator : public Estimator {
 public:
  SteDenseEstimator(bool experts, const Options& options)
      : experts_(experts),
        weighted_(options.choice("cotangent") == "weighted"),
        renormalised_(options.choice("renormalised")) {}

  Combined combine(const EstimatorInput& in) const override {
    const Var h = in.experts(in.x, in.plan);
    const bool use_fused = fused(in.x.tape());
    if (!in.training()) {
      return use_fused ? moegrad::combine(h, in.routing.weights, in.plan)
                       : written_sparse(h, in.routing.weights, in.plan);
    }
    const Tensor ids = unselected(in.routing.selected, in.plan.experts);
    Rest rest;
    rest.plan = make_plan(ids, in.plan.experts);
    rest.scores = take_columns(in.routing.scores, ids);
    rest.experts = experts_;
    coefficients(in, ids, rest);
    if (experts_) {
      rest.values = in.experts(in.x, rest.plan);
    } else {  // no gradient is wanted: nothing of this pass needs to be recorded
      Tape& tape = in.x.tape();
      const Var x = tape.constant(in.x.value());
      rest.values = in.experts.detached()(x, rest.plan);
    }
    return combine_dense(h, in.routing.weights, in.plan, rest, use_fused);
  }

 private:
  void coefficients(const EstimatorInput& in, const Tensor& ids, Rest& rest) const {
    const Routing& r = in.routing;
    const bool divided = r.normaliser.defined();
    rest.gated = divided && renormalised_ == "gated";
    if (!weighted_ && !divided) return;
    // Detached: numbers of this point, frozen under replay.
    const Tensor p = stop_gradient(r.scores).value();
    Kernels& k = kernels(p.device());
    rest.off = Tensor::full(ids.shape(), 1.0, p.dtype());
    if (weighted_) {
      k.take_columns(p, ids, rest.off);
      rest.on = Tensor::empty(r.selected.shape(), p.dtype());
      k.take_columns(p, r.selected, rest.on);
      k.accumulate(1.0, Tensor::full(rest.on.shape(), 1.0, p.dtype()), rest.on);
    }
    if (!divided) return;
    const Tensor sum = stop_gradient(r.normaliser).value();
    const Tensor divisor = Tensor::empty(ids.shape(), p.dtype());
    k.expand(sum, 1.0, {ids.size(0), ids.size(1), 1}, divisor);
    const Layout same{ids.numel(), 1};
    k.binary(BinaryFunctors::index_of<functor::Div>(), 1, ids.numel(), rest.off.clone(), same,
             divisor, same, rest.off);
    if (renormalised_ == "conventional") k.fill(0.0, rest.off);
  }

  bool experts_;
  bool weighted_;
  std::string renormalised_;
};

std::vector<OptionSpec> dense_options() {
  return {{"cotangent",
           OptionSpec::Kind::choice,
           "plain",
           "router cotangent: <g, E_i>, or (p_i + 1[i selected]) <g, E_i>",
           0,
           0,
           {"plain", "weighted"}},
          {"renormalised",
           OptionSpec::Kind::choice,
           "partscale",
           "how renormalised weights pass their gradient to unselected experts",
           0,
           0,
           {"partscale", "gated", "conventional"}}};
}

}  // namespace

EstimatorEntry ste_dense_router_estimator() {
  return {.name = "ste-dense-router",
          .summary = "sparse forward; the router gets the dense layer's gradient",
          .source = "DenseMixer; Panda et al., ICLR 2025 submission",
          .formula =
              "V_i = E_i(x) on and off R: dL/dp_i = <g, E_i> for every expert;\n"
              "experts and x get the sparse layer's gradient",
          .traits = {.dense = true},
          .options = dense_options(),
          .make = [](const Options& o) -> std::unique_ptr<Estimator> {
            return std::make_unique<SteDenseEstimator>(false, o);
          }};
}

EstimatorEntry ste_dense_estimator() {
  return {.name = "ste-dense",
          .summary = "sparse forward; router and experts get the dense layer's gradient",
          .source = "Panda et al., ICLR 2025 submission",
          .formula = "V_i = E_i(x) on and off R: dL/dp_i = <g, E_i>, and every expert gets p_i g",
          .traits = {.dense = true},
          .options = dense_options(),
          .make = [](const Options& o) -> std::unique_ptr<Estimator> {
            return std::make_unique<SteDenseEstimator>(true, o);
          }};
}

std::vector<OperationEntry> ste_dense_operations() { return {entry_of<CombineDense>()}; }

}  // namespace moegrad
