#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

const std::vector<DType> kAll = {DType::f32, DType::f64, DType::i32};
// Nothing, one, odd ones, and more than one piece of work.
const std::vector<std::int64_t> kSizes = {0, 1, 2, 17, 1000, 70001};

// 0, 1, 2, ... plus a half where the type has one.
Tensor counting(std::int64_t n, DType dtype) {
  Values values(at(n));
  for (std::int64_t i = 0; i < n; ++i) {
    values[at(i)] = static_cast<double>(i) + (dtype == DType::i32 ? 0.0 : 0.5);
  }
  return tensor_of({n}, dtype, values);
}

}  // namespace

KERNEL_TEST("fill, copy and conversion keep every element") {
  for (const DType dtype : kAll) {
    for (const std::int64_t n : kSizes) {
      check_close(on.run({n}, dtype, [&](const Tensor& out) { on->fill(3.0, out); }),
                  Values(at(n), 3.0), 0.0);
      const Tensor x = counting(n, dtype);
      CHECK(on.run({n}, dtype, [&](const Tensor& out) { on->copy(on(x), out); }).same_bits(x));
      for (const DType to : kAll) {
        Values want = x.to_vector();
        if (to == DType::i32) {
          for (double& v : want) v = std::trunc(v);
        }
        check_close(on.run({n}, to, [&](const Tensor& out) { on->convert(on(x), out); }), want,
                    0.0);
      }
    }
  }
}

KERNEL_TEST("copy_if_finite copies where a number is finite, and nothing where it is not") {
  for (const DType dtype : kAll) {
    for (const std::int64_t n : kSizes) {
      const Tensor x = counting(n, dtype);
      for (const double number : {0.0, -1e308, std::nan(""), HUGE_VAL, -HUGE_VAL}) {
        const Tensor got = on.run({n}, dtype, [&](const Tensor& out) {
          on->fill(7.0, out);
          on->copy_if_finite(on(Tensor::scalar(number)), on(x), out);
        });
        CHECK(
            got.same_bits(std::isfinite(number) ? x : Tensor::full({n}, 7.0, dtype, Device::cpu)));
      }
    }
  }
}

KERNEL_TEST("conversion to integers cuts towards zero and saturates") {
  const double nan = std::nan("");
  const double infinity = HUGE_VAL;
  const Tensor x = on(Tensor::of<double>({7}, {-1.9, 1.9, 1e20, -1e20, infinity, -infinity, nan}));
  const double low = -2147483648.0;
  const double high = 2147483647.0;
  check_close(x.to(DType::i32), {-1, 1, high, low, high, low, 0}, 0.0);
  check_close(x.to(DType::f32).to(DType::i32), {-1, 1, high, low, high, low, 0}, 0.0);
}

KERNEL_TEST("conversion between floating types keeps NaN and infinities") {
  const Tensor x = on(Tensor::of<double>({4}, {std::nan(""), HUGE_VAL, -HUGE_VAL, 1e300}));
  check_close(x.to(DType::f32), {std::nan(""), HUGE_VAL, -HUGE_VAL, HUGE_VAL}, 0.0);
  check_close(x.to(DType::f32).to(DType::f64), {std::nan(""), HUGE_VAL, -HUGE_VAL, HUGE_VAL}, 0.0);
}

KERNEL_TEST("accumulate adds a multiple") {
  for (const DType dtype : floating()) {
    for (const std::int64_t n : kSizes) {
      const Tensor x = random({n}, dtype, 1);
      const Tensor y = random({n}, dtype, 2);
      Values want = y.to_vector();
      for (std::int64_t i = 0; i < n; ++i) want[at(i)] += -1.5 * x.at(i);
      check_close(on.run({n}, dtype,
                         [&](const Tensor& out) {
                           on->copy(on(y), out);
                           on->accumulate(-1.5, on(x), out);
                         }),
                  want);
    }
  }
}

KERNEL_TEST("copy_block copies its rows and touches nothing else") {
  struct Case {
    std::int64_t rows, cols, src_offset, src_row, dst_offset, dst_row;
  };
  const std::vector<Case> cases = {{3, 2, 1, 5, 2, 4},
                                   {1, 1, 0, 1, 0, 1},
                                   {0, 2, 0, 2, 0, 2},
                                   {3, 0, 0, 4, 0, 4},
                                   {4, 3, 0, 3, 0, 3},
                                   {700, 65, 3, 70, 1, 67},
                                   {2, 40000, 0, 40000, 5, 40007}};
  for (const DType dtype : kAll) {
    for (const Case& c : cases) {
      const Tensor src = counting(c.src_offset + c.rows * c.src_row, dtype);
      const std::int64_t n = c.dst_offset + c.rows * c.dst_row;
      Values want(at(n), -1.0);
      for (std::int64_t r = 0; r < c.rows; ++r) {
        for (std::int64_t j = 0; j < c.cols; ++j) {
          want[at(c.dst_offset + r * c.dst_row + j)] = src.at(c.src_offset + r * c.src_row + j);
        }
      }
      check_close(on.run({n}, dtype,
                         [&](const Tensor& out) {
                           on->fill(-1.0, out);
                           on->copy_block(on(src), c.src_offset, c.src_row, c.rows, c.cols,
                                          c.dst_offset, c.dst_row, out);
                         }),
                  want, 0.0);
    }
  }
}

KERNEL_TEST("swap_axes exchanges two axes") {
  const std::vector<std::vector<std::int64_t>> cases = {
      {1, 1, 1, 1, 1}, {1, 3, 1, 2, 1}, {2, 3, 4, 5, 6},    {2, 3, 1, 5, 1},  {0, 3, 4, 5, 6},
      {2, 0, 4, 5, 6}, {2, 3, 4, 5, 0}, {1, 301, 1, 97, 1}, {3, 40, 7, 50, 2}};
  for (const DType dtype : kAll) {
    for (const auto& s : cases) {
      const std::int64_t a = s[0], n = s[1], b = s[2], m = s[3], c = s[4];
      const Tensor x = counting(a * n * b * m * c, dtype);
      Values want;
      for (std::int64_t ia = 0; ia < a; ++ia) {
        for (std::int64_t im = 0; im < m; ++im) {
          for (std::int64_t ib = 0; ib < b; ++ib) {
            for (std::int64_t in = 0; in < n; ++in) {
              for (std::int64_t ic = 0; ic < c; ++ic) {
                want.push_back(x.at((((ia * n + in) * b + ib) * m + im) * c + ic));
              }
            }
          }
        }
      }
      check_close(on.run({a, m, b, n, c}, dtype,
                         [&](const Tensor& out) { on->swap_axes(on(x), a, n, b, m, c, out); }),
                  want, 0.0);
    }
  }
}

KERNEL_TEST("all_finite finds one bad element anywhere") {
  for (const DType dtype : floating()) {
    for (const std::int64_t n : kSizes) {
      const Tensor x = on(random({n}, dtype, 3, -1e30, 1e30));
      CHECK(on->all_finite(x));
      for (const std::int64_t i : {std::int64_t{0}, n / 2, n - 1}) {
        for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
          if (n == 0) continue;
          const Tensor y = x.clone();
          on->fill(bad, y.rows(i, i + 1));
          CHECK_FALSE(on->all_finite(y));
        }
      }
    }
  }
  CHECK(on->all_finite(on(Tensor::of<float>({2}, {3.4e38F, 1e-45F}))));
  CHECK(on->all_finite(Tensor::full({3}, 2147483647.0, DType::i32, on.device)));
}
