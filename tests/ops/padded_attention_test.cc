#include "ops/padded_attention.h"

#include <cmath>

#include <doctest/doctest.h>

#include "ops/reduce.h"

using namespace moegrad;

namespace {

Tensor random_rows(const Shape& shape, std::uint64_t stream) {
  return Rng{11, stream, 0}.uniform(shape, DType::f64, -1.0, 1.0);
}

}  // namespace

TEST_CASE("padded_attention: two positions, by hand") {
  Tape t;
  const Var q = t.constant(Tensor::of({1, 3, 1}, std::vector<double>{1.0, 0.0, 5.0}));
  const Var k = t.constant(Tensor::of({1, 3, 1}, std::vector<double>{0.0, std::log(3.0), 9.0}));
  const Var v = t.constant(Tensor::of({1, 3, 1}, std::vector<double>{4.0, 8.0, 1e6}));
  const Tensor out =
      padded_attention(q, k, v, Tensor::of({1}, std::vector<std::int32_t>{2})).value();
  CHECK(out.at(0) == doctest::Approx(0.25 * 4.0 + 0.75 * 8.0));
  CHECK(out.at(1) == doctest::Approx(6.0));  // both keys alike
}

TEST_CASE("padded_attention: padding changes no bit, and has no gradient") {
  const Shape shape{4, 6, 3};  // two heads of two sequences
  const Tensor lengths = Tensor::of({2}, std::vector<std::int32_t>{6, 2});
  const auto run = [&](double behind) {
    std::vector<Tensor> results;
    Tape t;
    std::vector<Var> in;
    for (std::uint64_t i = 0; i < 3; ++i) {
      Tensor x = random_rows(shape, i).clone();
      for (const std::int64_t b : {2, 3}) {
        std::fill_n(x.write<double>() + (b * 6 + 2) * 3, 4 * 3, behind);
      }
      in.push_back(t.variable(x));
    }
    const Var out = padded_attention(in[0], in[1], in[2], lengths);
    results.push_back(out.value().rows(2, 4).reshape({12, 3}).rows(0, 2).clone());
    const Gradients g = t.backward(sum(out));
    results.push_back(g[in[1]].reshape({24, 3}).rows(14, 18).clone());
    results.push_back(g[in[2]].reshape({24, 3}).rows(14, 18).clone());
    return results;
  };
  const std::vector<Tensor> zeros = run(0.0);
  const std::vector<Tensor> large = run(1e3);
  CHECK(zeros[0].same_bits(large[0]));
  for (const std::size_t i : {1U, 2U}) {
    for (const double x : zeros[i].to_vector()) CHECK(x == 0.0);
    for (const double x : large[i].to_vector()) CHECK(x == 0.0);
  }
}

TEST_CASE("errors of padded_attention") {
  Tape t;
  const Var q = t.constant(Tensor::zeros({4, 3, 2}, DType::f32, Device::cpu));
  const Var longer = t.constant(Tensor::zeros({4, 5, 2}, DType::f32, Device::cpu));
  const auto lengths = [](const std::vector<std::int32_t>& n) {
    return Tensor::of({static_cast<std::int64_t>(n.size())}, n);
  };
  CHECK_THROWS_WITH_AS(
      padded_attention(q, longer, q, lengths({3, 3})),
      "[padded_attention] q, k, v have shapes [4, 3, 2], [4, 5, 2], [4, 3, 2]. Give "
      "all three as [B H, L, d].",
      Error);
  CHECK_THROWS_WITH_AS(
      padded_attention(q, q, q, lengths({3, 3, 3})),
      "[padded_attention] lengths are i32 [3] for q [4, 3, 2]. Give i32 [B] where B "
      "divides the first axis.",
      Error);
  for (const std::int32_t n : {0, 4}) {
    CHECK_THROWS_AS(padded_attention(q, q, q, lengths({3, n})), Error);
  }
}
