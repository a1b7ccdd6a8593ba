// Products on one thread, by what can compute them: product-by/WHAT/TYPE/MxNxK. The crossovers in
// tensor/cpu_product.cc are read off here.
#include <array>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "bench/benches.h"
#include "tensor/cpu_product.h"

namespace moegrad {
namespace {

using cpu::ProductBy;
using ProductSize = std::array<std::int64_t, 3>;

template <class T>
void run_product_by(benchmark::State& state, ProductBy by, const ProductSize& size) {
  const auto [m, n, k] = size;
  const std::vector<T> a(static_cast<std::size_t>(m * k), T(0.5));
  const std::vector<T> b(static_cast<std::size_t>(k * n), T(0.25));
  std::vector<T> c(static_cast<std::size_t>(m * n));
  for ([[maybe_unused]] auto _ : state) {
    cpu::product(by, m, n, k, cpu::Matrix<T>{a.data(), k}, cpu::Matrix<T>{b.data(), n}, T(0),
                 c.data(), n);
    benchmark::ClobberMemory();
  }
  state.counters["FLOP/s"] = benchmark::Counter(static_cast<double>(2 * m * n * k),
                                                benchmark::Counter::kIsIterationInvariantRate);
}

template <class T>
void add_products(const char* type, const std::vector<std::pair<const char*, ProductBy>>& all) {
  const std::vector<ProductSize> sizes = {
      {2, 2, 2},       {4, 4, 4},       {6, 6, 6},        {8, 8, 8},         {16, 16, 16},
      {20, 20, 20},    {24, 24, 24},    {28, 28, 28},     {32, 32, 32},      {64, 64, 64},
      {1, 64, 64},     {1, 1024, 256},  {4, 64, 64},      {8, 256, 64},      {256, 8, 64},
      {4096, 16, 256}, {1024, 48, 256}, {128, 1024, 256}, {1024, 1024, 1024}};
  for (const ProductSize& s : sizes) {
    for (const auto& [name, by] : all) {
      if (by == ProductBy::loops && s[0] * s[1] * s[2] > 64 * 64 * 64) continue;
      const std::string label =
          fmt::format("product-by/{}/{}/{}x{}x{}", name, type, s[0], s[1], s[2]);
      benchmark::RegisterBenchmark(label.c_str(), run_product_by<T>, by, s);
    }
  }
}

}  // namespace

void add_product_benchmarks() {
  add_products<float>("f32", {{"loops", ProductBy::loops},
                              {"eigen", ProductBy::eigen},
                              {"onednn", ProductBy::onednn},
                              {"packed", ProductBy::packed}});
  add_products<double>(
      "f64",
      {{"loops", ProductBy::loops}, {"eigen", ProductBy::eigen}, {"packed", ProductBy::packed}});
}

}  // namespace moegrad
