#include "ops/broadcast.h"

#include <algorithm>
#include <array>
#include <utility>

namespace moegrad {
namespace {

// The size of an operand along an axis of a result of this rank.
std::int64_t size_along(const Shape& operand, int rank, int axis) {
  const int own = axis - (rank - operand.rank());
  return own < 0 ? 1 : operand[own];
}

// The runs of axes along which an operand is repeated, first to last: the size of the operand
// before the run, of the run, and of the result behind it.
struct Runs {
  static constexpr int kMost = (Shape::kMaxRank + 1) / 2;
  std::array<AxisView, kMost> view;
  int count = 0;
};

Runs runs_of(const Shape& operand, const Shape& shape) {
  Runs runs;
  std::int64_t before = 1;
  bool repeated = false;
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (shape[axis] == 1) continue;
    const std::int64_t own = size_along(operand, shape.rank(), axis);
    if (own == shape[axis]) {
      before *= own;
      repeated = false;
      continue;
    }
    if (!repeated) runs.view[static_cast<std::size_t>(runs.count++)] = {before, 1, 1};
    AxisView& run = runs.view[static_cast<std::size_t>(runs.count - 1)];
    run.n *= shape[axis];
    run.inner = shape.product(axis + 1, shape.rank());
    repeated = true;
  }
  return runs;
}

}  // namespace

BroadcastPlan broadcast(std::string_view operation, const Shape& a, const Shape& b) {
  if (a == b) {
    const std::int64_t cols = a.back();
    const std::int64_t rows = a.rank() == 0 ? 1 : a.product(0, a.rank() - 1);
    return {a, rows, cols, {cols, 1}, {cols, 1}};
  }
  Shape shape;
  const int rank = std::max(a.rank(), b.rank());
  for (int axis = 0; axis < rank; ++axis) {
    const std::int64_t in_a = size_along(a, rank, axis);
    const std::int64_t in_b = size_along(b, rank, axis);
    if (in_a != in_b && in_a != 1 && in_b != 1) {
      fail(operation,
           "shapes {} and {} do not meet. Axes are matched from the last; make their sizes equal, "
           "or one of them 1.",
           a, b);
    }
    shape.push_back(in_a == 1 ? in_b : in_a);
  }
  return laid_over(shape, a, b);
}

BroadcastPlan laid_over(const Shape& shape, const Shape& a, const Shape& b) {
  // Neighbouring axes in which each operand has its elements, or is repeated, alike.
  struct Group {
    std::int64_t size = 1;
    bool in_a = false;
    bool in_b = false;
  };
  Group group[2];  // the columns, the rows
  int groups = 0;
  for (int axis = shape.rank() - 1; axis >= 0; --axis) {
    if (shape[axis] == 1) continue;
    const bool in_a = size_along(a, shape.rank(), axis) == shape[axis];
    const bool in_b = size_along(b, shape.rank(), axis) == shape[axis];
    if (groups == 0 || in_a != group[groups - 1].in_a || in_b != group[groups - 1].in_b) {
      if (groups == 2) {
        const std::int64_t n = shape.numel();
        return {shape, 1, n, {n, 1}, {n, 1}, a.numel() != n, b.numel() != n};
      }
      group[groups++] = {1, in_a, in_b};
    }
    group[groups - 1].size *= shape[axis];
  }
  const auto layout = [cols = group[0].size](bool has_cols, bool has_rows) {
    return Layout{has_rows ? (has_cols ? cols : 1) : 0, has_cols ? 1 : 0};
  };
  return {shape, group[1].size, group[0].size, layout(group[0].in_a, group[1].in_a),
          layout(group[0].in_b, group[1].in_b)};
}

Tensor spread_over(const Tensor& x, const Shape& shape) {
  const Runs runs = runs_of(x.shape(), shape);
  Tensor y = x;
  for (int i = runs.count; i-- > 0;) {
    const AxisView& run = runs.view[static_cast<std::size_t>(i)];
    Tensor next = Tensor::empty({run.outer * run.n * run.inner}, x.dtype(), x.device());
    kernels(x.device()).expand(y, 1.0, run, next);
    y = std::move(next);
  }
  return y.shape() == shape ? y : y.reshape(shape);
}

Tensor sum_to(Tensor&& d, const Shape& shape) {
  if (d.shape() == shape) return std::move(d);
  const Runs runs = runs_of(shape, d.shape());
  Tensor sum = std::move(d);
  for (int i = 0; i < runs.count; ++i) {
    const AxisView& run = runs.view[static_cast<std::size_t>(i)];
    Tensor next = Tensor::empty({run.outer * run.inner}, sum.dtype(), sum.device());
    kernels(sum.device()).reduce(Reduction::sum, sum, run, next);
    sum = std::move(next);
  }
  return sum.reshape(shape);
}

}  // namespace moegrad
