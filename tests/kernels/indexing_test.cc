#include <algorithm>
#include <numeric>

#include "tests/kernels/kernel_checks.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

std::int64_t integer(const Tensor& t, std::int64_t i) { return static_cast<std::int64_t>(t.at(i)); }

}  // namespace

KERNEL_TEST("rows by index, and their sum by index") {
  struct Case {
    std::int64_t rows, table, cols;
  };
  for (const DType dtype : floating()) {
    for (const auto& [rows, table, cols] :
         {Case{0, 3, 2}, Case{3, 1, 1}, Case{2, 4, 0}, Case{7, 3, 5}, Case{701, 30, 129},
          Case{1000, 5000, 9}, Case{0, 0, 3}}) {
      const Tensor index = random_integers({rows}, 1, -1, table);
      const Tensor x = random({table, cols}, dtype, 2);
      const Tensor dy = nan_where_none(random({rows, cols}, dtype, 3), index);
      Values gathered;
      Values sums(at(table * cols), 0.0);
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t c = 0; c < cols; ++c) {
          const std::int64_t v = integer(index, r);
          gathered.push_back(v < 0 ? 0.0 : x.at(v * cols + c));
          if (v >= 0) sums[at(v * cols + c)] += dy.at(r * cols + c);
        }
      }
      check_close(on.run({rows, cols}, dtype,
                         [&](const Tensor& out) { on->gather_rows(on(x), on(index), out); }),
                  gathered, 0.0);
      check_close(on.run({table, cols}, dtype,
                         [&](const Tensor& out) { on->scatter_add_rows(on(dy), on(index), out); }),
                  sums);
    }
  }
}

KERNEL_TEST("scattered rows are added in their order") {
  // 1e8 swallows a one that comes after it; two ones before it make themselves felt.
  const Tensor zeros = on(Tensor::of<std::int32_t>({4}, {0, 0, 0, 0}));
  const auto sum = [&](const std::vector<float>& x) {
    const Tensor out = Tensor::empty({1, 1}, DType::f32, on.device);
    on->scatter_add_rows(on(Tensor::of({4, 1}, x)), zeros, out);
    return out.item();
  };
  CHECK(sum({4.0F, 4.0F, 1e8F, -1e8F}) == 8.0);
  CHECK(sum({1e8F, 4.0F, 4.0F, -1e8F}) == 0.0);
}

KERNEL_TEST("columns by index, and their sum by index") {
  struct Case {
    std::int64_t rows, cols, k;
  };
  for (const DType dtype : floating()) {
    for (const auto& [rows, cols, k] :
         {Case{0, 3, 2}, Case{3, 4, 0}, Case{1, 1, 1}, Case{5, 3, 7}, Case{2001, 16, 9}}) {
      const Tensor index = random_integers({rows, k}, 4, -1, cols);
      const Tensor x = random({rows, cols}, dtype, 5);
      const Tensor dy = nan_where_none(random({rows, k}, dtype, 6), index);
      Values taken;
      Values put(at(rows * cols), 0.0);
      for (std::int64_t r = 0; r < rows; ++r) {
        for (std::int64_t j = 0; j < k; ++j) {
          const std::int64_t c = integer(index, r * k + j);
          taken.push_back(c < 0 ? 0.0 : x.at(r * cols + c));
          if (c >= 0) put[at(r * cols + c)] += dy.at(r * k + j);
        }
      }
      check_close(on.run({rows, k}, dtype,
                         [&](const Tensor& out) { on->take_columns(on(x), on(index), out); }),
                  taken, 0.0);
      check_close(on.run({rows, cols}, dtype,
                         [&](const Tensor& out) { on->put_columns(on(dy), on(index), out); }),
                  put);
    }
  }
}

KERNEL_TEST("integers by index: rows, columns, and columns put") {
  const auto of = [&](const Shape& shape, const std::vector<std::int32_t>& v) {
    return on(Tensor::of(shape, v));
  };
  const auto run = [&](const Shape& shape, auto f) { return on.run(shape, DType::i32, f); };
  const Tensor x = of({2, 3}, {10, 11, 12, 20, 21, 22});
  const Tensor rows = of({3}, {1, -1, 0});
  check_close(run({3, 3}, [&](const Tensor& out) { on->gather_rows(x, rows, out); }),
              {20, 21, 22, 0, 0, 0, 10, 11, 12}, 0.0);
  const Tensor index = of({2, 2}, {2, -1, 0, 0});
  check_close(run({2, 2}, [&](const Tensor& out) { on->take_columns(x, index, out); }),
              {12, 0, 20, 20}, 0.0);
  const Tensor put = of({2, 2}, {-1, 7, 3, 4});
  check_close(run({2, 3}, [&](const Tensor& out) { on->put_columns(put, index, out); }),
              {0, 0, -1, 7, 0, 0}, 0.0);
  const Tensor none = Tensor::empty({0, 2}, DType::i32, on.device);
  check_close(run({0, 3}, [&](const Tensor& out) { on->put_columns(none, none, out); }), {}, 0.0);
}

