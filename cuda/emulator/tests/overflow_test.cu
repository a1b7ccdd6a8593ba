// Indices that need more than 32 bits: 20 GiB of addresses, for the price of the pages touched.
#include "cuda/emulator/tests/checks.h"

using namespace cuda_emulator;
using namespace cuda_emulator::tests;

namespace {

constexpr std::int64_t kWidth = 1 << 16;
constexpr std::int64_t kRows = std::int64_t{5} << 30 >> 16;  // of f32: 20 GiB

template <class Index>
__global__ void mark(float* x, Index row, Index column) {
  x[row * static_cast<Index>(kWidth) + column] = 7;
}
// The product of unsigned numbers has a meaning, and is the wrong number.
__global__ void read_back(const float* x, float* out, unsigned row, unsigned column) {
  out[0] = x[row * static_cast<unsigned>(kWidth) + column];
}

struct Large {
  float* x = nullptr;
  Large() { REQUIRE(cudaMalloc(&x, static_cast<std::size_t>(kRows * kWidth) * 4) == cudaSuccess); }
  ~Large() { cudaFree(x); }
};

}  // namespace

TEST_CASE("32-bit products of row and width") {
  check_passes([] {
    const Large large;
    launch<mark<std::int64_t>>({1, 1}, large.x, kRows - 1, kWidth - 1);
    float value = 0;
    cudaMemcpy(&value, large.x + kRows * kWidth - 1, 4, cudaMemcpyDeviceToHost);
    CHECK(value == 7);
  });
  NEEDS_OBSERVER
  check_caught(
      [] {
        const Large large;
        launch<mark<int>>({1, 1}, large.x, static_cast<int>(kRows - 1), 3);
      },
      {"overflow: a product of 'int' has no room for its result. Compute it in 64 bits",
       "overflow_test.cu:14"});
  check_caught(
      [] {
        const Large large;
        const Array<float> out(std::size_t{1});
        launch<mark<std::int64_t>>({1, 1}, large.x, kRows - 1, std::int64_t{3});
        launch<read_back>({1, 1}, large.x, out, static_cast<unsigned>(kRows - 1), 3U);
      },
      {"reads what nobody has written: 4 bytes at byte"});
}

TEST_CASE("memory is no more than the device has") {
  void* at = nullptr;
  CHECK(cudaMalloc(&at, std::size_t{81} << 30) == cudaErrorMemoryAllocation);
  CHECK(at == nullptr);
  CHECK(holds(refusal(), "[cudaMalloc] 86973087744 bytes, with "));
  CHECK(cudaGetLastError() == cudaErrorMemoryAllocation);
  CHECK(cudaGetLastError() == cudaSuccess);
}
