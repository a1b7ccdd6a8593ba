// Registers all benchmarks and hands over to Google Benchmark: its flags apply.
#include <benchmark/benchmark.h>

#include "bench/benches.h"

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  moegrad::add_operation_benchmarks();
  moegrad::add_kernel_benchmarks();
  moegrad::add_product_benchmarks();
  moegrad::add_layer_benchmarks();
  moegrad::add_tape_benchmarks();
  moegrad::add_estimator_benchmarks();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
