// Every case of every declared operation in f32: NAME/CASE/forward and NAME/CASE/backward. The
// cases are those of the checks, most of them small: they time the cost of a call.
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include "bench/benches.h"
#include "moe/registry.h"

namespace moegrad {
namespace {

Var run(Tape& tape, const OperationCase& c, const std::vector<Tensor>& inputs) {
  std::vector<Var> leaves;
  for (const Tensor& input : inputs) leaves.push_back(tape.variable(input));
  return c.program(tape, leaves);
}

void forward(benchmark::State& state, const OperationCase& c) {
  const std::vector<Tensor> inputs = make_inputs(c, DType::f32);
  Tape tape;
  for ([[maybe_unused]] auto _ : state) {
    run(tape, c, inputs);
    tape.clear();
  }
}

// The backward pass alone: one recorded program, gone through again and again.
void backward(benchmark::State& state, const OperationCase& c) {
  const std::vector<Tensor> inputs = make_inputs(c, DType::f32);
  Tape tape;
  const Var y = run(tape, c, inputs);
  BackwardOptions options;
  options.cotangent = Tensor::full(y.shape(), 1.0, y.dtype(), Device::cpu);
  options.retain = true;
  for ([[maybe_unused]] auto _ : state) benchmark::DoNotOptimize(tape.backward(y, options));
}

}  // namespace

void add_operation_benchmarks() {
  for (const OperationEntry& entry : all_declared_operations()) {
    for (const OperationCase& c : entry.cases()) {
      const std::string name = std::string(entry.name) + "/" + c.label;
      benchmark::RegisterBenchmark((name + "/forward").c_str(), forward, c);
      benchmark::RegisterBenchmark((name + "/backward").c_str(), backward, c);
    }
  }
}

}  // namespace moegrad
