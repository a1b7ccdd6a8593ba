#include "moe/values.h"

#include "ops/broadcast.h"

namespace moegrad {

Tensor scalar_like(const Tensor& like, double value) {
  return Tensor::full({}, value, like.dtype(), like.device());
}

Var constant_like(Var like, const Shape& shape, double value) {
  const Tensor v = like.value();
  return like.tape().constant(Tensor::full(shape, value, v.dtype(), v.device()));
}

Tensor values::unary(int function, Scalars p, const Tensor& x) {
  Tensor y = x.like();
  kernels(x.device()).unary(function, p, x, y);
  return y;
}

Tensor values::binary(int function, const Tensor& a, const Tensor& b) {
  const BroadcastPlan p = broadcast("values", a.shape(), b.shape());
  Tensor y = a.like(p.shape);
  with_placed(p, a, b, [&](const Tensor& left, const Tensor& right) {
    kernels(y.device()).binary(function, p.rows, p.cols, left, p.a, right, p.b, y);
  });
  return y;
}

Tensor greater(const Tensor& a, const Tensor& b) {
  const BroadcastPlan p = broadcast("greater", a.shape(), b.shape());
  Tensor flags = Tensor::empty(p.shape, DType::i32, a.device());
  with_placed(p, a, b, [&](const Tensor& left, const Tensor& right) {
    kernels(a.device()).greater(p.rows, p.cols, left, p.a, right, p.b, flags);
  });
  return flags;
}

Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b) {
  const BroadcastPlan p = laid_over(condition.shape(), a.shape(), b.shape());
  Tensor y = a.like(condition.shape());
  with_placed(p, a, b, [&](const Tensor& left, const Tensor& right) {
    kernels(y.device()).where(condition, p.rows, p.cols, left, p.a, right, p.b, y);
  });
  return y;
}

Tensor reduce_rows(Reduction reduction, const Tensor& x) {
  Tensor out = x.like({x.size(0), 1});
  kernels(x.device()).reduce(reduction, x, {x.size(0), x.size(1), 1}, out);
  return out;
}

Tensor largest_places(const Tensor& x, std::int64_t k) {
  Tensor index = Tensor::empty({x.size(0), k}, DType::i32, x.device());
  kernels(x.device()).top_k(x, k, index);
  return index;
}

Tensor take_columns(const Tensor& x, const Tensor& index) {
  Tensor out = x.like(index.shape());
  kernels(x.device()).take_columns(x, index, out);
  return out;
}

Tensor put_columns(const Tensor& x, const Tensor& index, std::int64_t columns) {
  Tensor out = x.like({x.size(0), columns});
  kernels(x.device()).put_columns(x, index, out);
  return out;
}

Tensor columns_of(const Tensor& x, std::int64_t begin, std::int64_t end) {
  const std::int64_t count = end - begin;
  Tensor out = x.like({x.size(0), count});
  kernels(x.device()).copy_block(x, begin, x.size(1), x.size(0), count, 0, count, out);
  return out;
}

Tensor joined(const Tensor& x, const Tensor& y) {
  const std::int64_t left = x.size(1);
  const std::int64_t right = y.size(1);
  Tensor out = x.like({x.size(0), left + right});
  kernels(x.device()).copy_block(x, 0, left, x.size(0), left, 0, left + right, out);
  kernels(x.device()).copy_block(y, 0, right, x.size(0), right, left, left + right, out);
  return out;
}

Tensor flags_of(const Tensor& ids, std::int64_t experts) {
  return put_columns(Tensor::full(ids.shape(), 1.0, DType::i32, ids.device()), ids, experts);
}

Tensor transposed(const Tensor& x) {
  Tensor out = x.like({x.size(1), x.size(0)});
  kernels(x.device()).swap_axes(x, 1, x.size(0), 1, x.size(1), 1, out);
  return out;
}

Tensor cycle(const Shape& shape, std::int64_t each, std::int64_t period, Device device) {
  Tensor out = Tensor::empty(shape, DType::i32, device);
  kernels(device).cycle(each, period, out);
  return out;
}

}  // namespace moegrad
