#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

// Empty axes everywhere, single elements, odd sizes, and sizes above every chunk and block.
const std::vector<AxisView> kViews = {
    {0, 3, 2},    {2, 0, 3},    {2, 3, 0},   {1, 0, 1},    {1, 1, 1},     {5, 1, 1},
    {1, 7, 1},    {1, 1, 7},    {3, 5, 1},   {3, 5, 4},    {1, 20001, 1}, {3, 4097, 1},
    {997, 33, 1}, {1, 600, 37}, {2, 257, 3}, {1, 3, 5001}, {300, 4, 50}};

std::int64_t element(AxisView v, std::int64_t o, std::int64_t j, std::int64_t i) {
  return (o * v.n + j) * v.inner + i;
}

Values lines(AxisView v, auto&& of_line) {
  Values result;
  for (std::int64_t o = 0; o < v.outer; ++o) {
    for (std::int64_t i = 0; i < v.inner; ++i) result.push_back(of_line(o, i));
  }
  return result;
}

Tensor reduce(const OnDevice& on, Reduction reduction, const Tensor& x, AxisView v) {
  return on.run({v.outer, v.inner}, x.dtype(),
                [&](const Tensor& out) { on->reduce(reduction, on(x), v, out); });
}

Tensor argmax(const OnDevice& on, const Tensor& x, AxisView v) {
  return on.run({v.outer, v.inner}, DType::i32,
                [&](const Tensor& out) { on->argmax(on(x), v, out); });
}

}  // namespace

KERNEL_TEST("sums along an axis") {
  for (const DType dtype : floating()) {
    for (const AxisView v : kViews) {
      CAPTURE(v.outer);
      CAPTURE(v.n);
      CAPTURE(v.inner);
      const Tensor x = random({v.outer, v.n, v.inner}, dtype, 1, -1, 2);
      check_close(reduce(on, Reduction::sum, x, v), lines(v, [&](std::int64_t o, std::int64_t i) {
                    double sum = 0.0;
                    for (std::int64_t j = 0; j < v.n; ++j) sum += x.at(element(v, o, j, i));
                    return sum;
                  }));
      check_close(reduce(on, Reduction::sum_of_squares, x, v),
                  lines(v, [&](std::int64_t o, std::int64_t i) {
                    double sum = 0.0;
                    for (std::int64_t j = 0; j < v.n; ++j) {
                      sum += x.at(element(v, o, j, i)) * x.at(element(v, o, j, i));
                    }
                    return sum;
                  }));
    }
  }
}

OWN_KERNEL_TEST("a long sum of f32 keeps its digits") {
  // One running sum of a million tenths is off by 1 %.
  constexpr std::int64_t kCount = 1000000;
  const Tensor x = Tensor::full({kCount}, 0.1, DType::f32, on.device);
  const double want = static_cast<double>(0.1F) * kCount;
  for (const AxisView v : {AxisView{1, kCount, 1}, AxisView{1, kCount / 4, 4}}) {
    const Tensor sums = reduce(on, Reduction::sum, x, v);
    for (std::int64_t i = 0; i < v.inner; ++i) {
      const double relative = sums.at(i) * static_cast<double>(v.inner) / want - 1.0;
      CHECK(std::abs(relative) < 1e-6);
    }
  }
}

KERNEL_TEST("the largest along an axis and its place") {
  for (const DType dtype : floating()) {
    for (const AxisView v : kViews) {
      if (v.n == 0) continue;
      // Few different values, so that there are ties.
      const Tensor x = random_integers({v.outer, v.n, v.inner}, 2, -5, 3).to(dtype);
      const auto best = [&](std::int64_t o, std::int64_t i) {
        std::int64_t place = 0;
        for (std::int64_t j = 1; j < v.n; ++j) {
          if (x.at(element(v, o, j, i)) > x.at(element(v, o, place, i))) place = j;
        }
        return place;
      };
      check_close(reduce(on, Reduction::max, x, v),
                  lines(v, [&](std::int64_t o,
                               std::int64_t i) { return x.at(element(v, o, best(o, i), i)); }),
                  0.0);
      check_close(
          argmax(on, x, v),
          lines(v, [&](std::int64_t o, std::int64_t i) { return static_cast<double>(best(o, i)); }),
          0.0);
    }
  }
}

KERNEL_TEST("the largest of a row with a NaN is NaN, at its first place") {
  const double nan = std::nan("");
  for (const DType dtype : floating()) {
    const Tensor x = tensor_of(
        {4, 3}, dtype, {1, nan, 5, nan, 2, nan, -HUGE_VAL, -HUGE_VAL, -HUGE_VAL, HUGE_VAL, 2, nan});
    check_close(reduce(on, Reduction::max, x, {4, 3, 1}), {nan, nan, -HUGE_VAL, nan}, 0.0);
    check_close(argmax(on, x, {4, 3, 1}), {1, 0, 0, 2}, 0.0);
    Values rows(3 * 80, 1.0);  // long ones: the second largest twice, then two NaN
    rows[71] = rows[70] = rows[80 + 70] = 2.0;
    rows[160 + 66] = rows[160 + 40] = nan;
    check_close(argmax(on, tensor_of({3, 80}, dtype, rows), {3, 80, 1}), {70, 70, 40}, 0.0);
  }
}

