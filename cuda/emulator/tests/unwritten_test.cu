// Memory that nobody wrote, and what is left of those before.
#include <cmath>

#include "cuda/emulator/tests/checks.h"

using namespace cuda_emulator;
using namespace cuda_emulator::tests;

namespace {

// out = 2 x; the tail is left out unless kAll.
template <bool kAll>
__global__ void twice(const float* x, float* out, unsigned n) {
  const unsigned i = blockIdx.x * 32 + threadIdx.x;
  if (kAll ? i < n : i + 1 < n) out[i] = 2 * x[i];
}

template <bool kAll>
std::vector<float> run_twice() {
  const Array<float> x(counted<float>(70));
  const Array<float> out(std::size_t{70});
  const Array<float> again(std::size_t{70});
  launch<twice<kAll>>({3, 32}, x, out, 70U);
  const std::vector<float> values = out.values();
  launch<twice<true>>({3, 32}, out, again, 70U);
  return values;
}

__global__ void bf16(const std::uint16_t* x, std::uint16_t* out) {
  out[threadIdx.x] = x[threadIdx.x];
}

}  // namespace

TEST_CASE("an output that is not written whole") {
  check_passes([] { CHECK(run_twice<true>()[69] == 138); });
  NEEDS_OBSERVER
  check_caught([] { run_twice<false>(); },
               {"reads what nobody has written: 4 bytes at byte 276 of the 280 bytes of an "
                "allocation. Write it first, by a copy or an earlier launch. Block (2, 0, 0), "
                "thread (5, 0, 0), unwritten_test.cu:15."});
}

TEST_CASE("what nobody wrote is NaN in every type") {
  const Array<float> f(std::size_t{5});
  const Array<double> d(std::size_t{5});
  const Array<std::uint16_t> h(std::size_t{5});
  const Array<char> c(std::size_t{7});
  for (const float value : f.values()) CHECK(std::isnan(value));
  for (const double value : d.values()) CHECK(std::isnan(value));
  for (const std::uint16_t value : h.values()) {
    CHECK((value & 0x7f80) == 0x7f80);
    CHECK((value & 0x007f) != 0);
  }
  // Freed and taken again: not what was there.
  for (int i = 0; i < 3; ++i) {
    const Array<float> fresh(std::size_t{1000});
    for (const float value : fresh.values()) REQUIRE(std::isnan(value));
    launch<twice<true>>({1, 32}, f, fresh, 0U);
  }
}

TEST_CASE("what the host has written may be read, byte by byte") {
  NEEDS_OBSERVER
  const Array<std::uint16_t> x(std::size_t{32});
  const Array<std::uint16_t> out(std::size_t{32});
  const std::vector<std::uint16_t> values(32, 7);
  const auto run = [&](unsigned n) { launch<bf16>({1, n}, x, out); };
  check_caught([&] { run(1); }, {"reads what nobody has written: 2 bytes at byte 0 of the 64"});
  cudaMemcpy(x, values.data(), 20, cudaMemcpyHostToDevice);
  check_passes([&] { run(10); });
  check_caught([&] { run(11); }, {"2 bytes at byte 20 of the 64"});
  cudaMemset(x, 0, 64);
  check_passes([&] { run(32); });
}

TEST_CASE("a kernel that was not observed may have written anything") {
  NEEDS_OBSERVER
  const Array<float> x(counted<float>(70));
  const Array<float> out(std::size_t{70});
  Settings quick = settings();
  quick.observed = false;
  {
    const With with(quick);
    launch<twice<true>>({3, 32}, x, out, 70U);
  }
  CHECK(error_of([&] { launch<twice<true>>({3, 32}, out, x, 70U); }) == "");
  const Array<float> later(std::size_t{70});
  CHECK(error_of([&] { launch<twice<true>>({3, 32}, later, x, 70U); }) != "");
}

TEST_CASE("memory that a pool hands out again") {
  const Array<float> x(counted<float>(140));
  const Array<float> out(std::size_t{140});
  launch<twice<true>>({3, 32}, x, out, 70U);
  renew(x + 10, 40);
  CHECK(x.values()[9] == 9);
  CHECK(std::isnan(x.values()[10]));
  CHECK(std::isnan(x.values()[19]));
  CHECK(x.values()[20] == 20);
  CHECK(holds(error_of([&] { renew(x + 130, 44); }), "[renew] 44 bytes at byte 520 of the 560"));
  NEEDS_OBSERVER
  check_caught(
      [&] {
        launch<twice<true>>({3, 32}, x, out, 70U);
      },
      {"reads what nobody has written: 4 bytes at byte "});
}

// --- shared memory

namespace {

template <bool kAll>
__global__ void through_shared(float* out) {
  SHARED_ARRAY(float, s, [32]);
  DYNAMIC_SHARED(float, d);
  const unsigned t = threadIdx.x;
  // Blocks but the first find what another has left.
  if (kAll || blockIdx.x == 0 || t != 9) {
    s[t] = 1;
    d[t] = 2;
  }
  __syncthreads();
  out[blockIdx.x * 32 + t] = s[31 - t] + d[t];
}

template <bool kAll>
std::vector<float> run_through() {
  const Array<float> out(std::size_t{96});
  launch<through_shared<kAll>>({3, 32, 128}, out);
  return out.values();
}

}  // namespace

TEST_CASE("shared memory that the block did not write") {
  check_passes([] { CHECK(run_through<true>() == std::vector<float>(96, 3)); });
  if (kernels_are_observed()) {
    check_caught([] { run_through<false>(); },
                 {"reads what nobody has written: 4 bytes at byte 36 of the 128 bytes of ",
                  "Write it first; if another thread does, put a __syncthreads() between"});
  }
  // Also where nobody looks on, it is NaN.
  Settings quick = settings();
  quick.observed = false;
  const With with(quick);
  const std::vector<float> values = run_through<false>();
  for (std::size_t i = 0; i < 96; ++i) {
    CHECK(std::isnan(values[i]) == (i >= 32 && (i % 32 == 9 || i % 32 == 22)));
  }
}
