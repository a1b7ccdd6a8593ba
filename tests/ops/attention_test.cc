#include "ops/attention.h"

#include <doctest/doctest.h>

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
