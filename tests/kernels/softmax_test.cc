#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

const std::vector<AxisView> kViews = {{0, 3, 2},   {2, 0, 3},   {2, 3, 0},  {1, 1, 1},
                                      {1, 7, 1},   {1, 1, 7},   {3, 5, 4},  {1, 5001, 1},
                                      {97, 33, 1}, {1, 60, 37}, {40, 7, 11}};

// The elements of the lines along the axis.
std::vector<std::vector<std::size_t>> lines_of(AxisView v) {
  std::vector<std::vector<std::size_t>> lines;
  for (std::int64_t o = 0; o < v.outer; ++o) {
    for (std::int64_t i = 0; i < v.inner; ++i) {
      std::vector<std::size_t> line;
      for (std::int64_t j = 0; j < v.n; ++j) line.push_back(at((o * v.n + j) * v.inner + i));
      lines.push_back(line);
    }
  }
  return lines;
}

double logsumexp(const Values& x, const std::vector<std::size_t>& line) {
  double sum = 0.0;
  for (const std::size_t e : line) sum += std::exp(x[e]);
  return std::log(sum);
}

Shape shape_of(AxisView v) { return {v.outer, v.n, v.inner}; }

Tensor softmax(const OnDevice& on, const Tensor& x, AxisView v) {
  return on.run(shape_of(v), x.dtype(), [&](const Tensor& y) { on->softmax(on(x), v, y); });
}
Tensor log_softmax(const OnDevice& on, const Tensor& x, AxisView v) {
  return on.run(shape_of(v), x.dtype(), [&](const Tensor& y) { on->log_softmax(on(x), v, y); });
}

}  // namespace

KERNEL_TEST("softmax and log_softmax with their backward passes") {
  for (const DType dtype : floating()) {
    for (const AxisView v : kViews) {
      CAPTURE(v.outer);
      CAPTURE(v.n);
      CAPTURE(v.inner);
      const Tensor x = random(shape_of(v), dtype, 1, -5, 5);
      const Tensor dy = random(shape_of(v), dtype, 2);
      const Values x_values = x.to_vector();
      const Values dy_values = dy.to_vector();
      Values p(x_values.size());
      Values log_p(x_values.size());
      Values dx(x_values.size());
      Values log_dx(x_values.size());
      for (const auto& line : lines_of(v)) {
        const double lse = logsumexp(x_values, line);
        double dot = 0.0;
        double sum = 0.0;
        for (const std::size_t e : line) {
          log_p[e] = x_values[e] - lse;
          p[e] = std::exp(log_p[e]);
          dot += dy_values[e] * p[e];
          sum += dy_values[e];
        }
        for (const std::size_t e : line) {
          dx[e] = p[e] * (dy_values[e] - dot);
          log_dx[e] = dy_values[e] - p[e] * sum;
        }
      }
      const Tensor y = softmax(on, x, v);
      const Tensor log_y = log_softmax(on, x, v);
      check_close(y, p);
      check_close(log_y, log_p);
      check_close(on.run(shape_of(v), dtype,
                         [&](const Tensor& out) { on->softmax_backward(on(y), on(dy), v, out); }),
                  dx);
      check_close(
          on.run(shape_of(v), dtype,
                 [&](const Tensor& out) { on->log_softmax_backward(on(log_y), on(dy), v, out); }),
          log_dx, 16.0);
    }
  }
}

