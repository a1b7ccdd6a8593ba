// Launches: their limits, their errors, what kernels are told, and who may launch.
#include <thread>

#include "cuda/emulator/tests/checks.h"

using namespace cuda_emulator;
using namespace cuda_emulator::tests;

namespace {

__global__ void nothing() {}

// out[i] = the numbers of each thread of a grid of 3 dimensions.
__global__ void indices(int* out) {
  const std::size_t block =
      blockIdx.x + std::size_t{gridDim.x} * (blockIdx.y + std::size_t{gridDim.y} * blockIdx.z);
  const std::size_t thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] =
      static_cast<int>(blockIdx.x * 100000 + blockIdx.y * 10000 + blockIdx.z * 1000 +
                       threadIdx.x * 100 + threadIdx.y * 10 + threadIdx.z);
}

template <int kBytes>
__global__ void static_shared(int* out) {
  SHARED_ARRAY(char, a, [kBytes - 1024]);
  SHARED_ARRAY(char, b, [1024]);
  a[0] = b[0] = 1;
  out[0] = a[0] + b[0];
}
__global__ void dynamic_shared_end(int* out, int bytes) {
  DYNAMIC_SHARED(char, d);
  d[bytes - 1] = 5;
  out[0] = d[bytes - 1];
}

}  // namespace

TEST_CASE("limits of a launch") {
  struct Case {
    dim3 grid, block;
    std::size_t shared;
    const char* why;  // null: allowed
  };
  const Case cases[] = {
      {1, 1024, 0, nullptr},
      {1, 1025, 0, "[cudaLaunchKernel] nothing with .block.x is 1025, where 1 to 1024"},
      {1, {32, 32, 1}, 0, nullptr},
      {1, {32, 33, 1}, 0, "threads of a block is 1056, where 1 to 1024 are allowed"},
      {1, {1, 1, 64}, 0, nullptr},
      {1, {1, 1, 65}, 0, ".block.z is 65, where 1 to 64 are allowed"},
      {{1, 65535, 1}, 1, 0, nullptr},
      {{1, 65536, 1}, 1, 0, ".grid.y is 65536, where 1 to 65535 are allowed"},
      {{1, 1, 65536}, 1, 0, ".grid.z is 65536"},
      {{70000, 1, 1}, 1, 0, nullptr},
      {{0x80000000U, 1, 1}, 1, 0, ".grid.x is 2147483648"},
      {0, 1, 0, ".grid.x is 0, where 1 to"},
      {1, 0, 0, ".block.x is 0"},
      {1, 1, 227 * 1024, nullptr},
      {1, 1, 227 * 1024 + 1,
       "232449 bytes of dynamic shared memory, where a block may have 232448"},
  };
  for (const Case& c : cases) {
    CAPTURE(c.why);
    const cudaError_t error = launch<nothing>({c.grid, c.block, c.shared});
    CHECK(error == (c.why == nullptr ? cudaSuccess : cudaErrorInvalidConfiguration));
    CHECK(cudaGetLastError() == error);
    if (c.why != nullptr) CHECK(holds(refusal(), c.why));
  }
}

TEST_CASE("limits of shared memory") {
  const Array<int> out(std::size_t{1});
  check_passes([&] { launch<static_shared<48 * 1024>>({1, 1}, out); });
  CHECK(
      holds(error_of([&] {
              launch<static_shared<48 * 1024 + 16>>({1, 1}, out);
            }),
            "declares 49168 bytes of shared arrays, where 49152 are allowed. Use DYNAMIC_SHARED"));
  constexpr int kMost = 227 * 1024;
  check_passes([&] { launch<dynamic_shared_end>({1, 1, kMost}, out, kMost); });
  CHECK(holds(error_of([&] {
                launch<static_shared<2048>>({1, 1, kMost - 2047}, out);
              }),
              "needs 232449 bytes of shared memory, declared and dynamic, where a block may have"));
}