KERNEL_TEST("an index outside the table is an error") {
  const Tensor x = Tensor::zeros({3, 3}, DType::f32, on.device);
  const Tensor out = Tensor::empty({1, 3}, DType::f32, on.device);
  const Tensor one = Tensor::zeros({1, 1}, DType::f32, on.device);
  for (const std::int32_t bad : {-2, 3}) {
    const Tensor index = on(Tensor::of<std::int32_t>({1}, {bad}));
    const Tensor column = index.reshape({1, 1});
    const auto error = [&](const char* operation) {
      return fmt::format(
          "[{}] an index is {}, outside [-1, 3). Check the indices against the sizes.", operation,
          bad);
    };
    CHECK(on.error_of([&] { on->gather_rows(x, index, out); }) == error("gather_rows"));
    CHECK(on.error_of([&] { on->scatter_add_rows(out, index, x); }) == error("scatter_add_rows"));
    CHECK(on.error_of([&] { on->take_columns(out, column, one); }) == error("take_columns"));
    CHECK(on.error_of([&] { on->put_columns(one, column, out); }) == error("put_columns"));
  }
}

KERNEL_TEST("the k largest of each row, the first among equals") {
  struct Case {
    std::int64_t rows, cols, k;
  };
  for (const DType dtype : floating()) {
    for (const auto& sizes :
         {Case{0, 3, 2}, Case{3, 4, 0}, Case{2, 0, 0}, Case{1, 1, 1}, Case{7, 5, 1}, Case{7, 5, 5},
          Case{3001, 16, 2}, Case{40, 64, 4}, Case{33, 256, 8}, Case{33, 257, 8}, Case{30, 64, 9},
          Case{30, 64, 32}, Case{30, 64, 33}, Case{70, 257, 100}}) {
      const auto& rows = sizes.rows;
      const auto& cols = sizes.cols;
      const auto& k = sizes.k;
      // Many ties, and none.
      for (const Tensor& x :
           {random_integers({rows, cols}, 7, -3, 4).to(dtype), random({rows, cols}, dtype, 8)}) {
        Values want;
        for (std::int64_t r = 0; r < rows; ++r) {
          std::vector<std::int64_t> order(at(cols));
          std::iota(order.begin(), order.end(), 0);
          std::stable_sort(order.begin(), order.end(), [&](std::int64_t i, std::int64_t j) {
            return x.at(r * cols + i) > x.at(r * cols + j);
          });
          want.insert(want.end(), order.begin(), order.begin() + k);
        }
        check_close(on.run({rows, k}, DType::i32,
                           [&, n = k](const Tensor& out) { on->top_k(on(x), n, out); }),
                    want, 0.0);
      }
    }
  }
}

KERNEL_TEST("top_k takes NaN for the largest and every infinity") {
  const double nan = std::nan("");
  for (const DType dtype : floating()) {
    for (const std::int64_t cols : {6, 300}) {
      const Tensor x = Tensor::full({1, cols}, -HUGE_VAL, dtype, on.device);
      on->copy_block(on(tensor_of({4}, dtype, {nan, 1, HUGE_VAL, nan})), 0, 4, 1, 4, 1, 4, x);
      check_close(on.run({1, 6}, DType::i32, [&](const Tensor& out) { on->top_k(x, 6, out); }),
                  {1, 4, 3, 2, 0, 5}, 0.0);
    }
    const Tensor all = Tensor::full({1, 70}, nan, dtype, on.device);
    for (const std::int64_t k : {3, 20, 50}) {
      Values want(at(k));
      std::iota(want.begin(), want.end(), 0.0);
      check_close(
          on.run({1, k}, DType::i32, [&, n = k](const Tensor& out) { on->top_k(all, n, out); }),
          want, 0.0);
    }
  }
}

KERNEL_TEST("cycle counts up and starts again") {
  const auto run = [&](const Shape& shape, std::int64_t each, std::int64_t period) {
    return on.run(shape, DType::i32, [&](const Tensor& out) { on->cycle(each, period, out); });
  };
  check_close(run({2, 3}, 1, 3), {0, 1, 2, 0, 1, 2}, 0.0);
  check_close(run({7}, 2, 3), {0, 0, 1, 1, 2, 2, 0}, 0.0);
  check_close(run({0}, 1, 1), {}, 0.0);
  const Tensor many = run({100003}, 7, 1000);
  CHECK(many.at(100002) == 100002 / 7 % 1000);
}

KERNEL_TEST("top_k of more than there are is an error") {
  const Tensor x = Tensor::zeros({2, 3}, DType::f32, on.device);
  CHECK_THROWS_WITH_AS(on->top_k(x, 4, Tensor::empty({2, 4}, DType::i32, on.device)),
                       "[top_k] k is 4 for rows of 3 elements. Use 0 to 3.", Error);
}
