// comet: k binary trees whose leaves are the experts (Ibrahim et al., arXiv:2306.02822).
//
//   each tree has the nodes 1 .. 2E-1; v < E splits into 2v and 2v+1, node E + i is the leaf of
//   expert i: a perfect tree where E is a power of two, and for any other E a tree of E leaves too
//   P_1 = 1;  P_2v = P_v S(z_v);  P_2v+1 = P_v (1 - S(z_v));  z = x A + a;  S = smooth step
//   u_ji = x c_ji + d_ji + log P_ji for leaf i of tree j, -infinity where P_ji = 0
//   w_i = sum_j softmax over all k E leaves of u
//   loss, mean over tokens: entropy sum_ji -P_ji log(P_ji + 1e-6)
//
// Training and inference are the same. At first all weights are positive; once every split has left
// the band of width gamma, at most k experts are used: weights that are exactly 0 are not run.
// P below the least normal number of its type counts as 0: 1/P is finite. A, a uniform within
// gamma/100; C and d as the router of top-k. The logits are logsumexp_j u_ji and the scores their
// softmax, which are the weights: beyond the gates that are open there is nothing for a dense
// estimator to add. Balance losses count the k largest weights of a token.

#include <algorithm>
#include <cmath>
#include <limits>

#include "moe/registry.h"
#include "moe/routers/gates.h"

namespace moegrad {
namespace {

// The number before the least P whose inverse is a number of its type.
double below_least(DType dtype) {
  return dtype == DType::f32 ? std::nextafter(std::numeric_limits<float>::min(), 0.0F)
                             : std::nextafter(std::numeric_limits<double>::min(), 0.0);
}
constexpr double kNever = -1e30;  // exp of it is 0, and differences with it are finite

class CometRouter : public Router {
 public:
  CometRouter(double gamma, double entropy) : gamma_(gamma), entropy_(entropy) {}

  std::int64_t choices(const LayerSize& size) const override { return size.experts; }

  void declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
               const Rng& rng) const override {
    const std::string start = std::string(prefix) + "router.";
    if (const std::int64_t splits = size.active * (size.experts - 1); splits > 0) {
      const double bound = gamma_ / 100.0;
      const auto add = [&](const std::string& name, const Shape& shape) -> Parameter& {
        return parameters.add(name, rng.named(name).uniform(shape, DType::f64, -bound, bound));
      };
      add(start + "split", {size.model, splits}).decays = true;
      add(start + "split_bias", {splits});
    }
    const std::int64_t leaves = size.active * size.experts;
    const double deviation = 0.1 / std::sqrt(static_cast<double>(size.model));
    const std::string leaf = start + "leaf";
    parameters.add(leaf, rng.named(leaf).normal({size.model, leaves}, DType::f64, 0.0, deviation))
        .decays = true;
    parameters.add(start + "leaf_bias", Tensor::zeros({leaves}, DType::f64, Device::cpu));
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Tape& tape = in.x.tape();
    const std::int64_t tokens = in.x.size(0);
    const Var p = paths(size, in);
    const Tensor reached = tape.decisions().decide("reached", DType::i32, p.shape(), [&] {
      const Tensor value = p.value();
      return greater(value, scalar_like(value, below_least(value.dtype())));
    });
    const auto number = [&](double v) { return constant_like(p, {}, v); };
    const Var leaf = reshape(
        matmul(in.x, in.weights.at("router.leaf")) + in.weights.at("router.leaf_bias"), p.shape());
    const Var u = where(reached, leaf + log(where(reached, p, number(1.0))), number(kNever));
    Routing r;
    r.logits = logsumexp(reshape(u, {tokens, size.active, size.experts}), 1);
    r.scores = softmax(r.logits);
    r.selected = open_gates(r.scores);
    r.choice = largest_open(r.scores, size.active);
    r.weights = take_columns(r.scores, r.selected);
    if (entropy_ > 0.0) r.add_loss("entropy", entropy_, entropy_per_token(p, tokens));
    return r;
  }

 private:
  // P of the leaves [N k, E], level by level: the nodes 2^l .. 2^(l+1) - 1, of which those below E
  // split.
  Var paths(const LayerSize& size, const LayerInput& in) const {
    const std::int64_t rows = in.x.size(0) * size.active;
    const std::int64_t experts = size.experts;
    Var p = constant_like(in.x, {rows, 1}, 1.0);
    if (experts == 1) return p;
    const Var z =
        reshape(matmul(in.x, in.weights.at("router.split")) + in.weights.at("router.split_bias"),
                {rows, experts - 1});
    const Var left = smooth_step(z, gamma_);
    const Var right = smooth_step(-z, gamma_);
    for (std::int64_t first = 1; first < experts; first *= 2) {
      const std::int64_t last = std::min(2 * first, experts);
      const std::int64_t count = last - first;
      const Var parents = count == first ? p : slice(p, 1, 0, count);
      const auto child = [&](Var turn) {
        return reshape(parents * slice(turn, 1, first - 1, last - 1), {rows * count, 1});
      };
      const Var children = reshape(concat({child(left), child(right)}, 1), {rows, 2 * count});
      p = count == first ? children : concat({slice(p, 1, count, first), children}, 1);
    }
    return p;
  }

  double gamma_;
  double entropy_;
};

}  // namespace

RouterEntry comet_router() {
  return {
      .name = "comet",
      .summary = "k binary trees with smooth-step splits whose leaves are the experts",
      .source = "Ibrahim et al. 2023, arXiv:2306.02822",
      .formula =
          "P_ji = product of S(z_v) or 1 - S(z_v) on the path to leaf i of tree j, z = x A + a\n"
          "u_ji = x c_ji + d_ji + log P_ji; w_i = sum_j softmax over all k E leaves of u;\n"
          "weights of exactly 0 are not run\n"
          "auxiliary: entropy sum -P log(P + 1e-6), mean over tokens",
      .claim = Claim::exact_on_cell,
      .traits = {.exchangeable = false,
                 .linear = false,
                 .picks_largest = false,
                 .sparse_training = false,
                 .auxiliary = "entropy of the trees (entropy)",
                 .losses = {"entropy"}},
      .options = {option::number("gamma", "width of the smooth step")
                      .initially("1")
                      .from(1e-6, 1e6)
                      .tried({"3"}),
                  option::number("entropy", "coefficient of the entropy of the trees")
                      .initially("0")
                      .from(0.0, 1e6)
                      .tried({"0.2"})},
      .make = [](const Options& o) -> std::unique_ptr<Router> {
        return std::make_unique<CometRouter>(o.number("gamma"), o.number("entropy"));
      }};
}

}  // namespace moegrad
