// Products of groups by cuBLASLt, whose preconditions the emulator's holds: refused where they cannot
// be, else the numbers of the own kernels, without a wait. tests/kernels/ holds them to plain loops.
#include "cuda/cublaslt.h"

#include <cstdlib>

#include <doctest/doctest.h>

#include "tensor/captured.h"
#include "tests/cuda/library_products.h"
#include "tests/kernels/grouped_rows.h"
#include "tests/temporary_files.h"
#include "train/loop.h"

using namespace moegrad;
using namespace moegrad::test;
using cuda::Products;

namespace {

constexpr auto kCall = "cublasLtMatmul";

// What asking for them is refused with on a device that `change` makes of the emulator's.
template <class F>
std::string refusal_of(const F& change) {
  cuda_emulator::Settings changed = cuda_emulator::settings();
  change(changed);
  const cuda_emulator::With with(changed);
  return error_of([] { const ProductsScope scope(Products::grouped); });
}

constexpr auto kNone = "no error";  // of error_of()
std::string sentence(const std::string& why) {
  return "[cuda] MOEGRAD_CUDA_PRODUCTS is 'grouped', and " + why + ". Use own, cublas or loop.";
}

// Empty groups at either end, in the middle, side by side; one with all rows; widths that are
// multiples of 8, and not; groups of many tiles.
const std::vector<GroupedRows> kCases = {{{0, 5, 0, 0, 3, 0}, 8, 16},
                                         {{0, 0, 40}, 16, 8},
                                         {{12, 0, 0}, 24, 8},
                                         {{0, 0, 0}, 8, 8},
                                         {{1}, 1, 1},
                                         {{0, 5, 0, 1, 0, 2}, 7, 5},
                                         {{9, 4}, 3, 16},
                                         {{9, 0, 4}, 16, 9},
                                         {{70, 1, 133, 0}, 24, 40},
                                         {{131, 201}, 70, 68}};

}  // namespace

// First of all: who has been asked once is not asked again.
TEST_CASE("cublaslt: the environment asks for it, and is told where there is none") {
  ::setenv("MOEGRAD_CUDA_PRODUCTS", "grouped", 1);
  cuda_emulator::Settings none = cuda_emulator::settings();
  none.grouped_products = false;
  {
    const cuda_emulator::With with(none);
    CHECK(error_of([] { (void)cuda::products(); }) ==
          sentence("cuBLASLt is 13.10, which has no cublasLtGroupedMatrixLayoutCreate"));
  }
  CHECK(cuda::products() == Products::grouped);
  ::unsetenv("MOEGRAD_CUDA_PRODUCTS");
  cuda::set_products(Products::own);
}

TEST_CASE("cublaslt: a version, a device or a result that is not right is refused") {
  using cuda_emulator::Settings;
  CHECK(refusal_of([](Settings&) {}) == kNone);
  CHECK(refusal_of([](Settings& s) { s.cublaslt = 0; }) == sentence("cuBLASLt is not loaded"));
  for (const int version : {130100, 130200, 130399}) {
    const std::string name = version == 130399 ? "13.3" : version == 130200 ? "13.2" : "13.1";
    CHECK(refusal_of([&](Settings& s) { s.cublaslt = version; }) ==
          sentence("cuBLASLt is " + name +
                   ", whose grouped products are missing or wrong; those of 13.4 are right"));
  }
  CHECK(refusal_of([](Settings& s) { s.cublaslt = 130400; }) == kNone);
  CHECK(refusal_of([](Settings& s) { s.grouped_products = false; }) ==
        sentence("cuBLASLt is 13.10, which has no cublasLtGroupedMatrixLayoutCreate"));
  for (const int capability : {80, 89, 120}) {
    const std::string name = fmt::format("{}.{}", capability / 10, capability % 10);
    CHECK(refusal_of([&](Settings& s) { s.capability = capability; }) ==
          sentence("this device, of compute capability " + name +
                   ", is none of 9.0, 10.x and 11.0, which have grouped products"));
  }
  for (const int capability : {100, 110}) {
    CHECK(refusal_of([&](Settings& s) { s.capability = capability; }) == kNone);
  }
  CHECK(refusal_of([](Settings& s) { s.capability = 103; }) ==
        sentence("cuBLASLt is 13.10, which is known to spoil grouped products from 13.7 on where "
                 "the compute capability is 10.3"));
  CHECK(refusal_of([](Settings& s) {
          s.capability = 103;
          s.cublaslt = 130600;
        }) == kNone);
  // As 13.2 does, whatever it says it is: the test before the first use finds it.
  CHECK(refusal_of([](Settings& s) { s.skips_empty_groups = true; }) ==
        sentence("cuBLASLt gets gradients of weights wrong where a group is empty"));
  CHECK(cuda::products() == Products::own);
}

