#include "ops/select.h"

#include <algorithm>

#include "ops/broadcast.h"
#include "ops/checks.h"
#include "ops/elementwise.h"
#include "ops/index.h"

namespace moegrad {
namespace {

// The smallest gap between neighbours in the order of the k largest of a row and the next one.
void report_margin(const Tensor& x, std::int64_t k, Cell& cell) {
  const std::int64_t rows = x.size(0);
  const std::int64_t cols = x.size(1);
  const std::int64_t seen = std::min(k + 1, cols);
  const Tensor index = Tensor::empty({rows, seen}, DType::i32, x.device());
  kernels(x.device()).top_k(x, seen, index);
  const Tensor places = index.to(Device::cpu);
  const Tensor values = x.to(Device::cpu);
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int32_t* const place = places.data<std::int32_t>() + row * seen;
    for (std::int64_t j = 1; j < seen; ++j) {
      cell.distance(values.at(row * cols + place[j - 1]) - values.at(row * cols + place[j]));
    }
  }
}

// How the operands lie over the condition.
BroadcastPlan over_condition(const Shape& condition, const Shape& a, const Shape& b) {
  for (const Shape& operand : {a, b}) {
    if (broadcast(Where::name, condition, operand).shape == condition) continue;
    fail(Where::name, "an operand has shape {} and the condition {}. The condition must span it.",
         operand, condition);
  }
  return laid_over(condition, a, b);
}

}  // namespace

Tensor top_k_indices(Var x, std::int64_t k, std::string_view kind) {
  require_rank("top_k", "x", x.shape(), 2);
  if (k < 1 || k > x.size(1)) {
    fail("top_k", "k is {} for rows of {} elements. Use 1 to {}.", k, x.size(1), x.size(1));
  }
  require_numbered("top_k", x.size(1));
  Tape& tape = x.tape();
  if (tape.options().track_cell && tape.decisions().mode() != Decisions::Mode::replay) {
    report_margin(x.value(), k, tape.cell());
  }
  return tape.decisions().decide(kind, DType::i32, {x.size(0), k}, [&] {
    const Tensor value = x.value();
    require_floating("top_k", value);
    Tensor index = Tensor::empty({value.size(0), k}, DType::i32, value.device());
    kernels(value.device()).top_k(value, k, index);
    return index;
  });
}

TopK top_k(Var x, std::int64_t k) {
  const Tensor indices = top_k_indices(x, k);
  return {take_columns(x, indices), indices};
}

std::vector<OperationCase> TopKValues::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& shape, std::int64_t k) {
    cases.push_back({fmt::format("{} of {}", k, shape),
                     {{shape}},
                     [=](Tape&, std::span<const Var> x) { return top_k(x[0], k).values; }});
  };
  add({4, 5}, 2);
  add({3, 4}, 1);
  add({3, 4}, 4);
  add({1, 1}, 1);
  add({0, 4}, 2);
  add({13, 19}, 7);
  return cases;
}

Tensor greater(Var a, Var b) {
  if (!(a.shape() == b.shape()) || a.dtype() != b.dtype()) {
    fail("greater", "operands are {} {} and {} {}. Give equal shapes and types.",
         name_of(a.dtype()), a.shape(), name_of(b.dtype()), b.shape());
  }
  Tape& tape = a.tape();
  const Tensor x = a.value();
  const Tensor y = b.value();
  if (tape.options().track_cell && tape.decisions().mode() != Decisions::Mode::replay) {
    const std::vector<double> left = x.to_vector();
    const std::vector<double> right = y.to_vector();
    for (std::size_t i = 0; i < left.size(); ++i) {
      tape.cell().distance(std::abs(left[i] - right[i]));
    }
  }
  return tape.decisions().decide("greater", DType::i32, a.shape(), [&] {
    Tensor out = Tensor::empty(x.shape(), DType::i32, x.device());
    kernels(x.device()).greater(1, x.numel(), x, {0, 1}, y, {0, 1}, out);
    return out;
  });
}

Tensor Where::forward(Forward& in, const Attributes&) {
  const Shape& shape = in[2].shape();
  require_floating(name, in[0]);
  require_same_dtype(name, in[0], in[1]);
  const BroadcastPlan p = over_condition(shape, in[0].shape(), in[1].shape());
  Tensor y = Tensor::empty(shape, in[0].dtype(), in[0].device());
  with_placed(p, in[0], in[1], [&](const Tensor& a, const Tensor& b) {
    kernels(y.device()).where(in[2], p.rows, p.cols, a, p.a, b, p.b, y);
  });
  return y;
}

