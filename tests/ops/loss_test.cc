#include "ops/loss.h"

#include <cmath>
#include <optional>

#include <doctest/doctest.h>

#include "ops/elementwise.h"
#include "ops/index.h"
#include "ops/reduce.h"
#include "ops/softmax.h"

using namespace moegrad;

namespace {

Tensor labels(std::initializer_list<std::int32_t> values) {
  return Tensor::of<std::int32_t>({static_cast<std::int64_t>(values.size())}, values);
}

}  // namespace

TEST_CASE("cross_entropy is the mean of -log softmax at the label") {
  Tape t;
  const Var x = t.variable(Rng{8, 0, 0}.uniform({4, 3}, DType::f64, -2.0, 2.0));
  const Tensor l = labels({2, 0, 1, 2});
  const Var fused = cross_entropy(x, l);
  const Var written_out = -mean(take_columns(log_softmax(x), l.reshape({4, 1})));
  CHECK(fused.shape() == Shape{});
  CHECK(fused.value().item() == doctest::Approx(written_out.value().item()).epsilon(1e-14));
  const Gradients a = t.backward(fused * 3.0, {.retain = true});
  const Gradients b = t.backward(written_out * 3.0);
  for (std::int64_t i = 0; i < 12; ++i) {
    CHECK(a[x].at(i) == doctest::Approx(b[x].at(i)).epsilon(1e-13));
  }
}

TEST_CASE("cross_entropy of large logits is exact") {
  Tape t;
  const Var x = t.variable(Tensor::of<float>({2, 2}, {1e4F, -1e4F, 1e4F, -1e4F}));
  const Var loss = cross_entropy(x, labels({0, 1}));
  CHECK(loss.value().item() == 1e4);
  CHECK(t.backward(loss)[x].to_vector() == std::vector<double>{0, 0, 0.5, -0.5});
}

TEST_CASE("cross_entropy without the rows to be ignored") {
  // The same as the loss of the others alone, to the bit, whatever the ignored rows hold.
  for (const DType dtype : {DType::f64, DType::f32}) {
    for (const std::int32_t ignored : {-100, -1, 1, 7}) {
      Tape t;
      Tensor logits = Rng{8, 0, 0}.uniform({4, 3}, DType::f64, -2.0, 2.0);
      logits.write<double>()[3] = std::nan("");
      logits.write<double>()[4] = HUGE_VAL;
      const Var x = t.variable(logits.to(dtype));
      const Var others = t.variable(x.value().rows(2, 4));
      const Var loss = cross_entropy(x, labels({ignored, ignored, 0, 2}), ignored);
      const Var of_others = cross_entropy(others, labels({0, 2}));
      CHECK(loss.value().same_bits(of_others.value()));
      const Tensor dx = t.backward(loss, {.retain = true})[x];
      CHECK(dx.rows(2, 4).same_bits(t.backward(of_others)[others]));
      CHECK(dx.rows(0, 2).same_bits(Tensor::zeros({2, 3}, dtype, Device::cpu)));
    }
  }
}

TEST_CASE("cross_entropy of ignored rows alone is 0, and so is its gradient") {
  Tape t;
  const Var x = t.variable(Tensor::of<double>({2, 2}, {1, std::nan(""), HUGE_VAL, 2}));
  const Var loss = cross_entropy(x, labels({-100, -100}), -100);
  CHECK(loss.value().item() == 0.0);
  CHECK(t.backward(loss)[x].same_bits(Tensor::zeros({2, 2}, DType::f64, Device::cpu)));
}

