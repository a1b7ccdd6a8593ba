// switch: one expert for each token (Switch Transformer, Fedus et al., arXiv:2101.03961).
//
//   g = softmax((x u) W + b);  S = {argmax g};  w = g on S
//   u ~ U(1 - jitter, 1 + jitter) for each element of x in training, else 1; the experts read x
//   capacity    C = max(capacity-min, floor(capacity N/E)) tokens for each expert, of the N of the
//               call; what comes later in the order of the tokens is dropped: y = 0. capacity is
//               1.25 in training; at inference eval-capacity, 2, takes its place, or none does
//               (LayerInput::dropless)
//   auxiliary   balance E sum_i f_i P_i, f_i the fraction of the tokens whose argmax is i, before
//               dropping and without gradient, P_i the mean of g_i

#include <algorithm>

#include "moe/balance.h"
#include "moe/capacity.h"
#include "moe/noise.h"
#include "moe/registry.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

struct SwitchSettings {
  double jitter, balance, capacity, eval_capacity;
  std::int64_t least;
};

class SwitchRouter : public Router {
 public:
  explicit SwitchRouter(const SwitchSettings& settings) : settings_(settings) {}

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    Var jittered = less_largest(r.logits);
    if (in.training && settings_.jitter > 0.0) {
      // (x u) W = x W + (x (u - 1)) W
      const Var change =
          matmul(in.x * in.x.tape().constant(jitter(in.x)), in.weights.at("router.weight"));
      r.noise = change.value();
      jittered = jittered + change;
    }
    r.scores = softmax(jittered);
    const Tensor first = top_k_indices(jittered, 1, "selected");
    r.add_loss("balance", settings_.balance, switch_auxiliary(r.scores, first));
    const double factor = in.training ? settings_.capacity : settings_.eval_capacity;
    const std::int64_t capacity =
        std::max(settings_.least, capacity_down(factor, in.x.size(0), size.experts));
    select_within(r, in, first, size.experts, capacity);
    r.weights = take_columns(r.scores, r.selected);
    return r;
  }

 private:
  // u - 1 of the decision "jitter", of the type of x.
  Tensor jitter(Var x) const {
    Tape& tape = x.tape();
    const Tensor u = tape.decisions().decide("jitter", DType::f64, x.shape(), [&] {
      return tape.rng().uniform(x.shape(), DType::f64, x.value().device(), 1.0 - settings_.jitter,
                                1.0 + settings_.jitter);
    });
    return compute<functor::Affine>(u, {1.0, -1.0}).to(x.dtype());
  }

  SwitchSettings settings_;
};

}  // namespace

RouterEntry switch_router() {
  return {.name = "switch",
          .summary = "one expert for each token, with a capacity and multiplicative jitter",
          .source = "Fedus et al. 2021, arXiv:2101.03961",
          .formula =
              "g = softmax((x u) W + b), u ~ U(1-jitter, 1+jitter) in training, else 1\n"
              "S = {argmax g}, w = g on S; an expert takes the first\n"
              "C = max(capacity-min, floor(capacity N/E)) of its tokens, the others get y = 0\n"
              "loss: balance E sum_i f_i P_i, f the fractions before dropping, P the mean of g",
          .claim = Claim::exact_on_cell,
          .traits = {.continuous = true,
                     .in_order = true,
                     .auxiliary = "fractions times mean scores (balance)",
                     .losses = {"balance"}},
          .options = {option::number(
                          "jitter",
                          "the router's input is multiplied by U(1-jitter, 1+jitter) in training")
                          .initially("0.01")
                          .from(0.0, 1.0)
                          .tried({"0", "0.2"}),
                      balance_option(),
                      option::number("capacity",
                                     "room of an expert in training, in parts of N/E tokens")
                          .initially("1.25")
                          .from(1e-6, 1e6)
                          .tried({"0.5"}),
                      option::number("eval-capacity", "the same at inference")
                          .initially("2")
                          .from(1e-6, 1e6)
                          .tried({"0.5"}),
                      least_capacity_option("tokens")},
          .make = [](const Options& o) -> std::unique_ptr<Router> {
            return std::make_unique<SwitchRouter>(
                SwitchSettings{o.number("jitter"), o.number("balance"), o.number("capacity"),
                               o.number("eval-capacity"), o.integer("capacity-min")});
          },
          .most_active = 1,
          .draws = {"selected", "jitter"}};
}

}  // namespace moegrad
