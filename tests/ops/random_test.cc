#include "ops/random.h"

#include <cmath>

#include <doctest/doctest.h>

#include "ops/elementwise.h"
#include "ops/reduce.h"

using namespace moegrad;

TEST_CASE("dropout keeps 1 - p of the elements and their mean") {
  constexpr int kElements = 20000;
  constexpr double kP = 0.3;
  Tape t;
  const Var x = t.variable(Tensor::full({kElements}, 2.0, DType::f64, Device::cpu));
  const Var y = dropout(x, kP);
  const Tensor value = y.value();
  int kept = 0;
  for (const double v : value.to_vector()) {
    if (v == 0.0) continue;
    CHECK(v == doctest::Approx(2.0 / (1.0 - kP)));
    ++kept;
  }
  const double deviation = std::sqrt(kElements * kP * (1.0 - kP));
  CHECK(std::abs(kept - kElements * (1.0 - kP)) < 4.0 * deviation);

  // The gradient goes where the value went, with the same factor.
  const Gradients g = t.backward(sum(y));
  for (std::int64_t i = 0; i < kElements; ++i) CHECK(g[x].at(i) == value.at(i) / 2.0);
}

TEST_CASE("dropout with p = 1 gives zeros, whatever x holds, and gradients of 0") {
  Tape t;
  const Var x = t.variable(Tensor::of<double>({4}, {1, -2, HUGE_VAL, std::nan("")}));
  const Var y = dropout(x, 1.0);
  CHECK(y.value().same_bits(Tensor::zeros({4}, DType::f64, Device::cpu)));
  CHECK(t.backward(sum(y))[x].same_bits(Tensor::zeros({4}, DType::f64, Device::cpu)));
}

TEST_CASE("dropout draws from the tape's generator: new numbers at each call") {
  Tape t(Tape::Options{.rng = {9, 1, 0}});
  const Var x = t.constant(Tensor::full({100}, 1.0, DType::f32, Device::cpu));
  const Tensor first = dropout(x, 0.5).value();
  CHECK(t.rng().position == 100);
  CHECK(!dropout(x, 0.5).value().same_bits(first));

  Tape again(Tape::Options{.rng = {9, 1, 0}});
  CHECK(dropout(again.constant(x.value()), 0.5).value().same_bits(first));
}

TEST_CASE("dropout keeps no mask") {
  Tape t;
  const Var x = t.variable(Tensor::full({1000}, 1.0, DType::f32, Device::cpu));
  dropout(x, 0.5);
  CHECK(t.bytes_saved() == 0);
}

TEST_CASE("a replay of dropout repeats it, whatever the generator stands at") {
  Decisions decisions = Decisions::recorder();
  const Tensor x = Tensor::full({50}, 1.0, DType::f64, Device::cpu);
  // Each number of the generator's state uses all of its bits.
  const Rng rng{0xfedcba9876543210ULL, 0x8000000180000001ULL, 0x123456789abcdef0ULL};
  Tape first(Tape::Options{.rng = rng, .decisions = &decisions});
  const Tensor y = dropout(first.constant(x), 0.5).value();
  CHECK(decisions.recorded() == 1);
  decisions.replay();
  Tape second(Tape::Options{.decisions = &decisions});
  CHECK(dropout(second.constant(x), 0.5).value().same_bits(y));
  CHECK(second.rng().position == 50);
  decisions.finish_replay();
}

TEST_CASE("dropout with p = 0 is x itself") {
  Tape t;
  const Var x = t.variable(Tensor::full({3}, 1.0, DType::f64, Device::cpu));
  CHECK(dropout(x, 0.0).index() == x.index());
  CHECK(t.rng().position == 0);
}

TEST_CASE("dropout is enumerated: 2^n masks within the limit, held noise above it") {
  const Tensor x = Tensor::of<double>({3}, {1.0, 2.0, 4.0});
  constexpr double kP = 0.25;
  double mean[3] = {};
  double total = 0.0;
  int masks = 0;
  Decisions d = Decisions::enumerator(8);
  do {
    Tape t(Tape::Options{.decisions = &d});
    const Var in = t.variable(x);
    const Var y = dropout(in, kP);
    const Tensor value = y.value();
    const Gradients g = t.backward(sum(y));
    for (std::int64_t i = 0; i < 3; ++i) {
      mean[i] += d.probability() * value.at(i);
      CHECK(g[in].at(i) == doctest::Approx(value.at(i) / x.at(i)));
    }
    CHECK(t.rng().position == 0);
    total += d.probability();
    ++masks;
  } while (d.next_outcome());
  CHECK(masks == 8);
  CHECK(total == doctest::Approx(1.0));
  for (std::int64_t i = 0; i < 3; ++i) CHECK(mean[i] == doctest::Approx(x.at(i)));

  Decisions small = Decisions::enumerator(7);
  Tape t(Tape::Options{.decisions = &small});
  dropout(t.constant(x), kP);
  CHECK(t.rng().position == 3);
  CHECK(!small.next_outcome());
}

TEST_CASE("errors of dropout") {
  Tape t;
  const Var x = t.constant(Tensor::full({3}, 1.0, DType::f64, Device::cpu));
  CHECK_THROWS_WITH_AS(dropout(x, 1.5), "[dropout] p is 1.5. Use 0 <= p <= 1.", Error);
  CHECK_THROWS_WITH_AS(dropout(x, -0.5), "[dropout] p is -0.5. Use 0 <= p <= 1.", Error);
  CHECK_THROWS_WITH_AS(dropout(x, NAN), "[dropout] p is nan. Use 0 <= p <= 1.", Error);
  CHECK_THROWS_WITH_AS(dropout(t.constant(Tensor::zeros({2}, DType::i32, Device::cpu)), 0.5),
                       "[dropout] needs f32 or f64, got i32. Convert the tensor first.", Error);
}
