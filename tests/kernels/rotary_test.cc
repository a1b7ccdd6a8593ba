#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

struct Case {
  std::int64_t rows, length, width;
};
// Places from the table's first again, mid-row of pieces; halves around a vector; nothing at all.
const std::vector<Case> kCases = {{0, 3, 4},   {0, 0, 4},   {3, 3, 0},    {1, 1, 2},      {6, 3, 4},
                                  {10, 5, 34}, {14, 7, 62}, {34, 17, 66}, {5000, 100, 32}};

// The map of a row as a plain loop; back: each element of y sends what it is made of.
Values expected(const Case& c, const Tensor& x, const Tensor& cos, const Tensor& sin, bool back) {
  Values y(at(c.rows * c.width));
  const std::int64_t half = c.width / 2;
  for (std::int64_t r = 0; r < c.rows; ++r) {
    for (std::int64_t i = 0; i < c.width; ++i) {
      const std::int64_t here = r * c.width + i;
      const std::int64_t other = r * c.width + (i + half) % c.width;
      const std::int64_t angle = r % c.length * c.width + i;
      const double sign = i < half ? -1.0 : 1.0;
      const double straight = cos.at(angle);
      const double across = sign * sin.at(angle);
      if (back) {
        y[at(here)] += straight * x.at(here);
        y[at(other)] += across * x.at(here);
      } else {
        y[at(here)] = straight * x.at(here) + across * x.at(other);
      }
    }
  }
  return y;
}

}  // namespace

KERNEL_TEST("rotary positions and their transpose") {
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const Case& c : kCases) {
      CAPTURE(c.rows);
      CAPTURE(c.width);
      const Tensor x = random({c.rows, c.width}, dtype, 1);
      const Tensor cos = random({c.length, c.width}, dtype, 2);
      const Tensor sin = random({c.length, c.width}, dtype, 3);
      for (const bool back : {false, true}) {
        const Tensor y = on.run({c.rows, c.width}, dtype, [&](const Tensor& out) {
          on->rotate(on(x), on(cos), on(sin), back, out);
        });
        check_close(y, expected(c, x, cos, sin, back), 4.0);
      }
    }
  }
}
