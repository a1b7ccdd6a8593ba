// Times of the device, one row each: products beside the library's own rate, memory, the plan of a
// dispatch, experts there and back, and training steps launched and captured.
//   moegrad_gpu_bench           sizes for a GPU of 40 GB and more
//   moegrad_gpu_bench --small   that it runs, in seconds, in the emulator too; its times say nothing
// MOEGRAD_CUDA_PRODUCTS=cublas has the products of cuBLAS, and grouped those of groups too, to
// compare with.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <vector>

#include <fmt/format.h>

#include "tensor/kernels.h"
#include "tensor/maths.h"
#include "train/classifier.h"
#include "train/step.h"

using namespace moegrad;

namespace {

constexpr Device kDevice = Device::cuda;

struct Sizes {
  std::vector<std::int64_t> square;     // of products
  std::int64_t memory;                  // elements that are copied
  std::int64_t choices;                 // of a plan
  std::int64_t experts, model, hidden;  // of a layer
  std::int64_t active, tokens;
  int repeats;
};
constexpr std::int64_t kPlanExperts = 64;
const Sizes kLarge = {{1024, 4096, 8192}, 1 << 28, 1 << 16, 128, 2048, 768, 8, 32768, 20};
const Sizes kSmall = {{48}, 1 << 10, 1 << 10, 4, 16, 16, 2, 32, 1};

Tensor normal(const Shape& shape) { return Rng{1, 2, 0}.normal(shape, DType::f32, kDevice); }

void wait() { (void)Tensor::zeros({}, DType::f32, kDevice).item(); }

// Seconds of one call: the median of three series.
double seconds_of(int repeats, const std::function<void()>& work) {
  using Clock = std::chrono::steady_clock;
  work();
  std::vector<double> series;
  for (int i = 0; i < 3; ++i) {
    wait();
    const Clock::time_point start = Clock::now();
    for (int r = 0; r < repeats; ++r) work();
    wait();
    series.push_back(std::chrono::duration<double>(Clock::now() - start).count() / repeats);
  }
  std::sort(series.begin(), series.end());
  return series[1];
}

void row(const std::string& name, double seconds, double amount, const char* unit) {
  fmt::print("{:<48} {:>12.1f} us {:>10.2f} {}\n", name, 1e6 * seconds, amount, unit);
  std::fflush(stdout);
}

void products(const Sizes& sizes) {
  for (const std::int64_t n : sizes.square) {
    const Tensor a = normal({n, n});
    const Tensor b = normal({n, n});
    const Tensor c = a.like({n, n});
    for (const Maths maths : {Maths::exact, Maths::tf32, Maths::bf16}) {
      const MathsScope scope(maths);
      const double s =
          seconds_of(sizes.repeats, [&] { kernels(kDevice).matmul(a, false, b, false, 0.0, c); });
      const double flops = 2.0 * static_cast<double>(n * n * n);
      row(fmt::format("product {} x {} x {}, {}", n, n, n, name_of(maths)), s, flops / s * 1e-12,
          "TFLOP/s");
    }
  }
}

void memory(const Sizes& sizes) {
  const Tensor x = normal({sizes.memory});
  const Tensor y = x.like({sizes.memory});
  const double s = seconds_of(sizes.repeats, [&] { kernels(kDevice).copy(x, y); });
  row(fmt::format("copy of {} MiB", sizes.memory >> 18), s,
      8.0 * static_cast<double>(sizes.memory) / s * 1e-9, "GB/s");
}

struct Plan {
  Plan(std::int64_t tokens, std::int64_t k, std::int64_t experts)
      : selected(Tensor::empty({tokens, k}, DType::i32, kDevice)),
        offsets(selected.like({experts + 1})),
        order(selected.like({tokens * k})),
        inverse(selected.like({tokens, k})),
        count(experts) {
    kernels(kDevice).top_k(normal({tokens, experts}), k, selected);
    make();
  }
  void make() const { kernels(kDevice).plan(selected, count, offsets, order, inverse); }
  Tensor selected, offsets, order, inverse;
  std::int64_t count;
};

void plans(const Sizes& sizes) {
  const Plan plan(sizes.choices / 8, 8, kPlanExperts);
  const double s = seconds_of(sizes.repeats, [&] { plan.make(); });
  row(fmt::format("plan of {} choices, {} experts", sizes.choices, kPlanExperts), s,
      static_cast<double>(sizes.choices) / s * 1e-9, "G choices/s");
}

void layers(const Sizes& z) {
  const Plan plan(z.tokens, z.active, z.experts);
  const std::int64_t slots = z.tokens * z.active;
  const ExpertTensors w = {.w1 = normal({z.experts, z.model, z.hidden}),
                           .b1 = {},
                           .w3 = normal({z.experts, z.model, z.hidden}),
                           .b3 = {},
                           .w2 = normal({z.experts, z.hidden, z.model}),
                           .b2 = {}};
  const ExpertTensors dw = {
      .w1 = w.w1.like(), .b1 = {}, .w3 = w.w3.like(), .b3 = {}, .w2 = w.w2.like(), .b2 = {}};
  const Tensor x = normal({z.tokens, z.model});
  const Tensor weights = normal({z.tokens, z.active});
  const Tensor h = x.like({slots, z.model});
  const Tensor y = x.like();
  ExpertSlotsBackward s;
  s.order = plan.order;
  s.offsets = plan.offsets;
  s.choices = z.active;
  s.a = x.like({slots, z.hidden});
  s.c = x.like({slots, z.hidden});
  const Tensor dslots = x.like({slots, z.model});
  const Tensor dweights = weights.like();
  for (const Maths maths : {Maths::exact, Maths::tf32, Maths::bf16}) {
    const MathsScope scope(maths);
    const double time = seconds_of(std::max(1, z.repeats / 4), [&] {
      Kernels& device = kernels(kDevice);
      plan.make();
      device.experts(Activation::swiglu, w, x, s, h);
      device.slots_to_tokens(h, weights, plan.inverse, y);
      ExpertSlotsBackward back = s;
      back.weights = weights;
      back.dslots = dslots;
      back.dweights = dweights;
      device.experts_backward(Activation::swiglu, w, x, y, {&back, 1}, dw);
    });
    // Three products there, six back.
    const double flops = 18.0 * static_cast<double>(slots * z.model * z.hidden);
    row(fmt::format("layer E {} D {} H {} k {} N {}, {}", z.experts, z.model, z.hidden, z.active,
                    z.tokens, name_of(maths)),
        time, flops / time * 1e-12, "TFLOP/s");
  }
}

void steps(const Sizes& sizes) {
  LayerConfig config;
  config.size = {.model = 64, .hidden = 128, .output = 64, .experts = 8, .active = 2};
  config.router = "top-k";
  config.estimator = "expert-group";
  const Classifier model(784, 10, config);
  Batch batch;
  batch.x = Rng{3}.normal({128, 784}, DType::f32);
  batch.labels = Tensor::full({128}, 1.0, DType::i32, Device::cpu);
  batch.ids = Tensor::full({128}, 0.0, DType::i32, Device::cpu);
  for (const bool captures : {false, true}) {
    Parameters parameters = model.initial(1, DType::f32);
    for (Parameter& p : parameters) p.value = p.value.to(kDevice);
    AdamWOptimiser optimiser(parameters, {});
    TrainingStep step(model, parameters, optimiser, {.max_norm = 1.0, .captures = captures});
    const auto once = [&] { (void)step(batch, Rng{1}, 1e-3, false); };
    once();
    once();
    const double s = seconds_of(sizes.repeats, once);
    row(captures ? "training step of 128 images, captured" : "training step of 128 images", s,
        128.0 / s * 1e-3, "k images/s");
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 2 || (argc == 2 && std::strcmp(argv[1], "--small") != 0)) {
    fmt::print(stderr, "[bench] unknown argument '{}'. The only one is --small.\n", argv[1]);
    return 2;
  }
  const Sizes& sizes = argc == 2 ? kSmall : kLarge;
  try {
    products(sizes);
    memory(sizes);
    plans(sizes);
    layers(sizes);
    steps(sizes);
  } catch (const Error& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
}
