#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

const std::vector<AxisView> kAxisViews = {
    {0, 3, 2},    {2, 0, 3},    {2, 3, 0},   {1, 0, 1},    {1, 1, 1},     {5, 1, 1},
    {1, 7, 1},    {1, 1, 7},    {3, 5, 1},   {3, 5, 4},    {1, 40001, 1}, {3, 17001, 1},
    {997, 33, 1}, {1, 600, 37}, {2, 257, 3}, {1, 3, 5001}, {300, 4, 50}};

std::int64_t place(AxisView v, std::int64_t o, std::int64_t j, std::int64_t i) {
  return (o * v.n + j) * v.inner + i;
}

Tensor norm_of(const OnDevice& on, const Tensor& x, AxisView v) {
  return on.run({v.outer, v.inner}, x.dtype(), [&](const Tensor& out) { on->norm(on(x), v, out); });
}

Tensor cumulative_sum_of(const OnDevice& on, const Tensor& x, AxisView v, bool from_end) {
  return on.run(x.shape(), x.dtype(),
                [&](const Tensor& out) { on->cumulative_sum(on(x), v, from_end, out); });
}

}  // namespace

KERNEL_TEST("norms along an axis and their gradients") {
  for (const DType dtype : floating()) {
    for (const AxisView v : kAxisViews) {
      CAPTURE(v.outer);
      CAPTURE(v.n);
      CAPTURE(v.inner);
      const Tensor x = random({v.outer, v.n, v.inner}, dtype, 1, -1, 2);
      const Tensor dy = random({v.outer, v.inner}, dtype, 2);
      Values norm;
      Values dx(at(x.numel()));
      for (std::int64_t o = 0; o < v.outer; ++o) {
        for (std::int64_t i = 0; i < v.inner; ++i) {
          long double sum = 0.0L;
          for (std::int64_t j = 0; j < v.n; ++j) {
            const long double value = x.at(place(v, o, j, i));
            sum += value * value;
          }
          norm.push_back(static_cast<double>(std::sqrt(sum)));
          for (std::int64_t j = 0; j < v.n; ++j) {
            const std::int64_t e = place(v, o, j, i);
            dx[at(e)] = x.at(e) / norm.back() * dy.at(o * v.inner + i);
          }
        }
      }
      const Tensor y = norm_of(on, x, v);
      check_close(y, norm);
      check_close(
          on.run(x.shape(), dtype,
                 [&](const Tensor& out) { on->norm_backward(on(x), on(y), on(dy), v, out); }),
          dx);
    }
  }
}

KERNEL_TEST("a norm is right wherever it is in range, and 0 has the gradient 0") {
  const double inf = HUGE_VAL;
  const double nan = std::nan("");
  for (const DType dtype : floating()) {
    const double big = dtype == DType::f64 ? 1e200 : 1e30;
    for (const double scale : {big, 1.0, 1.0 / big, dtype == DType::f64 ? 1e-310 : 1e-40}) {
      CAPTURE(scale);
      const Tensor x = tensor_of({2, 2}, dtype, {3 * scale, -4 * scale, 0, -5 * scale});
      for (const AxisView v : {AxisView{2, 2, 1}, AxisView{1, 2, 2}, AxisView{1, 4, 1}}) {
        const Tensor y = norm_of(on, x, v);
        long double sum = 0.0L;
        for (std::int64_t j = 0; j < v.n; ++j) {
          const long double value = x.at(j * v.inner);
          sum += value * value;
        }
        const auto want = static_cast<double>(std::sqrt(sum));
        const double least = dtype == DType::f64 ? 5e-324 : 1.5e-45;  // the smallest number
        CHECK(std::abs(y.at(0) - want) <= 1e-6 * want + least);
      }
    }
    const Tensor special = tensor_of({4, 2}, dtype, {0, -0.0, inf, -inf, nan, 1, nan, inf});
    const Tensor y = norm_of(on, special, {4, 2, 1});
    check_close(y, {0, inf, nan, nan}, 0.0);
    const Tensor dy = Tensor::full({4}, 3.0, dtype, on.device);
    const Tensor dx = on.run({4, 2}, dtype, [&](const Tensor& out) {
      on->norm_backward(on(special), on(y), dy, {4, 2, 1}, out);
    });
    CHECK(dx.at(0) == 0.0);
    CHECK(dx.at(1) == 0.0);
  }
}

KERNEL_TEST("cumulative sums along an axis, from either end") {
  for (const DType dtype : floating()) {
    for (const AxisView v : kAxisViews) {
      CAPTURE(v.outer);
      CAPTURE(v.n);
      CAPTURE(v.inner);
      const Tensor x = random({v.outer, v.n, v.inner}, dtype, 1, -1, 2);
      for (const bool from_end : {false, true}) {
        Values want(at(x.numel()));
        for (std::int64_t o = 0; o < v.outer; ++o) {
          for (std::int64_t i = 0; i < v.inner; ++i) {
            long double sum = 0.0L;
            for (std::int64_t j = 0; j < v.n; ++j) {
              const std::int64_t e = place(v, o, from_end ? v.n - 1 - j : j, i);
              sum += x.at(e);
              want[at(e)] = static_cast<double>(sum);
            }
          }
        }
        check_close(cumulative_sum_of(on, x, v, from_end), want);
      }
    }
  }
}

OWN_KERNEL_TEST("long norms and cumulative sums of f32 keep their digits") {
  constexpr std::int64_t kCount = 4000000;
  const Tensor x = Tensor::full({kCount}, 0.1, DType::f32, on.device);
  const auto tenth = static_cast<double>(0.1F);
  const double norm = norm_of(on, x, {1, kCount, 1}).item();
  CHECK(std::abs(norm / (tenth * std::sqrt(kCount)) - 1.0) < 1e-7);
  const Tensor sums = cumulative_sum_of(on, x, {1, kCount, 1}, false);
  for (const std::int64_t i : {std::int64_t{0}, kCount / 2, kCount - 1}) {
    CHECK(std::abs(sums.at(i) / (tenth * static_cast<double>(i + 1)) - 1.0) < 1e-7);
  }
}
