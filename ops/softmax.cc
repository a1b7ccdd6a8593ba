#include "ops/softmax.h"

#include "ops/checks.h"

namespace moegrad {
namespace {

std::vector<OperationCase> cases_of(Var (*f)(Var, int)) {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& shape, int axis, double low, double high) {
    cases.push_back({fmt::format("{} axis {} in {} to {}", shape, axis, low, high),
                     {{shape, low, high}},
                     [=](Tape&, std::span<const Var> x) { return f(x[0], axis); }});
  };
  add({4, 5}, -1, -2, 2);
  add({4, 5}, 0, -2, 2);
  add({2, 3, 4}, 1, -2, 2);
  add({3, 4}, -1, 100, 104);  // e^x alone would overflow in f32
  add({1}, 0, -2, 2);
  add({3, 1}, -1, -2, 2);
  add({0, 4}, -1, -2, 2);
  add({4, 0}, -1, -2, 2);
  add({7, 41}, -1, -2, 2);
  return cases;
}

}  // namespace

Tensor Softmax::forward(Forward& in, const Attributes& p) {
  require_floating(name, in[0]);
  Tensor y = Tensor::empty(in[0].shape(), in[0].dtype(), in[0].device());
  kernels(y.device()).softmax(in[0], view_around(y.shape(), p.axis), y);
  return y;
}
void Softmax::backward(Backward& b, const Attributes& p) {
  Tensor dx = Tensor::empty(b.dy().shape(), b.dy().dtype(), b.dy().device());
  kernels(dx.device()).softmax_backward(b.output(), b.dy(), view_around(dx.shape(), p.axis), dx);
  b.add(0, std::move(dx));
}
std::vector<OperationCase> Softmax::cases() { return cases_of(&softmax); }

Tensor LogSoftmax::forward(Forward& in, const Attributes& p) {
  require_floating(name, in[0]);
  Tensor y = Tensor::empty(in[0].shape(), in[0].dtype(), in[0].device());
  kernels(y.device()).log_softmax(in[0], view_around(y.shape(), p.axis), y);
  return y;
}
void LogSoftmax::backward(Backward& b, const Attributes& p) {
  Tensor dx = Tensor::empty(b.dy().shape(), b.dy().dtype(), b.dy().device());
  kernels(dx.device())
      .log_softmax_backward(b.output(), b.dy(), view_around(dx.shape(), p.axis), dx);
  b.add(0, std::move(dx));
}
std::vector<OperationCase> LogSoftmax::cases() { return cases_of(&log_softmax); }

Var softmax(Var x, int axis) {
  return apply<Softmax>({x}, {checked_axis(Softmax::name, x.shape(), axis)});
}
Var log_softmax(Var x, int axis) {
  return apply<LogSoftmax>({x}, {checked_axis(LogSoftmax::name, x.shape(), axis)});
}

}  // namespace moegrad
