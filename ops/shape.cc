#include "ops/shape.h"

#include <utility>

#include "ops/checks.h"

namespace moegrad {

Tensor Reshape::forward(Forward& in, const Shape& shape) { return in[0].reshape(shape); }
void Reshape::backward(Backward& b, const Shape&) { b.add(0, b.dy().reshape(b.input_shape(0))); }
std::vector<OperationCase> Reshape::cases() {
  std::vector<OperationCase> cases;
  const std::pair<Shape, Shape> pairs[] = {
      {{4, 3}, {2, 6}}, {{2, 3, 4}, {24}}, {{}, {1, 1}}, {{0, 3}, {3, 0, 2}}, {{15, 20}, {300}}};
  for (const auto& [from, to] : pairs) {
    cases.push_back({from.str() + " to " + to.str(),
                     {{from}},
                     [shape = to](Tape&, std::span<const Var> x) { return reshape(x[0], shape); }});
  }
  return cases;
}

namespace {

// x with the two axes exchanged.
Tensor swapped(const Tensor& x, int first, int second) {
  Shape shape = x.shape();
  std::swap(shape[first], shape[second]);
  Tensor y = Tensor::empty(shape, x.dtype(), x.device());
  const Shape& s = x.shape();
  if (first == second) {
    kernels(x.device()).copy(x, y);
  } else {
    kernels(x.device())
        .swap_axes(x, s.product(0, first), s[first], s.product(first + 1, second), s[second],
                   s.product(second + 1, s.rank()), y);
  }
  return y;
}

}  // namespace

Tensor Transpose::forward(Forward& in, const Attributes& p) {
  return swapped(in[0], p.first, p.second);
}
void Transpose::backward(Backward& b, const Attributes& p) {
  b.add(0, swapped(b.dy(), p.first, p.second));
}
std::vector<OperationCase> Transpose::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& shape, int axis_a, int axis_b) {
    cases.push_back(
        {fmt::format("{} axes {} and {}", shape, axis_a, axis_b),
         {{shape}},
         [=](Tape&, std::span<const Var> x) { return transpose(x[0], axis_a, axis_b); }});
  };
  add({4, 3}, -2, -1);
  add({2, 3, 4}, 0, 2);
  add({2, 3, 4}, 1, 0);
  add({2, 3, 2, 3}, 1, 3);
  add({1, 1}, 0, 1);
  add({3}, 0, 0);
  add({0, 3}, 0, 1);
  add({17, 19}, 0, 1);
  return cases;
}

Tensor Concat::forward(Forward& in, const Attributes& p) {
  Shape shape = in[0].shape();
  shape[p.axis] = 0;
  for (std::size_t i = 0; i < in.size(); ++i) {
    require_same_dtype(name, in[0], in[i]);
    Shape same_but_axis = in[i].shape();
    bool agrees = same_but_axis.rank() == shape.rank();
    if (agrees) same_but_axis[p.axis] = shape[p.axis];
    agrees = agrees && same_but_axis == shape;
    if (!agrees) {
      fail(name, "part {} has shape {} and part 0 {}. Only the sizes of axis {} may differ.", i,
           in[i].shape(), in[0].shape(), p.axis);
    }
    if (__builtin_add_overflow(shape[p.axis], in[i].size(p.axis), &shape[p.axis])) {
      fail(name, "the sizes of axis {} add up to more than 64 bits hold. Use fewer parts.", p.axis);
    }
  }
  Tensor y = Tensor::empty(shape, in[0].dtype(), in[0].device());
  const AxisView all = view_around(shape, p.axis);
  std::int64_t place = 0;
  for (std::size_t i = 0; i < in.size(); ++i) {
    const std::int64_t length = in[i].size(p.axis) * all.inner;
    kernels(y.device())
        .copy_block(in[i], 0, length, all.outer, length, place, all.n * all.inner, y);
    place += length;
  }
  return y;
}
void Concat::backward(Backward& b, const Attributes& p) {
  const AxisView all = view_around(b.dy().shape(), p.axis);
  std::int64_t place = 0;
  for (int i = 0; i < b.inputs(); ++i) {
    const Shape& shape = b.input_shape(i);
    const std::int64_t length = shape[p.axis] * all.inner;
    if (b.wants(i)) {
      Tensor dx = Tensor::empty(shape, b.dy().dtype(), b.dy().device());
      kernels(dx.device())
          .copy_block(b.dy(), place, all.n * all.inner, all.outer, length, 0, length, dx);
      b.add(i, std::move(dx));
    }
    place += length;
  }
}
std::vector<OperationCase> Concat::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const std::vector<Shape>& shapes, int axis) {
    OperationCase c{fmt::format("axis {}", axis), {}, [=](Tape&, std::span<const Var> x) {
                      return concat(x, axis);
                    }};
    for (const Shape& shape : shapes) {
      c.label += " " + shape.str();
      c.inputs.push_back({shape});
    }
    cases.push_back(std::move(c));
  };
  add({{2, 3}, {4, 3}}, 0);
  add({{2, 3}, {2, 1}, {2, 3}}, -1);
  add({{2, 1, 3}, {2, 2, 3}}, 1);
  add({{2, 3}, {0, 3}}, 0);
  add({{0}, {0}}, 0);
  add({{1}, {1}}, 0);
  add({{2, 2}}, 0);
  add({{21, 10}, {21, 3}}, 1);
  return cases;
}

