#pragma once

#include "autograd/operation.h"
#include "autograd/tape.h"
#include "ops/broadcast.h"
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
Var abs(Var x);
Var sign(Var x);
Var pow(Var x, double exponent);
Var sin(Var x);
Var cos(Var x);

// --- functions of two values, whose shapes meet as in NumPy (ops/broadcast.h)

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
// base^exponent. The derivative in the exponent is NaN for a negative base.
Var pow(Var base, Var exponent);
Var pow(double base, Var exponent);
// The smaller and the larger of two values.
Var minimum(Var a, Var b);
Var maximum(Var a, Var b);

// --- their declarations

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
    const Scalars p = std::is_same_v<F, functor::Clamp> ? Scalars{-0.7, 0.9} : Scalars{1.7, -0.4};
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
  static constexpr Claim claim = requires { F::wall(1.0, 1.0); }
  ? Claim::exact_on_cell : Claim::exact;
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
    with_placed(p, in[0], in[1], [&](const Tensor& a, const Tensor& b) {
      kernels(y.device()).binary(index, p.rows, p.cols, a, p.a, b, p.b, y);
    });
    return y;
  }
  static void backward(Backward& b, const NoAttributes&) {
    const BroadcastPlan p = broadcast(name, b.input_shape(0), b.input_shape(1));
    Tensor d[2];
    if constexpr (std::is_same_v<F, functor::Add>) {
      d[0] = d[1] = b.dy();
    } else {
      const int last = b.wants(1) ? 1 : 0;
      if (last == 1 && b.wants(0)) {
        d[0] = Tensor::empty(p.shape, b.dy().dtype(), b.dy().device());
      }
      d[last] = b.place_of_dy();
      const auto run = [&](const Tensor& x, const Tensor& y) {
        kernels(b.dy().device())
            .binary_backward(index, p.rows, p.cols, x, p.a, y, p.b, b.dy(), d[0], d[1]);
      };
      if constexpr (needs == Needs::inputs) {
        with_placed(p, b.input(0), b.input(1), run);
      } else {
        run(Tensor(), Tensor());
      }
    }
    for (int i = 0; i < 2; ++i) {
      if (b.wants(i)) b.add(i, sum_to(std::move(d[i]), b.input_shape(i)));
    }
  }
  static void cell(std::span<const Tensor> in, const NoAttributes&, Cell& cell) requires requires {
    F::wall(1.0, 1.0);
  }
  {
    // Of a value and itself there is no kink.
    if (in[0].raw() == in[1].raw() && in[0].shape() == in[1].shape()) return;
    const BroadcastPlan p = broadcast(name, in[0].shape(), in[1].shape());
    const Tensor a = spread_over(in[0], p.shape);
    const Tensor b = spread_over(in[1], p.shape);
    for (std::int64_t i = 0; i < a.numel(); ++i) {
      const double wall = F::wall(a.at(i), b.at(i));
      cell.distance(std::abs(wall));
      cell.signature(static_cast<std::uint64_t>(wall > 0.0));
    }
  }
  static std::vector<OperationCase> cases() {
    const Program program = [](Tape&, std::span<const Var> x) {
      return apply<Binary<F>>({x[0], x[1]});
    };
    std::vector<OperationCase> cases;
    const std::pair<Shape, Shape> pairs[] = {{{4, 3}, {4, 3}},
                                             {{4, 3}, {3}},
                                             {{4, 3}, {4, 1}},
                                             {{4, 3}, {}},
                                             {{3}, {4, 3}},
                                             {{4, 1}, {4, 3}},
                                             {{}, {4, 3}},
                                             {{4, 1}, {1, 3}},
                                             {{2, 3, 4}, {4}},
                                             {{0, 3}, {3}},
                                             {{}, {}},
                                             {{0, 3}, {0, 3}},
                                             {{5, 0}, {5, 1}},
                                             {{9, 23}, {9, 23}},
                                             {{2, 3, 4}, {3, 4}},
                                             {{2, 1, 4}, {2, 3, 4}},
                                             {{2, 1, 2}, {3, 1}},
                                             {{1, 3, 1}, {2, 1, 2}},
                                             {{3}, {1, 1}}};
    for (const auto& [a, b] : pairs) {
      cases.push_back({a.str() + " with " + b.str(),
                       {{a, F::kLowA, F::kHighA}, {b, F::kLowB, F::kHighB}},
                       program});
    }
    return cases;
  }
};

}  // namespace moegrad
