// attention and lsh-attention: means of other tokens' outputs, weighted by attention, stand for the
// unselected experts (Panda et al., ICLR 2025 submission).
//
//   K_j(q)  the tokens of q's sequence that were routed to j (`scope` = batch: of the whole batch;
//           `causal`: not behind q; lsh-attention: in the bucket of q)
//   V_j(q)  = sum_{k in K_j(q)} softmax_k(a_qk) E_j(k) for j off R(q); 0 where K_j(q) is empty
//   a       the scores of the attention before the layer, averaged over its heads, before its mask
//           (LayerInput::attention); where there are none, and for a batch, x x^T / sqrt(D);
//           detached
//   bucket  the signs of x . n for `planes` random vectors n (Charikar, STOC 2002), by `seed`
//   router  <g, E_i> on R, <g, V_i> off R;  experts (`experts` = mean): V_j gets p_j g
//
// `forward`: the value gets + sum_{off R} p_j V_j too, in training and at inference; a token then
// sees others, of a causal sequence only what was before.

#include <algorithm>
#include <cmath>

#include "moe/dispatch.h"
#include "moe/estimators/surrogate.h"
#include "moe/registry.h"
#include "ops/ops.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

void require_shapes(const EstimatorInput& in) {
  const LayerInput& layer = in.layer;
  if (in.x.size(0) % layer.sequence != 0) {
    fail("attention",
         "the router gives {} rows for sequences of {} tokens. Use one that keeps the tokens, or "
         "scope=batch.",
         in.x.size(0), layer.sequence);
  }
  const std::int64_t length = layer.sequence;
  const Shape expected{in.x.size(0) / length, length, length};
  if (layer.attention.defined() && !(layer.attention.shape() == expected)) {
    fail("attention", "the scores are {}. They must be {}: sequences, queries, keys.",
         layer.attention.shape(), expected);
  }
}

class AttentionEstimator : public Estimator {
 public:
  AttentionEstimator(const Options& o, bool buckets)
      : whole_batch_(o.choice("scope") == "batch"),
        causal_(o.flag("causal")),
        forward_(o.flag("forward")),
        experts_(o.choice("experts") == "mean"),
        planes_(buckets ? o.integer("planes") : 0),
        seed_(buckets ? static_cast<std::uint64_t>(o.integer("seed")) : 0) {}

  bool leaks() const override { return forward_ && (!causal_ || whole_batch_); }

  Combined combine(const EstimatorInput& in) const override {
    const Var h = in.experts(in.x, in.plan);
    const Routing& r = in.routing;
    const bool use_fused = fused(in.x.tape());
    const auto sparse = [&] {
      return use_fused ? moegrad::combine(h, r.weights, in.plan)
                       : written_sparse(h, r.weights, in.plan);
    };
    if (!in.training() && !forward_) return sparse();
    if (!whole_batch_) require_shapes(in);
    const Tensor ids = unselected(r.selected, in.plan.experts);
    Rest rest;
    rest.plan = make_plan(ids, in.plan.experts);
    rest.scores = take_columns(r.scores, ids);
    rest.experts = experts_;
    rest.values = values(in, h, rest.plan);
    if (!forward_) return combine_dense(h, r.weights, in.plan, rest, use_fused);
    return sparse() + moegrad::combine(rest.values, rest.scores, rest.plan);
  }

 private:
  // V in the slots of `rest`, expert by expert: its weights [queries, keys] times the outputs of
  // its keys.
  Var values(const EstimatorInput& in, Var h, const Plan& rest) const {
    Tape& tape = h.tape();
    const Var outputs = experts_ ? h : stop_gradient(h);
    const Tensor x = stop_gradient(in.x).value().to(DType::f64);
    const Tensor bucket = buckets(tape, x);
    const Plan& plan = in.plan;
    std::vector<Var> parts;
    for (std::int64_t e = 0; e < plan.experts; ++e) {
      const std::int64_t queries = rest.load(e);
      if (queries == 0) continue;
      const std::int64_t keys = plan.load(e);
      const std::int32_t* query = rest.order.data<std::int32_t>() + offset(rest, e);
      const std::int32_t* key = plan.order.data<std::int32_t>() + offset(plan, e);
      const Tensor weights = Tensor::zeros({queries, keys}, DType::f64);
      for (std::int64_t i = 0; i < queries; ++i) {
        const std::int64_t q = query[i] / rest.choices;
        attend(in, x, bucket, q, {key, static_cast<std::size_t>(keys)},
               weights.data<double>() + i * keys);
      }
      const std::int64_t begin = offset(plan, e);
      parts.push_back(
          matmul(tape.constant(weights.to(h.dtype())), slice(outputs, 0, begin, begin + keys)));
    }
    if (parts.empty()) return tape.constant(Tensor::empty({0, h.size(1)}, h.dtype()));
    return concat(parts, 0);
  }

  static std::int64_t offset(const Plan& plan, std::int64_t expert) {
    return plan.offsets.data<std::int32_t>()[expert];
  }

