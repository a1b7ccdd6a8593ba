#include "ops/padded_attention.h"

#include <cmath>
#include <limits>

#include "ops/checks.h"
#include "ops/elementwise.h"
#include "ops/matmul.h"
#include "ops/reduce.h"
#include "ops/shape.h"
#include "ops/softmax.h"

namespace moegrad {
namespace {

void require_sequences(Var q, Var k, Var v, const Tensor& lengths) {
  constexpr std::string_view name = PaddedAttention::name;
  require_rank(name, "q", q.shape(), 3);
  if (!(k.shape() == q.shape()) || !(v.shape() == q.shape())) {
    fail(name, "q, k, v have shapes {}, {}, {}. Give all three as [B H, L, d].", q.shape(),
         k.shape(), v.shape());
  }
  if (lengths.dtype() != DType::i32 || lengths.rank() != 1 || lengths.numel() < 1 ||
      q.size(0) % lengths.numel() != 0) {
    fail(name, "lengths are {} {} for q {}. Give i32 [B] where B divides the first axis.",
         name_of(lengths.dtype()), lengths.shape(), q.shape());
  }
  for (const std::int32_t n : lengths.values<std::int32_t>()) {
    if (n < 1 || n > q.size(1)) {
      fail(name, "a sequence has the length {}. Give 1 to {}, the rows of q.", n, q.size(1));
    }
  }
}

// [B, 1, L]: 0 in the first lengths[b] columns, -infinity behind them.
Tensor behind_lengths(const Tensor& lengths, const Tensor& like, std::int64_t length) {
  const Tensor out =
      Tensor::full({lengths.numel(), 1, length}, -std::numeric_limits<double>::infinity(),
                   DType::f64, Device::cpu);
  for (std::int64_t b = 0; b < lengths.numel(); ++b) {
    std::fill_n(out.write<double>() + b * length, lengths.data<std::int32_t>()[b], 0.0);
  }
  return out.to(like.dtype()).to(like.device());
}

// Sequence by sequence, without its padding.
Var attention_of_each(Var q, Var k, Var v, const Tensor& lengths) {
  const std::int64_t heads = q.size(0) / lengths.numel();
  if (heads == 0) return v;
  std::vector<Var> sequences;
  for (std::int64_t b = 0; b < q.size(0); ++b) {
    const std::int64_t n = lengths.data<std::int32_t>()[b / heads];
    const auto cut = [&](Var x) { return slice(slice(x, 0, b, b + 1), 1, 0, n); };
    const Var queries = slice(q, 0, b, b + 1);
    const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
    sequences.push_back(matmul(softmax(scale * matmul(queries, cut(k), false, true)), cut(v)));
  }
  return concat(sequences, 0);
}

}  // namespace

Var padded_attention(Var q, Var k, Var v, const Tensor& lengths) {
  require_sequences(q, k, v, lengths);
  const std::int64_t sequences = lengths.numel();
  const std::int64_t length = q.size(1);
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
  const Shape scores = {q.size(0), length, length};
  const Shape of_sequences = {sequences, q.size(0) / sequences * length, length};
  const Var seen = reshape(matmul(scale * q, k, false, true), of_sequences) +
                   q.tape().constant(behind_lengths(lengths, q.value(), length));
  return matmul(reshape(softmax(seen), scores), v);
}

std::vector<OperationCase> PaddedAttention::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& shape, const std::vector<std::int32_t>& lengths) {
    const Tensor n = Tensor::of({static_cast<std::int64_t>(lengths.size())}, lengths);
    cases.push_back(
        {fmt::format("{} of lengths {}", shape, fmt::join(lengths, ", ")),
         {{shape}, {shape}, {shape}},
         [n](Tape&, std::span<const Var> x) { return padded_attention(x[0], x[1], x[2], n); },
         [n](Tape&, std::span<const Var> x) { return attention_of_each(x[0], x[1], x[2], n); }});
  };
  add({2, 5, 4}, {5, 3});
  add({4, 3, 2}, {1, 3});
  add({3, 4, 1}, {2});
  add({1, 1, 1}, {1});
  add({2, 2, 3}, {2, 2});
  add({0, 4, 3}, {2});
  return cases;
}

}  // namespace moegrad
