#include "ops/shape.h"

#include <limits>

#include <doctest/doctest.h>

#include "ops/elementwise.h"
#include "ops/reduce.h"

using namespace moegrad;

namespace {

using Values = std::vector<double>;
const Tensor kX = Tensor::of<double>({2, 3}, {1, 2, 3, 4, 5, 6});

}  // namespace

TEST_CASE("reshape keeps the elements") {
  Tape t;
  const Var x = t.variable(kX);
  const Var y = reshape(x, {3, 1, 2});
  CHECK(y.shape() == Shape{3, 1, 2});
  CHECK(y.value().shares_storage(x.value()));
  CHECK(t.backward(sum(square(y)))[x].to_vector() == Values{2, 4, 6, 8, 10, 12});
  CHECK_THROWS_WITH_AS(reshape(x, {4}),
                       "[reshape] [2, 3] has 6 elements and [4] has 4. The numbers must agree.",
                       Error);
}

TEST_CASE("transpose exchanges two axes") {
  Tape t;
  const Var x = t.constant(kX);
  CHECK(transpose(x).shape() == Shape{3, 2});
  CHECK(transpose(x).value().to_vector() == Values{1, 4, 2, 5, 3, 6});
  CHECK(transpose(transpose(x)).value().same_bits(kX));
  const Tensor cube = Rng{}.uniform({2, 3, 4}, DType::f64);
  const Tensor turned = transpose(t.constant(cube), -3, 2).value();
  CHECK(turned.shape() == Shape{4, 3, 2});
  for (std::int64_t i = 0; i < 2; ++i) {
    for (std::int64_t j = 0; j < 3; ++j) {
      for (std::int64_t k = 0; k < 4; ++k) {
        CHECK(turned.at((k * 3 + j) * 2 + i) == cube.at((i * 3 + j) * 4 + k));
      }
    }
  }
  const Tensor integers = Tensor::of<std::int32_t>({1, 2}, {3, 4});
  CHECK(transpose(t.constant(integers)).value().shape() == Shape{2, 1});
  CHECK_THROWS_WITH_AS(transpose(x, 0, 2), "[transpose] axis 2 of shape [2, 3]. Use -2 to 1.",
                       Error);
  CHECK_THROWS_WITH_AS(transpose(sum(x)),
                       "[transpose] axis -2 of a scalar. It has no axes; reshape it first.", Error);
}

TEST_CASE("concat, slice and split") {
  Tape t;
  const Var x = t.variable(kX);
  const Var y = t.variable(Tensor::of<double>({2, 1}, {7, 8}));
  const Var both = concat({x, y}, -1);
  CHECK(both.value().to_vector() == Values{1, 2, 3, 7, 4, 5, 6, 8});
  CHECK(concat({x, x}, 0).shape() == Shape{4, 3});
  CHECK(slice(both, 1, 2, 4).value().to_vector() == Values{3, 7, 6, 8});
  CHECK(slice(both, 0, 1, 2).value().to_vector() == Values{4, 5, 6, 8});
  CHECK(slice(both, 1, 1, 1).shape() == Shape{2, 0});

  const std::vector<Var> parts = split(both, {3, 0, 1}, 1);
  CHECK(parts.size() == 3);
  CHECK(parts[0].value().same_bits(x.value()));
  CHECK(parts[1].shape() == Shape{2, 0});
  CHECK(parts[2].value().same_bits(y.value()));

  const Gradients g = t.backward(sum(square(parts[0])) + sum(parts[2]));
  CHECK(g[x].to_vector() == Values{2, 4, 6, 8, 10, 12});
  CHECK(g[y].to_vector() == Values{1, 1});
}

TEST_CASE("integers are joined as well") {
  Tape t;
  const Var i = t.constant(Tensor::of<std::int32_t>({2}, {1, 2}));
  CHECK(concat({i, i}, 0).value().to_vector() == Values{1, 2, 1, 2});
}

TEST_CASE("errors of concat, slice and split") {
  Tape t;
  const Var x = t.constant(kX);
  const Var y = t.constant(Tensor::zeros({3, 3}, DType::f64, Device::cpu));
  const Var narrow = t.constant(Tensor::zeros({2, 3}, DType::f32, Device::cpu));
  CHECK_THROWS_WITH_AS(
      concat({x, y}, 1),
      "[concat] part 1 has shape [3, 3] and part 0 [2, 3]. Only the sizes of axis 1 may differ.",
      Error);
  CHECK_THROWS_WITH_AS(
      concat({x, sum(x)}, 0),
      "[concat] part 1 has shape [] and part 0 [2, 3]. Only the sizes of axis 0 may differ.",
      Error);
  CHECK_THROWS_WITH_AS(concat({x, narrow}, 1),
                       "[concat] operands are f64 and f32. Convert one of them.", Error);
  CHECK_THROWS_WITH_AS(concat({}, 0), "[concat] no parts were given. Give at least one.", Error);
  CHECK_THROWS_WITH_AS(concat({x}, 2), "[concat] axis 2 of shape [2, 3]. Use -2 to 1.", Error);
  CHECK_THROWS_WITH_AS(slice(x, 1, 1, 4),
                       "[slice] [1, 4) of axis 1 of shape [2, 3]. Stay within 0 to 3.", Error);
  CHECK_THROWS_WITH_AS(slice(x, 0, -1, 1),
                       "[slice] [-1, 1) of axis 0 of shape [2, 3]. Stay within 0 to 2.", Error);
  CHECK_THROWS_WITH_AS(slice(x, 0, 2, 1),
                       "[slice] [2, 1) of axis 0 of shape [2, 3]. Stay within 0 to 2.", Error);
  CHECK_THROWS_WITH_AS(
      split(x, {1, 1}, 1),
      "[split] the sizes add up to 2 and axis 1 of shape [2, 3] has 3. They must agree.", Error);
  CHECK_THROWS_WITH_AS(split(x, {4, -1}, 1), "[split] a size is -1. Sizes are 0 or more.", Error);
}

TEST_CASE("sizes at the ends of 64 bits are refused") {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  constexpr std::int64_t least = std::numeric_limits<std::int64_t>::min();
  Tape t;
  const Var x = t.variable(kX);
  CHECK_THROWS_AS(reshape(x, {(std::int64_t{1} << 62) + 1, 6, 4}), Error);
  CHECK_THROWS_AS(slice(x, 0, least, most), Error);
  CHECK_THROWS_AS(slice(x, 0, most, least), Error);
  CHECK_THROWS_AS(split(x, {most, most, 4}, 1), Error);  // adds up to 2 modulo 2^64
  CHECK_THROWS_AS(split(x, {least, least, 3}, 1), Error);
  const Tensor wide = Tensor::empty({std::int64_t{1} << 57, 0}, DType::f64, Device::cpu);
  const std::vector<Var> parts(64, t.constant(wide));
  CHECK_THROWS_AS(concat(parts, 0), Error);
  CHECK_THROWS_AS(concat(std::vector<Var>(128, t.constant(wide)), 0), Error);
}
