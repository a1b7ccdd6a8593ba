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
#include <numeric>

#include "moe/dispatch.h"
#include "moe/estimators/surrogate.h"
#include "moe/padding.h"
#include "moe/registry.h"
#include "ops/ops.h"
#include "tensor/kernels.h"
#include "tensor/threads.h"

namespace moegrad {
namespace {

// Tokens in their sequences, padding among them: token t has the row of cell[t].
struct SequencePlaces {
  Tensor cell;              // i32 [N]; undefined: t
  std::int64_t length = 1;  // L
  std::int64_t sequences = 1;

  // The whole batch is one.
  explicit SequencePlaces(std::int64_t tokens) : length(std::max<std::int64_t>(1, tokens)) {}
  explicit SequencePlaces(const LayerInput& in)
      : cell(in.places),
        length(in.sequence),
        sequences((cell.defined() ? in.mask.numel() : in.x.size(0)) / length) {}
  std::int64_t operator()(std::int64_t token) const {
    return cell.defined() ? cell.data<std::int32_t>()[token] : token;
  }
  std::int64_t sequence(std::int64_t token) const { return (*this)(token) / length; }
};

void require_shapes(const EstimatorInput& in) {
  const LayerInput& layer = in.layer;
  if (in.x.size(0) != layer.x.size(0)) {
    fail("attention",
         "the router gives {} rows for {} tokens. Use one that keeps the tokens, or scope=batch.",
         in.x.size(0), layer.x.size(0));
  }
  const SequencePlaces places(layer);
  const Shape expected{places.sequences, places.length, places.length};
  if (layer.attention.defined() && !(layer.attention.shape() == expected)) {
    fail("attention", "the scores are {}. They must be {}: sequences, queries, keys.",
         layer.attention.shape(), expected);
  }
}

// The queries and keys that belong together: of one expert and, with a length, of one sequence. The
// slots of both lie side by side in their plans.
struct Blocks {
  Plan queries;  // of no tokens: the slots of the unselected, by block
  Tensor slots;  // i32 [blocks * most]: the slots of each block's keys, then -1
  std::int64_t most = 0;
};

// Where each block's slots begin: i32 [blocks + 1].
Tensor block_offsets(const Plan& plan, const SequencePlaces& places) {
  Tensor offsets = Tensor::zeros({plan.experts * places.sequences + 1}, DType::i32, Device::cpu);
  std::int32_t* const counts = offsets.write<std::int32_t>();
  const Tensor order = plan.order();
  const Tensor starts = plan.offsets();
  for (std::int64_t e = 0; e < plan.experts; ++e) {
    const std::int32_t* const bounds = starts.data<std::int32_t>() + e;
    for (std::int64_t s = bounds[0]; s < bounds[1]; ++s) {
      const std::int64_t token = order.data<std::int32_t>()[s] / plan.choices;
      ++counts[e * places.sequences + places.sequence(token) + 1];
    }
  }
  std::partial_sum(counts, counts + offsets.numel(), counts);
  return offsets;
}

Blocks blocks_of(const Plan& plan, const Plan& rest, const SequencePlaces& places) {
  Blocks blocks;
  const std::int64_t count = plan.experts * places.sequences;
  const Tensor table = Tensor::full({count + 1 + rest.slots()}, -1.0, DType::i32, Device::cpu);
  kernels(Device::cpu).copy(block_offsets(rest, places), table.rows(0, count + 1));
  blocks.queries = Plan({0, 0, count}, table);
  const Tensor keys = block_offsets(plan, places);
  const std::int32_t* const bounds = keys.data<std::int32_t>();
  for (std::int64_t b = 0; b < blocks.queries.experts; ++b) {
    blocks.most = std::max<std::int64_t>(blocks.most, bounds[b + 1] - bounds[b]);
  }
  blocks.slots =
      Tensor::full({blocks.queries.experts * blocks.most}, -1.0, DType::i32, Device::cpu);
  for (std::int64_t b = 0; b < blocks.queries.experts; ++b) {
    std::int32_t* const slots = blocks.slots.write<std::int32_t>() + b * blocks.most;
    std::iota(slots, slots + bounds[b + 1] - bounds[b], bounds[b]);
  }
  return blocks;
}

// Attention scores of tokens in the same sequence.
struct Scores {
  Tensor table;  // [sequences, L, L]
  SequencePlaces places;
  double divisor = 1.0;
  double operator()(std::int64_t q, std::int64_t k) const {
    return table.at(places(q) * places.length + places(k) % places.length) / divisor;
  }
};

// In place; -infinity is not seen and gets 0, as does everything where nothing is seen.
void softmax_of_visible(std::vector<double>& row) {
  double largest = -std::numeric_limits<double>::infinity();
  for (const double score : row) largest = std::fmax(largest, score);
  double sum = 0.0;
  for (double& v : row) {
    v = std::isinf(v) ? 0.0 : std::exp(v - largest);
    sum += v;
  }
  for (double& v : row) v = sum > 0.0 ? v / sum : v;
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
    const Plan rest = make_plan(complement(r.selected, in.plan.experts), in.plan.experts);
    const Var y = sparse();
    const Var dense = y + moegrad::combine(values(in, h, rest), r.scores, rest);
    return forward_ ? dense : straight_through(y, dense);
  }