TEST_CASE(
    "cublaslt: grouped products are those of the own kernels, in one call and without a wait") {
  const MathsScope maths(Maths::bf16);
  for (const std::int64_t behind : {0, 3}) {  // rows that belong to no group
    for (const GroupedRows& c : kCases) {
      CAPTURE(c.k);
      CAPTURE(c.m);
      CAPTURE(behind);
      const std::int64_t rows = c.total() + behind;
      const std::size_t calls = rows > 0 ? 1 : 0;
      const Tensor offsets = c.offsets().to(Device::cuda);
      const Tensor x = there({rows, c.k}, DType::f32, 1);
      const Tensor dy = there({rows, c.m}, DType::f32, 2);
      const auto check = [&](const Shape& shape, std::int64_t depth, const auto& multiply) {
        const Written own = written(Products::own, kCall, shape, DType::f32, multiply);
        const Written got = written(Products::grouped, kCall, shape, DType::f32, multiply);
        CHECK(own.calls == 0);
        CHECK(got.calls == calls);
        check_same(got.tensor, own.tensor, depth);
        const ProductsScope scope(Products::grouped);
        const Tensor out = Tensor::empty(shape, DType::f32, Device::cuda);
        const cuda_emulator::Log log;
        multiply(out);
        CHECK(log.waits() == 0);
        return got.tensor;
      };
      for (const bool transposed : {false, true}) {
        const Tensor w = there(
            transposed ? Shape{c.groups(), c.m, c.k} : Shape{c.groups(), c.k, c.m}, DType::f32, 3);
        check({rows, c.m}, c.k,
              [&](const Tensor& out) { device().grouped_matmul(x, w, transposed, offsets, out); });
      }
      const Tensor dw = check({c.groups(), c.k, c.m}, c.total(), [&](const Tensor& out) {
        device().grouped_outer(x, dy, offsets, out);
      });
      for (std::int64_t i = 0; i < dw.numel(); ++i) {
        if (c.rows[at(i / (c.k * c.m))] == 0) CHECK(dw.at(i) == 0.0);
      }
    }
  }
}

TEST_CASE("cublaslt: other maths and what is in no groups are for others") {
  const Tensor offsets = Tensor::of<std::int32_t>({3}, {0, 5, 8}).to(Device::cuda);
  for (const auto& [dtype, maths] : {std::pair{DType::f64, Maths::exact},
                                     {DType::f32, Maths::exact},
                                     {DType::f32, Maths::tf32}}) {
    const MathsScope scope(maths);
    const Tensor x = there({8, 8}, dtype, 1);
    const auto multiply = [&](const Tensor& out) { device().grouped_outer(x, x, offsets, out); };
    const Written own = written(Products::own, kCall, {2, 8, 8}, dtype, multiply);
    const Written got = written(Products::grouped, kCall, {2, 8, 8}, dtype, multiply);
    CHECK(got.calls == 0);
    CHECK(got.tensor.same_bits(own.tensor));
  }
  const MathsScope scope(Maths::bf16);
  const Tensor x = there({8, 8}, DType::f32, 1);
  const auto multiply = [&](const Tensor& out) { device().matmul(x, false, x, false, 0.0, out); };
  CHECK(written(Products::grouped, "cublasGemmStridedBatchedEx", {8, 8}, DType::f32, multiply)
            .calls == 1);
  // Nothing to sum, nothing to write.
  const Tensor none = there({8, 0}, DType::f32, 1);
  const auto empty = [&](const Tensor& out) {
    device().grouped_matmul(none, there({2, 0, 8}, DType::f32, 2), false, offsets, out);
  };
  const Written zeros = written(Products::grouped, kCall, {8, 8}, DType::f32, empty);
  CHECK(zeros.calls == 0);
  CHECK(zeros.tensor.to_vector() == Values(64, 0.0));
}

