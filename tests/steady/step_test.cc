// A program of its own: it replaces operator new, to count its calls.
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <utility>

#include <doctest/doctest.h>

#include "ops/ops.h"
#include "tensor/threads.h"
#include "train/classifier.h"
#include "train/optimiser.h"

namespace {

std::atomic<std::uint64_t> calls_of_new{0};

void* counted(std::size_t bytes) {
  ++calls_of_new;
  return std::malloc(bytes == 0 ? 1 : bytes);
}
void* counted(std::size_t bytes, std::align_val_t alignment) {
  ++calls_of_new;
  const auto unit = static_cast<std::size_t>(alignment);
  return std::aligned_alloc(unit, (bytes + unit) / unit * unit);
}
void* or_throw(void* memory) {
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

// Not inlined: else the compiler sees memory of operator new going to free.
#define MOEGRAD_REPLACED [[gnu::noinline]]
MOEGRAD_REPLACED void* operator new(std::size_t n) { return or_throw(counted(n)); }
MOEGRAD_REPLACED void* operator new(std::size_t n, std::align_val_t a) {
  return or_throw(counted(n, a));
}
MOEGRAD_REPLACED void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  return counted(n);
}
MOEGRAD_REPLACED void* operator new(std::size_t n, std::align_val_t a,
                                    const std::nothrow_t&) noexcept {
  return counted(n, a);
}
MOEGRAD_REPLACED void operator delete(void* p) noexcept { std::free(p); }
MOEGRAD_REPLACED void operator delete(void* p, std::size_t) noexcept { std::free(p); }
MOEGRAD_REPLACED void operator delete(void* p, std::align_val_t) noexcept { std::free(p); }
MOEGRAD_REPLACED void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}
#undef MOEGRAD_REPLACED

namespace moegrad {
namespace {

// Training steps of the vision model's kind: forward, backward, clipping, AdamW, clear.
class Training {
 public:
  Training(const LayerConfig& config, std::int64_t tokens)
      : model_(12, 5, config),
        parameters_(model_.initial(1, DType::f32)),
        optimiser_(parameters_, {}),
        x_(Rng{.seed = 2}.normal({tokens, 12}, DType::f32)),
        labels_(Tensor::zeros({tokens}, DType::i32, Device::cpu)) {}

  void step() {
    const Pass pass =
        model_.forward(tape_, {.x = x_, .labels = labels_, .ids = labels_}, parameters_);
    Var loss = cross_entropy(pass.predictions[0].value, labels_);
    const Var auxiliary = pass.mixtures[0].out.auxiliary;
    if (auxiliary.defined()) loss = loss + auxiliary;
    {
      const Gradients gradients = tape_.backward(loss);
      optimiser_.step(parameters_, gradients, 1e-3, /*max_norm=*/1.0);
    }
    tape_.clear();
  }

 private:
  Classifier model_;
  Parameters parameters_;
  AdamWOptimiser optimiser_;
  Tensor x_;
  Tensor labels_;
  Tape tape_;
};

struct StepCost {
  std::uint64_t from_system;   // the pool took blocks
  std::uint64_t calls_of_new;  // operator new was called
};

// How many of ten steps, after four others, allocated at all.
StepCost steady_steps(const LayerConfig& config, std::int64_t tokens) {
  Training training(config, tokens);
  for (int i = 0; i < 4; ++i) training.step();
  StepCost steps{};
  for (int i = 0; i < 10; ++i) {
    const std::uint64_t blocks = pool::stats(Device::cpu).system_allocations;
    const std::uint64_t calls = calls_of_new;
    training.step();
    if (pool::stats(Device::cpu).system_allocations > blocks) ++steps.from_system;
    if (calls_of_new > calls) ++steps.calls_of_new;
  }
  return steps;
}

LayerConfig config_of(const char* router, const char* estimator) {
  LayerConfig config;
  config.size = {.model = 16, .hidden = 32, .output = 16, .experts = 4, .active = 2};
  config.router = router;
  config.estimator = estimator;
  config.options = {{"aux", "0.01"}};
  return config;
}

TEST_CASE("calls of operator new are counted") {
  const std::uint64_t before = calls_of_new;
  ::operator delete(::operator new(8));
  Training(config_of("top-k", "sparse"), 8).step();
  CHECK(calls_of_new > before + 1);
}

// But for the first piece of work of each thread, which may come late on a busy machine.
TEST_CASE("a steady training step allocates nothing") {
  const auto others = static_cast<std::uint64_t>(threads() - 1);
  for (const auto& pair :
       {std::pair("top-k", "sparse"), {"top-k", "expert-group"}, {"moesart", "sparse"}}) {
    const auto& router = pair.first;
    const auto& estimator = pair.second;
    CAPTURE(router);
    CAPTURE(estimator);
    for (const std::int64_t tokens : {64, 640}) {
      CAPTURE(tokens);
      const StepCost cost = steady_steps(config_of(router, estimator), tokens);
      CHECK(cost.from_system == 0);
      CHECK(cost.calls_of_new <= others);
    }
  }
}

}  // namespace
}  // namespace moegrad
