#include "ops/attention.h"

#include <cmath>

#include <doctest/doctest.h>

#include "ops/elementwise.h"
#include "ops/reduce.h"

using namespace moegrad;

namespace {

Tensor random(const Shape& shape, std::uint64_t stream) {
  return Rng{7, stream, 0}.uniform(shape, DType::f32, -1.0, 1.0);
}

}  // namespace

TEST_CASE("causal_attention: saved and used memory grow with L, not with L^2") {
  constexpr std::int64_t kWidth = 4;
  const auto measured = [](std::int64_t length) {
    const Shape shape{1, length, kWidth};
    Tape t;
    const Var q = t.variable(random(shape, 1));
    const Var k = t.variable(random(shape, 2));
    const Var v = t.variable(random(shape, 3));
    const auto before = static_cast<std::int64_t>(pool::stats(Device::cpu).bytes_in_use);
    pool::reset_peak(Device::cpu);
    const Var loss = sum(causal_attention(q, k, v));
    const auto saved = static_cast<std::int64_t>(t.bytes_saved());
    t.backward(loss);
    const auto peak = static_cast<std::int64_t>(pool::stats(Device::cpu).peak_bytes_in_use);
    return std::pair(saved, peak - before);
  };
  const auto [saved, peak] = measured(2048);
  CHECK(saved == 4 * (4 * 2048 * kWidth + 2048));  // q, k, v, out, lse
  CHECK(peak < 2048 * 2048);                       // a quarter of one [L, L]
}

TEST_CASE("causal_attention: a position is blind to those after it") {
  const Shape shape{2, 9, 3};
  const Tensor k = random(shape, 2);
  const Tensor v = random(shape, 3);
  const auto run = [&](const Tensor& keys, const Tensor& values) {
    Tape t;
    return causal_attention(t.constant(random(shape, 1)), t.constant(keys), t.constant(values))
        .value();
  };
  const Tensor changed_k = k.clone();
  const Tensor changed_v = v.clone();
  for (std::int64_t i = 5 * 3; i < 9 * 3; ++i) {
    changed_k.write<float>()[i] = 9.0F;
    changed_v.write<float>()[i] = -9.0F;
  }
  const Tensor a = run(k, v);
  const Tensor b = run(changed_k, changed_v);
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    const bool after = i >= 5 * 3 && i < 9 * 3;
    CHECK((a.at(i) == b.at(i)) != after);
  }
}

TEST_CASE("errors of causal_attention") {
  Tape t;
  const Var q = t.constant(Tensor::zeros({2, 3, 4}, DType::f32, Device::cpu));
  const Var longer = t.constant(Tensor::zeros({2, 5, 4}, DType::f32, Device::cpu));
  const Var matrix = t.constant(Tensor::zeros({3, 4}, DType::f32, Device::cpu));
  const Var wide = t.constant(Tensor::zeros({2, 3, 4}, DType::f64, Device::cpu));
  CHECK_THROWS_WITH_AS(causal_attention(q, longer, q),
                       "[causal_attention] q, k, v have shapes [2, 3, 4], [2, 5, 4], [2, 3, 4]. "
                       "Give all three as [B, L, d].",
                       Error);
  CHECK_THROWS_AS(causal_attention(matrix, matrix, matrix), Error);
  CHECK_THROWS_AS(causal_attention(q, q, wide), Error);
}

TEST_CASE("packed_attention: two texts, by hand") {
  Tape t;
  const auto rows = [&](const std::vector<double>& x) {
    return t.variable(Tensor::of({1, 3, 1}, x));
  };
  const Var q = rows({5.0, 1.0, 0.0});
  const Var k = rows({9.0, 0.0, std::log(3.0)});
  const Var v = rows({1e6, 4.0, 8.0});
  const Var out = packed_attention(q, k, v, Tensor::of({2}, std::vector<std::int32_t>{1, 2}));
  CHECK(out.value().at(0) == 1e6);  // a text of one token
  CHECK(out.value().at(1) == doctest::Approx(0.25 * 4.0 + 0.75 * 8.0));
  CHECK(out.value().at(2) == doctest::Approx(6.0));  // both keys alike
  const Gradients g = t.backward(sum(out));
  CHECK(g[q].at(0) == 0.0);
  CHECK(g[k].at(0) == 0.0);
  CHECK(g[v].at(0) == 1.0);
}

