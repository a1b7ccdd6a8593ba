// sparsemixer and sparsemixer-v2: one expert (v2: one or two) drawn from the masked softmax, its
// weight p_D times a factor s by which their estimators read the loss at two points of the ray
// from 0 to p_D E_D (Liu et al., arXiv:2310.00811; v2, "GRIN", arXiv:2409.12136).
//
//   z = x W + b; masked: experts with z_max - z_i > 2 epsilon max(|z_i|, z_max)
//   p = softmax(z) over the others, exactly 0 for the masked
//   training    D drawn from p by Gumbel-max; w = s p_D
//               s = 1 if D = argmax (`argmax-rule`) or with probability 1/2 (v2: 1/4),
//               else 1/2 (v2: 1/3)
//   inference   D = argmax, s = 1, the mask on
//   v1          y = omega * (w E_D) with a learned vector omega, initially 1
//   v2, k = 2   the second draw leaves out D1 and has its own mask, softmax and s; the two terms
//               are added, and the logit of D1 gets no gradient from the second
//   auxiliary   alpha E sum_i f_i P_i, f_i the fraction of the choices and P_i the mean of p_i
//               (v1), or of the softmax without mask (v2)
//
// No capacity. The router gradient that goes with the two factors is the estimator's of the same
// name; with the estimator `sparse` it is that of the weight s p_D.

#include <limits>

#include "moe/balance.h"
#include "moe/noise.h"
#include "moe/registry.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

// Below every logit, and far from overflow: e^kMasked is exactly 0 beside any other.
constexpr double kMasked = -1e30;

struct Version {
  double factor;       // s where it is not 1
  double probability;  // of s = 1
  bool gain;           // omega
  bool masked_balance;
};
constexpr Version kFirst = {1.0 / 2.0, 1.0 / 2.0, true, true};
constexpr Version kSecond = {1.0 / 3.0, 1.0 / 4.0, false, false};

// i32 [N, E]: not 0 for the experts that the draws before `draw` took.
Tensor taken_before(const Tensor& z, const Tensor& selected, std::int64_t draw) {
  return flags_of(columns_of(selected, 0, draw), z.size(1));
}

// i32 [N, 1]: of the experts that are left over, the first of the largest logits z [N, E].
Tensor largest(const Tensor& z, const Tensor& taken) {
  constexpr double kNone = -std::numeric_limits<double>::infinity();
  return largest_places(where(taken, scalar_like(z, kNone), z), 1);
}

// i32 [N, E]: 1 for the experts that this draw leaves out.
Tensor mask_of(const Tensor& z, const Tensor& selected, std::int64_t draw, double epsilon) {
  const Tensor taken = taken_before(z, selected, draw);
  const Tensor top = take_columns(z, largest(z, taken));
  const Tensor limit = compute<functor::Affine>(
      compute<functor::Maximum>(compute<functor::Abs>(z), top), {2.0 * epsilon, 0.0});
  const Tensor below = greater(compute<functor::Sub>(top, z), limit);
  return where(taken, scalar_like(taken, 1.0), below);
}

class SparsemixerRouter : public Router {
 public:
  SparsemixerRouter(const Version& version, const Options& o)
      : version_(version),
        epsilon_(o.number("epsilon")),
        alpha_(o.number("alpha")),
        argmax_rule_(o.flag("argmax-rule")) {}

