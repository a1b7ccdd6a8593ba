// capped-simplex: a sparse k-hot vector, by projection (Sander, Puigcerver, Djolonga, Peyre &
// Blondel, arXiv:2302.01425, with the regulariser of power 2).
//
//   o = x W + b;  w = argmax <o, w> - lambda/2 ||w||^2 over 0 <= w_i <= 1, sum w = k
//   w_i = min(1, max(0, (o_i - tau)/lambda)), tau such that sum w = k; R = {i: w_i > 0}
//   gradient    of the free experts F = {i: 0 < w_i < 1}: dL/do_i = (g_i - mean_F g)/lambda for
//               g = dL/dw, else 0
//   scores      p = w/k, which sum to 1
//
// Training and inference are the same; nothing is drawn. A token has from k to E experts: k where
// its k-th logit is lambda above the next, and then all weights are 1 and there is no gradient. For
// lambda -> 0 it is the hard top k; all experts are open where no logit is lambda k/E below their
// mean. At k = E the weights are constants. Continuous at its walls, where the gradient jumps.
//
// tau lies between two neighbours among the 2 E places o_i and o_i - lambda where a weight leaves 0
// or 1. They are sorted and halved about log2(2 E) times by sum_i w_i; who is free between the two
// is the decision. On F then w_i = (o_i - mean_F o)/lambda + (k - |capped|)/|F|. The k-th logit,
// which is free where any is, is subtracted first: large logits lose no digits.

#include <algorithm>
#include <bit>
#include <cmath>

#include "moe/registry.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

// [N, 1]: the upper of the two places between which sum_i w_i passes k; logits f64 [N, E].
Tensor upper_place(const Tensor& o, std::int64_t k, double lambda) {
  const Tensor all = joined(o, compute<functor::Affine>(o, {1.0, -lambda}));
  const std::int64_t count = all.size(1);
  const Tensor places = take_columns(all, largest_places(all, count));
  const auto last = static_cast<double>(count - 1);
  // The last place where the sum is below k: it is 0 at the first.
  Tensor at = o.like({o.size(0), 1});
  kernels(at.device()).fill(0.0, at);
  for (auto step = std::bit_floor(static_cast<std::uint64_t>(count - 1)); step > 0; step /= 2) {
    const Tensor next = compute<functor::Clamp>(
        compute<functor::Affine>(at, {1.0, static_cast<double>(step)}), {0.0, last});
    const Tensor over = compute<functor::Sub>(o, take_columns(places, next.to(DType::i32)));
    const Tensor w =
        compute<functor::Clamp>(compute<functor::Affine>(over, {1.0 / lambda, 0.0}), {0.0, 1.0});
    const Tensor sums = reduce_rows(Reduction::sum, w);
    at = where(greater(scalar_like(sums, static_cast<double>(k)), sums), next, at);
  }
  return take_columns(places, at.to(DType::i32));
}

// i32 [N, E]: 1 where x is not below `least` [N, 1].
Tensor not_below(const Tensor& x, const Tensor& least) {
  const Tensor below = greater(least, x);
  return where(below, scalar_like(below, 0.0), scalar_like(below, 1.0));
}

class CappedSimplexRouter : public Router {
 public:
  explicit CappedSimplexRouter(double lambda) : lambda_(lambda) {}

  std::int64_t choices(const LayerSize& size) const override { return size.experts; }

  ConstantWeights constant_weights(const LayerSize& size) const override {
    return size.active == size.experts ? ConstantWeights::constant : ConstantWeights::no;
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    const Tensor o = r.logits.value().to(DType::f64);
    const Tensor upper = upper_place(o, size.active, lambda_);
    Decisions& decisions = in.x.tape().decisions();
    r.selected = decisions.decide("selected", DType::i32, o.shape(), [&] {
      const Tensor all = every_expert(o.size(0), o.size(1), o.device());
      return where(not_below(o, upper), all, scalar_like(all, -1.0));
    });
    const Tensor capped = decisions.decide("capped", DType::i32, o.shape(), [&] {
      return not_below(compute<functor::Affine>(o, {1.0, -lambda_}), upper);
    });
    const Var w = weights(r.logits, flags_of(r.selected, size.experts), capped, size.active);
    r.scores = w / static_cast<double>(size.active);
    r.weights = take_columns(w, r.selected);
    return r;
  }

 private:
  // [N, E], from who is open and who is at the cap.
  Var weights(Var logits, const Tensor& open, const Tensor& capped, std::int64_t k) const {
    Tape& tape = logits.tape();
    const Tensor free = where(capped, scalar_like(open, 0.0), open);
    const auto sums = [](const Tensor& flags) {
      return reduce_rows(Reduction::sum, flags.to(DType::f64));
    };
    const Tensor one = scalar_like(sums(free), 1.0);
    const Tensor each = compute<functor::Div>(one, compute<functor::Maximum>(sums(free), one));
    const Tensor left = compute<functor::Affine>(sums(capped), {-1.0, static_cast<double>(k)});
    const auto constant = [&](const Tensor& t) { return tape.constant(t.to(logits.dtype())); };
    const Tensor o = logits.value();
    const Tensor kth = columns_of(largest_places(o, k), k - 1, k);
    const Var near = logits - tape.constant(take_columns(o, kth));
    const Var mean =
        sum(where(free, near, constant_like(logits, {}, 0.0)), 1, true) * constant(each);
    const Var share = constant(compute<functor::Mul>(left, each));
    const Var inner = (near - mean) / lambda_ + share;
    report_walls(free, inner);
    return where(free, inner, constant(capped));
  }

  // How far each logit is from where its weight leaves 0 or 1.
  void report_walls(const Tensor& free, Var inner) const {
    Tape& tape = inner.tape();
    if (!tape.options().track_cell || tape.decisions().mode() == Decisions::Mode::replay) return;
    const Tensor count = reduce_rows(Reduction::sum, free.to(DType::f64)).to(Device::cpu);
    const Tensor w = inner.value().to(Device::cpu);
    for (std::int64_t i = 0; i < w.numel(); ++i) {
      // One that is free alone has the weight 1, as those at the cap: there is no gradient on either
      // side, until another opens.
      if (count.at(i / w.size(1)) < 2.0 && w.at(i) > 0.5) continue;
      tape.cell().distance(lambda_ * std::min(std::abs(w.at(i)), std::abs(1.0 - w.at(i))));
    }
  }

  double lambda_;
};

}  // namespace

RouterEntry capped_simplex_router() {
  return {.name = "capped-simplex",
          .summary = "a sparse k-hot vector: the projection of the logits onto sum w = k, w <= 1",
          .source = "Sander et al. 2023, arXiv:2302.01425",
          .formula =
              "w_i = min(1, max(0, (o_i - tau)/lambda)), o = x W + b, tau such that sum w = k;\n"
              "R = {i: w_i > 0}, k to E experts; the same in training and at inference\n"
              "gradient of the free ones, 0 < w_i < 1: (g_i - mean g of these)/lambda, g = dL/dw\n"
              "scores p = w/k",
          .claim = Claim::exact_on_cell,
          .traits = {.picks_largest = false},
          .options = {option::number("lambda",
                                     "width between weights of 0 and 1, in units of the logits")
                          .initially("0.5")
                          .from(1e-3, 1e6)
                          .tried({"0.2", "3"})},
          .make = [](const Options& o) -> std::unique_ptr<Router> {
            return std::make_unique<CappedSimplexRouter>(o.number("lambda"));
          },
          .draws = {"selected", "capped"}};
}

}  // namespace moegrad
