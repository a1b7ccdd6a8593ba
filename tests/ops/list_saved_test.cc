// How many bytes the operations keep for their backward passes.
#include <functional>

#include <doctest/doctest.h>

#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr std::int64_t kRows = 5;
constexpr std::int64_t kCols = 3;
constexpr std::int64_t kAll = kRows * kCols;

using Program = std::function<void(Tape&, Var x, Var y, Var row)>;

// In f64 elements, of a program on x and y [5, 3] and a row [3], all with gradients.
std::int64_t saved(const Program& program) {
  Tape t;
  const Rng rng{.seed = 1};
  const auto leaf = [&](const Shape& shape, std::uint64_t stream) {
    return t.variable(rng.split(stream).uniform(shape, DType::f64, 0.5, 1.5));
  };
  const Var x = leaf({kRows, kCols}, 1);
  const Var y = leaf({kRows, kCols}, 2);
  const Var row = leaf({kCols}, 3);
  program(t, x, y, row);
  const std::size_t bytes = t.bytes_saved();
  CHECK(bytes % 4 == 0);
  return static_cast<std::int64_t>(bytes / sizeof(double));
}

TEST_CASE("saved: nothing where the gradient needs no value") {
  CHECK(saved([](Tape&, Var x, Var y, Var) { x + y; }) == 0);
  CHECK(saved([](Tape&, Var x, Var y, Var) { x - y; }) == 0);
  CHECK(saved([](Tape&, Var x, Var, Var row) { -x + row; }) == 0);
  CHECK(saved([](Tape&, Var x, Var, Var) { affine(x, 2.0, 1.0); }) == 0);
  CHECK(saved([](Tape&, Var x, Var, Var) { sum(x); }) == 0);
  CHECK(saved([](Tape&, Var x, Var, Var) { mean(x, 0); }) == 0);
  CHECK(saved([](Tape&, Var x, Var, Var) { reshape(x, {kAll}); }) == 0);
  CHECK(saved([](Tape&, Var x, Var y, Var) { straight_through(x, y); }) == 0);
}

TEST_CASE("saved: an input, an output, or both inputs") {
  CHECK(saved([](Tape&, Var x, Var, Var) { square(x); }) == kAll);
  CHECK(saved([](Tape&, Var x, Var, Var) { gelu(x); }) == kAll);
  CHECK(saved([](Tape&, Var x, Var, Var) { tanh(x); }) == kAll);
  CHECK(saved([](Tape&, Var x, Var, Var) { softmax(x); }) == kAll);
  CHECK(saved([](Tape&, Var x, Var, Var) { log_softmax(x); }) == kAll);
  CHECK(saved([](Tape&, Var x, Var y, Var) { x* y; }) == 2 * kAll);
  CHECK(saved([](Tape&, Var x, Var, Var row) { x* row; }) == kAll + kCols);
  CHECK(saved([](Tape&, Var x, Var y, Var) { matmul(x, y, true); }) == 2 * kAll);
  CHECK(saved([](Tape&, Var x, Var, Var) { logsumexp(x, 1); }) == kAll + kRows);
}

TEST_CASE("saved: statistics besides") {
  // x, scale and shift; mean and 1/deviation of each row
  CHECK(saved([](Tape&, Var x, Var, Var row) { layer_norm(x, row, row); }) ==
        kAll + kCols + 2 * kRows);
  CHECK(saved([](Tape&, Var x, Var, Var row) { rms_norm(x, row); }) == kAll + kCols + kRows);
  // logits, logsumexp, and the labels as half as many doubles
  CHECK(saved([](Tape&, Var x, Var, Var) {
          cross_entropy(x, Tensor::zeros({kRows}, DType::i32, Device::cpu));
        }) == kAll + kRows + kRows / 2);
}

TEST_CASE("saved: a value that several operations need is kept once") {
  CHECK(saved([](Tape&, Var x, Var, Var) { square(tanh(x)); }) == kAll);
  CHECK(saved([](Tape&, Var x, Var, Var) {
          square(x);
          gelu(x);
        }) == kAll);
}

TEST_CASE("saved: nothing where no gradient is wanted") {
  Tape t;
  const Var x = t.constant(Tensor::zeros({kRows, kCols}, DType::f64, Device::cpu));
  layer_norm(softmax(x * x), mean(x, 0), mean(x, 0));
  CHECK(t.bytes_saved() == 0);
}

}  // namespace
}  // namespace moegrad