  void declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
               const Rng& rng) const override {
    Router::declare(size, prefix, parameters, rng);
    if (!version_.gain) return;
    parameters.add(std::string(prefix) + "router.omega",
                   Tensor::full({size.output}, 1.0, DType::f64, Device::cpu));
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    Tape& tape = r.logits.tape();
    const std::int64_t k = size.active;
    const Tensor z = r.logits.value().to(DType::f64);
    r.selected = in.training ? draw(tape, z, k) : top_k_indices(r.logits, k, "selected");
    const Var low = constant_like(r.logits, {}, kMasked);
    std::vector<Var> chosen;
    for (std::int64_t j = 0; j < k; ++j) {
      const Tensor mask =
          tape.decisions().decide(j == 0 ? "mask" : "second mask", DType::i32, z.shape(),
                                  [&] { return mask_of(z, r.selected, j, epsilon_); });
      const Var p = softmax(where(mask, low, r.logits));
      if (j == 0) r.scores = p;
      chosen.push_back(take_columns(p, columns_of(r.selected, j, j + 1)));
    }
    r.weights = k == 1 ? chosen[0] : concat(chosen, 1);
    if (in.training) {
      r.scale = scale(tape, z, r.selected).to(r.logits.dtype());
      r.weights = r.weights * tape.constant(r.scale);
    }
    if (version_.gain) r.gain = in.weights.at("router.omega");
    if (alpha_ > 0.0) {
      Routing balanced = r;
      if (!version_.masked_balance) balanced.scores = softmax(r.logits);
      r.add_loss("alpha", alpha_, switch_auxiliary(balanced));
    }
    return r;
  }

 private:
  Tensor draw(Tape& tape, const Tensor& z, std::int64_t k) const {
    Decisions& decisions = tape.decisions();
    const std::int64_t tokens = z.size(0);
    const auto draw_all = [&](auto one_of) {
      const Tensor selected = Tensor::full({tokens, k}, -1.0, DType::i32, z.device());
      const Tensor low = scalar_like(z, kMasked);
      for (std::int64_t j = 0; j < k; ++j) {
        const Tensor left = where(mask_of(z, selected, j, epsilon_), low, z);
        kernels(z.device()).copy_block(one_of(left), 0, 1, tokens, 1, j, k, selected);
      }
      return selected;
    };
    if (decisions.mode() == Decisions::Mode::enumerate && !decisions.has("selected")) {
      return draw_all([&](const Tensor& left) {
        const Tensor p = left.like();
        kernels(p.device()).softmax(left, {tokens, z.size(1), 1}, p);
        return decisions.categorical("draw", p, tape.rng());
      });
    }
    return decisions.decide("selected", DType::i32, {tokens, k}, [&] {
      return draw_all([&](const Tensor& left) {
        const Tensor noise = tape.rng().gumbel(left.shape(), DType::f64, left.device());
        return largest_places(noisy_order(left, noise), 1);
      });
    });
  }

  // s [N, k]. One draw for each token: bit j of it says whether s_j is the smaller factor.
  Tensor scale(Tape& tape, const Tensor& z, const Tensor& selected) const {
    const std::int64_t k = selected.size(1);
    const std::int64_t tokens = z.size(0);
    const std::int64_t outcomes = std::int64_t{1} << k;
    Tensor row;      // [outcomes, 1]: their probabilities
    Tensor smaller;  // i32 [outcomes, k]: the bits
    for (std::int64_t j = 0; j < k; ++j) {
      const Tensor bit = cycle({outcomes, 1}, std::int64_t{1} << j, 2, z.device());
      const Tensor p = where(bit, scalar_like(z, 1.0 - version_.probability),
                             scalar_like(z, version_.probability));
      row = j == 0 ? p : compute<functor::Mul>(row, p);
      smaller = j == 0 ? bit : joined(smaller, bit);
    }
    const Tensor probabilities = z.like({tokens, outcomes});
    kernels(z.device()).copy_block(row, 0, 0, tokens, outcomes, 0, outcomes, probabilities);
    const Tensor half = tape.decisions().categorical("half", probabilities, tape.rng());
    return tape.decisions().decide("scale", DType::f64, selected.shape(), [&] {
      const Tensor factors = where(smaller, scalar_like(z, version_.factor), scalar_like(z, 1.0));
      const Tensor s = z.like(selected.shape());
      kernels(z.device()).gather_rows(factors, half, s);
      return argmax_rule_ ? where(are_largest(z, selected), scalar_like(s, 1.0), s) : s;
    });
  }

  // i32 [N, k]: not 0 where a draw took the largest of what was left.
  static Tensor are_largest(const Tensor& z, const Tensor& selected) {
    const std::int64_t k = selected.size(1);
    const Tensor are = selected.like();
    for (std::int64_t j = 0; j < k; ++j) {
      const Tensor top = flags_of(largest(z, taken_before(z, selected, j)), z.size(1));
      const Tensor is = take_columns(top, columns_of(selected, j, j + 1));
      kernels(z.device()).copy_block(is, 0, 1, z.size(0), 1, j, k, are);
    }
    return are;
  }

  Version version_;
  double epsilon_;
  double alpha_;
  bool argmax_rule_;
};

