#pragma once

namespace moegrad {

// Each registers its benchmarks with Google Benchmark.
void add_operation_benchmarks();
void add_layer_benchmarks();
void add_tape_benchmarks();
void add_estimator_benchmarks();
void add_kernel_benchmarks();
void add_product_benchmarks();

}  // namespace moegrad
