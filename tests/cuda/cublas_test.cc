// Products by cuBLAS, whose preconditions the emulator's holds: the numbers of the own kernels.
#include "cuda/cublas.h"

#include <cstdlib>

#include <doctest/doctest.h>

#include "tensor/captured.h"
#include "tests/cuda/library_products.h"

using namespace moegrad;
using namespace moegrad::test;
using cuda::Products;

namespace {

constexpr auto kCall = "cublasGemmStridedBatchedEx";

struct Setting {
  DType dtype;
  Maths maths;
};
const std::vector<Setting> kSettings = {{DType::f64, Maths::exact},
                                        {DType::f32, Maths::exact},
                                        {DType::f32, Maths::tf32},
                                        {DType::f32, Maths::bf16}};

Shape matrix(std::int64_t batch, std::int64_t rows, std::int64_t cols, bool transposed) {
  if (transposed) std::swap(rows, cols);
  return batch > 0 ? Shape{batch, rows, cols} : Shape{rows, cols};
}

}  // namespace

// First of all: who has been asked once is not asked again.
TEST_CASE("cublas: who multiplies is said by the environment, own where it says nothing") {
  ::setenv("MOEGRAD_CUDA_PRODUCTS", "mkl", 1);
  std::string error;
  try {
    (void)cuda::products();
  } catch (const Error& e) {
    error = e.what();
  }
  CHECK(error == "[cuda] MOEGRAD_CUDA_PRODUCTS is 'mkl'. Use own, cublas, loop or grouped.");
  ::unsetenv("MOEGRAD_CUDA_PRODUCTS");
  CHECK(cuda::products() == Products::own);
}

TEST_CASE("cublas: products in every orientation, of all that can be asked for, in batches") {
  const cuda_emulator::Log log;
  for (const Setting& s : kSettings) {
    const MathsScope maths(s.maths);
    for (int way = 0; way < 4; ++way) {
      const bool ta = way % 2 == 1;
      const bool tb = way / 2 == 1;
      for (const auto& [batch_a, batch_b] : {std::pair{0, 0}, {3, 3}, {3, 0}, {0, 3}}) {
        for (const double beta : {0.0, -0.5}) {
          for (const auto& sizes : {std::tuple{8, 12, 20}, {7, 4, 5}, {1, 1, 1}, {4, 4, 0}}) {
            const auto& [m, n, k] = sizes;
            CAPTURE(name_of(s.maths));
            CAPTURE(way);
            CAPTURE(std::get<0>(sizes));
            const Tensor a = there(matrix(batch_a, m, k, ta), s.dtype, 1);
            const Tensor b = there(matrix(batch_b, k, n, tb), s.dtype, 2);
            const Shape shape = matrix(std::max(batch_a, batch_b), m, n, false);
            const Tensor c = there(shape, s.dtype, 3);
            const auto multiply = [&, ta = ta, tb = tb, beta = beta](const Tensor& out) {
              device().copy(c, out);
              device().matmul(a, ta, b, tb, beta, out);
            };
            const Written own = written(Products::own, kCall, shape, s.dtype, multiply);
            const Written other = written(Products::cublas, kCall, shape, s.dtype, multiply);
            CHECK(own.calls == 0);
            if (m == 8) CHECK(other.calls == 1);
            check_same(other.tensor, own.tensor, k);
          }
        }
      }
    }
  }
  // One handle, whose workspace is set behind its stream.
  std::vector<std::string> begun;
  for (const cuda_emulator::Event& e : log.events()) {
    if (e.call.starts_with("cublas") && e.call != kCall) begun.push_back(e.call);
  }
  CHECK(begun == std::vector<std::string>{"cublasCreate", "cublasSetStream", "cublasSetWorkspace"});
}

TEST_CASE("cublas: what it does not take is multiplied by the own kernels") {
  const MathsScope maths(Maths::tf32);
  const Tensor whole = there({17}, DType::f32, 1);
  const Tensor a = whole.rows(1, 17).reshape({4, 4});  // begins 4 bytes behind a multiple of 16
  const auto multiply = [&](const Tensor& out) { device().matmul(a, false, a, false, 0.0, out); };
  const Written own = written(Products::own, kCall, {4, 4}, DType::f32, multiply);
  const Written other = written(Products::cublas, kCall, {4, 4}, DType::f32, multiply);
  CHECK(other.calls == 0);
  CHECK(other.tensor.same_bits(own.tensor));
}

