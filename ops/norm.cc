#include "ops/norm.h"

#include "ops/checks.h"

namespace moegrad {
namespace {

void require_row(std::string_view operation, std::string_view what, const Tensor& x,
                 const Tensor& row) {
  require_same_dtype(operation, x, row);
  if (!(row.shape() == Shape{x.shape().back()})) {
    fail(operation, "{} has shape {} for rows of x {}. Give it shape [{}].", what, row.shape(),
         x.shape(), x.shape().back());
  }
}

void require_rows(std::string_view operation, const Tensor& x, double epsilon) {
  require_floating(operation, x);
  if (x.rank() == 0 || x.shape().back() == 0) {
    fail(operation, "x has shape {}. Its last axis is normalised and needs elements.", x.shape());
  }
  if (!(epsilon >= 0.0)) fail(operation, "epsilon is {}. Use 0 or more.", epsilon);
}

// x as rows [R, C], as the kernels see it.
Tensor rows_of(const Tensor& x) {
  const AxisView view = as_rows(x.shape());
  return x.reshape({view.outer, view.n});
}

Tensor like(const Tensor& x) { return Tensor::empty(x.shape(), x.dtype(), x.device()); }

}  // namespace

Tensor LayerNorm::forward(Forward& in, const Attributes& p) {
  require_rows(name, in[0], p.epsilon);
  require_row(name, "scale", in[0], in[1]);
  require_row(name, "shift", in[0], in[2]);
  const Tensor x = rows_of(in[0]);
  Tensor y = like(x);
  const Tensor mean = Tensor::empty({x.size(0)}, x.dtype(), x.device());
  const Tensor rstd = like(mean);
  kernels(x.device()).layer_norm(x, in[1], in[2], p.epsilon, y, mean, rstd);
  in.save(mean);
  in.save(rstd);
  return y.reshape(in[0].shape());
}

void LayerNorm::backward(Backward& b, const Attributes&) {
  const Tensor x = rows_of(b.input(0));
  const Tensor dx = like(x);
  Tensor dscale = like(b.input(1));
  Tensor dshift = like(dscale);
  kernels(x.device())
      .layer_norm_backward(x, b.input(1), b.saved(0), b.saved(1), rows_of(b.dy()), dx, dscale,
                           dshift);
  b.add(0, dx.reshape(b.input_shape(0)));
  b.add(1, std::move(dscale));
  b.add(2, std::move(dshift));
}

std::vector<OperationCase> LayerNorm::cases() {
  std::vector<OperationCase> cases;
  for (const Shape& shape :
       {Shape{4, 5}, Shape{2, 3, 4}, Shape{3}, Shape{1, 1}, Shape{0, 3}, Shape{9, 23}}) {
    const Shape row{shape.back()};
    cases.push_back({shape.str(), {{shape}, {row}, {row}}, [](Tape&, std::span<const Var> x) {
                       return layer_norm(x[0], x[1], x[2]);
                     }});
  }
  cases.push_back(
      {"[3, 4] epsilon 0.5", {{{3, 4}}, {{4}}, {{4}}}, [](Tape&, std::span<const Var> x) {
         return layer_norm(x[0], x[1], x[2], 0.5);
       }});
  return cases;
}

Tensor RmsNorm::forward(Forward& in, const Attributes& p) {
  require_rows(name, in[0], p.epsilon);
  require_row(name, "scale", in[0], in[1]);
  const Tensor x = rows_of(in[0]);
  const Tensor y = like(x);
  const Tensor rstd = Tensor::empty({x.size(0)}, x.dtype(), x.device());
  kernels(x.device()).rms_norm(x, in[1], p.epsilon, y, rstd);
  in.save(rstd);
  return y.reshape(in[0].shape());
}

void RmsNorm::backward(Backward& b, const Attributes&) {
  const Tensor x = rows_of(b.input(0));
  const Tensor dx = like(x);
  Tensor dscale = like(b.input(1));
  kernels(x.device()).rms_norm_backward(x, b.input(1), b.saved(0), rows_of(b.dy()), dx, dscale);
  b.add(0, dx.reshape(b.input_shape(0)));
  b.add(1, std::move(dscale));
}

std::vector<OperationCase> RmsNorm::cases() {
  std::vector<OperationCase> cases;
  for (const Shape& shape : {Shape{4, 5}, Shape{2, 3, 4}, Shape{3}, Shape{0, 3}, Shape{9, 23}}) {
    cases.push_back({shape.str(), {{shape}, {{shape.back()}}}, [](Tape&, std::span<const Var> x) {
                       return rms_norm(x[0], x[1]);
                     }});
  }
  // One element alone has a gradient of the size of epsilon.
  for (const Shape& shape : {Shape{3, 4}, Shape{1, 1}}) {
    cases.push_back({shape.str() + " epsilon 0.5",
                     {{shape}, {{shape.back()}}},
                     [](Tape&, std::span<const Var> x) { return rms_norm(x[0], x[1], 0.5); }});
  }
  return cases;
}

Var layer_norm(Var x, Var scale, Var shift, double epsilon) {
  return apply<LayerNorm>({x, scale, shift}, {epsilon});
}
Var rms_norm(Var x, Var scale, double epsilon) { return apply<RmsNorm>({x, scale}, {epsilon}); }

}  // namespace moegrad
