// dselect-k: k selectors, each a relaxed binary code of one expert
// (Hazimeh et al., arXiv:2106.03760, the gate that depends on the token).
//
//   m = ceil(log2 E);  z = x A + a, k selectors of m bits;  S = smooth step of width gamma
//   r_si = product over bits b of S(z_sb) where bit b of i is 1, of 1 - S(z_sb) where it is 0
//   alpha = softmax over s of x C + c;  w_i = sum_s alpha_s r_si
//   losses, means over tokens:
//     entropy sum_si -r_si log(r_si + 1e-6)
//     zeta sum_s 1/(sum_i r_si + 1e-6), only where E is no power of two: a selector may point at
//     one of the 2^m - E codes without an expert
//
// Training and inference are the same. At first all weights are positive; once every bit has left
// the band of width gamma, at most k experts are used: weights that are exactly 0 are not run.
// Where selectors point at codes without an expert the weights sum to less than 1, and y may be 0.
// A, a uniform within gamma/100, C, c within 0.05. The scores are the weights, the logits log(w +
// 1e-6) + logsumexp_s(x C + c), whose softmax they are: beyond the gates that are open there is
// nothing for a dense estimator to add. Balance losses count the k largest weights of a token. The
// constant 1e-6 of zeta keeps the loss finite; the published code divides by the bare sum.

#include <bit>

#include "moe/registry.h"
#include "moe/routers/gates.h"

namespace moegrad {
namespace {

class DSelectKRouter : public Router {
 public:
  DSelectKRouter(double gamma, double entropy, double zeta)
      : gamma_(gamma), entropy_(entropy), zeta_(zeta) {}

  std::int64_t choices(const LayerSize& size) const override { return size.experts; }

  void declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
               const Rng& rng) const override {
    const std::string start = std::string(prefix) + "router.";
    const auto add = [&](const char* kind, const Shape& shape, double bound) {
      const std::string name = start + kind;
      parameters.add(name, rng.named(name).uniform(shape, DType::f64, -bound, bound)).decays =
          shape.rank() == 2;
    };
    if (const std::int64_t codes = size.active * bits(size); codes > 0) {
      add("code", {size.model, codes}, gamma_ / 100.0);
      add("code_bias", {codes}, gamma_ / 100.0);
    }
    add("select", {size.model, size.active}, 0.05);
    add("select_bias", {size.active}, 0.05);
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    const std::int64_t tokens = in.x.size(0);
    const std::int64_t k = size.active;
    const Var r = selectors(size, in);
    const Var a =
        matmul(in.x, in.weights.at("router.select")) + in.weights.at("router.select_bias");
    const Var alpha = softmax(a);
    const Var w = sum(reshape(r * reshape(alpha, {tokens * k, 1}), {tokens, k, size.experts}), 1);
    Routing routing;
    routing.scores = w;
    routing.logits = log(w + 1e-6) + logsumexp(a, 1, true);
    routing.log_scores = routing.logits;
    routing.selected = open_gates(w);
    routing.choice = largest_open(w, k);
    routing.weights = take_columns(w, routing.selected);
    add_penalties(routing, size, r, tokens);
    return routing;
  }

 private:
  static std::int64_t bits(const LayerSize& size) {
    return std::bit_width(static_cast<std::uint64_t>(size.experts - 1));
  }

  // r [N k, E]
  Var selectors(const LayerSize& size, const LayerInput& in) const {
    const std::int64_t rows = in.x.size(0) * size.active;
    const std::int64_t m = bits(size);
    if (m == 0) return constant_like(in.x, {rows, 1}, 1.0);
    const Var z = reshape(
        matmul(in.x, in.weights.at("router.code")) + in.weights.at("router.code_bias"), {rows, m});
    const Var one = smooth_step(z, gamma_);
    const Var zero = smooth_step(-z, gamma_);
    Var r = concat({slice(zero, 1, 0, 1), slice(one, 1, 0, 1)}, 1);
    for (std::int64_t b = 1; b < m; ++b) {
      r = concat({r * slice(zero, 1, b, b + 1), r * slice(one, 1, b, b + 1)}, 1);
    }
    return r.size(1) == size.experts ? r : slice(r, 1, 0, size.experts);
  }

  void add_penalties(Routing& routing, const LayerSize& size, Var r, std::int64_t tokens) const {
    if (entropy_ > 0.0) routing.add_loss("entropy", entropy_, entropy_per_token(r, tokens));
    const bool unreachable = !std::has_single_bit(static_cast<std::uint64_t>(size.experts));
    if (zeta_ > 0.0 && unreachable) {
      const Var each =
          reshape(constant_like(r, {}, 1.0) / (sum(r, 1) + 1e-6), {tokens, size.active});
      routing.add_loss("zeta", zeta_, mean_over_tokens(sum(each, 1)));
    }
  }

  double gamma_;
  double entropy_;
  double zeta_;
};

}  // namespace

RouterEntry dselect_k_router() {
  return {.name = "dselect-k",
          .summary = "k selectors, each a binary code of an expert relaxed by a smooth step",
          .source = "Hazimeh et al. 2021, arXiv:2106.03760",
          .formula =
              "z = x A + a: k selectors of m = ceil(log2 E) bits; r_si = prod_b S(z_sb) or 1 - "
              "S(z_sb);\n"
              "w = sum_s softmax(x C + c)_s r_s; weights of exactly 0 are not run\n"
              "auxiliary: entropy sum -r log(r + 1e-6) and, where E is no power of two,\n"
              "zeta sum_s 1/(sum_i r_si + 1e-6), means over tokens",
          .claim = Claim::exact_on_cell,
          .traits = {.exchangeable = false,
                     .softmax = false,
                     .linear = false,
                     .picks_largest = false,
                     .sparse_training = false,
                     .auxiliary = "entropy of the selectors (entropy), reachability (zeta)",
                     .losses = {"entropy", "zeta"}},
          .options = {option::number("gamma", "width of the smooth step")
                          .initially("1")
                          .from(1e-6, 1e6)
                          .tried({"3"}),
                      option::number("entropy", "coefficient of the entropy of the selectors")
                          .initially("1e-6")
                          .from(0.0, 1e6)
                          .tried({"0.2"}),
                      option::number("zeta", "coefficient of the loss for codes without an expert")
                          .initially("1")
                          .from(0.0, 1e6)
                          .tried({"0.3"})},
          .make = [](const Options& o) -> std::unique_ptr<Router> {
            return std::make_unique<DSelectKRouter>(o.number("gamma"), o.number("entropy"),
                                                    o.number("zeta"));
          }};
}

}  // namespace moegrad
