#include "ops/rotary.h"

#include "ops/checks.h"
#include "ops/elementwise.h"
#include "ops/shape.h"

namespace moegrad {
namespace {

Tensor turned_by(const Tensor& x, const Tensor& cos, const Tensor& sin, bool back) {
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  const AxisView view = as_rows(x.shape());
  const Shape rows{view.outer, view.n};
  kernels(x.device()).rotate(x.reshape(rows), cos, sin, back, y.reshape(rows));
  return y;
}

}  // namespace

Tensor Rotary::forward(Forward& in, const Attributes&) {
  const Tensor& x = in[0];
  require_floating(name, x);
  const Shape& shape = x.shape();
  if (x.rank() < 2 || shape.back() % 2 != 0) {
    fail(name, "x has shape {}. Give it as [.., L, d] with an even d.", shape);
  }
  for (std::size_t i = 1; i < 3; ++i) {
    require_same_dtype(name, x, in[i]);
    if (!(in[i].shape() == Shape{shape[x.rank() - 2], shape.back()})) {
      fail(name, "cos and sin have shapes {} and {} for x {}. Give both as [{}, {}].",
           in[1].shape(), in[2].shape(), shape, shape[x.rank() - 2], shape.back());
    }
  }
  in.save(in[1]);
  in.save(in[2]);
  return turned_by(x, in[1], in[2], false);
}

void Rotary::backward(Backward& b, const Attributes&) {
  b.add(0, turned_by(b.dy(), b.saved(0), b.saved(1), true));
}

std::vector<OperationCase> Rotary::cases() {
  std::vector<OperationCase> cases;
  const auto table = [](const Shape& x, std::uint64_t stream) {
    return Rng{5, stream, 0}.uniform({x[x.rank() - 2], x.back()}, DType::f64, -1.0, 1.0);
  };
  const auto rotated = [=](Var x) {
    const DType dtype = x.value().dtype();
    return rotary(x, table(x.shape(), 1).to(dtype), table(x.shape(), 2).to(dtype));
  };
  const auto written_out = [=](Tape& tape, std::span<const Var> in) {
    const Var x = in[0];
    const auto constant = [&](std::uint64_t stream) {
      return tape.constant(table(x.shape(), stream).to(x.value().dtype()).to(x.value().device()));
    };
    const std::int64_t half = x.shape().back() / 2;
    const Var turned = concat({-slice(x, -1, half, 2 * half), slice(x, -1, 0, half)}, -1);
    return x * constant(1) + turned * constant(2);
  };
  for (const Shape& s : {Shape{2, 5, 4}, Shape{3, 2}, Shape{2, 3, 4, 6}, Shape{1, 1, 2},
                         Shape{2, 0, 4}, Shape{2, 3, 0}, Shape{0, 3, 2}, Shape{2, 17, 34}}) {
    cases.push_back({s.str(),
                     {{s}},
                     [=](Tape&, std::span<const Var> x) { return rotated(x[0]); },
                     written_out});
  }
  cases.push_back({"a number and its square", {{{1, 1}}}, [=](Tape&, std::span<const Var> x) {
                     return rotated(concat({x[0], square(x[0])}, 1));
                   }});
  return cases;
}

Var rotary(Var x, const Tensor& cos, const Tensor& sin) {
  return apply<Rotary>({x, index_for(x, cos), index_for(x, sin)});
}

}  // namespace moegrad
