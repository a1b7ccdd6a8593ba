// A mixture layer in f32, router and loss included: layer/SIZES/ROUTER/ESTIMATOR/forward (recorded
// on a tape) and .../step (forward and backward). The counter FLOP/s is that of the useful work,
// whatever else an estimator computes: 4 N k D H for the experts' forward, 8 N k D H for their
// backward. product/1024 is the rate of a plain matrix product, the ceiling.
#include <string>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "bench/benches.h"
#include "moe/layer.h"
#include "ops/ops.h"
#include "tensor/kernels.h"
#include "train/modules.h"

namespace moegrad {
namespace {

struct Size {
  std::int64_t tokens;
  LayerSize layer;
};

void set_rate(benchmark::State& state, double flops) {
  state.counters["FLOP/s"] =
      benchmark::Counter(flops, benchmark::Counter::kIsIterationInvariantRate);
}

void run_layer(benchmark::State& state, const Size& size, const LayerConfig& config,
               bool backward) {
  const Layer layer(config);
  const LayerSize& s = config.size;
  Parameters parameters;
  Rng rng{.seed = 1};
  layer.declare("", parameters, rng);
  for (Parameter& p : parameters) p.value = p.value.to(DType::f32);
  const Tensor x = rng.normal({size.tokens, s.model}, DType::f32);
  const Tensor target = rng.normal({size.tokens, s.output}, DType::f32);

  Tape tape;
  for ([[maybe_unused]] auto _ : state) {
    const LayerOutput out =
        layer.forward(tape.variable(x), bind(tape, parameters, ""), /*training=*/true);
    const Var loss = mse(out.y, tape.constant(target));
    if (backward) benchmark::DoNotOptimize(tape.backward(loss + out.auxiliary));
    tape.clear();
  }
  const double work = static_cast<double>(size.tokens * s.active * s.model * s.hidden);
  set_rate(state, (backward ? 12.0 : 4.0) * work);
}

void run_product(benchmark::State& state) {
  constexpr std::int64_t kSize = 1024;
  Rng rng{.seed = 1};
  const Tensor a = rng.normal({kSize, kSize}, DType::f32);
  const Tensor b = rng.normal({kSize, kSize}, DType::f32);
  const Tensor out = Tensor::empty({kSize, kSize}, DType::f32, Device::cpu);
  for ([[maybe_unused]] auto _ : state) {
    kernels(Device::cpu).matmul(a, false, b, false, 0.0, out);
  }
  set_rate(state, 2.0 * kSize * kSize * kSize);
}

}  // namespace

void add_layer_benchmarks() {
  benchmark::RegisterBenchmark("product/1024", run_product)
      ->Unit(benchmark::kMillisecond)
      ->MeasureProcessCPUTime()
      ->UseRealTime();
  const std::vector<Size> sizes = {
      {1024, {.model = 64, .hidden = 128, .output = 64, .experts = 8, .active = 2}},
      {2048, {.model = 128, .hidden = 256, .output = 128, .experts = 8, .active = 2}},
      {4096, {.model = 256, .hidden = 1024, .output = 256, .experts = 16, .active = 2}}};
  const std::vector<std::pair<std::string, std::string>> pairs = {{"top-k", "sparse"},
                                                                  {"top-k", "expert-group"},
                                                                  {"top-k", "ste-dense-router"},
                                                                  {"moesart", "sparse"}};
  for (const Size& size : sizes) {
    const LayerSize& s = size.layer;
    for (const auto& [router, estimator] : pairs) {
      LayerConfig config;
      config.size = s;
      config.router = router;
      config.estimator = estimator;
      config.options = {{"aux", "0.01"}};
      for (const bool backward : {false, true}) {
        const std::string name =
            fmt::format("layer/N{}-D{}-H{}-E{}-k{}/{}/{}/{}", size.tokens, s.model, s.hidden,
                        s.experts, s.active, router, estimator, backward ? "step" : "forward");
        benchmark::RegisterBenchmark(name.c_str(), run_layer, size, config, backward)
            ->Unit(benchmark::kMillisecond)
            ->MeasureProcessCPUTime()
            ->UseRealTime();
      }
    }
  }
}

}  // namespace moegrad