std::vector<OptionSpec> sparsemixer_options() {
  return {option::number("epsilon",
                         "masks experts with z_max - z_i > 2 epsilon max(|z_i|, z_max); 1: none")
              .initially("0.1")
              .from(0.0, 1e6)
              .tried({"0.01", "1"}),
          option::flag("argmax-rule", "s = 1 where the largest was drawn").initially("true"),
          option::number("alpha", "coefficient of the balance loss")
              .initially("0.01")
              .from(0.0, 1e6)
              .tried({"0"})};
}

RouterEntry sparsemixer_entry(const char* name, const Version& version) {
  const bool first = version.gain;
  return {
      .name = name,
      .summary = first ? "one expert drawn from the masked softmax, weight s p, s = 1 or 1/2"
                       : "one or two experts drawn from the masked softmax, weight s p, s = 1 or "
                         "1/3",
      .source = first ? "Liu et al. 2023, arXiv:2310.00811" : "Liu et al. 2024, arXiv:2409.12136",
      .formula =
          first
              ? "p = softmax(z) over the experts with z_max - z_i <= 2 epsilon max(|z_i|, z_max)\n"
                "training: D drawn from p; w = s p_D, s = 1 if D = argmax or U > 1/2, else 1/2\n"
                "inference: D = argmax, w = p_D; y = omega * (w E_D)\n"
                "loss: alpha E sum_i f_i P_i of the masked softmax"
              : "p = softmax(z) over the experts with z_max - z_i <= 2 epsilon max(|z_i|, z_max)\n"
                "training: D drawn from p; w = s p_D, s = 1 if D = argmax or U > 3/4, else 1/3\n"
                "second: the same without D; inference: the largest, w = p\n"
                "loss: alpha E sum_i f_i P_i of the softmax without mask",
      .claim = Claim::documented,
      .traits = {.samples = true, .auxiliary = "balance (alpha)", .losses = {"alpha"}},
      .options = sparsemixer_options(),
      .make = [version](const Options& o) -> std::unique_ptr<Router> {
        return std::make_unique<SparsemixerRouter>(version, o);
      },
      .most_active = first ? 1 : 2,
      .draws = {"selected", "half"}};
}

}  // namespace

// By enumeration of the fixed case of moe/moments.h.
RouterEntry sparsemixer_router() {
  RouterEntry e = sparsemixer_entry("sparsemixer", kFirst);
  e.recorded = {
      {{}, 4, 1, 0.659100406519, 0.170583291502, 0.522712102970, 0.0},
      {{{"epsilon", "1"}}, 4, 1, 0.504012103776, 0.198189782371, 0.277502713484, 0.017729612455},
      {{{"epsilon", "1"}, {"argmax-rule", "false"}},
       8,
       1,
       0.815588505344,
       0.177909252227,
       0.321113774895,
       0.010126404136}};
  return e;
}

RouterEntry sparsemixer_v2_router() {
  RouterEntry e = sparsemixer_entry("sparsemixer-v2", kSecond);
  e.recorded = {
      {{}, 4, 1, 0.659100406519, 0.170583291502, 0.522712102970, 0.0},
      {{{"epsilon", "1"}}, 4, 1, 0.519507092534, 0.201028819179, 0.284684980479, 0.020150070303},
      {{{"epsilon", "1"}}, 8, 2, 0.561918191242, 0.120453901081, 0.243201908051, 0.021593591920},
      {{{"epsilon", "1"}, {"argmax-rule", "false"}},
       8,
       2,
       0.735436393546,
       0.148662772484,
       0.298711139962,
       0.011703797055}};
  return e;
}

}  // namespace moegrad
