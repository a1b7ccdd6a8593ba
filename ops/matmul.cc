#include "ops/matmul.h"

#include "ops/checks.h"

namespace moegrad {
namespace {

// [B, r, c] as [B r, c].
Tensor folded(const Tensor& x) { return x.reshape({x.size(0) * x.size(1), x.size(2)}); }

// Adds op(p) op(q) to the gradient of input i, of its shape; summed over the batch where the input
// has none.
void add_product(Backward& b, int i, const Tensor& p, bool transpose_p, const Tensor& q,
                 bool transpose_q) {
  Kernels& k = kernels(p.device());
  const Shape& shape = b.input_shape(i);
  const bool summed = p.rank() == 3 && q.rank() == 3 && shape.rank() == 2;
  if (summed && !(transpose_p && !transpose_q)) {
    const Tensor each = Tensor::empty({p.size(0), shape[0], shape[1]}, p.dtype(), p.device());
    k.matmul(p, transpose_p, q, transpose_q, 0.0, each);
    Tensor sum = Tensor::empty(shape, p.dtype(), p.device());
    k.reduce(Reduction::sum, each, {1, p.size(0), sum.numel()}, sum);
    return b.add(i, std::move(sum));
  }
  Tensor out = b.sum_so_far(i);
  const bool fresh = !out.defined();
  if (fresh) out = Tensor::empty(shape, p.dtype(), p.device());
  const double beta = fresh ? 0.0 : 1.0;
  if (summed) {  // the batch lengthens the inner axis
    k.matmul(folded(p), true, folded(q), false, beta, out);
  } else {
    k.matmul(p, transpose_p, q, transpose_q, beta, out);
  }
  if (fresh) b.add(i, std::move(out));
}

}  // namespace

Tensor Matmul::forward(Forward& in, const Attributes& t) {
  const Shape& a = in[0].shape();
  const Shape& b = in[1].shape();
  if (a.rank() < 2 || a.rank() > 3 || b.rank() < 2 || b.rank() > 3) {
    fail(name, "operands have shapes {} and {}. Give matrices [m, k] or batches [B, m, k].", a, b);
  }
  require_floating(name, in[0]);
  require_same_dtype(name, in[0], in[1]);
  if (a.rank() == 3 && b.rank() == 3 && a[0] != b[0]) {
    fail(name, "batches of {} and {} matrices. Give equal batches, or one operand without.", a[0],
         b[0]);
  }
  const std::int64_t m = in[0].size(t.transpose_a ? -1 : -2);
  const std::int64_t n = in[1].size(t.transpose_b ? -2 : -1);
  const std::int64_t inner_a = in[0].size(t.transpose_a ? -2 : -1);
  const std::int64_t inner_b = in[1].size(t.transpose_b ? -1 : -2);
  if (inner_a != inner_b) {
    fail(name, "{}{} times {}{}: the inner sizes {} and {} differ. Check the transpositions.", a,
         t.transpose_a ? "^T" : "", b, t.transpose_b ? "^T" : "", inner_a, inner_b);
  }
  Shape shape{m, n};
  if (a.rank() == 3 || b.rank() == 3) shape = {a.rank() == 3 ? a[0] : b[0], m, n};
  Tensor y = Tensor::empty(shape, in[0].dtype(), in[0].device());
  kernels(y.device()).matmul(in[0], t.transpose_a, in[1], t.transpose_b, 0.0, y);
  return y;
}

// dA = dY op(B)^T (its transpose where A is stored transposed), dB = op(A)^T dY (likewise).
void Matmul::backward(Backward& b, const Attributes& t) {
  if (b.wants(0)) {
    if (t.transpose_a) {
      add_product(b, 0, b.input(1), t.transpose_b, b.dy(), true);
    } else {
      add_product(b, 0, b.dy(), false, b.input(1), !t.transpose_b);
    }
  }
  if (b.wants(1)) {
    if (t.transpose_b) {
      add_product(b, 1, b.dy(), true, b.input(0), t.transpose_a);
    } else {
      add_product(b, 1, b.input(0), !t.transpose_a, b.dy(), false);
    }
  }
}

std::vector<OperationCase> Matmul::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& a, const Shape& b, bool transpose_a, bool transpose_b) {
    std::string label = a.str() + (transpose_a ? "^T" : "") + b.str() + (transpose_b ? "^T" : "");
    cases.push_back({std::move(label), {{a}, {b}}, [=](Tape&, std::span<const Var> x) {
                       return matmul(x[0], x[1], transpose_a, transpose_b);
                     }});
  };
  add({3, 4}, {4, 2}, false, false);
  add({4, 3}, {4, 2}, true, false);
  add({3, 4}, {2, 4}, false, true);
  add({4, 3}, {2, 4}, true, true);
  add({3, 3}, {3, 3}, false, false);
  add({2, 3, 4}, {2, 4, 5}, false, false);
  for (const bool transpose_a : {false, true}) {
    for (const bool transpose_b : {false, true}) {
      const Shape a = transpose_a ? Shape{4, 3} : Shape{3, 4};
      const Shape b = transpose_b ? Shape{2, 4} : Shape{4, 2};
      add({2, a[0], a[1]}, b, transpose_a, transpose_b);
      add(a, {2, b[0], b[1]}, transpose_a, transpose_b);
    }
  }
  add({1, 1}, {1, 1}, false, false);
  add({0, 4}, {4, 2}, false, false);
  add({3, 0}, {0, 2}, false, false);
  add({0, 3, 4}, {4, 2}, false, false);
  add({17, 33}, {33, 9}, false, false);
  return cases;
}

Var matmul(Var a, Var b, bool transpose_a, bool transpose_b) {
  return apply<Matmul>({a, b}, {transpose_a, transpose_b});
}

}  // namespace moegrad
