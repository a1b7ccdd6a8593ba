// Kernels in f32 at sizes where they work, side by side with what each is measured against:
//   kernels/FUNCTION/std, .../fast          a loop of std::exp and its like; the kernel
//   kernels/rows/COLUMNS/copy, .../KERNEL   a copy of as many bytes; the kernels that go over rows
//   kernels/conv2d/SIZES/product, ...       the product of the unfolded images alone; the kernels
//   kernels/attention/SIZES/composed/PASS   matmul, masking, softmax, matmul; causal_attention
//   kernels/embedding/SIZES/fill, ...       filling the gradient with zeros; the kernels
// bytes_per_second counts what is read and written once.
#include <array>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include "bench/benches.h"
#include "ops/ops.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

Kernels& on_cpu() { return kernels(Device::cpu); }

Tensor values(const Shape& shape) {
  static Rng rng{.seed = 1};
  return rng.uniform(shape, DType::f32, -2.0, 2.0);
}
Tensor fresh(const Shape& shape) { return Tensor::empty(shape, DType::f32, Device::cpu); }

void add(const std::string& name, std::int64_t bytes, const std::function<void()>& run) {
  benchmark::RegisterBenchmark(("kernels/" + name).c_str(),
                               [=](benchmark::State& state) {
                                 for ([[maybe_unused]] auto _ : state) {
                                   run();
                                   benchmark::ClobberMemory();
                                 }
                                 state.SetBytesProcessed(state.iterations() * bytes);
                               })
      ->Unit(benchmark::kMicrosecond)
      ->MeasureProcessCPUTime()
      ->UseRealTime();
}

void add_functions() {
  constexpr std::int64_t kSize = 1 << 16;
  constexpr std::int64_t kBytes = 2 * 4 * kSize;
  const Tensor x = values({kSize});
  const Tensor y = fresh({kSize});
  const auto pair = [&](const std::string& name, int function, float (*standard)(float)) {
    add(name + "/std", kBytes, [=] {
      for (std::int64_t i = 0; i < kSize; ++i) y.write<float>()[i] = standard(x.data<float>()[i]);
    });
    add(name + "/fast", kBytes, [=] { on_cpu().unary(function, {}, x, y); });
  };
  using namespace functor;
  pair("exp", UnaryFunctors::index_of<Exp>(), [](float v) { return std::exp(v); });
  pair("log", UnaryFunctors::index_of<Log>(), [](float v) { return std::log(v); });
  pair("tanh", UnaryFunctors::index_of<Tanh>(), [](float v) { return std::tanh(v); });
  pair("erf", UnaryFunctors::index_of<Erf>(), [](float v) { return std::erf(v); });
  pair("gelu", UnaryFunctors::index_of<GeluErf>(),
       [](float v) { return 0.5F * v * (1.0F + std::erf(v * 0.70710678F)); });
  pair("silu", UnaryFunctors::index_of<Silu>(), [](float v) { return v / (1.0F + std::exp(-v)); });
}

void add_rows(std::int64_t cols) {
  const std::int64_t rows = (1 << 18) / cols;
  const std::int64_t bytes = 2 * 4 * rows * cols;
  const Shape shape{rows, cols};
  const AxisView view{rows, cols, 1};
  const Tensor x = values(shape);
  const Tensor dy = values(shape);
  const Tensor y = fresh(shape);
  const Tensor dx = fresh(shape);
  const Tensor scale = values({cols});
  const Tensor dscale = fresh({cols});
  const Tensor dshift = fresh({cols});
  const Tensor mean = fresh({rows});
  const Tensor rstd = fresh({rows});
  const Tensor lse = values({rows});
  const Tensor labels = Tensor::zeros({rows}, DType::i32, Device::cpu);
  const Tensor one = Tensor::full({}, 1.0, DType::f32, Device::cpu);
  const auto row = [&](const std::string& name, const std::function<void()>& run) {
    add(fmt::format("rows/{}/{}", cols, name), bytes, run);
  };
  row("copy", [=] { on_cpu().copy(x, y); });
  row("softmax", [=] { on_cpu().softmax(x, view, y); });
  row("softmax_backward", [=] { on_cpu().softmax_backward(x, dy, view, dx); });
  row("log_softmax", [=] { on_cpu().log_softmax(x, view, y); });
  row("log_softmax_backward", [=] { on_cpu().log_softmax_backward(x, dy, view, dx); });
  row("cross_entropy", [=] { on_cpu().cross_entropy(x, labels, mean, rstd); });
  row("cross_entropy_backward",
      [=] { on_cpu().cross_entropy_backward(x, labels, lse, one, 1.0, dx); });
  row("layer_norm", [=] { on_cpu().layer_norm(x, scale, scale, 1e-5, y, mean, rstd); });
  row("layer_norm_backward",
      [=] { on_cpu().layer_norm_backward(x, scale, mean, rstd, dy, dx, dscale, dshift); });
  row("rms_norm", [=] { on_cpu().rms_norm(x, scale, 1e-5, y, rstd); });
  row("rms_norm_backward", [=] { on_cpu().rms_norm_backward(x, scale, rstd, dy, dx, dscale); });
}

