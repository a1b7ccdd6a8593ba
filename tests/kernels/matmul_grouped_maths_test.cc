// Grouped products of f32 with TF32 and bf16, as matmul_maths_test.cc.
#include "tests/kernels/grouped_rows.h"
#include "tests/kernels/rounded.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

// No rows, no columns, empty groups, odd groups, whose rows begin in the middle of a pair; groups of
// several small and of several large tiles, the last of them partial; a sum of several pieces.
const std::vector<GroupedRows> kCases = {{{0}, 3, 4},
                                         {{0, 0, 0}, 3, 4},
                                         {{2, 1}, 0, 4},
                                         {{2, 1}, 3, 0},
                                         {{1}, 1, 1},
                                         {{1, 1, 1, 1}, 3, 5},
                                         {{0, 5, 0, 1, 0, 2}, 7, 5},
                                         {{70, 1, 133, 0}, 20, 33},
                                         {{131, 201}, 70, 68},
                                         {{3, 2501, 0}, 5, 8}};

double both(Maths maths, std::int64_t depth) {
  const double u = unit(maths);
  return 2 * u + u * u + sum_error(maths, depth) * (1 + u) * (1 + u);
}

// x [rows, k] w [groups, k, m], or of transposed w [groups, m, k]
std::vector<Sum> product(const GroupedRows& c, const Tensor& x, const Tensor& w, bool transposed) {
  const auto group = c.group_of();
  std::vector<Sum> want(at(c.total() * c.m));
  for (std::int64_t r = 0; r < c.total(); ++r) {
    const float* const w_e = w.data<float>() + group[at(r)] * c.k * c.m;
    for (std::int64_t l = 0; l < c.k; ++l) {
      for (std::int64_t j = 0; j < c.m; ++j) {
        want[at(r * c.m + j)].add(x.data<float>()[r * c.k + l],
                                  w_e[transposed ? j * c.k + l : l * c.m + j]);
      }
    }
  }
  return want;
}

std::vector<Sum> outer(const GroupedRows& c, const Tensor& x, const Tensor& dy) {
  const auto group = c.group_of();
  std::vector<Sum> want(at(c.groups() * c.k * c.m));
  for (std::int64_t r = 0; r < c.total(); ++r) {
    for (std::int64_t l = 0; l < c.k; ++l) {
      for (std::int64_t j = 0; j < c.m; ++j) {
        want[at((group[at(r)] * c.k + l) * c.m + j)].add(x.data<float>()[r * c.k + l],
                                                         dy.data<float>()[r * c.m + j]);
      }
    }
  }
  return want;
}

}  // namespace

MATHS_TEST("maths: grouped products of rows and weights") {
  for (const Maths maths : kRounding) {
    const MathsScope scope(maths);
    for (const GroupedRows& c : kCases) {
      CAPTURE(name_of(maths));
      CAPTURE(c.total());
      const Tensor x = random({c.total(), c.k}, DType::f32, 1);
      for (const bool transposed : {false, true}) {
        const Tensor w = random(
            transposed ? Shape{c.groups(), c.m, c.k} : Shape{c.groups(), c.k, c.m}, DType::f32, 2);
        const Tensor got = on.run({c.total(), c.m}, DType::f32, [&](const Tensor& out) {
          on->grouped_matmul(on(x), on(w), transposed, on(c.offsets()), out);
        });
        check_sums(got, product(c, x, w, transposed), both(maths, c.k));
        check_sums(got, product(c, rounded(x, maths), rounded(w, maths), transposed),
                   sum_error(maths, c.k));
      }
    }
  }
}

// Those of an empty group are zeros.
MATHS_TEST("maths: grouped gradients of weights") {
  for (const Maths maths : kRounding) {
    const MathsScope scope(maths);
    for (const GroupedRows& c : kCases) {
      CAPTURE(name_of(maths));
      CAPTURE(c.total());
      const Tensor x = random({c.total(), c.k}, DType::f32, 1);
      const Tensor dy = random({c.total(), c.m}, DType::f32, 2);
      const Tensor got = on.run({c.groups(), c.k, c.m}, DType::f32, [&](const Tensor& out) {
        on->grouped_outer(on(x), on(dy), on(c.offsets()), out);
      });
      check_sums(got, outer(c, x, dy), both(maths, c.total()));
      check_sums(got, outer(c, rounded(x, maths), rounded(dy, maths)), sum_error(maths, c.total()));
    }
  }
}

MATHS_TEST("maths: a NaN of one group reaches no other, nor what lies behind the last") {
  const GroupedRows c{{5, 3, 70, 1}, 9, 70};
  const std::int64_t behind = 4;
  for (const Maths maths : kRounding) {
    const MathsScope scope(maths);
    for (const std::int64_t bad : {0, 1, 2, 3}) {
      const std::vector<std::int64_t> group = c.group_of();
      Tensor x = random({c.total() + behind, c.k}, DType::f32, 1);
      Tensor w = random({c.groups(), c.k, c.m}, DType::f32, 2);
      for (std::int64_t r = 0; r < x.size(0); ++r) {
        if (r < c.total() && group[at(r)] != bad) continue;
        for (std::int64_t l = 0; l < c.k; ++l) x.write<float>()[r * c.k + l] = NAN;
      }
      for (std::int64_t i = 0; i < c.k * c.m; ++i) w.write<float>()[bad * c.k * c.m + i] = NAN;
      const Tensor y = Tensor::empty({x.size(0), c.m}, DType::f32, on.device);
      on->grouped_matmul(on(x), on(w), false, on(c.offsets()), y);
      const Values got = y.to_vector();
      for (std::int64_t r = 0; r < x.size(0); ++r) {
        const bool hit = r < c.total() && group[at(r)] == bad;
        for (std::int64_t j = 0; j < c.m; ++j) CHECK(std::isnan(got[at(r * c.m + j)]) == hit);
      }
      const Tensor dw = Tensor::empty(w.shape(), DType::f32, on.device);
      on->grouped_outer(on(x), on(random({x.size(0), c.m}, DType::f32, 3)), on(c.offsets()), dw);
      const Values gradient = dw.to_vector();
      for (std::int64_t i = 0; i < dw.numel(); ++i) {
        CHECK(std::isnan(gradient[at(i)]) == (i / (c.k * c.m) == bad));
      }
    }
  }
}
