// remoe: every expert has a gate of its own, open where its logit is positive
// (Wang, Chen & Zhu, arXiv:2412.14711).
//
//   o = x W + b;  w = relu(o);  R = {i: w_i > 0}, of any size, empty too (then y = 0)
//   loss in training   lambda E/(k N^2) sum_i (sum_t w_ti) n_i,  n_i = tokens with gate i open
//   after each step    lambda <- 1.2 lambda where S < 1 - k/E, else lambda/1.2; S = share of closed
//                      gates
//
// Training and inference route the same way. k is only the mean number of open gates that lambda
// is steered to. n_i has no gradient. Continuous at the wall o_i = 0, where its gradient jumps.
// The scores are softmax(o): what the switch auxiliary loss and dense estimators read, which need
// scores that sum to 1 and have a gradient where the gate is closed. The weights are not made of
// them.

#include <cmath>

#include "moe/balance.h"
#include "moe/registry.h"
#include "moe/routers/gates.h"

namespace moegrad {
namespace {

// A lambda that had become 0 in f32 could not grow again.
constexpr double kLeastLambda = 1e-30;

class ReMoERouter : public Router {
 public:
  ReMoERouter(double lambda, double multiplier) : lambda_(lambda), multiplier_(multiplier) {}

  std::int64_t choices(const LayerSize& size) const override { return size.experts; }

  void declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
               const Rng& rng) const override {
    Router::declare(size, prefix, parameters, rng);
    parameters.add(std::string(prefix) + "router.lambda",
                   Tensor::full({1}, lambda_, DType::f64, Device::cpu), false);
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.scores = softmax(r.logits);
    const Var gates = relu(r.logits);
    r.selected = open_gates(gates);
    r.weights = take_columns(gates, r.selected);
    if (in.training) regularise(size, in, gates, r);
    return r;
  }

 private:
  void regularise(const LayerSize& size, const LayerInput& in, Var gates, Routing& r) const {
    const auto tokens = static_cast<double>(in.x.size(0));
    const auto active = static_cast<double>(size.active);
    const Tensor counts = expert_counts(r.selected, size.experts);
    const double each = static_cast<double>(size.experts) / (active * tokens * tokens);
    const Tensor share = compute<functor::Affine>(counts, {each, 0.0}).reshape({size.experts});
    const Var lambda = in.weights.at("router.lambda");
    const Var n = in.x.tape().constant(share.to(gates.dtype()));
    const Var open_mean = sum(sum_over_tokens(gates) * n);
    r.auxiliary = reshape(lambda, {}) * open_mean;
    r.losses.push_back({"lambda", open_mean});
    // S < 1 - k/E where more than k gates of a token are open in the mean.
    const auto number = [&](double v) { return Tensor::full({1}, v, DType::f64, share.device()); };
    const Tensor open = reduce_rows(Reduction::sum, counts).reshape({1});
    const Tensor factor = where(greater(open, number(active * tokens)), number(multiplier_),
                                number(1.0 / multiplier_));
    const Tensor now = lambda.value().to(DType::f64).reshape({1});
    const Tensor moved =
        compute<functor::Maximum>(compute<functor::Mul>(now, factor), number(kLeastLambda));
    r.updates.emplace_back("router.lambda", where(greater(now, number(0.0)), moved, number(0.0)));
  }

  double lambda_;
  double multiplier_;
};

}  // namespace

RouterEntry remoe_router() {
  return {
      .name = "remoe",
      .summary = "a gate of its own for each expert: w = relu(x W + b)",
      .source = "Wang, Chen & Zhu 2024, arXiv:2412.14711",
      .formula =
          "w = relu(x W + b), R = {i: w_i > 0} of any size\n"
          "training adds lambda E/(k N^2) sum_i (sum_t w_ti) n_i, n_i = tokens with gate i open;\n"
          "after each step lambda x 1.2 where more than k gates are open in the mean, else\n"
          "/ 1.2",
      .claim = Claim::exact_on_cell,
      .traits = {.softmax = false,
                 .picks_largest = false,
                 .state = "router.lambda",
                 .auxiliary = "lambda E/(k N^2) sum_i (sum_t w_ti) n_i",
                 .losses = {"lambda"}},
      .options = {option::number("lambda", "coefficient of the sparsity loss at the first step")
                      .initially("1e-8")
                      .from(0.0, 1e6)
                      .tried({"0.1"}),
                  option::number("multiplier",
                                 "what the coefficient is multiplied or divided by after each step")
                      .initially("1.2")
                      .from(1.0, 1e3)
                      .tried({"1.5"})},
      .make = [](const Options& o) -> std::unique_ptr<Router> {
        return std::make_unique<ReMoERouter>(o.number("lambda"), o.number("multiplier"));
      }};
}

}  // namespace moegrad