TEST_CASE(
    "cublas: large groups in a loop, small ones and those of who must not wait by one kernel") {
  const std::vector<std::int32_t> bounds = {0, 1100, 1100, 3099, 4200};
  const Tensor offsets = Tensor::of({5}, bounds).to(Device::cuda);
  const std::int64_t rows = 4203;  // the last belong to none
  for (const Setting& s : kSettings) {
    CAPTURE(name_of(s.maths));
    const MathsScope maths(s.maths);
    const Tensor x = there({rows, 8}, s.dtype, 1);
    const Tensor dy = there({rows, 4}, s.dtype, 2);
    for (const bool transposed : {false, true}) {
      const Tensor w = there(transposed ? Shape{4, 4, 8} : Shape{4, 8, 4}, s.dtype, 3);
      const auto multiply = [&](const Tensor& out) {
        device().grouped_matmul(x, w, transposed, offsets, out);
      };
      const Written own = written(Products::own, kCall, {rows, 4}, s.dtype, multiply);
      CHECK(written(Products::cublas, kCall, {rows, 4}, s.dtype, multiply).calls == 0);
      const Written loop = written(Products::loop, kCall, {rows, 4}, s.dtype, multiply);
      CHECK(loop.calls == 3);  // one group is empty
      check_same(loop.tensor, own.tensor, 8);
    }
    const auto outer = [&](const Tensor& out) { device().grouped_outer(x, dy, offsets, out); };
    const Written own = written(Products::own, kCall, {4, 8, 4}, s.dtype, outer);
    const Written loop = written(Products::loop, kCall, {4, 8, 4}, s.dtype, outer);
    CHECK(loop.calls == 4);
    check_same(loop.tensor, own.tensor, 2000);
    for (std::int64_t i = 32; i < 64; ++i) CHECK(loop.tensor.at(i) == 0.0);
    const Tensor few = Tensor::of<std::int32_t>({3}, {0, 5, 9}).to(Device::cuda);
    const Written small = written(
        Products::loop, kCall, {2, 8, 4}, s.dtype,
        [&](const Tensor& out) { device().grouped_outer(x.rows(0, 9), dy.rows(0, 9), few, out); });
    CHECK(small.calls == 0);
  }
}

TEST_CASE("cublas: a loop cannot be captured, one call can") {
  const Tensor offsets = Tensor::of<std::int32_t>({2}, {0, 1100}).to(Device::cuda);
  const Tensor x = there({1100, 4}, DType::f32, 1);
  const Tensor w = there({1, 4, 4}, DType::f32, 2);
  const Tensor out = x.like();
  const auto error_of = [](const auto& multiply) {
    Captured work(Device::cuda);
    try {
      for (int call = 1; call <= 3; ++call) work({}, multiply);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const ProductsScope scope(Products::loop);
  CHECK(error_of([&] { device().grouped_matmul(x, w, false, offsets, out); }) ==
        "[grouped_matmul] MOEGRAD_CUDA_PRODUCTS is loop, which reads the sizes of groups on the "
        "host, and a captured step cannot wait for it. Use own or cublas, or do not capture.");
  const Tensor want = out.clone();
  const cuda_emulator::Log log;
  kernels(Device::cuda).fill(0.0, out);
  CHECK(error_of([&] { device().matmul(x, false, w.reshape({4, 4}), false, 0.0, out); }) == "");
  CHECK(log.count(kCall) == 2);
  check_same(out.to(Device::cpu), want.to(Device::cpu), 4);
}

TEST_CASE("cublas: experts in a loop, with gathers, biases, choices of none and gradients") {
  for (const std::int64_t k : {1, 2}) {
    for (const Setting& s : kSettings) {
      CAPTURE(name_of(s.maths));
      CAPTURE(k);
      const MathsScope maths(s.maths);
      const ExpertsPass own = experts_pass(Products::own, kCall, s.dtype, 3300, k);
      const ExpertsPass loop = experts_pass(Products::loop, kCall, s.dtype, 3300, k);
      CHECK(own.calls == 0);
      // Up twice and down, the same once more on the way back and three more, by expert: 3 + 2 + 6.
      CHECK(loop.calls == 11 * 3);
      check_near(loop, own, s.maths == Maths::exact ? 0.0 : unit(s.maths));
    }
  }
}
