// x-moe: routing by cosine in few dimensions (Chi et al., arXiv:2204.09179).
//
//   h = x W_r [N, d];  s_i = cos(h, e_i);  o = s/tau;  S = TopK(s)
//   w_i = sigmoid(o_i) on S, or with gate=softmax the softmax of o over S
//   tau = max(exp(theta), 1e-4), trained, 0.07 at first (theta: tau stays positive under any step)
//   d = E/2 by default, at least 2; e [E, d] has orthogonal columns of length 0.1 at first
//   auxiliary   balance E sum_i c_i m_i, c_i the fraction of the choices that fell on i, without
//               gradient, m_i the mean of softmax(s/0.07)
//
// Training and inference are the same. The cosine with a token of zeros is 0, without a gradient.
// No capacity.

#include <algorithm>
#include <cmath>

#include "moe/balance.h"
#include "moe/registry.h"
#include "moe/routers/directions.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr double kTemperature = 0.07;
constexpr double kLeastTemperature = 1e-4;
constexpr double kLargestTemperature = 1e4;

class XMoeRouter : public Router {
 public:
  XMoeRouter(bool softmax_gate, std::int64_t dimensions, double balance)
      : softmax_gate_(softmax_gate), dimensions_(dimensions), balance_(balance) {}

  void declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
               const Rng& rng) const override {
    const std::int64_t d =
        dimensions_ > 0 ? dimensions_ : std::max<std::int64_t>(2, size.experts / 2);
    const double deviation = 1.0 / std::sqrt(static_cast<double>(size.model));
    const std::string start(prefix);
    const std::string project = start + "router.project";
    parameters.add(project, rng.named(project).normal({size.model, d}, DType::f64, 0.0, deviation))
        .decays = true;
    const std::string embedding = start + "router.embedding";
    parameters.add(embedding, orthogonal(size.experts, d, 0.1, rng.named(embedding))).decays = true;
    parameters.add(start + "router.log_temperature", Tensor::scalar(std::log(kTemperature)));
  }

  ConstantWeights constant_weights(const LayerSize& size) const override {
    return softmax_gate_ && size.active == 1 ? ConstantWeights::renormalised : ConstantWeights::no;
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    const Var h = unit_rows(matmul(in.x, in.weights.at("router.project")));
    const Var cosine = matmul(h, transpose(unit_rows(in.weights.at("router.embedding"))));
    const Var temperature = exp(clamp(in.weights.at("router.log_temperature"),
                                      std::log(kLeastTemperature), std::log(kLargestTemperature)));
    Routing r;
    r.logits = cosine / temperature;
    r.selected = top_k_indices(cosine, size.active, "selected");
    if (softmax_gate_) {
      r.scores = softmax(r.logits);
      r.weights = softmax(take_columns(r.logits, r.selected));
      r.log_normaliser = log(sum(take_columns(r.scores, r.selected), 1, true));
    } else {
      r.scores = sigmoid(r.logits);
      r.log_scores = -softplus(-r.logits);
      r.weights = take_columns(r.scores, r.selected);
    }
    r.add_loss("balance", balance_, switch_auxiliary(softmax(cosine / kTemperature), r.selected));
    return r;
  }

 private:
  bool softmax_gate_;
  std::int64_t dimensions_;
  double balance_;
};

}  // namespace

RouterEntry x_moe_router() {
  return {
      .name = "x-moe",
      .summary = "cosine of a low-dimensional projection with expert embeddings",
      .source = "Chi et al. 2022, arXiv:2204.09179",
      .formula =
          "h = x W_r, s_i = cos(h, e_i), o = s/tau, S = TopK(s)\n"
          "w = sigmoid(o) on S, or the softmax of o over S; the same at inference\n"
          "tau trained, 0.07 at first and never below 1e-4\n"
          "loss: balance E sum_i c_i m_i, c the fractions of the choices, m the mean of\n"
          "softmax(s/0.07)",
      .claim = Claim::exact_on_cell,
      .traits = {.softmax = false,
                 .linear = false,
                 .auxiliary = "fractions times mean scores (balance)",
                 .losses = {"balance"}},
      .options = {option::choice("gate", {"sigmoid", "softmax"},
                                 "what makes the weights of the selected"),
                  option::integer("dimensions",
                                  "of the projection; 0: half the number of experts, at least 2")
                      .initially("0")
                      .from(0, 1e6)
                      .tried({"3"}),
                  balance_option()},
      .make = [](const Options& o) -> std::unique_ptr<Router> {
        return std::make_unique<XMoeRouter>(o.choice("gate") == "softmax", o.integer("dimensions"),
                                            o.number("balance"));
      }};
}

}  // namespace moegrad
