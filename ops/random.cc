#include "ops/random.h"

#include <cmath>

#include "ops/checks.h"
#include "ops/elementwise.h"
#include "ops/select.h"

namespace moegrad {
namespace {

// The state of a generator as a decision: i32 [6], each number as its low and high half.
Tensor packed(const Rng& rng) {
  const std::uint64_t numbers[] = {rng.seed, rng.stream, rng.position};
  Tensor state = Tensor::empty({6}, DType::i32, Device::cpu);
  for (std::size_t i = 0; i < 3; ++i) {
    state.write<std::int32_t>()[2 * i] = static_cast<std::int32_t>(numbers[i]);
    state.write<std::int32_t>()[2 * i + 1] = static_cast<std::int32_t>(numbers[i] >> 32);
  }
  return state;
}

Rng unpacked(const Tensor& state) {
  const auto number = [words = state.values<std::int32_t>()](std::size_t i) {
    return (std::uint64_t{static_cast<std::uint32_t>(words[2 * i + 1])} << 32) |
           static_cast<std::uint32_t>(words[2 * i]);
  };
  return {number(0), number(1), number(2)};
}

}  // namespace

Tensor Dropout::forward(Forward& in, const Attributes& a) {
  require_floating(name, in[0]);
  Tensor y = Tensor::empty(in[0].shape(), in[0].dtype(), in[0].device());
  kernels(y.device()).dropout(a.rng, a.p, in[0], y);
  return y;
}
void Dropout::backward(Backward& b, const Attributes& a) {
  Tensor dx = Tensor::empty(b.dy().shape(), b.dy().dtype(), b.dy().device());
  kernels(dx.device()).dropout(a.rng, a.p, b.dy(), dx);
  b.add(0, std::move(dx));
}
std::vector<OperationCase> Dropout::cases() {
  std::vector<OperationCase> cases;
  const auto add = [&](const Shape& shape, double p) {
    cases.push_back({fmt::format("{} p {}", shape, p),
                     {{shape}},
                     [p](Tape&, std::span<const Var> x) { return dropout(x[0], p); }});
  };
  for (const Shape& shape : {Shape{4, 5}, Shape{1}, Shape{0, 3}, Shape{15, 20}}) add(shape, 0.3);
  add({4, 5}, 1.0);
  return cases;
}

Var dropout(Var x, double p) {
  if (!(p >= 0.0 && p <= 1.0)) fail(Dropout::name, "p is {}. Use 0 <= p <= 1.", p);
  if (p == 0.0) return x;
  if (p == 1.0) return apply<Dropout>({x}, {Rng{}, p});  // nothing is drawn
  Tape& tape = x.tape();
  Decisions& decisions = tape.decisions();
  if (!decisions.has(Dropout::name) &&
      decisions.enumerates(std::exp2(static_cast<double>(x.shape().numel())))) {
    require_floating(Dropout::name, x.value());
    const Tensor kept = decisions.bernoulli(
        Dropout::name, Tensor::full(x.shape(), 1.0 - p, DType::f64, x.value().device()),
        tape.rng());
    return where(kept, x / (1.0 - p),
                 tape.constant(Tensor::zeros({}, x.dtype(), x.value().device())));
  }
  const Tensor state = decisions.decide(Dropout::name, DType::i32, {6}, [&] {
    return packed(tape.rng().take(static_cast<std::uint64_t>(x.shape().numel())));
  });
  return apply<Dropout>({x}, {unpacked(state), p});
}

}  // namespace moegrad