// da = condition ? dy : 0 and db = condition ? 0 : dy, summed over what was broadcast.
void Where::backward(Backward& b, const Attributes&) {
  const Tensor& dy = b.dy();
  const Tensor zero = Tensor::zeros({}, dy.dtype(), dy.device());
  const std::int64_t n = dy.numel();
  const Layout whole{n, 1};
  Kernels& k = kernels(dy.device());
  for (int operand = 0; operand < 2; ++operand) {
    if (!b.wants(operand)) continue;
    Tensor d = Tensor::empty(dy.shape(), dy.dtype(), dy.device());
    if (operand == 0) {
      k.where(b.input(2), 1, n, dy, whole, zero, {}, d);
    } else {
      k.where(b.input(2), 1, n, zero, {}, dy, whole, d);
    }
    b.add(operand, sum_to(std::move(d), b.input_shape(operand)));
  }
}

std::vector<OperationCase> Where::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& shape, const Shape& a, const Shape& b) {
    Tensor condition = Tensor::empty(shape, DType::i32, Device::cpu);
    for (std::int64_t i = 0; i < condition.numel(); ++i) {
      condition.write<std::int32_t>()[i] = static_cast<std::int32_t>(i * i % 3 % 2);
    }
    cases.push_back({fmt::format("{} ? {} : {}", shape, a, b),
                     {{a}, {b}},
                     [=](Tape&, std::span<const Var> x) { return where(condition, x[0], x[1]); }});
  };
  add({4, 3}, {4, 3}, {4, 3});
  add({4, 3}, {3}, {4, 1});
  add({4, 3}, {}, {4, 3});
  add({2, 3, 2}, {2, 3, 2}, {2});
  add({2, 3, 2}, {3, 1}, {2, 1, 2});
  add({4}, {}, {});
  add({}, {}, {});
  add({0, 3}, {0, 3}, {3});
  add({13, 29}, {13, 29}, {29});
  return cases;
}

Var where(const Tensor& condition, Var a, Var b) {
  if (!condition.defined() || condition.dtype() != DType::i32) {
    fail(Where::name, "the condition is {}. It must be i32.",
         condition.defined() ? name_of(condition.dtype()) : "undefined");
  }
  return apply<Where>({a, b, index_for(a, condition)});
}

Var stop_gradient(Var x) {
  Tape& tape = x.tape();
  return tape.constant(
      tape.decisions().decide(StopGradient::name, x.dtype(), x.shape(), [&] { return x.value(); }));
}

std::vector<OperationCase> StopGradient::cases() {
  std::vector<OperationCase> cases;
  for (const Shape& shape : {Shape{4, 3}, Shape{}, Shape{0, 3}}) {
    cases.push_back({shape.str(), {{shape}}, [](Tape&, std::span<const Var> x) {
                       return x[0] * stop_gradient(x[0]);
                     }});
  }
  return cases;
}

Tensor StraightThrough::forward(Forward& in, const Attributes&) {
  require_same_dtype(name, in[0], in[1]);
  return in[0];
}
void StraightThrough::backward(Backward& b, const Attributes&) { b.add(1, b.dy()); }

std::vector<OperationCase> StraightThrough::cases() {
  std::vector<OperationCase> cases;
  const Program fused = [](Tape&, std::span<const Var> x) { return straight_through(x[0], x[1]); };
  const Program written_out = [](Tape&, std::span<const Var> x) {
    return x[1] + stop_gradient(x[0] - x[1]);
  };
  for (const Shape& shape : {Shape{4, 3}, Shape{}, Shape{0, 3}, Shape{11, 23}}) {
    cases.push_back({shape.str(), {{shape}, {shape}}, fused, written_out});
  }
  const Program inner = [fused](Tape& tape, std::span<const Var> x) {
    const Var parts[] = {square(x[0]), tanh(x[0])};
    return square(fused(tape, parts));
  };
  const Program inner_written_out = [written_out](Tape& tape, std::span<const Var> x) {
    const Var parts[] = {square(x[0]), tanh(x[0])};
    return square(written_out(tape, parts));
  };
  cases.push_back({"[5] within a program", {{{5}}}, inner, inner_written_out});
  return cases;
}

Var straight_through(Var hard, Var soft) {
  if (!(hard.shape() == soft.shape())) {
    fail(StraightThrough::name, "hard has shape {} and soft {}. They must agree.", hard.shape(),
         soft.shape());
  }
  if (hard.tape().decisions().live()) return apply<StraightThrough>({hard, soft});
  return soft + stop_gradient(hard - soft);
}

}  // namespace moegrad