TEST_CASE("cross_entropy with labels on another device does not wait for them") {
  Tape t;
  const Tensor logits = Rng{8, 0, 0}.uniform({3, 4}, DType::f64, -2.0, 2.0);
  const auto loss = [&](const Tensor& l, std::optional<std::int32_t> ignored = {}) {
    return cross_entropy(t.constant(logits.to(l.device())), l, ignored).value();
  };
  const auto there = [](const Tensor& l) { return l.to(Device::guarded); };
  const std::uint64_t waits = waits_for_devices();
  const Tensor got = loss(there(labels({2, 0, 3})));
  CHECK(waits_for_devices() == waits);
  CHECK(got.same_bits(loss(labels({2, 0, 3}))));
  CHECK(loss(there(labels({2, 9, 3})), 9).same_bits(loss(labels({2, 9, 3}), 9)));
  CHECK_THROWS_AS(loss(there(labels({2, 4, 3}))), const Error&);
}

TEST_CASE("mse and bce_with_logits") {
  Tape t;
  const Var a = t.variable(Tensor::of<double>({2}, {1, 2}));
  const Var b = t.variable(Tensor::of<double>({2}, {3, 1}));
  CHECK(mse(a, b).value().item() == 2.5);
  CHECK(t.backward(mse(a, b))[a].to_vector() == std::vector<double>{-2, 1});

  const Tensor target = Tensor::of<double>({2}, {1, 0.25});
  const double p[] = {1 / (1 + std::exp(-1.0)), 1 / (1 + std::exp(-2.0))};
  const double expected = -(std::log(p[0]) + 0.25 * std::log(p[1]) + 0.75 * std::log(1 - p[1])) / 2;
  const Var bce = bce_with_logits(a, t.constant(target));
  CHECK(bce.value().item() == doctest::Approx(expected).epsilon(1e-14));
  const Gradients g = t.backward(bce);
  CHECK(g[a].at(0) == doctest::Approx((p[0] - 1) / 2).epsilon(1e-14));
  CHECK(g[a].at(1) == doctest::Approx((p[1] - 0.25) / 2).epsilon(1e-14));
}

TEST_CASE("errors of the losses") {
  Tape t;
  const Var x = t.constant(Tensor::zeros({2, 3}, DType::f64, Device::cpu));
  const Var none = t.constant(Tensor::zeros({0, 3}, DType::f64, Device::cpu));
  CHECK_THROWS_WITH_AS(cross_entropy(x, labels({0, 3})),
                       "[cross_entropy] row 1 has label 3, outside 0 to 2. Check the labels.",
                       Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, labels({-1, 0})),
                       "[cross_entropy] row 0 has label -1, outside 0 to 2. Check the labels.",
                       Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, labels({-1, 0}), -100),
                       "[cross_entropy] row 0 has label -1, outside 0 to 2. Check the labels.",
                       Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, labels({0})),
                       "[cross_entropy] labels are i32 [1] for logits [2, 3]. Give i32 [2].",
                       Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, Tensor::zeros({2}, DType::f64, Device::cpu)),
                       "[cross_entropy] labels are f64 [2] for logits [2, 3]. Give i32 [2].",
                       Error);
  CHECK_THROWS_WITH_AS(cross_entropy(x, Tensor()),
                       "[cross_entropy] labels are undefined for logits [2, 3]. Give i32 [2].",
                       Error);
  CHECK_THROWS_WITH_AS(cross_entropy(none, labels({})),
                       "[cross_entropy] logits [0, 3] have no rows. Leave empty batches out.",
                       Error);
  CHECK_THROWS_WITH_AS(cross_entropy(sum(x), labels({0})),
                       "[cross_entropy] logits has shape []. It needs 2 axes; reshape it first.",
                       Error);
  CHECK_THROWS_WITH_AS(
      mse(x, none),
      "[mse] shapes [2, 3] and [0, 3]. A loss does not broadcast: reshape one of them.", Error);
  CHECK_THROWS_WITH_AS(
      bce_with_logits(x, sum(x)),
      "[bce_with_logits] shapes [2, 3] and []. A loss does not broadcast: reshape one of them.",
      Error);
  CHECK_THROWS_WITH_AS(mse(none, none),
                       "[mse] over no elements, of shape [0, 3]. Leave empty tensors out.", Error);
}
