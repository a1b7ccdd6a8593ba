#include "ops/norm.h"

#include <cmath>

#include <doctest/doctest.h>

#include "ops/elementwise.h"
#include "ops/reduce.h"

using namespace moegrad;

namespace {

Tensor random(const Shape& shape, std::uint64_t stream) {
  return Rng{6, stream, 0}.uniform(shape, DType::f64, -2.0, 2.0);
}

void check_same(const Tensor& a, const Tensor& b) {
  CHECK(a.shape() == b.shape());
  for (std::int64_t i = 0; i < a.numel(); ++i) {
    CHECK(a.at(i) == doctest::Approx(b.at(i)).epsilon(1e-12));
  }
}

}  // namespace

TEST_CASE("layer_norm and its gradients equal the formula written out") {
  Tape t;
  const Var x = t.variable(random({2, 3, 5}, 1));
  const Var scale = t.variable(random({5}, 2));
  const Var shift = t.variable(random({5}, 3));
  const Var centred = x - mean(x, -1, true);
  const Var written_out = centred / sqrt(mean(square(centred), -1, true) + 0.01) * scale + shift;
  const Var fused = layer_norm(x, scale, shift, 0.01);
  check_same(fused.value(), written_out.value());
  const Tensor cotangent = random({2, 3, 5}, 4);
  const Gradients a = t.backward(fused, {.cotangent = cotangent, .retain = true});
  const Gradients b = t.backward(written_out, {.cotangent = cotangent});
  for (const Var& v : {x, scale, shift}) check_same(a[v], b[v]);
}

TEST_CASE("rms_norm and its gradients equal the formula written out") {
  Tape t;
  const Var x = t.variable(random({4, 5}, 1));
  const Var scale = t.variable(random({5}, 2));
  const Var written_out = x / sqrt(mean(square(x), -1, true) + 0.01) * scale;
  const Var fused = rms_norm(x, scale, 0.01);
  check_same(fused.value(), written_out.value());
  const Tensor cotangent = random({4, 5}, 4);
  const Gradients a = t.backward(fused, {.cotangent = cotangent, .retain = true});
  const Gradients b = t.backward(written_out, {.cotangent = cotangent});
  for (const Var& v : {x, scale}) check_same(a[v], b[v]);
}

TEST_CASE("a constant row is finite") {
  Tape t;
  const Var x = t.variable(Tensor::full({1, 4}, 3.0, DType::f64, Device::cpu));
  const Var one = t.constant(Tensor::full({4}, 1.0, DType::f64, Device::cpu));
  const Var y = layer_norm(x, one, one);
  CHECK(y.value().to_vector() == std::vector<double>(4, 1.0));
  for (const double d : t.backward(sum(square(y)))[x].to_vector()) CHECK(std::isfinite(d));
}

TEST_CASE("errors of the norms") {
  Tape t;
  const auto of = [&](const Shape& shape, DType dtype = DType::f64) {
    return t.constant(Tensor::zeros(shape, dtype, Device::cpu));
  };
  CHECK_THROWS_WITH_AS(layer_norm(of({2, 3}), of({2}), of({3})),
                       "[layer_norm] scale has shape [2] for rows of x [2, 3]. Give it shape [3].",
                       Error);
  CHECK_THROWS_WITH_AS(
      layer_norm(of({2, 3}), of({3}), of({3, 1})),
      "[layer_norm] shift has shape [3, 1] for rows of x [2, 3]. Give it shape [3].", Error);
  CHECK_THROWS_WITH_AS(rms_norm(of({2, 3}), of({1})),
                       "[rms_norm] scale has shape [1] for rows of x [2, 3]. Give it shape [3].",
                       Error);
  CHECK_THROWS_WITH_AS(rms_norm(of({2, 3}), of({3}, DType::f32)),
                       "[rms_norm] operands are f64 and f32. Convert one of them.", Error);
  CHECK_THROWS_WITH_AS(rms_norm(of({}), of({})),
                       "[rms_norm] x has shape []. Its last axis is normalised and needs elements.",
                       Error);
  CHECK_THROWS_WITH_AS(
      rms_norm(of({2, 0}), of({0})),
      "[rms_norm] x has shape [2, 0]. Its last axis is normalised and needs elements.", Error);
  CHECK_THROWS_WITH_AS(layer_norm(of({2, 3}), of({3}), of({3}), -1.0),
                       "[layer_norm] epsilon is -1. Use 0 or more.", Error);
  CHECK_THROWS_WITH_AS(rms_norm(of({2, 3}, DType::i32), of({3})),
                       "[rms_norm] needs f32 or f64, got i32. Convert the tensor first.", Error);
}
