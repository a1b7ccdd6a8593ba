#include "ops/attention.h"

#include <cmath>

#include "ops/checks.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/select.h"
#include "ops/softmax.h"

namespace moegrad {
namespace {

// The same with all scores at once.
Var attention_of_all_scores(Tape& tape, std::span<const Var> x) {
  const Shape shape = x[0].shape();
  const std::int64_t length = shape[1];
  std::vector<std::int32_t> seen;
  for (std::int64_t i = 0; i < shape[0] * length * length; ++i) {
    seen.push_back(i % length <= i / length % length ? 1 : 0);
  }
  const Var lowest = tape.constant(Tensor::full({}, -std::numeric_limits<double>::infinity(),
                                                x[0].dtype(), x[0].value().device()));
  const Var scores =
      matmul(x[0], x[1], false, true) * (1.0 / std::sqrt(static_cast<double>(shape[2])));
  return matmul(softmax(where(Tensor::of({shape[0], length, length}, seen), scores, lowest)), x[2]);
}

}  // namespace

Tensor CausalAttention::forward(Forward& in, const Attributes&) {
  const Tensor& q = in[0];
  require_rank(name, "q", q.shape(), 3);
  require_floating(name, q);
  for (std::size_t i = 1; i < 3; ++i) {
    require_same_dtype(name, q, in[i]);
    if (!(in[i].shape() == q.shape())) {
      fail(name, "q, k, v have shapes {}, {}, {}. Give all three as [B, L, d].", q.shape(),
           in[1].shape(), in[2].shape());
    }
  }
  Tensor out = Tensor::empty(q.shape(), q.dtype(), q.device());
  const Tensor lse = Tensor::empty({q.size(0), q.size(1)}, q.dtype(), q.device());
  kernels(q.device()).causal_attention(q, in[1], in[2], out, lse);
  in.save(lse);
  return out;
}

void CausalAttention::backward(Backward& b, const Attributes&) {
  const Tensor& q = b.input(0);
  const auto fresh = [&] { return Tensor::empty(q.shape(), q.dtype(), q.device()); };
  Tensor dq = fresh();
  Tensor dk = fresh();
  Tensor dv = fresh();
  kernels(q.device())
      .causal_attention_backward(q, b.input(1), b.input(2), b.output(), b.saved(0), b.dy(), dq, dk,
                                 dv);
  if (b.wants(0)) b.add(0, std::move(dq));
  if (b.wants(1)) b.add(1, std::move(dk));
  if (b.wants(2)) b.add(2, std::move(dv));
}

std::vector<OperationCase> CausalAttention::cases() {
  std::vector<OperationCase> cases;
  const auto fused = [](Tape&, std::span<const Var> x) {
    return causal_attention(x[0], x[1], x[2]);
  };
  for (const Shape& s : {Shape{2, 5, 4}, Shape{3, 4, 1}, Shape{2, 1, 1}, Shape{1, 1, 1},
                         Shape{2, 0, 3}, Shape{0, 4, 3}, Shape{1, 67, 2}, Shape{9, 3, 2}}) {
    cases.push_back({s.str(), {{s}, {s}, {s}}, fused, attention_of_all_scores});
  }
  return cases;
}

Var causal_attention(Var q, Var k, Var v) { return apply<CausalAttention>({q, k, v}); }

}  // namespace moegrad
