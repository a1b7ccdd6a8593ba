#include "ops/image.h"

#include <limits>

#include "ops/checks.h"

namespace moegrad {
namespace {

std::int64_t places(std::int64_t size, std::int64_t window, std::int64_t stride,
                    std::int64_t padding) {
  return (size + 2 * padding - window) / stride + 1;
}

// The shape [N, channels, H', W'] of what a window sees; an Error where it does not fit.
Shape seen_by(std::string_view operation, const Shape& x, std::int64_t channels, Window w) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  if (w.stride < 1 || w.stride > kMost || w.padding < 0 || w.padding > kMost) {
    fail(operation, "stride {} and padding {}. Use a stride of 1 to {}, padding of 0 to {}.",
         w.stride, w.padding, kMost, kMost);
  }
  if (w.height < 1 || w.width < 1 || w.height > x[2] + 2 * w.padding ||
      w.width > x[3] + 2 * w.padding) {
    fail(operation, "a window of {} x {} on images {} with padding {}. It must fit inside.",
         w.height, w.width, x, w.padding);
  }
  return {x[0], channels, places(x[2], w.height, w.stride, w.padding),
          places(x[3], w.width, w.stride, w.padding)};
}

Window window_of(const Shape& weight, const Conv2d::Attributes& p) {
  return {weight[2], weight[3], p.stride, p.padding};
}

}  // namespace

Tensor Conv2d::forward(Forward& in, const Attributes& p) {
  require_rank(name, "x", in[0].shape(), 4);
  require_rank(name, "the weight", in[1].shape(), 4);
  require_floating(name, in[0]);
  require_same_dtype(name, in[0], in[1]);
  const Shape& weight = in[1].shape();
  if (in[0].size(1) != weight[1]) {
    fail(name, "images {} have {} channels and the weight {} expects {}. They must agree.",
         in[0].shape(), in[0].size(1), weight, weight[1]);
  }
  const Window window = window_of(weight, p);
  const Shape shape = seen_by(name, in[0].shape(), weight[0], window);
  const Tensor y = Tensor::empty(shape, in[0].dtype(), in[0].device());
  Kernels& k = kernels(y.device());
  k.conv2d(in[0], in[1], window, y);
  if (in.size() == 2) return y;

  require_same_dtype(name, in[0], in[2]);
  if (!(in[2].shape() == Shape{weight[0]})) {
    fail(name, "the bias has shape {} for {} filters. Give it shape [{}].", in[2].shape(),
         weight[0], weight[0]);
  }
  // The bias as a column over the rows (image, filter) of y.
  const std::int64_t rows = shape[0] * shape[1];
  const std::int64_t cols = shape[2] * shape[3];
  const Tensor column = Tensor::empty({rows}, y.dtype(), y.device());
  k.expand(in[2], 1.0, {1, shape[0], shape[1]}, column);
  Tensor shifted = Tensor::empty(shape, y.dtype(), y.device());
  k.binary(BinaryFunctors::index_of<functor::Add>(), rows, cols, y, {cols, 1}, column, {1, 0},
           shifted);
  return shifted;
}

void Conv2d::backward(Backward& b, const Attributes& p) {
  const Tensor& dy = b.dy();
  const Window window = window_of(b.input_shape(1), p);
  Kernels& k = kernels(dy.device());
  if (b.wants(0)) {
    Tensor dx = Tensor::empty(b.input_shape(0), dy.dtype(), dy.device());
    k.conv2d_backward_input(b.input(1), dy, window, dx);
    b.add(0, std::move(dx));
  }
  if (b.wants(1)) {
    Tensor dweight = Tensor::empty(b.input_shape(1), dy.dtype(), dy.device());
    k.conv2d_backward_weight(b.input(0), dy, window, dweight);
    b.add(1, std::move(dweight));
  }
  if (b.inputs() == 3 && b.wants(2)) {
    const Shape& s = dy.shape();
    const Tensor each = Tensor::empty({s[0], s[1]}, dy.dtype(), dy.device());
    k.reduce(Reduction::sum, dy, {s[0] * s[1], s[2] * s[3], 1}, each);
    Tensor dbias = Tensor::empty({s[1]}, dy.dtype(), dy.device());
    k.reduce(Reduction::sum, each, {1, s[0], s[1]}, dbias);
    b.add(2, std::move(dbias));
  }
}

