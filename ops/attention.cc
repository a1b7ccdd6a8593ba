#include "ops/attention.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "ops/checks.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/select.h"
#include "ops/shape.h"
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

// Text by text, with all scores at once.
Var attention_of_texts(std::span<const Var> x, const std::vector<std::int32_t>& lengths) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(x[0].size(2)));
  std::vector<Var> texts;
  std::int64_t first = 0;
  for (const std::int32_t n : lengths) {
    const auto text = [&](Var all) { return slice(all, 1, first, first + n); };
    const Var scores = scale * matmul(text(x[0]), text(x[1]), false, true);
    texts.push_back(matmul(softmax(scores), text(x[2])));
    first += n;
  }
  return concat(texts, 1);
}

void require_queries(std::string_view name, Forward& in, std::string_view shape) {
  const Tensor& q = in[0];
  require_rank(name, "q", q.shape(), 3);
  require_floating(name, q);
  for (std::size_t i = 1; i < 3; ++i) {
    require_same_dtype(name, q, in[i]);
    if (!(in[i].shape() == q.shape())) {
      fail(name, "q, k, v have shapes {}, {}, {}. Give all three as {}.", q.shape(), in[1].shape(),
           in[2].shape(), shape);
    }
  }
}

void add_wanted(Backward& b, std::array<Tensor, 3>& gradients) {
  for (std::size_t i = 0; i < gradients.size(); ++i) {
    if (b.wants(i)) b.add(i, std::move(gradients[i]));
  }
}

}  // namespace

Tensor CausalAttention::forward(Forward& in, const Attributes&) {
  const Tensor& q = in[0];
  require_queries(name, in, "[B, L, d]");
  Tensor out = q.like();
  const Tensor lse = q.like({q.size(0), q.size(1)});
  kernels(q.device()).causal_attention(q, in[1], in[2], out, lse);
  in.save(lse);
  return out;
}

void CausalAttention::backward(Backward& b, const Attributes&) {
  const Tensor& q = b.input(0);
  std::array<Tensor, 3> d = {q.like(), q.like(), q.like()};
  kernels(q.device())
      .causal_attention_backward(q, b.input(1), b.input(2), b.output(), b.saved(0), b.dy(), d[0],
                                 d[1], d[2]);
  add_wanted(b, d);
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

Tensor PackedAttention::forward(Forward& in, const Attributes& a) {
  const Tensor& q = in[0];
  require_queries(name, in, "[H, N, d]");
  Tensor out = q.like();
  const Tensor lse = q.like({q.size(0), q.size(1)});
  kernels(q.device()).packed_attention(q, in[1], in[2], in[3], a.longest, out, lse);
  in.save(lse);
  return out;
}

void PackedAttention::backward(Backward& b, const Attributes& a) {
  const Tensor& q = b.input(0);
  std::array<Tensor, 3> d = {q.like(), q.like(), q.like()};
  kernels(q.device())
      .packed_attention_backward(q, b.input(1), b.input(2), b.input(3), a.longest, b.output(),
                                 b.saved(0), b.dy(), d[0], d[1], d[2]);
  add_wanted(b, d);
}

std::vector<OperationCase> PackedAttention::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](std::int64_t heads, std::int64_t width,
                       const std::vector<std::int32_t>& lengths) {
    const Tensor n = Tensor::of({std::ssize(lengths)}, lengths);
    const Shape shape{heads, std::accumulate(lengths.begin(), lengths.end(), std::int64_t{0}),
                      width};
    cases.push_back(
        {fmt::format("{} of lengths {}", shape, fmt::join(lengths, ", ")),
         {{shape}, {shape}, {shape}},
         [n](Tape&, std::span<const Var> x) { return packed_attention(x[0], x[1], x[2], n); },
         [lengths](Tape&, std::span<const Var> x) { return attention_of_texts(x, lengths); }});
  };
  add(2, 4, {5, 3});
  add(1, 2, {1, 3, 1});
  add(3, 1, {4});
  add(1, 1, {1});
  add(5, 3, {2, 0, 2});
  add(1, 2, {3, 67});
  add(0, 3, {2, 2});
  return cases;
}

Var packed_attention(Var q, Var k, Var v, const Tensor& lengths) {
  constexpr std::string_view name = PackedAttention::name;
  require_rank(name, "q", q.shape(), 3);
  require_numbered(name, q.size(1));
  if (lengths.dtype() != DType::i32 || lengths.rank() != 1 || lengths.device() != Device::cpu) {
    fail(name, "lengths are {} {} on {}. Give i32 [B] on cpu.", name_of(lengths.dtype()),
         lengths.shape(), name_of(lengths.device()));
  }
  std::vector<std::int32_t> starts = {0};
  std::int64_t longest = 0;
  std::int64_t end = 0;
  for (const std::int32_t n : lengths.values<std::int32_t>()) {
    if (n < 0) {
      fail(name, "text {} has the length {}. Give lengths of 0 or more.", starts.size() - 1, n);
    }
    end += n;
    longest = std::max<std::int64_t>(longest, n);
    starts.push_back(static_cast<std::int32_t>(end));
  }
  if (end != q.size(1)) {
    fail(name, "lengths of {} in all, and q has shape {}. Give lengths of N in all.", end,
         q.shape());
  }
  const Tensor index = Tensor::of({std::ssize(starts)}, starts);
  return apply<PackedAttention>({q, k, v, index_for(q, index)}, {longest});
}

}  // namespace moegrad
