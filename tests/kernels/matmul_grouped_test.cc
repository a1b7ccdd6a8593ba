#include "tests/kernels/grouped_rows.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

// No rows, no columns, empty groups at either end, a group of several tiles, many small groups.
const std::vector<GroupedRows> kCases = {{{0}, 3, 4},
                                         {{0, 0, 0}, 3, 4},
                                         {{2, 1}, 0, 4},
                                         {{2, 1}, 3, 0},
                                         {{1}, 1, 1},
                                         {{2, 0, 3}, 3, 4},
                                         {{0, 5, 0, 1, 0}, 7, 5},
                                         {{300, 1, 129, 0}, 65, 33},
                                         {{128, 256}, 130, 70},
                                         {std::vector<std::int32_t>(40, 7), 20, 30},
                                         {{700}, 140, 300}};

}  // namespace

KERNEL_TEST("grouped products of rows and weights") {
  for (const DType dtype : floating()) {
    for (const GroupedRows& c : kCases) {
      const auto group = c.group_of();
      const Tensor x = random({c.total(), c.k}, dtype, 1);
      for (const bool transposed : {false, true}) {
        const Tensor w = random(
            transposed ? Shape{c.groups(), c.m, c.k} : Shape{c.groups(), c.k, c.m}, dtype, 2);
        const Values xs = x.to_vector();
        const Values ws = w.to_vector();
        Values want(at(c.total() * c.m), 0.0);
        for (std::int64_t r = 0; r < c.total(); ++r) {
          const std::int64_t first = group[at(r)] * c.k * c.m;
          for (std::int64_t l = 0; l < c.k; ++l) {
            for (std::int64_t j = 0; j < c.m; ++j) {
              want[at(r * c.m + j)] +=
                  xs[at(r * c.k + l)] * ws[at(first + (transposed ? j * c.k + l : l * c.m + j))];
            }
          }
        }
        check_close(on.run({c.total(), c.m}, dtype,
                           [&](const Tensor& out) {
                             on->grouped_matmul(on(x), on(w), transposed, on(c.offsets()), out);
                           }),
                    want, 32.0);
      }
    }
  }
}

KERNEL_TEST("grouped gradients of weights") {
  for (const DType dtype : floating()) {
    for (const GroupedRows& c : kCases) {
      const auto group = c.group_of();
      const Tensor x = random({c.total(), c.k}, dtype, 1);
      const Tensor dy = random({c.total(), c.m}, dtype, 2);
      const Values xs = x.to_vector();
      const Values dys = dy.to_vector();
      Values want(at(c.groups() * c.k * c.m), 0.0);
      for (std::int64_t r = 0; r < c.total(); ++r) {
        for (std::int64_t l = 0; l < c.k; ++l) {
          for (std::int64_t j = 0; j < c.m; ++j) {
            want[at((group[at(r)] * c.k + l) * c.m + j)] +=
                xs[at(r * c.k + l)] * dys[at(r * c.m + j)];
          }
        }
      }
      check_close(on.run({c.groups(), c.k, c.m}, dtype,
                         [&](const Tensor& out) {
                           on->grouped_outer(on(x), on(dy), on(c.offsets()), out);
                         }),
                  want, 64.0);
    }
  }
}

KERNEL_TEST("grouped bias and its gradient") {
  for (const DType dtype : floating()) {
    for (const GroupedRows& c : kCases) {
      const auto group = c.group_of();
      const Tensor x = random({c.total(), c.m}, dtype, 1);
      const Tensor bias = random({c.groups(), c.m}, dtype, 2);
      Values y = x.to_vector();
      Values sums(at(c.groups() * c.m), 0.0);
      for (std::int64_t r = 0; r < c.total(); ++r) {
        for (std::int64_t j = 0; j < c.m; ++j) {
          y[at(r * c.m + j)] += bias.at(group[at(r)] * c.m + j);
          sums[at(group[at(r)] * c.m + j)] += x.at(r * c.m + j);
        }
      }
      check_close(on.run({c.total(), c.m}, dtype,
                         [&](const Tensor& out) {
                           on->grouped_bias(on(x), on(bias), on(c.offsets()), out);
                         }),
                  y);
      check_close(on.run({c.groups(), c.m}, dtype,
                         [&](const Tensor& out) { on->grouped_sum(on(x), on(c.offsets()), out); }),
                  sums, 16.0);
    }
  }
}

KERNEL_TEST("rows behind the last group count for nothing: products are zero, biases leave them") {
  for (const DType dtype : floating()) {
    const Tensor offsets = on(Tensor::of<std::int32_t>({3}, {0, 1, 2}));
    const Tensor x = Tensor::full({4, 1}, 3.0, dtype, on.device);
    on->fill(std::nan(""), x.rows(2, 4));
    const Tensor w = on(tensor_of({2, 1, 1}, dtype, {2, 5}));
    const Tensor y = Tensor::empty({4, 1}, dtype, on.device);
    on->grouped_matmul(x, w, false, offsets, y);
    check_close(y, {6, 15, 0, 0}, 0.0);
    const Tensor z = Tensor::empty({4, 1}, dtype, on.device);
    on->grouped_bias(x, w.reshape({2, 1}), offsets, z);
    check_close(z.rows(0, 2), {5, 8}, 0.0);
    CHECK(z.rows(2, 4).same_bits(x.rows(2, 4)));
    const Tensor dw = Tensor::empty({2, 1, 1}, dtype, on.device);
    on->grouped_outer(x, y, offsets, dw);
    check_close(dw, {18, 45}, 0.0);
    const Tensor sums = Tensor::empty({2, 1}, dtype, on.device);
    on->grouped_sum(x, offsets, sums);
    check_close(sums, {3, 3}, 0.0);
  }
}