  // The softmax of one query over the keys it may see, into a row of zeros.
  void attend(const EstimatorInput& in, const Tensor& x, const Tensor& bucket, std::int64_t q,
              std::span<const std::int32_t> slots, double* weights) const {
    std::vector<double> scores(slots.size(), -std::numeric_limits<double>::infinity());
    double largest = -std::numeric_limits<double>::infinity();
    for (std::size_t i = 0; i < slots.size(); ++i) {
      const std::int64_t k = slots[i] / in.plan.choices;
      if (!visible(in.layer, bucket, q, k)) continue;
      scores[i] = score(in.layer, x, q, k);
      largest = std::fmax(largest, scores[i]);
    }
    double sum = 0.0;
    for (std::size_t i = 0; i < slots.size(); ++i) {
      if (std::isinf(scores[i])) continue;
      weights[i] = std::exp(scores[i] - largest);
      sum += weights[i];
    }
    for (std::size_t i = 0; i < slots.size() && sum > 0.0; ++i) weights[i] /= sum;
  }

  bool visible(const LayerInput& layer, const Tensor& bucket, std::int64_t q,
               std::int64_t k) const {
    if (causal_ && k > q) return false;
    if (!whole_batch_ && q / layer.sequence != k / layer.sequence) return false;
    if (!bucket.defined()) return true;
    const std::int32_t* side = bucket.data<std::int32_t>();
    return std::equal(side + q * planes_, side + (q + 1) * planes_, side + k * planes_);
  }

  double score(const LayerInput& layer, const Tensor& x, std::int64_t q, std::int64_t k) const {
    if (layer.attention.defined() && !whole_batch_) {
      const std::int64_t length = layer.sequence;
      return layer.attention.at(q * length + k % length);
    }
    const std::int64_t width = x.size(1);
    const double* a = x.data<double>() + q * width;
    const double* b = x.data<double>() + k * width;
    double product = 0.0;
    for (std::int64_t d = 0; d < width; ++d) product += a[d] * b[d];
    return product / std::sqrt(static_cast<double>(width));
  }

  // i32 [N, planes]: on which side of each plane a token lies; undefined without planes.
  Tensor buckets(Tape& tape, const Tensor& x) const {
    if (planes_ == 0) return {};
    const std::int64_t width = x.size(1);
    const Tensor normals = tape.decisions().decide("planes", DType::f64, {planes_, width}, [&] {
      return Rng{seed_, 0, 0}.normal({planes_, width}, DType::f64);
    });
    return tape.decisions().decide("buckets", DType::i32, {x.size(0), planes_}, [&] {
      Tensor side = Tensor::empty({x.size(0), planes_}, DType::i32);
      for (std::int64_t i = 0; i < side.numel(); ++i) {
        double product = 0.0;
        for (std::int64_t d = 0; d < width; ++d) {
          product += x.at(i / planes_ * width + d) * normals.at(i % planes_ * width + d);
        }
        side.data<std::int32_t>()[i] = product >= 0.0 ? 1 : 0;
      }
      return side;
    });
  }

  bool whole_batch_;
  bool causal_;
  bool forward_;
  bool experts_;
  std::int64_t planes_;
  std::uint64_t seed_;
};

EstimatorEntry attention_entry(bool buckets) {
  EstimatorEntry e;
  e.name = buckets ? "lsh-attention" : "attention";
  e.summary = buckets ? "attention, among the tokens of the same hash bucket only"
                      : "attention-weighted means of other tokens stand for the unselected experts";
  e.source = "Panda et al., ICLR 2025 submission";
  e.formula = "V_j(q) = sum of softmax_k(a_qk) E_j(k) over the keys of the sequence routed to j";
  e.formula += buckets ? ", in the bucket of q;\n" : ";\n";
  e.formula += "dL/dp_j = <g, V_j> off R; 0 where there is no key";
  e.options = {{"scope",
                OptionSpec::Kind::choice,
                "sequence",
                "which tokens a token attends to",
                0,
                0,
                {"sequence", "batch"}},
               {"causal", OptionSpec::Kind::flag, "false", "no token attends to later ones"},
               {"forward", OptionSpec::Kind::flag, "false", "add sum p_j V_j to the output too"},
               {"experts",
                OptionSpec::Kind::choice,
                "none",
                "gradient of the experts through the means",
                0,
                0,
                {"none", "mean"}}};
  if (buckets) {
    e.options.push_back({"planes",
                         OptionSpec::Kind::integer,
                         "10",
                         "random planes that part the buckets",
                         1,
                         64,
                         {},
                         {"1"}});
    e.options.push_back(
        {"seed", OptionSpec::Kind::integer, "0", "of the random planes", 0, 1e9, {}, {"7"}});
  }
  e.make = [buckets](const Options& o) -> std::unique_ptr<Estimator> {
    return std::make_unique<AttentionEstimator>(o, buckets);
  };
  return e;
}

}  // namespace

EstimatorEntry attention_estimator() { return attention_entry(false); }
EstimatorEntry lsh_attention_estimator() { return attention_entry(true); }

}  // namespace moegrad
