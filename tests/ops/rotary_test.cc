#include "ops/rotary.h"

#include <cmath>

#include <doctest/doctest.h>

#include "ops/reduce.h"

using namespace moegrad;

namespace {

constexpr std::int64_t kLength = 4;
constexpr std::int64_t kWidth = 6;

// cos and sin of the angles l 10000^(-2 i / d) of places from `begin` on.
Tensor table(std::int64_t begin, double (*function)(double)) {
  Tensor t = Tensor::empty({kLength, kWidth}, DType::f64, Device::cpu);
  for (std::int64_t i = 0; i < t.numel(); ++i) {
    const auto pair = static_cast<double>(i % kWidth % (kWidth / 2));
    const auto place = static_cast<double>(begin + i / kWidth);
    t.write<double>()[i] = function(place * std::pow(10000.0, -2.0 * pair / kWidth));
  }
  return t;
}

Tensor rotated(const Tensor& x, std::int64_t begin) {
  Tape t;
  return rotary(t.constant(x), table(begin, std::cos), table(begin, std::sin)).value();
}

}  // namespace

TEST_CASE("rotary: products of two rows depend on how far apart their places are alone") {
  const Rng rng{.seed = 4};
  const Tensor q = rng.split(1).normal({kLength, kWidth}, DType::f64);
  const Tensor k = rng.split(2).normal({kLength, kWidth}, DType::f64);
  const auto score = [&](std::int64_t begin, std::int64_t row_q, std::int64_t row_k) {
    const Tensor a = rotated(q, begin);
    const Tensor b = rotated(k, begin);
    double s = 0.0;
    for (std::int64_t i = 0; i < kWidth; ++i)
      s += a.at(row_q * kWidth + i) * b.at(row_k * kWidth + i);
    return s;
  };
  CHECK(score(0, 3, 1) == doctest::Approx(score(70, 3, 1)).epsilon(1e-12));
  // Were nothing turned, rows of the same content would have the same product at every distance.
  double plain = 0.0;
  for (std::int64_t i = 0; i < kWidth; ++i) plain += q.at(3 * kWidth + i) * k.at(kWidth + i);
  CHECK(std::abs(score(0, 3, 1) - plain) > 0.01);
}

TEST_CASE("rotary: lengths stay, and of the input nothing is kept") {
  const Tensor x = Rng{.seed = 6}.normal({2, kLength, kWidth}, DType::f64);
  Tape t;
  const Tensor cos = table(0, std::cos);
  const Tensor sin = table(0, std::sin);
  const Var y = rotary(t.variable(x), cos, sin);
  for (std::int64_t r = 0; r < 2 * kLength; ++r) {
    double before = 0.0;
    double after = 0.0;
    for (std::int64_t i = r * kWidth; i < (r + 1) * kWidth; ++i) {
      before += x.at(i) * x.at(i);
      after += y.value().at(i) * y.value().at(i);
    }
    CHECK(after == doctest::Approx(before).epsilon(1e-12));
  }
  CHECK(t.bytes_saved() == 2 * kLength * kWidth * sizeof(double));
}

TEST_CASE("errors of rotary") {
  Tape t;
  const auto zeros = [](const Shape& shape, DType dtype = DType::f64) {
    return Tensor::zeros(shape, dtype, Device::cpu);
  };
  const Tensor right = zeros({3, 4});
  CHECK_THROWS_WITH_AS(rotary(t.variable(zeros({2, 3, 5})), right, right),
                       "[rotary] x has shape [2, 3, 5]. Give it as [.., L, d] with an even d.",
                       Error);
  CHECK_THROWS_WITH_AS(rotary(t.variable(zeros({4})), right, right),
                       "[rotary] x has shape [4]. Give it as [.., L, d] with an even d.", Error);
  const Var x = t.variable(zeros({2, 3, 4}));
  CHECK_THROWS_WITH_AS(rotary(x, zeros({4, 4}), right),
                       "[rotary] cos and sin have shapes [4, 4] and [3, 4] for x [2, 3, 4]. Give "
                       "both as [3, 4].",
                       Error);
  CHECK_THROWS_WITH_AS(rotary(x, right, zeros({3, 2})),
                       "[rotary] cos and sin have shapes [3, 4] and [3, 2] for x [2, 3, 4]. Give "
                       "both as [3, 4].",
                       Error);
  CHECK_THROWS_WITH_AS(rotary(x, right, zeros({3, 4}, DType::f32)),
                       "[rotary] operands are f64 and f32. Convert one of them.", Error);
  CHECK_THROWS_AS(rotary(t.constant(zeros({3, 4}, DType::i32)), right, right), Error);
}