TEST_CASE("packed_attention: of equal texts it is what a batch of them is, to the bit") {
  const auto run = [](const Shape& shape, const std::vector<std::int32_t>& lengths) {
    Tape t;
    std::vector<Var> x;
    for (const std::uint64_t stream : {1, 2, 3}) {
      x.push_back(t.variable(random({1, 210, 8}, stream).reshape(shape)));
    }
    const Var out = packed_attention(x[0], x[1], x[2], Tensor::of({std::ssize(lengths)}, lengths));
    std::vector<Tensor> all = {out.value()};
    const Gradients g = t.backward(sum(out * x[0]));
    for (const Var& v : x) all.push_back(g[v]);
    for (Tensor& r : all) r = r.reshape({210, 8});
    return all;
  };
  const auto packed = run({1, 210, 8}, {70, 70, 70});
  const auto batch = run({3, 70, 8}, {70});
  for (std::size_t i = 0; i < packed.size(); ++i) CHECK(packed[i].same_bits(batch[i]));
}

TEST_CASE("errors of packed_attention") {
  Tape t;
  const Var q = t.constant(Tensor::zeros({4, 5, 2}, DType::f32, Device::cpu));
  const Var longer = t.constant(Tensor::zeros({4, 6, 2}, DType::f32, Device::cpu));
  const auto lengths = [](const std::vector<std::int32_t>& n) {
    return Tensor::of({std::ssize(n)}, n);
  };
  CHECK_THROWS_WITH_AS(packed_attention(q, longer, q, lengths({2, 3})),
                       "[packed_attention] q, k, v have shapes [4, 5, 2], [4, 6, 2], [4, 5, 2]. "
                       "Give all three as [H, N, d].",
                       Error);
  CHECK_THROWS_WITH_AS(packed_attention(q, q, q, lengths({2, 2})),
                       "[packed_attention] lengths of 4 in all, and q has shape [4, 5, 2]. Give "
                       "lengths of N in all.",
                       Error);
  CHECK_THROWS_WITH_AS(packed_attention(q, q, q, lengths({2, -1, 4})),
                       "[packed_attention] text 1 has the length -1. Give lengths of 0 or more.",
                       Error);
  CHECK_THROWS_WITH_AS(
      packed_attention(q, q, q, lengths({3, 2147483647})),
      "[packed_attention] lengths of 2147483650 in all, and q has shape [4, 5, 2]. "
      "Give lengths of N in all.",
      Error);
  const std::int64_t rows = std::int64_t{1} << 31;  // their places are i32
  const Var many = t.constant(Tensor::zeros({0, rows, 1}, DType::f32, Device::cpu));
  CHECK_THROWS_AS(packed_attention(many, many, many, lengths({1 << 30, 1 << 30})), Error);
  CHECK_THROWS_WITH_AS(packed_attention(q, q, q, Tensor::zeros({2, 2}, DType::i32, Device::cpu)),
                       "[packed_attention] lengths are i32 [2, 2] on cpu. Give i32 [B] on cpu.",
                       Error);
  CHECK_THROWS_AS(packed_attention(q, q, q, Tensor::zeros({5}, DType::f32, Device::cpu)), Error);
}

TEST_CASE("packed_attention: no text, and texts of no token") {
  for (const std::vector<std::int32_t>& lengths :
       {std::vector<std::int32_t>{}, std::vector<std::int32_t>{0, 0}}) {
    Tape t;
    const Var x = t.variable(Tensor::zeros({2, 0, 3}, DType::f32, Device::cpu));
    const Var out = packed_attention(x, x, x, Tensor::of({std::ssize(lengths)}, lengths));
    CHECK(out.shape() == x.shape());
    CHECK(t.backward(sum(out))[x].shape() == x.shape());
  }
}
