#include "ops/checks.h"

namespace moegrad {

int checked_axis(std::string_view operation, const Shape& shape, int axis) {
  const int rank = shape.rank();
  if (rank == 0) fail(operation, "axis {} of a scalar. It has no axes; reshape it first.", axis);
  if (axis < -rank || axis >= rank) {
    fail(operation, "axis {} of shape {}. Use {} to {}.", axis, shape, -rank, rank - 1);
  }
  return axis < 0 ? axis + rank : axis;
}

AxisView view_around(const Shape& shape, int axis) {
  return {shape.product(0, axis), shape[axis], shape.product(axis + 1, shape.rank())};
}

AxisView as_rows(const Shape& shape) {
  return {shape.rank() == 0 ? 1 : shape.product(0, shape.rank() - 1), shape.back(), 1};
}

void require_rank(std::string_view operation, std::string_view what, const Shape& shape, int rank) {
  if (shape.rank() != rank) {
    fail(operation, "{} has shape {}. It needs {} axes; reshape it first.", what, shape, rank);
  }
}

void require_floating(std::string_view operation, const Tensor& x) {
  if (!is_floating(x.dtype())) {
    fail(operation, "needs f32 or f64, got {}. Convert the tensor first.", name_of(x.dtype()));
  }
}

void require_same_dtype(std::string_view operation, const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype()) {
    fail(operation, "operands are {} and {}. Convert one of them.", name_of(a.dtype()),
         name_of(b.dtype()));
  }
}

void require_numbered(std::string_view operation, std::int64_t size) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (size > kMost) {
    fail(operation, "{} places, and indices are i32. Use {} at most.", size, kMost);
  }
}

void require_indices(std::string_view operation, const Tensor& index, std::int64_t low,
                     std::int64_t limit) {
  if (!index.defined() || index.dtype() != DType::i32) {
    fail(operation, "the indices are {}. They must be i32.",
         index.defined() ? name_of(index.dtype()) : "undefined");
  }
  if (index.device() != Device::cpu) return;
  const auto values = index.values<std::int32_t>();
  for (std::size_t i = 0; i < values.size(); ++i) {
    if (values[i] < low || values[i] >= limit) {
      fail(operation, "index {} at place {} is outside {} to {}. Check the indices.", values[i], i,
           low, limit - 1);
    }
  }
}

}  // namespace moegrad
