// What routers and estimators cost: a step (forward and backward, loss included) of a mixture layer
// in f32 with each router and the estimator sparse, and with each estimator and its first router.
// Every iteration runs the step and then that of a reference layer, in turns, so that a machine
// that changes its speed changes both:
//
//   extra/SIZES/ROUTER/ESTIMATOR         the reference is top-k and sparse with the same k. H is
//                                        small: what a router or estimator adds does not depend on
//                                        it (where it runs no more experts), and is seen best there
//   over-sparse/SIZES/ROUTER/ESTIMATOR   the same at a whole layer
//   over-dense/SIZES/ROUTER/ESTIMATOR    for those that run every expert: the same with k = E
//
// The time is that of the step alone. Of the counters, medians over the iterations, `reference` is
// the time of the reference, `extra` that of the step less it, both in ms, and `ratio` step over
// reference.
#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "bench/benches.h"
#include "moe/layer.h"
#include "moe/registry.h"
#include "ops/ops.h"
#include "train/modules.h"

namespace moegrad {
namespace {

constexpr std::int64_t kTokens = 4096;
constexpr std::int64_t kSequence = 64;  // for routers and estimators that look at a sequence
constexpr std::int64_t kNarrow = 16;    // hidden width
constexpr int kPairs = 9;

// A layer with its parameters, inputs and tape.
class LayerStep {
 public:
  LayerStep(const LayerSize& size, const std::string& router, const std::string& estimator)
      : layer_({.size = size, .router = router, .estimator = estimator}) {
    Rng rng{.seed = 1};
    layer_.declare("", parameters_, rng);
    for (Parameter& p : parameters_) p.value = p.value.to(DType::f32);
    x_ = rng.normal({kTokens, size.model}, DType::f32);
    target_ = rng.normal({kTokens, size.output}, DType::f32);
    ids_ = rng.permutation(kTokens);
  }

  // Seconds of one step.
  double operator()() {
    const auto start = std::chrono::steady_clock::now();
    const Weights weights = bind(tape_, parameters_, "");
    const LayerInput in{
        .x = tape_.variable(x_), .weights = weights, .ids = ids_, .sequence = kSequence};
    const LayerOutput out = layer_.forward(in);
    const Var errors = mean(square(out.y - tape_.constant(target_)), 1);
    Var loss = layer_.objective(errors, out, in);
    if (out.auxiliary.defined()) loss = loss + out.auxiliary;
    benchmark::DoNotOptimize(tape_.backward(loss));
    tape_.clear();
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }

 private:
  Layer layer_;
  Parameters parameters_;
  Tensor x_;
  Tensor target_;
  Tensor ids_;
  Tape tape_;
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

void run_pair(benchmark::State& state, const LayerSize& size, const std::string& router,
              const std::string& estimator, std::int64_t reference_active) {
  LayerSize reference_size = size;
  reference_size.active = reference_active;
  LayerStep step(size, router, estimator);
  LayerStep reference(reference_size, "top-k", "sparse");
  step();
  reference();
  std::vector<double> ratios;
  std::vector<double> extras;
  std::vector<double> references;
  for ([[maybe_unused]] auto _ : state) {
    const double seconds = step();
    references.push_back(1e3 * reference());
    extras.push_back(1e3 * seconds - references.back());
    ratios.push_back(1e3 * seconds / references.back());
    state.SetIterationTime(seconds);
  }
  state.counters["ratio"] = median(ratios);
  state.counters["extra"] = median(extras);
  state.counters["reference"] = median(references);
}

void add_pair(const char* kind, const LayerSize& size, const RouterEntry& router,
              const EstimatorEntry& estimator, bool dense_reference) {
  LayerSize own = size;
  own.active = std::clamp(size.active, router.least_active, router.most_active);
  if (estimator.name == "sparsemixer") own.active = 1;
  const std::string row =
      fmt::format("{}/N{}-D{}-H{}-E{}-k{}/{}/{}", kind, kTokens, own.model, own.hidden, own.experts,
                  own.active, router.name, estimator.name);
  benchmark::RegisterBenchmark(row.c_str(), run_pair, own, router.name, estimator.name,
                               dense_reference ? own.experts : own.active)
      ->Unit(benchmark::kMillisecond)
      ->Iterations(kPairs)
      ->UseManualTime();
}

// Every router and every estimator.
void add_pairs(const LayerSize& size) {
  LayerSize narrow = size;
  narrow.hidden = kNarrow;
  const auto add = [&](const RouterEntry& router, const EstimatorEntry& estimator) {
    const bool dense = estimator.traits.dense || !router.traits.sparse_training;
    if (!dense) add_pair("extra", narrow, router, estimator, false);
    add_pair("over-sparse", size, router, estimator, false);
    if (dense) add_pair("over-dense", size, router, estimator, true);
  };
  for (const RouterEntry& router : routers()) add(router, estimator_entry("sparse"));
  for (const EstimatorEntry& estimator : estimators()) {
    if (estimator.name != "sparse") add(router_entry(estimator.routers[0]), estimator);
  }
}

}  // namespace

void add_estimator_benchmarks() {
  add_pairs({.model = 256, .hidden = 1024, .output = 256, .experts = 16, .active = 2});
  add_pairs({.model = 256, .hidden = 128, .output = 256, .experts = 64, .active = 4});
  add_pair("over-sparse",
           {.model = 1024, .hidden = 1024, .output = 1024, .experts = 8, .active = 2},
           router_entry("top-k"), estimator_entry("expert-group"), false);
}

}  // namespace moegrad
