#include "ops/index.h"

#include <limits>

#include <doctest/doctest.h>

#include "ops/elementwise.h"
#include "ops/reduce.h"

using namespace moegrad;

namespace {

using Values = std::vector<double>;
const Tensor kX = Tensor::of<double>({3, 2}, {1, 2, 3, 4, 5, 6});

Tensor indices(const Shape& shape, std::initializer_list<std::int32_t> values) {
  return Tensor::of<std::int32_t>(shape, values);
}

}  // namespace

TEST_CASE("gather_rows; -1 is a row of zeros") {
  Tape t;
  const Var x = t.variable(kX);
  const Var y = gather_rows(x, indices({4}, {2, -1, 0, 2}));
  CHECK(y.value().to_vector() == Values{5, 6, 0, 0, 1, 2, 5, 6});
  CHECK(t.backward(sum(y))[x].to_vector() == Values{1, 1, 0, 0, 2, 2});
  const Var cube = t.constant(Rng{}.uniform({4, 2, 3}, DType::f32));
  CHECK(gather_rows(cube, indices({1}, {3})).value().same_bits(cube.value().rows(3, 4)));
}

TEST_CASE("scatter_add_rows; -1 is skipped") {
  Tape t;
  const Var x = t.variable(kX);
  const Var y = scatter_add_rows(x, indices({3}, {1, -1, 1}), 3);
  CHECK(y.value().to_vector() == Values{0, 0, 6, 8, 0, 0});
  CHECK(t.backward(sum(square(y)))[x].to_vector() == Values{12, 16, 0, 0, 12, 16});
}

TEST_CASE("embedding takes ids of any shape") {
  Tape t;
  const Var table = t.variable(kX);
  const Var y = embedding(table, indices({2, 2}, {0, 2, 2, 1}));
  CHECK(y.shape() == Shape{2, 2, 2});
  CHECK(y.value().to_vector() == Values{1, 2, 5, 6, 5, 6, 3, 4});
  CHECK(t.backward(sum(y))[table].to_vector() == Values{1, 1, 1, 1, 2, 2});
  CHECK(embedding(table, indices({}, {1})).shape() == Shape{2});
}

TEST_CASE("embedding: the padding row is read and gets no gradient") {
  Tape t;
  const Var table = t.variable(kX);
  const Tensor ids = indices({2, 2}, {0, 2, 2, 1});
  const Var y = embedding(table, ids, 2);
  CHECK(y.value().to_vector() == Values{1, 2, 5, 6, 5, 6, 3, 4});
  CHECK(t.backward(sum(y), {.retain = true})[table].to_vector() == Values{1, 1, 1, 1, 0, 0});
  // Also where nothing but padding is read.
  CHECK(t.backward(sum(embedding(table, indices({2}, {1, 1}), 1)))[table].to_vector() ==
        Values{0, 0, 0, 0, 0, 0});
}

TEST_CASE("take_columns and put_columns") {
  Tape t;
  const Var x = t.variable(kX);
  const Tensor index = indices({3, 2}, {1, 1, 0, -1, 1, 0});
  const Var y = take_columns(x, index);
  CHECK(y.value().to_vector() == Values{2, 2, 3, 0, 6, 5});
  CHECK(put_columns(y, index, 3).value().to_vector() == Values{0, 4, 0, 3, 0, 0, 5, 6, 0});
  CHECK(t.backward(sum(y))[x].to_vector() == Values{0, 2, 1, 0, 1, 1});
}

