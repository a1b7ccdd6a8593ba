// Products on one thread, by what can compute them: product-by/WHAT/TYPE/MxNxK. The crossovers in
// tensor/cpu_product.cc are read off here.
#include <array>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "bench/benches.h"
#include "bench/onednn.h"
#include "tensor/cpu/product.h"

namespace moegrad {
namespace {

using cpu::ProductBy;
using ProductSize = std::array<std::int64_t, 3>;

// c = a b of m, n, k by `multiply`
template <class T, class F>
void run_product(benchmark::State& state, const ProductSize& size, F multiply) {
  const auto [m, n, k] = size;
  const std::vector<T> a(static_cast<std::size_t>(m * k), T(0.5));
  const std::vector<T> b(static_cast<std::size_t>(k * n), T(0.25));
  std::vector<T> c(static_cast<std::size_t>(m * n));
  for ([[maybe_unused]] auto _ : state) {
    multiply(m, n, k, a.data(), b.data(), c.data());
    benchmark::ClobberMemory();
  }
  state.counters["FLOP/s"] = benchmark::Counter(static_cast<double>(2 * m * n * k),
                                                benchmark::Counter::kIsIterationInvariantRate);
}

const std::vector<ProductSize>& product_sizes() {
  static const std::vector<ProductSize> sizes = {
      {2, 2, 2},         {4, 4, 4},      {6, 6, 6},       {8, 8, 8},       {16, 16, 16},
      {20, 20, 20},      {24, 24, 24},   {28, 28, 28},    {32, 32, 32},    {64, 64, 64},
      {1, 64, 64},       {1, 1024, 256}, {4, 64, 64},     {8, 256, 64},    {8, 1024, 256},
      {256, 8, 64},      {4096, 1, 256}, {4096, 16, 256}, {1024, 48, 256}, {128, 1024, 256},
      {1024, 1024, 1024}};
  return sizes;
}

template <class T, class F>
void add_product(const char* name, const char* type, const ProductSize& s, F multiply) {
  const std::string label = fmt::format("product-by/{}/{}/{}x{}x{}", name, type, s[0], s[1], s[2]);
  benchmark::RegisterBenchmark(label.c_str(), [s, multiply](benchmark::State& state) {
    run_product<T>(state, s, multiply);
  });
}

template <class T>
void add_products(const char* type) {
  const std::vector<std::pair<const char*, ProductBy>> all = {{"loops", ProductBy::loops},
                                                              {"eigen", ProductBy::eigen},
                                                              {"thin", ProductBy::thin},
                                                              {"packed", ProductBy::packed}};
  for (const ProductSize& s : product_sizes()) {
    for (const auto& [name, by] : all) {
      if (by == ProductBy::loops && s[0] * s[1] * s[2] > 64 * 64 * 64) continue;
      add_product<T>(
          name, type, s,
          [by = by](std::int64_t m, std::int64_t n, std::int64_t k, const T* a, const T* b, T* c) {
            cpu::product(by, m, n, k, cpu::Matrix<T>{a, k}, cpu::Matrix<T>{b, n}, T(0), c, n);
          });
    }
  }
}

}  // namespace

void add_product_benchmarks() {
  add_products<float>("f32");
  add_products<double>("f64");
  if (!bench::have_onednn()) return;
  for (const ProductSize& s : product_sizes()) {
    add_product<float>("onednn", "f32", s, bench::onednn_product);
  }
}

}  // namespace moegrad