KERNEL_TEST("softmax of extreme rows") {
  const double low = -HUGE_VAL;
  const Values x = {1e4, -1e4, 0, 1e4, 1e4, low, low, 2, low, -1e4, -1e4, -1e4};
  for (const DType dtype : floating()) {
    for (const AxisView v : {AxisView{4, 3, 1}, AxisView{1, 3, 4}}) {
      // The same rows, stored as rows or as columns.
      const auto stored = [&](const Values& rows) {
        if (v.inner == 1) return rows;
        Values columns(rows.size());
        for (std::size_t i = 0; i < rows.size(); ++i) columns[i % 3 * 4 + i / 3] = rows[i];
        return columns;
      };
      const double third = 1.0 / 3.0;
      check_close(softmax(on, tensor_of({4, 3}, dtype, stored(x)), v),
                  stored({1, 0, 0, 0.5, 0.5, 0, 0, 1, 0, third, third, third}));
      const double half = std::log(0.5);
      check_close(log_softmax(on, tensor_of({4, 3}, dtype, stored(x)), v),
                  stored({0, -2e4, -1e4, half, half, low, low, 0, low, std::log(third),
                          std::log(third), std::log(third)}));
    }
  }
}

KERNEL_TEST("the backward pass of log_softmax takes entries of -infinity") {
  for (const DType dtype : floating()) {
    const Tensor y = tensor_of({1, 2}, dtype, {0, -HUGE_VAL});
    const Tensor dx = Tensor::empty({1, 2}, dtype, on.device);
    on->log_softmax_backward(on(y), on(tensor_of({1, 2}, dtype, {3, 4})), {1, 2, 1}, dx);
    check_close(dx, {3 - 7, 4});
  }
}

KERNEL_TEST("the backward pass of logsumexp") {
  for (const DType dtype : floating()) {
    for (const AxisView v : kViews) {
      const Tensor x = random(shape_of(v), dtype, 3, -5, 5);
      const Tensor dy = random({v.outer, v.inner}, dtype, 4);
      const Tensor y = Tensor::empty({v.outer, v.inner}, dtype, on.device);
      on->reduce(Reduction::logsumexp, on(x), v, y);
      const Values x_values = x.to_vector();
      Values want(x_values.size());
      std::int64_t line_index = 0;
      for (const auto& line : lines_of(v)) {
        const double lse = logsumexp(x_values, line);
        for (const std::size_t e : line) {
          want[e] = std::exp(x_values[e] - lse) * dy.at(line_index);
        }
        ++line_index;
      }
      check_close(
          on.run(shape_of(v), dtype,
                 [&](const Tensor& out) { on->logsumexp_backward(on(x), y, on(dy), v, out); }),
          want, 16.0);
    }
    const double low = -HUGE_VAL;
    const Tensor dx = Tensor::empty({2, 2}, dtype, on.device);
    for (const double dy : {2.0, std::nan(""), HUGE_VAL}) {  // of a line that none has a share of
      on->logsumexp_backward(on(tensor_of({2, 2}, dtype, {low, low, low, 1})),
                             on(tensor_of({2}, dtype, {low, 1})),
                             on(tensor_of({2}, dtype, {dy, 3})), {2, 2, 1}, dx);
      check_close(dx, {0, 0, 0, 3});
    }
  }
}

KERNEL_TEST("cross-entropy and its backward pass") {
  struct Case {
    std::int64_t rows, classes;
  };
  for (const DType dtype : floating()) {
    for (const auto& sizes :
         {Case{0, 3}, Case{1, 1}, Case{1, 2}, Case{5, 7}, Case{301, 33}, Case{3, 5001}}) {
      const auto& rows = sizes.rows;
      const auto& classes = sizes.classes;
      const Tensor x = random({rows, classes}, dtype, 5, -5, 5);
      const Tensor labels = random_integers({rows}, 6, 0, classes);
      const Tensor dy = tensor_of({}, dtype, {-1.5});
      const double scale = 0.25;
      const Values x_values = x.to_vector();
      Values loss;
      Values lse;
      Values dx(x_values.size());
      for (const auto& line : lines_of({rows, classes, 1})) {
        const auto label =
            at(static_cast<std::int64_t>(labels.at(static_cast<std::int64_t>(loss.size()))));
        const double l = logsumexp(x_values, line);
        lse.push_back(l);
        loss.push_back(l - x_values[line[label]]);
        for (std::size_t c = 0; c < line.size(); ++c) {
          dx[line[c]] = scale * -1.5 * (std::exp(x_values[line[c]] - l) - (c == label ? 1.0 : 0.0));
        }
      }
      const auto forward = on.at_all_threads([&] {
        std::vector<Tensor> out = {Tensor::empty({rows}, dtype, on.device),
                                   Tensor::empty({rows}, dtype, on.device)};
        on->cross_entropy(on(x), on(labels), out[0], out[1]);
        return out;
      });
      check_close(forward[0], loss);
      check_close(forward[1], lse);
      check_close(on.run({rows, classes}, dtype,
                         [&](const Tensor& out) {
                           on->cross_entropy_backward(on(x), on(labels), on(forward[1]), on(dy),
                                                      scale, out);
                         }),
                  dx, 16.0);
    }
  }
}

