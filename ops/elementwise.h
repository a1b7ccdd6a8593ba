#pragma once

#include "autograd/operation_check.h"
#include "autograd/tape.h"
#include "tensor/kernels.h"

namespace moegrad {

// --- functions of one value, element by element; formulas in tensor/elementwise.h

Var operator-(Var x);
Var affine(Var x, double scale, double shift);  // scale x + shift
Var exp(Var x);
Var log(Var x);
Var sqrt(Var x);
Var square(Var x);
Var tanh(Var x);
Var sigmoid(Var x);
Var relu(Var x);
Var gelu(Var x);       // with erf
Var gelu_tanh(Var x);  // the approximation by tanh
Var silu(Var x);
Var softplus(Var x);
Var erf(Var x);
Var clamp(Var x, double low, double high);

// --- functions of two values. Shapes are equal, or one operand is broadcast over the other: a row
// [C] (or [1, C]) over [..., C], a column [..., 1] over [..., C], a scalar over anything; a column
// [R, 1] with a row [1, C] gives [R, C]. Anything else is an Error.

Var operator+(Var a, Var b);
Var operator-(Var a, Var b);
Var operator*(Var a, Var b);
Var operator/(Var a, Var b);
Var operator+(Var a, double b);
Var operator*(Var a, double b);
inline Var operator+(double a, Var b) { return b + a; }
inline Var operator*(double a, Var b) { return b * a; }
Var operator-(Var a, double b);
Var operator-(double a, Var b);
Var operator/(Var a, double b);
Var squared_difference(Var a, Var b);
// softplus(logit) - logit * target
Var binary_cross_entropy(Var logit, Var target);

// --- their declarations

// How two operands meet: the result as rows x cols, and each operand's place in it.
struct BroadcastPlan {
  Shape shape;
  std::int64_t rows = 1;
  std::int64_t cols = 1;
  Layout a, b;
};
// Throws `[operation] ...` where the shapes do not meet.
BroadcastPlan broadcast(std::string_view operation, const Shape& a, const Shape& b);
// Sums d [rows, cols] over the places that an operand of this layout was read from.
Tensor sum_to(Tensor&& d, const Shape& shape, const Layout& layout, std::int64_t rows,
              std::int64_t cols);

template <class F>
struct Unary {
  static constexpr std::string_view name = F::name;
  static constexpr std::string_view summary = F::summary;
  static constexpr Claim claim = requires { F::wall(1.0, Scalars{}); }
  ? Claim::exact_on_cell : Claim::exact;
  static constexpr Needs needs = F::kNeeds;
  static constexpr int index = UnaryFunctors::index_of<F>();
  using Attributes = Scalars;

  static Tensor forward(Forward& in, const Scalars& p) {
    Tensor y = Tensor::empty(in[0].shape(), in[0].dtype(), in[0].device());
    kernels(y.device()).unary(index, p, in[0], y);
    return y;
  }
  static void backward(Backward& b, const Scalars& p) {
    const bool reads_x = needs == Needs::inputs || needs == Needs::inputs_and_output;
    const bool reads_y = needs == Needs::output || needs == Needs::inputs_and_output;
    const Tensor none;
    const Tensor& x = reads_x ? b.input(0) : none;
    const Tensor& y = reads_y ? b.output() : none;
    Tensor dx = Tensor::empty(b.dy().shape(), b.dy().dtype(), b.dy().device());
    kernels(dx.device()).unary_backward(index, p, x, y, b.dy(), dx);
    b.add(0, std::move(dx));
  }
  static void cell(std::span<const Tensor> in, const Scalars& p, Cell& cell) requires requires {
    F::wall(1.0, Scalars{});
  }
  {
    for (std::int64_t i = 0; i < in[0].numel(); ++i) {
      cell.distance(F::wall(in[0].at(i), p));
      cell.signature(static_cast<std::uint64_t>(F::side(in[0].at(i), p)));
    }
  }
  static std::vector<OperationCase> cases() {
    const Scalars p = std::is_same_v<F, functor::Clamp>    ? Scalars{-0.7, 0.9}
                      : std::is_same_v<F, functor::Affine> ? Scalars{1.7, -0.4}
                                                           : Scalars{};
    const Program program = [p](Tape&, std::span<const Var> x) {
      return apply<Unary<F>>({x[0]}, p);
    };
    std::vector<OperationCase> cases;
    for (const Shape& shape : {Shape{5, 3}, Shape{}, Shape{0, 4}, Shape{7, 37}}) {
      cases.push_back({shape.str(), {{shape, F::kLow, F::kHigh}}, program});
    }
    return cases;
  }
};

template <class F>
struct Binary {
  static constexpr std::string_view name = F::name;
  static constexpr std::string_view summary = F::summary;
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = F::kNeeds;
  static constexpr int index = BinaryFunctors::index_of<F>();
  using Attributes = NoAttributes;

  static Tensor forward(Forward& in, const NoAttributes&) {
    const BroadcastPlan p = broadcast(name, in[0].shape(), in[1].shape());
    Tensor y = Tensor::empty(p.shape, in[0].dtype(), in[0].device());
    if (in[0].dtype() != in[1].dtype()) {
      fail(name, "operands are {} and {}. Convert one of them.", name_of(in[0].dtype()),
           name_of(in[1].dtype()));
    }
    kernels(y.device()).binary(index, p.rows, p.cols, in[0], p.a, in[1], p.b, y);
    return y;
  }
  static void backward(Backward& b, const NoAttributes&) {
    const BroadcastPlan p = broadcast(name, b.input_shape(0), b.input_shape(1));
    const Tensor none;
    const Tensor& a_value = needs == Needs::inputs ? b.input(0) : none;
    const Tensor& b_value = needs == Needs::inputs ? b.input(1) : none;
    Tensor d[2];
    if constexpr (std::is_same_v<F, functor::Add>) {
      d[0] = d[1] = b.dy();
    } else {
      const int last = b.wants(1) ? 1 : 0;
      if (last == 1 && b.wants(0)) {
        d[0] = Tensor::empty(p.shape, b.dy().dtype(), b.dy().device());
      }
      d[last] = b.place_of_dy();
      kernels(b.dy().device())
          .binary_backward(index, p.rows, p.cols, a_value, p.a, b_value, p.b, b.dy(), d[0], d[1]);
    }
    for (int i = 0; i < 2; ++i) {
      if (!b.wants(i)) continue;
      b.add(i, sum_to(std::move(d[i]), b.input_shape(i), i == 0 ? p.a : p.b, p.rows, p.cols));
    }
  }
  static std::vector<OperationCase> cases() {
    const Program program = [](Tape&, std::span<const Var> x) {
      return apply<Binary<F>>({x[0], x[1]});
    };
    std::vector<OperationCase> cases;
    const std::pair<Shape, Shape> pairs[] = {
        {{4, 3}, {4, 3}}, {{4, 3}, {3}},    {{4, 3}, {4, 1}}, {{4, 3}, {}},      {{3}, {4, 3}},
        {{4, 1}, {4, 3}}, {{}, {4, 3}},     {{4, 1}, {1, 3}}, {{2, 3, 4}, {4}},  {{0, 3}, {3}},
        {{}, {}},         {{0, 3}, {0, 3}}, {{5, 0}, {5, 1}}, {{9, 23}, {9, 23}}};
    for (const auto& [a, b] : pairs) {
      cases.push_back({a.str() + " with " + b.str(),
                       {{a, F::kLowA, F::kHighA}, {b, F::kLowB, F::kHighB}},
                       program});
    }
    return cases;
  }
};

}  // namespace moegrad
