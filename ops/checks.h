#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include "autograd/tape.h"
#include "tensor/kernels.h"

// What the operations ask of their inputs. Each throws `[operation] ...` with the actual values.
namespace moegrad {

// The axis counted from the front, for an axis that may count from the end.
int checked_axis(std::string_view operation, const Shape& shape, int axis);
// The shape as [outer, n, inner] around an axis.
AxisView view_around(const Shape& shape, int axis);
// The shape as [rows, last axis].
AxisView as_rows(const Shape& shape);

void require_rank(std::string_view operation, std::string_view what, const Shape& shape, int rank);
void require_floating(std::string_view operation, const Tensor& x);
void require_same_dtype(std::string_view operation, const Tensor& a, const Tensor& b);
// Places along an axis of `size` elements are to be numbered by i32: an Error above 2^31 - 1.
void require_numbered(std::string_view operation, std::int64_t size);
// i32, and every element within [low, limit). (On a device the kernels look at the elements.)
void require_indices(std::string_view operation, const Tensor& index, std::int64_t low,
                     std::int64_t limit);

// The cell of a choice of the largest of some values: its place, and the gap to the second largest.
class LargestTwo {
 public:
  void add(double value, std::int64_t place) {
    if (place_ < 0 || value > first_) {
      second_ = first_;
      first_ = value;
      place_ = place;
    } else if (value > second_) {
      second_ = value;
    }
  }
  void report(Cell& cell) const {
    cell.distance(first_ - second_);
    cell.signature(static_cast<std::uint64_t>(place_));
  }

 private:
  double first_ = -std::numeric_limits<double>::infinity();
  double second_ = -std::numeric_limits<double>::infinity();
  std::int64_t place_ = -1;
};

// A constant of x's tape, on x's device: indices, labels or a mask for an operation on x.
inline Var index_for(Var x, const Tensor& index) {
  return x.tape().constant(index.to(x.value().device()));
}

}  // namespace moegrad