KERNEL_TEST("cross-entropy of extreme logits") {
  for (const DType dtype : floating()) {
    const Tensor x = tensor_of({3, 2}, dtype, {1e4, -1e4, 1e4, -1e4, 1, -HUGE_VAL});
    const Tensor loss = Tensor::empty({3}, dtype, on.device);
    const Tensor lse = Tensor::empty({3}, dtype, on.device);
    on->cross_entropy(on(x), on(Tensor::of<std::int32_t>({3}, {0, 1, 0})), loss, lse);
    check_close(loss, {0, 2e4, 0});
    check_close(lse, {1e4, 1e4, 1});
  }
}

KERNEL_TEST("cross-entropy: a row without a label has the loss 0 and no gradient") {
  const double nan = std::nan("");
  for (const DType dtype : floating()) {
    const Tensor x = tensor_of({3, 2}, dtype, {nan, HUGE_VAL, 1, 1, nan, nan});
    const Tensor labels = Tensor::of<std::int32_t>({3}, {-1, 1, -1});
    const Tensor loss = Tensor::empty({3}, dtype, on.device);
    const Tensor lse = Tensor::empty({3}, dtype, on.device);
    on->cross_entropy(on(x), on(labels), loss, lse);
    check_close(loss, {0, std::log(2.0), 0});
    const Tensor dx = Tensor::empty({3, 2}, dtype, on.device);
    on->cross_entropy_backward(on(x), on(labels), lse, on(tensor_of({}, dtype, {-3})), 1.0, dx);
    check_close(dx, {0, 0, -1.5, 1.5, 0, 0});
  }
}

KERNEL_TEST("cross-entropy of no classes has no label to look up") {
  const CheckedPool checked;  // whose guard finds a gradient that is put where no class is
  for (const DType dtype : floating()) {
    const Tensor x = Tensor::zeros({3, 0}, dtype, on.device);
    const Tensor labels = on(Tensor::of<std::int32_t>({3}, {-1, -1, -1}));
    const Tensor loss = Tensor::empty({3}, dtype, on.device);
    const Tensor lse = loss.like();
    on->cross_entropy(x, labels, loss, lse);
    check_close(loss, {0, 0, 0});
    check_close(lse, {-HUGE_VAL, -HUGE_VAL, -HUGE_VAL});
    on->cross_entropy_backward(x, labels, lse, on(tensor_of({}, dtype, {1})), 1.0, x.like());
  }
}

KERNEL_TEST("a label that is no class is an error") {
  const Tensor x = Tensor::zeros({2, 3}, DType::f32, on.device);
  const Tensor out = Tensor::empty({2}, DType::f32, on.device);
  const Tensor one = on(Tensor::scalar(1.0F));
  for (const std::int32_t bad : {-2, 3}) {
    const Tensor labels = on(Tensor::of<std::int32_t>({2}, {0, bad}));
    CHECK(on.error_of([&] { on->cross_entropy(x, labels, out, out.like()); }) ==
          fmt::format("[cross_entropy] an index is {}, outside [-1, 3). Check the indices against "
                      "the sizes.",
                      bad));
    CHECK(on.error_of([&] { on->cross_entropy_backward(x, labels, out, one, 1.0, x.like()); }) !=
          "");
  }
}