std::vector<OperationCase> Conv2d::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& x, const Shape& weight, bool bias, std::int64_t stride,
                       std::int64_t padding) {
    OperationCase c{fmt::format("{} by {} stride {} padding {}", x, weight, stride, padding),
                    {{x}, {weight}},
                    [=](Tape&, std::span<const Var> v) {
                      return conv2d(v[0], v[1], bias ? v[2] : Var(), stride, padding);
                    }};
    if (bias) c.inputs.push_back({{weight[0]}});
    cases.push_back(std::move(c));
  };
  add({2, 2, 4, 5}, {3, 2, 3, 2}, true, 1, 0);
  add({2, 2, 4, 5}, {3, 2, 3, 3}, true, 1, 1);
  add({1, 1, 5, 5}, {2, 1, 2, 2}, false, 2, 0);
  add({2, 1, 5, 4}, {1, 1, 3, 3}, true, 2, 2);
  add({1, 1, 1, 1}, {1, 1, 1, 1}, true, 1, 0);
  add({0, 2, 4, 4}, {3, 2, 3, 3}, true, 1, 1);
  add({2, 2, 2, 2}, {2, 2, 2, 2}, false, 1, 1);
  add({3, 2, 7, 7}, {3, 2, 3, 3}, true, 1, 1);
  return cases;
}

Tensor MaxPool2d::forward(Forward& in, const Attributes& p) {
  require_rank(name, "x", in[0].shape(), 4);
  require_floating(name, in[0]);
  const Window window{p.size, p.size, p.stride, 0};
  const Shape shape = seen_by(name, in[0].shape(), in[0].size(1), window);
  require_numbered(name, in[0].size(2) * in[0].size(3));
  Tensor y = Tensor::empty(shape, in[0].dtype(), in[0].device());
  const Tensor index = Tensor::empty(shape, DType::i32, in[0].device());
  kernels(y.device()).max_pool2d(in[0], window, y, index);
  in.save(index);
  return y;
}

void MaxPool2d::backward(Backward& b, const Attributes&) {
  Tensor dx = Tensor::empty(b.input_shape(0), b.dy().dtype(), b.dy().device());
  kernels(dx.device()).max_pool2d_backward(b.dy(), b.saved(0), dx);
  b.add(0, std::move(dx));
}

void MaxPool2d::cell(std::span<const Tensor> in, const Attributes& p, Cell& cell) {
  const Shape& s = in[0].shape();
  const Shape seen = seen_by(name, s, s[1], {p.size, p.size, p.stride, 0});
  for (std::int64_t plane = 0; plane < s[0] * s[1]; ++plane) {
    for (std::int64_t place = 0; place < seen[2] * seen[3]; ++place) {
      LargestTwo largest;
      for (std::int64_t i = 0; i < p.size * p.size; ++i) {
        const std::int64_t row = place / seen[3] * p.stride + i / p.size;
        const std::int64_t col = place % seen[3] * p.stride + i % p.size;
        largest.add(in[0].at((plane * s[2] + row) * s[3] + col), i);
      }
      largest.report(cell);
    }
  }
}

std::vector<OperationCase> MaxPool2d::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& x, std::int64_t size, std::int64_t stride) {
    cases.push_back(
        {fmt::format("{} window {} stride {}", x, size, stride),
         {{x}},
         [=](Tape&, std::span<const Var> v) { return max_pool2d(v[0], size, stride); }});
  };
  add({2, 2, 4, 4}, 2, 2);
  add({1, 2, 5, 4}, 3, 1);
  add({1, 1, 5, 5}, 2, 3);
  add({1, 1, 1, 1}, 1, 1);
  add({0, 2, 4, 4}, 2, 2);
  add({2, 3, 8, 8}, 2, 2);
  return cases;
}

Var conv2d(Var x, Var weight, Var bias, std::int64_t stride, std::int64_t padding) {
  if (!bias.defined()) return apply<Conv2d>({x, weight}, {stride, padding});
  return apply<Conv2d>({x, weight, bias}, {stride, padding});
}
Var max_pool2d(Var x, std::int64_t size, std::int64_t stride) {
  return apply<MaxPool2d>({x}, {size, stride});
}

}  // namespace moegrad