TEST_CASE("errors of indexing") {
  Tape t;
  const Var x = t.constant(kX);
  const Var scalar = t.constant(Tensor::scalar(1.0));
  CHECK_THROWS_WITH_AS(gather_rows(x, indices({2}, {0, 3})),
                       "[gather_rows] index 3 at place 1 is outside -1 to 2. Check the indices.",
                       Error);
  CHECK_THROWS_WITH_AS(gather_rows(x, indices({1}, {-2})),
                       "[gather_rows] index -2 at place 0 is outside -1 to 2. Check the indices.",
                       Error);
  CHECK_THROWS_WITH_AS(gather_rows(x, Tensor::zeros({2}, DType::f64, Device::cpu)),
                       "[gather_rows] the indices are f64. They must be i32.", Error);
  CHECK_THROWS_WITH_AS(gather_rows(x, Tensor()),
                       "[gather_rows] the indices are undefined. They must be i32.", Error);
  CHECK_THROWS_WITH_AS(
      gather_rows(x, indices({1, 1}, {0})),
      "[gather_rows] the index has shape [1, 1]. It needs 1 axes; reshape it first.", Error);
  CHECK_THROWS_WITH_AS(gather_rows(scalar, indices({1}, {0})),
                       "[gather_rows] x is a scalar. It needs rows; reshape it first.", Error);

  CHECK_THROWS_WITH_AS(
      scatter_add_rows(x, indices({2}, {0, 0}), 2),
      "[scatter_add_rows] x has shape [3, 2] and the index [2]. Give one index for each row of x.",
      Error);
  CHECK_THROWS_WITH_AS(
      scatter_add_rows(x, indices({3}, {0, 0, 2}), 2),
      "[scatter_add_rows] index 2 at place 2 is outside -1 to 1. Check the indices.", Error);
  CHECK_THROWS_WITH_AS(scatter_add_rows(x, indices({3}, {0, 0, 0}), -1),
                       "[scatter_add_rows] -1 rows asked for. Use 0 or more.", Error);

  CHECK_THROWS_WITH_AS(embedding(x, indices({2}, {0, -1})),
                       "[embedding] index -1 at place 1 is outside 0 to 2. Check the indices.",
                       Error);
  CHECK_THROWS_WITH_AS(embedding(x, indices({1}, {0}), 3),
                       "[embedding] index 3 at place 0 is outside 0 to 2. Check the indices.",
                       Error);
  CHECK_THROWS_WITH_AS(embedding(scalar, indices({1}, {0})),
                       "[embedding] the table has shape []. It needs 2 axes; reshape it first.",
                       Error);

  CHECK_THROWS_WITH_AS(
      take_columns(x, indices({2, 1}, {0, 0})),
      "[take_columns] x has shape [3, 2] and the index [2, 1]. Give both as many rows.", Error);
  CHECK_THROWS_WITH_AS(take_columns(x, indices({3, 1}, {0, 2, 0})),
                       "[take_columns] index 2 at place 1 is outside -1 to 1. Check the indices.",
                       Error);
  CHECK_THROWS_WITH_AS(take_columns(scalar, indices({1}, {0})),
                       "[take_columns] x has shape []. It needs 2 axes; reshape it first.", Error);
  CHECK_THROWS_WITH_AS(
      put_columns(x, indices({3, 1}, {0, 0, 0}), 4),
      "[put_columns] x has shape [3, 2] and the index [3, 1]. The shapes must agree.", Error);
  CHECK_THROWS_WITH_AS(put_columns(x, indices({3, 2}, {0, 1, 2, 3, 4, 5}), 5),
                       "[put_columns] index 5 at place 5 is outside -1 to 4. Check the indices.",
                       Error);
  CHECK_THROWS_WITH_AS(put_columns(x, indices({3, 2}, {0, 0, 0, 0, 0, 0}), -2),
                       "[put_columns] -2 columns asked for. Use 0 or more.", Error);
}

TEST_CASE("rows and columns at the ends of 64 bits are refused") {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  Tape t;
  const Var x = t.variable(kX);
  const Tensor rows = indices({3}, {0, 1, 2});
  const Tensor columns = indices({3, 2}, {0, 1, 0, 1, 0, 1});
  for (const std::int64_t size : {most, most / 2 + 2, std::int64_t{1} << 58, std::int64_t{-1}}) {
    CAPTURE(size);
    CHECK_THROWS_AS(scatter_add_rows(x, rows, size), Error);
    CHECK_THROWS_AS(put_columns(x, columns, size), Error);
  }
}