 private:
  // V in the slots of `rest`, block by block: its weights [queries, keys] times the outputs of its
  // keys, padded with zeros to the most keys of any block. Who sees whom is worked out on the host.
  Var values(const EstimatorInput& in, Var h, const Plan& rest) const {
    Tape& tape = h.tape();
    const Var outputs = experts_ ? h : stop_gradient(h);
    const Tensor x = stop_gradient(in.x).value().to(Device::cpu);
    const Plan keys_plan(in.plan, in.plan.table.to(Device::cpu));
    const Plan queries_plan(rest, rest.table.to(Device::cpu));
    const Blocks blocks = blocks_of(keys_plan, queries_plan, places_of(in));
    const Tensor weights = attend(in, x, buckets(tape, x), blocks, keys_plan, queries_plan);
    const Var keys = gather_rows(outputs, blocks.slots);
    return grouped_matmul(tape.constant(weights.to(h.value().device())),
                          reshape(keys, {blocks.queries.experts, blocks.most, h.size(1)}),
                          blocks.queries);
  }

  // [S', most]: the softmax of each query over the keys of its block that it may see.
  Tensor attend(const EstimatorInput& in, const Tensor& x, const Tensor& bucket,
                const Blocks& blocks, const Plan& plan, const Plan& rest) const {
    const Scores scores = scores_of(in, x);
    const Tensor query_order = rest.order();
    const Tensor key_order = plan.order();
    const Tensor starts = blocks.queries.offsets();
    Tensor weights = Tensor::zeros({rest.slots(), blocks.most}, x.dtype(), Device::cpu);
    const std::int32_t* const query = query_order.data<std::int32_t>();
    const std::int32_t* const key = key_order.data<std::int32_t>();
    with_floating(x.dtype(), "attention", [&](auto zero) {
      using T = decltype(zero);
      parallel_on_host(blocks.queries.experts, 1, [&](std::int64_t block, std::int64_t) {
        const std::int32_t* const slots = blocks.slots.data<std::int32_t>() + block * blocks.most;
        const auto keys =
            static_cast<std::size_t>(std::find(slots, slots + blocks.most, -1) - slots);
        const std::int32_t* const bounds = starts.data<std::int32_t>() + block;
        std::vector<double> row(keys);
        for (std::int64_t s = bounds[0]; s < bounds[1]; ++s) {
          const std::int64_t q = query[s] / rest.choices;
          for (std::size_t i = 0; i < keys; ++i) {
            const std::int64_t k = key[slots[i]] / plan.choices;
            row[i] =
                visible(bucket, q, k) ? scores(q, k) : -std::numeric_limits<double>::infinity();
          }
          softmax_of_visible(row);
          std::transform(row.begin(), row.end(), weights.write<T>() + s * blocks.most,
                         [](double w) { return static_cast<T>(w); });
        }
      });
    });
    return weights;
  }

  bool visible(const Tensor& bucket, std::int64_t q, std::int64_t k) const {
    if (causal_ && k > q) return false;
    if (!bucket.defined()) return true;
    const std::int32_t* side = bucket.data<std::int32_t>();
    return std::equal(side + q * planes_, side + (q + 1) * planes_, side + k * planes_);
  }

  // a_qk: the scores given, or x x^T / sqrt(D) within each sequence.
  Scores scores_of(const EstimatorInput& in, const Tensor& x) const {
    const SequencePlaces places = places_of(in);
    if (in.layer.attention.defined() && !whole_batch_)
      return {in.layer.attention.to(Device::cpu), places};
    const Tensor all =
        places.cell.defined() ? with_padding(x.to(DType::f64), in.layer.mask) : x.to(DType::f64);
    const Tensor rows = all.reshape({places.sequences, places.length, x.size(1)});
    const Tensor products =
        Tensor::empty({places.sequences, places.length, places.length}, DType::f64, Device::cpu);
    kernels(x.device()).matmul(rows, false, rows, true, 0.0, products);
    return {products, places, std::sqrt(static_cast<double>(x.size(1)))};
  }

  SequencePlaces places_of(const EstimatorInput& in) const {
    return whole_batch_ ? SequencePlaces(in.x.size(0)) : SequencePlaces(in.layer);
  }

  // i32 [N, planes]: on which side of each plane a token lies; undefined without planes.
  Tensor buckets(Tape& tape, const Tensor& x) const {
    if (planes_ == 0) return {};
    const std::int64_t width = x.size(1);
    const Tensor normals = tape.decisions().decide("planes", DType::f64, {planes_, width}, [&] {
      return Rng{seed_, 0, 0}.normal({planes_, width}, DType::f64);
    });
    return tape.decisions().decide("buckets", DType::i32, {x.size(0), planes_}, [&] {
      const Tensor products = Tensor::empty({x.size(0), planes_}, DType::f64, Device::cpu);
      kernels(Device::cpu).matmul(x.to(DType::f64), false, normals, true, 0.0, products);
      Tensor side = Tensor::empty(products.shape(), DType::i32, Device::cpu);
      for (std::int64_t i = 0; i < side.numel(); ++i) {
        side.write<std::int32_t>()[i] = products.data<double>()[i] >= 0.0 ? 1 : 0;
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
  e.options = {
      option::choice("scope", {"sequence", "batch"}, "which tokens a token attends to"),
      option::flag("causal", "no token attends to later ones"),
      option::flag("forward", "add sum p_j V_j to the output too"),
      option::choice("experts", {"none", "mean"}, "gradient of the experts through the means")};
  if (buckets) {
    e.options.push_back(option::integer("planes", "random planes that part the buckets")
                            .initially("10")
                            .from(1, 64)
                            .tried({"1"}));
    e.options.push_back(
        option::integer("seed", "of the random planes").initially("0").from(0, 1e9).tried({"7"}));
  }
  e.traits.on_host = "who attends to whom, and the weights";
  e.make = [buckets](const Options& o) -> std::unique_ptr<Estimator> {
    return std::make_unique<AttentionEstimator>(o, buckets);
  };
  return e;
}

}  // namespace

EstimatorEntry attention_estimator() { return attention_entry(false); }
EstimatorEntry lsh_attention_estimator() { return attention_entry(true); }

}  // namespace moegrad