KERNEL_TEST("an empty axis has no largest element") {
  const Tensor x = Tensor::empty({2, 0}, DType::f32, on.device);
  CHECK_THROWS_WITH_AS(
      on->reduce(Reduction::max, x, {2, 0, 1}, Tensor::empty({2}, DType::f32, on.device)),
      "[max] an axis of size 0 has no largest element. Reduce a non-empty axis.", Error);
  CHECK_THROWS_AS(on->argmax(x, {2, 0, 1}, Tensor::empty({2}, DType::i32, on.device)), Error);
  CHECK_NOTHROW(
      on->reduce(Reduction::max, x, {0, 0, 1}, Tensor::empty({0}, DType::f32, on.device)));
}

KERNEL_TEST("logsumexp along an axis") {
  for (const DType dtype : floating()) {
    for (const AxisView v : kViews) {
      const Tensor x = random({v.outer, v.n, v.inner}, dtype, 3, -5, 5);
      check_close(reduce(on, Reduction::logsumexp, x, v),
                  lines(v, [&](std::int64_t o, std::int64_t i) {
                    double sum = 0.0;
                    for (std::int64_t j = 0; j < v.n; ++j) {
                      sum += std::exp(x.at(element(v, o, j, i)));
                    }
                    return std::log(sum);
                  }));
    }
  }
}

KERNEL_TEST("logsumexp of extreme rows") {
  const double low = -HUGE_VAL;
  for (const DType dtype : floating()) {
    const Tensor x = tensor_of(
        {6, 2}, dtype, {1e4, 1e4, -1e4, -1e4, low, low, low, 3, HUGE_VAL, 0, std::nan(""), 0});
    check_close(reduce(on, Reduction::logsumexp, x, {6, 2, 1}),
                {1e4 + std::log(2.0), -1e4 + std::log(2.0), low, 3, HUGE_VAL, std::nan("")});
  }
}

KERNEL_TEST("expand repeats along an axis") {
  for (const DType dtype : floating()) {
    for (const AxisView v : kViews) {
      const Tensor x = random({v.outer, v.inner}, dtype, 4);
      Values want(at(v.outer * v.n * v.inner));
      for (std::int64_t e = 0; e < v.outer * v.n * v.inner; ++e) {
        want[at(e)] = -0.5 * x.at(e / (v.n * v.inner) * v.inner + e % v.inner);
      }
      check_close(on.run({v.outer, v.n, v.inner}, dtype,
                         [&](const Tensor& out) { on->expand(on(x), -0.5, v, out); }),
                  want);
    }
  }
}

KERNEL_TEST("place puts each element at its index") {
  for (const DType dtype : floating()) {
    for (const AxisView v : kViews) {
      if (v.n == 0) continue;
      const Tensor x = random({v.outer, v.inner}, dtype, 5);
      const Tensor index = random_integers({v.outer, v.inner}, 6, 0, v.n);
      Values want(at(v.outer * v.n * v.inner), 0.0);
      for (std::int64_t o = 0; o < v.outer; ++o) {
        for (std::int64_t i = 0; i < v.inner; ++i) {
          const std::int64_t line = o * v.inner + i;
          want[at(element(v, o, static_cast<std::int64_t>(index.at(line)), i))] = x.at(line);
        }
      }
      check_close(on.run({v.outer, v.n, v.inner}, dtype,
                         [&](const Tensor& out) { on->place(on(x), on(index), v, out); }),
                  want, 0.0);
    }
  }
  const Tensor one = on(Tensor::scalar(1.0F));
  const Tensor index = on(Tensor::scalar<std::int32_t>(2));
  const Tensor out = Tensor::empty({2}, DType::f32, on.device);
  CHECK(on.error_of([&] { on->place(one, index, {1, 2, 1}, out); }) != "");
}

KERNEL_TEST("the squared error and its gradient") {
  for (const DType dtype : floating()) {
    for (const std::int64_t n : {0, 1, 7, 1025, 40001}) {
      CAPTURE(n);
      const Tensor a = random({n}, dtype, 1, -1, 2);
      const Tensor b = random({n}, dtype, 2, -1, 2);
      double sum = 0.0;
      Values gradient;
      for (std::int64_t i = 0; i < n; ++i) {
        sum += (a.at(i) - b.at(i)) * (a.at(i) - b.at(i));
        gradient.push_back(2.0 * 0.5 * -3.0 * (a.at(i) - b.at(i)));
      }
      check_close(
          on.run({}, dtype, [&](const Tensor& out) { on->squared_error(on(a), on(b), out); }),
          {sum});
      const Tensor dy = tensor_of({}, dtype, {-3});
      check_close(on.run({n}, dtype,
                         [&](const Tensor& out) {
                           on->squared_error_backward(on(a), on(b), on(dy), 0.5, out);
                         }),
                  gradient);
    }
  }
}
