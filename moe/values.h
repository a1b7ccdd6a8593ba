#pragma once

#include "autograd/tape.h"
#include "tensor/kernels.h"

namespace moegrad {

// What is computed beside the tape: kernels on tensors, on their device. Shapes meet as those of
// operations do.

// Of the type and on the device of another: a tensor [], a constant of its tape.
Tensor scalar_like(const Tensor& like, double value);
Var constant_like(Var like, const Shape& shape, double value);

namespace values {

Tensor unary(int function, Scalars p, const Tensor& x);
Tensor binary(int function, const Tensor& a, const Tensor& b);
}  // namespace values

template <class F>
Tensor compute(const Tensor& x, Scalars p = {}) {
  return values::unary(UnaryFunctors::index_of<F>(), p, x);
}
template <class F>
Tensor compute(const Tensor& a, const Tensor& b) {
  return values::binary(BinaryFunctors::index_of<F>(), a, b);
}
// i32: a > b, of any dtype
Tensor greater(const Tensor& a, const Tensor& b);
// condition ? a : b, a and b laid over the i32 condition; of any dtype
Tensor where(const Tensor& condition, const Tensor& a, const Tensor& b);
// [N, 1]: of each row of x [N, E]
Tensor reduce_rows(Reduction reduction, const Tensor& x);
// i32 [N, k]: the places of the k largest of each row, as Kernels::top_k
Tensor largest_places(const Tensor& x, std::int64_t k);
// [N, k], 0 for -1, and [N, columns], zero but for x there; of any dtype
Tensor take_columns(const Tensor& x, const Tensor& index);
Tensor put_columns(const Tensor& x, const Tensor& index, std::int64_t columns);
// x [N, a] and y [N, b] side by side, [N, a + b]
Tensor joined(const Tensor& x, const Tensor& y);
// Columns [begin, end) of x [N, E]
Tensor columns_of(const Tensor& x, std::int64_t begin, std::int64_t end);
// i32 [N, E]: not 0 where e is among ids i32 [N, k]
Tensor flags_of(const Tensor& ids, std::int64_t experts);
// x [N, E] as [E, N]
Tensor transposed(const Tensor& x);
// i32: element i is i / each % period
Tensor cycle(const Shape& shape, std::int64_t each, std::int64_t period, Device device);

}  // namespace moegrad
