// threshold: expert choice that is causal, by thresholds that move (arXiv:2603.11535).
//
//   o = x W + b;  w = sigmoid(o), or softmax(o);  a token uses R = {e: o_te >= c_e}, of any size
//   in training   q_e the m-th largest o_te of the step, m = k N/E rounded down, at least 1
//                 c_e <- decay c_e + (1 - decay) q_e,  n <- decay n + 1 - decay, 0 at first
//   threshold     c_e/n of the steps before: an average of q whose weights sum to 1
//   first step    n = 0: the threshold is q of the step itself, which is expert choice; at
//                 inference before any training it is 0
//
// Training and inference select by the thresholds of steps before, so that no token sees another,
// but for the first step of a training. k is the mean number of experts of a token, of which
// there may be none (y = 0). The paper's selection is o > c; with q the m-th largest that would
// leave the m-th token out and send m - 1 tokens to an expert, so equal logits are taken.
// "router.threshold" is c [E], "router.mass" n [1].

#include <algorithm>
#include <cmath>

#include "moe/registry.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

class ThresholdRouter : public Router {
 public:
  ThresholdRouter(double decay, bool softmax) : decay_(decay), softmax_(softmax) {}

  std::int64_t choices(const LayerSize& size) const override { return size.experts; }

  void declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
               const Rng& rng) const override {
    Router::declare(size, prefix, parameters, rng);
    const std::string start(prefix);
    const auto zeros = [](std::int64_t n) { return Tensor::zeros({n}, DType::f64, Device::cpu); };
    parameters.add(start + "router.threshold", zeros(size.experts), false);
    parameters.add(start + "router.mass", zeros(1), false);
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.scores = softmax_ ? softmax(r.logits) : sigmoid(r.logits);
    if (!softmax_) r.log_scores = -softplus(-r.logits);
    const Tensor o = r.logits.value().to(DType::f64);
    const auto state = [&](const char* name, std::int64_t n) {
      return in.weights.at(name).value().to(DType::f64).reshape({1, n});
    };
    const Tensor c = state("router.threshold", size.experts);
    const Tensor mass = state("router.mass", 1);
    Tensor first = scalar_like(c, 0.0);
    if (in.training) {
      first = wanted(o, size.active);
      const auto moved = [&](const Tensor& now, const Tensor& next) {
        return compute<functor::Add>(compute<functor::Affine>(now, {decay_, 0.0}),
                                     compute<functor::Affine>(next, {1.0 - decay_, 0.0}));
      };
      const DType dtype = in.weights.at("router.threshold").dtype();
      r.updates = {{"router.threshold", moved(c, first).reshape({size.experts}).to(dtype)},
                   {"router.mass", moved(mass, scalar_like(mass, 1.0)).reshape({1}).to(dtype)}};
    }
    const Tensor known = greater(mass, Tensor::zeros(c.shape(), DType::f64, c.device()));
    const Tensor threshold = where(known, compute<functor::Div>(c, mass), first);
    r.selected = in.x.tape().decisions().decide("selected", DType::i32, o.shape(), [&] {
      const Tensor all = every_expert(o.size(0), o.size(1), o.device());
      return where(greater(threshold, o), scalar_like(all, -1.0), all);
    });
    r.weights = take_columns(r.scores, r.selected);
    return r;
  }

 private:
  // [1, E]: the m-th largest of each column of o.
  static Tensor wanted(const Tensor& o, std::int64_t k) {
    const std::int64_t tokens = o.size(0);
    const std::int64_t m = std::max<std::int64_t>(1, tokens * k / o.size(1));
    const Tensor columns = transposed(o);
    const Tensor place = columns_of(largest_places(columns, m), m - 1, m);
    return take_columns(columns, place).reshape({1, o.size(1)});
  }

  double decay_;
  bool softmax_;
};

}  // namespace

RouterEntry threshold_router() {
  return {.name = "threshold",
          .summary = "causal expert choice: a threshold for each expert that follows its logits",
          .source = "arXiv:2603.11535",
          .formula =
              "o = x W + b, w = sigmoid(o) on R = {e: o_te >= c_e/n}, of any size\n"
              "after each step in training c_e <- decay c_e + (1 - decay) q_e, n <- decay n +\n"
              "1 - decay, q_e the k N/E-th largest o_te; the first step of a training, n = 0,\n"
              "uses q itself: expert choice, which is not causal",
          .claim = Claim::exact_on_cell,
          .traits = {.softmax = false,
                     .picks_largest = false,
                     .state = "router.threshold, router.mass"},
          .options = {option::number("decay", "how much of the thresholds is kept at each step")
                          .initially("0.99")
                          .from(0.0, 0.999999)
                          .tried({"0.5"}),
                      option::choice("gate", {"sigmoid", "softmax"},
                                     "what makes the weights of the selected")},
          .make = [](const Options& o) -> std::unique_ptr<Router> {
            return std::make_unique<ThresholdRouter>(o.number("decay"),
                                                     o.choice("gate") == "softmax");
          }};
}

}  // namespace moegrad