TEST_CASE("what kernels are told of their place") {
  over_schedules([](std::uint64_t) {
    const Array<int> out(std::size_t{2 * 3 * 2 * 4 * 3 * 2});
    launch<indices>({{2, 3, 2}, {4, 3, 2}}, out);
    const std::vector<int> values = out.values();
    std::size_t i = 0;
    for (int bz = 0; bz < 2; ++bz) {
      for (int by = 0; by < 3; ++by) {
        for (int bx = 0; bx < 2; ++bx) {
          for (int tz = 0; tz < 2; ++tz) {
            for (int ty = 0; ty < 3; ++ty) {
              for (int tx = 0; tx < 4; ++tx) {
                REQUIRE(values[i++] ==
                        bx * 100000 + by * 10000 + bz * 1000 + tx * 100 + ty * 10 + tz);
              }
            }
          }
        }
      }
    }
  });
}

// --- the log

TEST_CASE("launches are noted") {
  const Log log;
  launch<nothing>({{2, 3}, 32});
  REQUIRE(log.events().size() == 1);
  CHECK(log.events()[0].call == "cudaLaunchKernel");
  CHECK(log.events()[0].kernel == "nothing");
  CHECK(log.events()[0].blocks == 6);
  CHECK(log.events()[0].threads == 32);
  CHECK(log.waits() == 0);
  CHECK(log.count("cudaMalloc") == 0);
}

// --- who launches

namespace {

__global__ void launches() { launch<nothing>({1, 1}); }
__global__ void allocates() {
  void* at = nullptr;
  cudaMalloc(&at, 4);
}
__global__ void waits() { cudaDeviceSynchronize(); }

__global__ void reversed(const int* x, int* out) {
  SHARED_ARRAY(int, s, [64]);
  const unsigned t = threadIdx.x;
  s[t] = x[blockIdx.x * 64 + t];
  __syncthreads();
  out[blockIdx.x * 64 + t] = s[63 - t];
}

}  // namespace

TEST_CASE("kernels do not call the host's functions") {
  for (int i = 0; i < 3; ++i) {
    CHECK(holds(error_of([] {
                  launch<launches>({1, 2});
                }),
                "[launches] calls cudaLaunchKernel, which is the host's. Do it before"));
    CHECK(holds(error_of([] { launch<allocates>({1, 2}); }), "calls cudaMalloc"));
    CHECK(holds(error_of([] { launch<waits>({1, 2}); }), "calls cudaDeviceSynchronize"));
    CHECK(error_of([] { launch<nothing>({1, 2}); }) == "");
  }
}

TEST_CASE("several host threads") {
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (std::size_t n = 0; n < 4; ++n) {
    threads.emplace_back([&, n] {
      for (int repeat = 0; repeat < 20; ++repeat) {
        const std::vector<int> values = counted<int>(256);
        int *x = nullptr, *out = nullptr;
        cudaMalloc(&x, 1024);
        cudaMalloc(&out, 1024);
        cudaMemcpy(x, values.data(), 1024, cudaMemcpyHostToDevice);
        try {
          launch<reversed>({4, 64}, x, out);
          if (n == 1) launch<launches>({1, 1});  // an error of one is not another's
        } catch (const Error&) {
          if (n != 1) ++wrong[n];
        }
        std::vector<int> got(256);
        cudaMemcpy(got.data(), out, 1024, cudaMemcpyDeviceToHost);
        for (std::size_t i = 0; i < 256; ++i) {
          if (got[i] != values[i / 64 * 64 + 63 - i % 64]) ++wrong[n];
        }
        cudaFree(x);
        cudaFree(out);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == std::vector<int>(4, 0));
}

TEST_CASE("errors of devices and drivers") {
  int count = 0;
  CHECK(cudaGetDeviceCount(&count) == cudaSuccess);
  CHECK(count == 1);
  CHECK(cudaSetDevice(1) == cudaErrorInvalidDevice);
  CHECK(holds(refusal(), "[cudaSetDevice] no device 1 among 1"));
  Settings none = settings();
  none.devices = 0;
  {
    const With with(none);
    CHECK(cudaGetDeviceCount(&count) == cudaErrorNoDevice);
  }
  none.driver = 0;
  const With with(none);
  CHECK(cudaGetDeviceCount(&count) == cudaErrorInsufficientDriver);
  CHECK(std::string(cudaGetErrorName(cudaGetLastError())) == "cudaErrorInsufficientDriver");
}