void add_convolution(std::int64_t images, std::int64_t channels, std::int64_t size,
                     std::int64_t filters) {
  const Window window{3, 3, 1, 1};
  const std::int64_t taps = channels * 9;
  const std::int64_t places = size * size;
  const Tensor x = values({images, channels, size, size});
  const Tensor weight = values({filters, channels, 3, 3});
  const Tensor y = fresh({images, filters, size, size});
  const Tensor dy = values(y.shape());
  const Tensor dx = fresh(x.shape());
  const Tensor dweight = fresh(weight.shape());
  const Tensor unfolded = Tensor::full({images, taps, places}, 1.0, DType::f32, Device::cpu);
  const auto row = [&](const std::string& name, const std::function<void()>& run) {
    add(fmt::format("conv2d/N{}-C{}-{}x{}-O{}/{}", images, channels, size, size, filters, name),
        4 * (x.numel() + y.numel()), run);
  };
  row("product", [=] {
    on_cpu().matmul(weight.reshape({filters, taps}), false, unfolded, false, 0.0,
                    y.reshape({images, filters, places}));
  });
  row("conv2d", [=] { on_cpu().conv2d(x, weight, window, y); });
  row("conv2d_backward_input", [=] { on_cpu().conv2d_backward_input(weight, dy, window, dx); });
  row("conv2d_backward_weight", [=] { on_cpu().conv2d_backward_weight(x, dy, window, dweight); });
}

void add_attention(const Shape& shape) {
  const OperationCase c = CausalAttention::cases().front();  // its programs fit every shape
  const std::array<Tensor, 3> in = {values(shape), values(shape), values(shape)};
  const auto row = [&](const std::string& name, const Program& program) {
    for (const bool backward : {false, true}) {
      add(fmt::format("attention/B{}-L{}-d{}/{}/{}", shape[0], shape[1], shape[2], name,
                      backward ? "step" : "forward"),
          4 * 4 * shape[0] * shape[1] * shape[2], [=] {
            Tape t;
            const std::vector<Var> x = {t.variable(in[0]), t.variable(in[1]), t.variable(in[2])};
            const Var loss = sum(program(t, x));
            if (backward) benchmark::DoNotOptimize(t.backward(loss));
          });
    }
  };
  row("composed", c.written_out);
  row("causal_attention", c.program);
}

void add_embedding(std::int64_t vocabulary, std::int64_t tokens, std::int64_t width) {
  const Tensor table = Tensor::full({vocabulary, width}, 1.0, DType::f32, Device::cpu);
  const Tensor dtable = fresh(table.shape());
  const Tensor rows = values({tokens, width});
  const Tensor out = fresh(rows.shape());
  const Tensor index = Tensor::empty({tokens}, DType::i32, Device::cpu);
  const Rng rng{.seed = 2};
  for (std::int64_t i = 0; i < tokens; ++i) {
    index.write<std::int32_t>()[i] = static_cast<std::int32_t>(
        rng.bits(static_cast<std::uint64_t>(i)) % static_cast<std::uint64_t>(vocabulary));
  }
  const auto row = [&](const std::string& name, std::int64_t bytes,
                       const std::function<void()>& run) {
    add(fmt::format("embedding/V{}-N{}-C{}/{}", vocabulary, tokens, width, name), bytes, run);
  };
  row("gather_rows", 8 * rows.numel(), [=] { on_cpu().gather_rows(table, index, out); });
  row("fill", 4 * table.numel(), [=] { on_cpu().fill(0.0, dtable); });
  row("scatter_add_rows", 4 * table.numel() + 12 * rows.numel(),
      [=] { on_cpu().scatter_add_rows(rows, index, dtable); });
}

}  // namespace

void add_kernel_benchmarks() {
  add_functions();
  for (const std::int64_t cols : {8, 16, 64, 256, 1024, 4096}) add_rows(cols);
  add_convolution(64, 1, 28, 16);
  add_convolution(64, 16, 28, 32);
  add_convolution(32, 64, 14, 64);
  add_attention({16, 128, 32});
  add_attention({16, 512, 64});
  add_attention({1, 2048, 64});
  add_embedding(50000, 8192, 64);
  add_embedding(50000, 8192, 256);
}

}  // namespace moegrad