TEST_CASE("cublaslt: experts, with gathers, biases, choices of none and gradients") {
  const MathsScope maths(Maths::bf16);
  for (const std::int64_t k : {1, 2}) {
    const ExpertsPass own = experts_pass(Products::own, kCall, DType::f32, 330, k);
    const ExpertsPass got = experts_pass(Products::grouped, kCall, DType::f32, 330, k);
    // Up twice and down, the same once more on the way back and three more, by expert: 3 + 2 + 6.
    CHECK(got.calls == 11);
    check_near(got, own, unit(Maths::bf16));
  }
}

TEST_CASE("cublaslt: a captured product takes the sizes that its groups have when it is replayed") {
  const MathsScope maths(Maths::bf16);
  const ProductsScope scope(Products::grouped);
  const Tensor x = there({20, 8}, DType::f32, 1);
  const Tensor w = there({3, 8, 8}, DType::f32, 2);
  const Tensor offsets = Tensor::zeros({4}, DType::i32, Device::cuda);
  const Tensor y = x.like();
  const Tensor dw = w.like();
  const auto multiply = [&] {
    device().grouped_matmul(x, w, false, offsets, y);
    device().grouped_outer(x, x, offsets, dw);
  };
  Captured work(Device::cuda);
  for (const std::vector<std::int32_t>& bounds : std::vector<std::vector<std::int32_t>>{
           {0, 5, 9, 20}, {0, 0, 20, 20}, {0, 7, 7, 11}, {0, 0, 0, 0}, {0, 20, 20, 20}}) {
    device().copy(Tensor::of({4}, bounds).to(Device::cuda), offsets);
    {
      const cuda_emulator::Log log;
      work({}, multiply);
      CHECK(log.waits() == 0);
    }
    const Tensor got_y = y.to(Device::cpu);
    const Tensor got_dw = dw.to(Device::cpu);
    const ProductsScope own(Products::own);
    multiply();
    check_same(got_y, y.to(Device::cpu), 8);
    check_same(got_dw, dw.to(Device::cpu), 20);
  }
}

TEST_CASE("cublaslt: a captured run has the bits of one that is launched") {
  const ProductsScope scope(Products::grouped);
  const TemporaryFolder folder;
  TrainConfig config;
  config.task = "synthetic";
  config.router = "top-k";
  config.estimator = "sparse";
  config.experts = 4;
  config.width = 16;
  config.hidden = 16;
  config.epochs = 1;
  config.batch = 64;
  const Task task = make_synthetic(
      DType::f32, 3, {.train_size = 640, .test_size = 64, .dimension = 784, .classes = 10});
  const cuda_emulator::Log log;
  const TrainResult launched = train(
      config,
      {.out = folder / "launched", .device = Device::cuda, .maths = Maths::bf16, .task = &task});
  const std::size_t products = log.count(kCall);
  CHECK(products > 10 * 4);
  RunOptions options = {.out = folder / "captured",
                        .device = Device::cuda,
                        .capture = true,
                        .maths = Maths::bf16,
                        .task = &task};
  std::size_t waits = 0;
  options.after_step = [&](const ProgressView& view) {
    if (view.step > 2 && view.step < 9) CHECK(log.waits() == waits + 1);
    waits = log.waits();
  };
  const TrainResult captured = train(config, options);
  CHECK(log.count("cudaStreamBeginCapture") == 1);
  CHECK(log.count(kCall) - products < products / 2);  // those of two steps, and of the evaluation
  CHECK(captured.test.loss == launched.test.loss);
}
