// The cost of the tape itself. tape/OP/record and tape/OP/backward: chains of 1000 operations on
// f32 tensors of one element; the counter per_op is the time of one of them, /step both and the
// clearing. mlp/SIZES: three linear layers with relu and their loss; the counter ratio is the time
// of recording with the backward pass over that of recording alone.
#include <chrono>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "bench/benches.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr int kChain = 1000;

using Clock = std::chrono::steady_clock;
using Step = Var (*)(Var x, Var leaf);

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

Var chain(Tape& tape, Step step, const Tensor& x) {
  const Var leaf = tape.variable(x);
  Var v = leaf;
  for (int i = 0; i < kChain; ++i) v = step(v, leaf);
  return v;
}

enum class Part { record, backward, step };

void run_chain(benchmark::State& state, Step step, Part part) {
  const Tensor x = Tensor::full({}, 1.0, DType::f32, Device::cpu);
  Tape tape;
  for ([[maybe_unused]] auto _ : state) {
    const Clock::time_point start = Clock::now();
    const Var y = chain(tape, step, x);
    const Clock::time_point recorded = Clock::now();
    if (part != Part::record) benchmark::DoNotOptimize(tape.backward(y));
    const double backward = seconds_since(recorded);
    tape.clear();
    state.SetIterationTime(part == Part::backward ? backward : seconds_since(start));
  }
  state.counters["per_op"] = benchmark::Counter(
      kChain, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

void run_mlp(benchmark::State& state, std::int64_t batch, std::int64_t width) {
  Rng rng{.seed = 1};
  std::vector<Tensor> weights;
  std::vector<Tensor> biases;
  for (int layer = 0; layer < 3; ++layer) {
    weights.push_back(rng.normal({width, width}, DType::f32, 0.0, 0.1));
    biases.push_back(rng.normal({width}, DType::f32));
  }
  const Tensor x = rng.normal({batch, width}, DType::f32);
  const Tensor target = rng.normal({batch, width}, DType::f32);
  Tape tape;
  const auto record = [&] {
    Var h = tape.constant(x);
    for (std::size_t layer = 0; layer < weights.size(); ++layer) {
      h = matmul(h, tape.variable(weights[layer])) + tape.variable(biases[layer]);
      if (layer + 1 < weights.size()) h = relu(h);
    }
    return mse(h, tape.constant(target));
  };
  double forward_seconds = 0.0;
  double step_seconds = 0.0;
  for ([[maybe_unused]] auto _ : state) {
    const Clock::time_point forward = Clock::now();
    record();
    tape.clear();
    forward_seconds += seconds_since(forward);
    const Clock::time_point step = Clock::now();
    benchmark::DoNotOptimize(tape.backward(record()));
    tape.clear();
    const double seconds = seconds_since(step);
    step_seconds += seconds;
    state.SetIterationTime(seconds);
  }
  state.counters["ratio"] = step_seconds / forward_seconds;
}

}  // namespace

void add_tape_benchmarks() {
  const std::pair<const char*, Step> steps[] = {
      {"affine", [](Var x, Var) { return affine(x, 0.5, 1.0); }},
      {"square", [](Var x, Var) { return square(x); }},
      {"mul", [](Var x, Var leaf) { return x * leaf; }}};
  for (const auto& [name, step] : steps) {
    for (const auto& [part_name, part] :
         {std::pair("record", Part::record), {"backward", Part::backward}, {"step", Part::step}}) {
      benchmark::RegisterBenchmark(fmt::format("tape/{}/{}", name, part_name).c_str(), run_chain,
                                   step, part)
          ->Unit(benchmark::kMicrosecond)
          ->UseManualTime();
    }
  }
  for (const std::int64_t width : {256, 512}) {
    benchmark::RegisterBenchmark(fmt::format("mlp/N256-D{}-L3/step", width).c_str(), run_mlp, 256,
                                 width)
        ->Unit(benchmark::kMillisecond)
        ->UseManualTime();
  }
}

}  // namespace moegrad