Tensor Slice::forward(Forward& in, const Attributes& p) {
  Shape shape = in[0].shape();
  const AxisView all = view_around(shape, p.axis);
  shape[p.axis] = p.end - p.begin;
  Tensor y = Tensor::empty(shape, in[0].dtype(), in[0].device());
  const std::int64_t length = shape[p.axis] * all.inner;
  kernels(y.device())
      .copy_block(in[0], p.begin * all.inner, all.n * all.inner, all.outer, length, 0, length, y);
  return y;
}
void Slice::backward(Backward& b, const Attributes& p) {
  const Shape& shape = b.input_shape(0);
  const AxisView all = view_around(shape, p.axis);
  Tensor dx = Tensor::zeros(shape, b.dy().dtype(), b.dy().device());
  const std::int64_t length = (p.end - p.begin) * all.inner;
  kernels(dx.device())
      .copy_block(b.dy(), 0, length, all.outer, length, p.begin * all.inner, all.n * all.inner, dx);
  b.add(0, std::move(dx));
}
std::vector<OperationCase> Slice::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& shape, int axis, std::int64_t begin, std::int64_t end) {
    cases.push_back({fmt::format("{} axis {} from {} to {}", shape, axis, begin, end),
                     {{shape}},
                     [=](Tape&, std::span<const Var> x) { return slice(x[0], axis, begin, end); }});
  };
  add({5, 3}, 0, 1, 4);
  add({3, 5}, -1, 2, 5);
  add({2, 4, 3}, 1, 1, 2);
  add({4, 3}, 0, 0, 4);
  add({4, 3}, 0, 2, 2);
  add({1}, 0, 0, 1);
  add({0, 3}, 1, 0, 2);
  add({21, 13}, 1, 3, 11);
  return cases;
}

Var reshape(Var x, const Shape& shape) { return apply<Reshape>({x}, shape); }

Var transpose(Var x, int axis_a, int axis_b) {
  const int a = checked_axis(Transpose::name, x.shape(), axis_a);
  const int b = checked_axis(Transpose::name, x.shape(), axis_b);
  return apply<Transpose>({x}, {std::min(a, b), std::max(a, b)});
}

Var concat(std::span<const Var> parts, int axis) {
  if (parts.empty()) fail(Concat::name, "no parts were given. Give at least one.");
  return apply<Concat>(parts, {checked_axis(Concat::name, parts[0].shape(), axis)});
}

Var slice(Var x, int axis, std::int64_t begin, std::int64_t end) {
  const int a = checked_axis(Slice::name, x.shape(), axis);
  if (begin < 0 || begin > end || end > x.size(a)) {
    fail(Slice::name, "[{}, {}) of axis {} of shape {}. Stay within 0 to {}.", begin, end, a,
         x.shape(), x.size(a));
  }
  return apply<Slice>({x}, {a, begin, end});
}

std::vector<Var> split(Var x, std::span<const std::int64_t> sizes, int axis) {
  const int a = checked_axis("split", x.shape(), axis);
  std::int64_t total = 0;
  for (const std::int64_t size : sizes) {
    if (size < 0) fail("split", "a size is {}. Sizes are 0 or more.", size);
    if (__builtin_add_overflow(total, size, &total)) {
      fail("split", "the sizes add up to more than 64 bits hold. Use smaller ones.");
    }
  }
  if (total != x.size(a)) {
    fail("split", "the sizes add up to {} and axis {} of shape {} has {}. They must agree.", total,
         a, x.shape(), x.size(a));
  }
  std::vector<Var> parts;
  parts.reserve(sizes.size());
  std::int64_t begin = 0;
  for (const std::int64_t size : sizes) {
    parts.push_back(slice(x, a, begin, begin + size));
    begin += size;
  }
  return parts;
}

}  // namespace moegrad
