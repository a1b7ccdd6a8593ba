#include "ops/reduce.h"

#include <limits>

#include "ops/checks.h"

namespace moegrad {
namespace {

AxisView view_of(const Shape& shape, const ReduceAttributes& p) {
  return p.axis == ReduceAttributes::kAll ? AxisView{1, shape.numel(), 1}
                                          : view_around(shape, p.axis);
}

// An uninitialised tensor of the result's shape.
Tensor result_of(std::string_view operation, const Tensor& x, const ReduceAttributes& p) {
  require_floating(operation, x);
  Shape shape;
  for (int axis = 0; axis < x.rank(); ++axis) {
    if (p.axis == axis && p.keep_axis) shape.push_back(1);
    if (p.axis != axis && p.axis != ReduceAttributes::kAll) shape.push_back(x.size(axis));
  }
  return Tensor::empty(shape, x.dtype(), x.device());
}

void require_elements(std::string_view operation, const Tensor& x, const ReduceAttributes& p) {
  const AxisView view = view_of(x.shape(), p);
  if (view.n == 0 && view.outer * view.inner > 0) {
    fail(operation, "over no elements, of shape {}. Leave empty tensors out.", x.shape());
  }
}

// [outer, n, inner] from [outer, inner].
void spread(Backward& b, const ReduceAttributes& p, double scale) {
  Tensor dx = Tensor::empty(b.input_shape(0), b.dy().dtype(), b.dy().device());
  kernels(dx.device()).expand(b.dy(), scale, view_of(b.input_shape(0), p), dx);
  b.add(0, std::move(dx));
}

using AlongAxis = Var (*)(Var, int, bool);

void add_axis_cases(std::vector<OperationCase>& cases, AlongAxis f) {
  const auto add = [&](const Shape& shape, int axis, bool keep_axis) {
    cases.push_back({fmt::format("{} axis {}{}", shape, axis, keep_axis ? " kept" : ""),
                     {{shape}},
                     [=](Tape&, std::span<const Var> x) { return f(x[0], axis, keep_axis); }});
  };
  add({4, 3}, 0, false);
  add({4, 3}, -1, true);
  add({2, 3, 4}, 1, false);
  add({1}, 0, false);
  add({0, 3}, 1, false);
  add({3, 0, 2}, 0, true);
  add({3, 1}, 1, false);
  add({5, 67}, 1, false);
}

void add_whole_cases(std::vector<OperationCase>& cases, Var (*f)(Var)) {
  for (const Shape& shape : {Shape{4, 3}, Shape{}, Shape{301}}) {
    cases.push_back({shape.str() + " whole", {{shape}}, [=](Tape&, std::span<const Var> x) {
                       return f(x[0]);
                     }});
  }
}

ReduceAttributes along(std::string_view operation, Var x, int axis, bool keep_axis) {
  return {checked_axis(operation, x.shape(), axis), keep_axis};
}

}  // namespace

Tensor Sum::forward(Forward& in, const Attributes& p) {
  Tensor y = result_of(name, in[0], p);
  kernels(y.device()).reduce(Reduction::sum, in[0], view_of(in[0].shape(), p), y);
  return y;
}
void Sum::backward(Backward& b, const Attributes& p) { spread(b, p, 1.0); }
std::vector<OperationCase> Sum::cases() {
  std::vector<OperationCase> cases;
  add_whole_cases(cases, &sum);
  add_axis_cases(cases, &sum);
  cases.push_back(
      {"[0, 3] axis 0", {{{0, 3}}}, [](Tape&, std::span<const Var> x) { return sum(x[0], 0); }});
  return cases;
}

Tensor Mean::forward(Forward& in, const Attributes& p) {
  Tensor y = result_of(name, in[0], p);
  require_elements(name, in[0], p);
  const AxisView view = view_of(in[0].shape(), p);
  Tensor total = Tensor::empty(y.shape(), y.dtype(), y.device());
  kernels(y.device()).reduce(Reduction::sum, in[0], view, total);
  kernels(y.device()).expand(total, 1.0 / static_cast<double>(view.n), {1, 1, y.numel()}, y);
  return y;
}
void Mean::backward(Backward& b, const Attributes& p) {
  spread(b, p, 1.0 / static_cast<double>(view_of(b.input_shape(0), p).n));
}
std::vector<OperationCase> Mean::cases() {
  std::vector<OperationCase> cases;
  add_whole_cases(cases, &mean);
  add_axis_cases(cases, &mean);
  return cases;
}

Tensor Max::forward(Forward& in, const Attributes& p) {
  Tensor y = result_of(name, in[0], p);
  require_elements(name, in[0], p);
  const AxisView view = view_of(in[0].shape(), p);
  require_numbered(name, view.n);
  kernels(y.device()).reduce(Reduction::max, in[0], view, y);
  if (in.saves()) {
    Tensor index = Tensor::empty(y.shape(), DType::i32, y.device());
    kernels(y.device()).argmax(in[0], view, index);
    in.save(index);
  }
  return y;
}
void Max::backward(Backward& b, const Attributes& p) {
  Tensor dx = Tensor::empty(b.input_shape(0), b.dy().dtype(), b.dy().device());
  kernels(dx.device()).place(b.dy(), b.saved(0), view_of(b.input_shape(0), p), dx);
  b.add(0, std::move(dx));
}
void Max::cell(std::span<const Tensor> in, const Attributes& p, Cell& cell) {
  const AxisView view = view_of(in[0].shape(), p);
  for (std::int64_t o = 0; o < view.outer; ++o) {
    for (std::int64_t i = 0; i < view.inner; ++i) {
      LargestTwo largest;
      for (std::int64_t j = 0; j < view.n; ++j) {
        largest.add(in[0].at((o * view.n + j) * view.inner + i), j);
      }
      largest.report(cell);
    }
  }
}
std::vector<OperationCase> Max::cases() {
  std::vector<OperationCase> cases;
  add_axis_cases(cases, &max);
  return cases;
}

Tensor LogSumExp::forward(Forward& in, const Attributes& p) {
  Tensor y = result_of(name, in[0], p);
  kernels(y.device()).reduce(Reduction::logsumexp, in[0], view_of(in[0].shape(), p), y);
  return y;
}
void LogSumExp::backward(Backward& b, const Attributes& p) {
  Tensor dx = Tensor::empty(b.input_shape(0), b.dy().dtype(), b.dy().device());
  kernels(dx.device())
      .logsumexp_backward(b.input(0), b.output(), b.dy(), view_of(b.input_shape(0), p), dx);
  b.add(0, std::move(dx));
}
std::vector<OperationCase> LogSumExp::cases() {
  std::vector<OperationCase> cases;
  add_axis_cases(cases, &logsumexp);
  return cases;
}

Tensor Norm::forward(Forward& in, const Attributes& p) {
  Tensor y = result_of(name, in[0], p);
  kernels(y.device()).norm(in[0], view_of(in[0].shape(), p), y);
  return y;
}
void Norm::backward(Backward& b, const Attributes& p) {
  Tensor dx = Tensor::empty(b.input_shape(0), b.dy().dtype(), b.dy().device());
  kernels(dx.device())
      .norm_backward(b.input(0), b.output(), b.dy(), view_of(b.input_shape(0), p), dx);
  b.add(0, std::move(dx));
}
// A line's kink is where all of it is 0; a line of one element also changes its sign there.
void Norm::cell(std::span<const Tensor> in, const Attributes& p, Cell& cell) {
  const AxisView view = view_of(in[0].shape(), p);
  const Tensor y = Tensor::empty({view.outer, view.inner}, in[0].dtype(), in[0].device());
  kernels(y.device()).norm(in[0], view, y);
  for (std::int64_t line = 0; line < y.numel(); ++line) {
    cell.distance(y.at(line));
    const bool positive = view.n == 1 && in[0].at(line) > 0.0;
    cell.signature(static_cast<std::uint64_t>(y.at(line) > 0.0) | (positive ? 2U : 0U));
  }
}
std::vector<OperationCase> Norm::cases() {
  std::vector<OperationCase> cases;
  add_whole_cases(cases, &norm);
  add_axis_cases(cases, &norm);
  return cases;
}

Tensor CumulativeSum::forward(Forward& in, const Attributes& p) {
  require_floating(name, in[0]);
  Tensor y = Tensor::empty(in[0].shape(), in[0].dtype(), in[0].device());
  kernels(y.device()).cumulative_sum(in[0], view_around(in[0].shape(), p.axis), false, y);
  return y;
}
void CumulativeSum::backward(Backward& b, const Attributes& p) {
  Tensor dx = Tensor::empty(b.dy().shape(), b.dy().dtype(), b.dy().device());
  kernels(dx.device()).cumulative_sum(b.dy(), view_around(b.dy().shape(), p.axis), true, dx);
  b.add(0, std::move(dx));
}
std::vector<OperationCase> CumulativeSum::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& shape, int axis) {
    cases.push_back({fmt::format("{} axis {}", shape, axis),
                     {{shape}},
                     [=](Tape&, std::span<const Var> x) { return cumulative_sum(x[0], axis); }});
  };
  add({4, 3}, 0);
  add({4, 3}, -1);
  add({2, 3, 4}, 1);
  add({1}, 0);
  add({0, 3}, 0);
  add({3, 0, 2}, 2);
  add({3, 1}, 1);
  add({5, 67}, 1);
  return cases;
}

Var sum(Var x) { return apply<Sum>({x}); }
Var mean(Var x) { return apply<Mean>({x}); }
Var sum(Var x, int axis, bool keep_axis) {
  return apply<Sum>({x}, along(Sum::name, x, axis, keep_axis));
}
Var mean(Var x, int axis, bool keep_axis) {
  return apply<Mean>({x}, along(Mean::name, x, axis, keep_axis));
}
Var max(Var x, int axis, bool keep_axis) {
  return apply<Max>({x}, along(Max::name, x, axis, keep_axis));
}
Var logsumexp(Var x, int axis, bool keep_axis) {
  return apply<LogSumExp>({x}, along(LogSumExp::name, x, axis, keep_axis));
}
Var norm(Var x) { return apply<Norm>({x}); }
Var norm(Var x, int axis, bool keep_axis) {
  return apply<Norm>({x}, along(Norm::name, x, axis, keep_axis));
}
Var cumulative_sum(Var x, int axis) {
  return apply<CumulativeSum>({x}, {checked_axis(CumulativeSum::name, x.shape(), axis)});
}

}  // namespace moegrad
