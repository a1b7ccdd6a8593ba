#include "ops/image.h"

#include <limits>

#include <doctest/doctest.h>

#include "ops/reduce.h"

using namespace moegrad;

namespace {

Tensor random(const Shape& shape, std::uint64_t stream) {
  return Rng{12, stream, 0}.uniform(shape, DType::f64, -1.0, 1.0);
}

double at(const Tensor& x, std::int64_t n, std::int64_t c, std::int64_t i, std::int64_t j) {
  if (i < 0 || i >= x.size(2) || j < 0 || j >= x.size(3)) return 0.0;
  return x.at(((n * x.size(1) + c) * x.size(2) + i) * x.size(3) + j);
}

}  // namespace

TEST_CASE("conv2d is the plain sum over channels and window") {
  for (const std::int64_t stride : {1, 2, 3}) {
    for (const std::int64_t padding : {0, 1, 2}) {
      Tape t;
      const Tensor x = random({2, 3, 6, 5}, 1);
      const Tensor w = random({4, 3, 3, 2}, 2);
      const Tensor bias = random({4}, 3);
      const Tensor y =
          conv2d(t.constant(x), t.constant(w), t.constant(bias), stride, padding).value();
      const Tensor plain = conv2d(t.constant(x), t.constant(w), Var(), stride, padding).value();
      const Shape shape{2, 4, (6 + 2 * padding - 3) / stride + 1,
                        (5 + 2 * padding - 2) / stride + 1};
      CHECK(y.shape() == shape);
      std::int64_t place = 0;
      for (std::int64_t n = 0; n < 2; ++n) {
        for (std::int64_t o = 0; o < 4; ++o) {
          for (std::int64_t i = 0; i < shape[2]; ++i) {
            for (std::int64_t j = 0; j < shape[3]; ++j, ++place) {
              double sum = 0.0;
              for (std::int64_t c = 0; c < 3; ++c) {
                for (std::int64_t k = 0; k < 3; ++k) {
                  for (std::int64_t l = 0; l < 2; ++l) {
                    sum += at(w, o, c, k, l) *
                           at(x, n, c, i * stride + k - padding, j * stride + l - padding);
                  }
                }
              }
              CHECK(plain.at(place) == doctest::Approx(sum).epsilon(1e-12));
              CHECK(y.at(place) == doctest::Approx(sum + bias.at(o)).epsilon(1e-12));
            }
          }
        }
      }
    }
  }
}

TEST_CASE("max_pool2d takes the largest of each window; of equals the first") {
  Tape t;
  const Var x = t.variable(
      Tensor::of<double>({1, 1, 4, 4}, {1, 2, 5, 0, 3, 3, 1, 5, 0, -1, 7, 7, -2, 0, 7, 7}));
  const Var y = max_pool2d(x, 2, 2);
  CHECK(y.shape() == Shape{1, 1, 2, 2});
  CHECK(y.value().to_vector() == std::vector<double>{3, 5, 0, 7});
  CHECK(t.backward(sum(y))[x].to_vector() ==
        std::vector<double>{0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0});

  SUBCASE("overlapping windows add up") {
    const Var z = t.variable(Tensor::of<double>({1, 1, 3, 3}, {0, 0, 0, 0, 9, 0, 0, 0, 0}));
    CHECK(t.backward(sum(max_pool2d(z, 2, 1)))[z].at(4) == 4.0);
  }
}

TEST_CASE("errors of image operations") {
  Tape t;
  const auto of = [&](const Shape& shape, DType dtype = DType::f64) {
    return t.constant(Tensor::zeros(shape, dtype, Device::cpu));
  };
  const Var x = of({1, 2, 4, 4});
  CHECK_THROWS_WITH_AS(conv2d(of({2, 4, 4}), of({1, 2, 3, 3}), Var()),
                       "[conv2d] x has shape [2, 4, 4]. It needs 4 axes; reshape it first.", Error);
  CHECK_THROWS_WITH_AS(conv2d(x, of({2, 9}), Var()),
                       "[conv2d] the weight has shape [2, 9]. It needs 4 axes; reshape it first.",
                       Error);
  CHECK_THROWS_WITH_AS(conv2d(x, of({1, 3, 3, 3}), Var()),
                       "[conv2d] images [1, 2, 4, 4] have 2 channels and the weight [1, 3, 3, 3] "
                       "expects 3. They must agree.",
                       Error);
  CHECK_THROWS_WITH_AS(
      conv2d(x, of({1, 2, 5, 3}), Var()),
      "[conv2d] a window of 5 x 3 on images [1, 2, 4, 4] with padding 0. It must fit inside.",
      Error);
  CHECK_THROWS_WITH_AS(
      conv2d(x, of({1, 2, 3, 3}), Var(), 0, 1),
      "[conv2d] stride 0 and padding 1. Use a stride of 1 to 2147483647, padding of 0 "
      "to 2147483647.",
      Error);
  CHECK_THROWS_WITH_AS(conv2d(x, of({3, 2, 3, 3}), of({2})),
                       "[conv2d] the bias has shape [2] for 3 filters. Give it shape [3].", Error);
  CHECK_THROWS_WITH_AS(conv2d(x, of({3, 2, 3, 3}, DType::f32), Var()),
                       "[conv2d] operands are f64 and f32. Convert one of them.", Error);
  CHECK_THROWS_WITH_AS(max_pool2d(of({4, 4}), 2, 2),
                       "[max_pool2d] x has shape [4, 4]. It needs 4 axes; reshape it first.",
                       Error);
  CHECK_THROWS_WITH_AS(
      max_pool2d(x, 5, 1),
      "[max_pool2d] a window of 5 x 5 on images [1, 2, 4, 4] with padding 0. It must fit inside.",
      Error);
  CHECK_THROWS_WITH_AS(max_pool2d(x, 2, 0),
                       "[max_pool2d] stride 0 and padding 0. Use a stride of 1 to 2147483647, "
                       "padding of 0 to 2147483647.",
                       Error);
  CHECK_THROWS_WITH_AS(max_pool2d(of({1, 1, 2, 2}, DType::i32), 2, 2),
                       "[max_pool2d] needs f32 or f64, got i32. Convert the tensor first.", Error);
}

TEST_CASE("windows at the ends of 64 bits are refused") {
  constexpr std::int64_t most = std::numeric_limits<std::int64_t>::max();
  Tape t;
  const Var x = t.constant(random({1, 1, 4, 4}, 1));
  const Var w = t.constant(random({1, 1, 2, 2}, 2));
  for (const std::int64_t padding : {most, most / 2, std::int64_t{1} << 31, std::int64_t{-1}}) {
    CHECK_THROWS_AS(conv2d(x, w, {}, 1, padding), Error);
  }
  CHECK_THROWS_AS(conv2d(x, w, {}, 1, (std::int64_t{1} << 31) - 1), Error);  // 2^64 places
  CHECK_THROWS_AS(conv2d(x, w, {}, most, 0), Error);
  CHECK(conv2d(x, w, {}, (std::int64_t{1} << 31) - 1, 0).shape() == Shape{1, 1, 1, 1});
  CHECK_THROWS_AS(max_pool2d(x, most, 1), Error);
  CHECK_THROWS_AS(max_pool2d(x, -1, 1), Error);
  CHECK_THROWS_AS(max_pool2d(x, 2, most), Error);
  CHECK(max_pool2d(x, 2, (std::int64_t{1} << 31) - 1).shape() == Shape{1, 1, 1, 1});
}
