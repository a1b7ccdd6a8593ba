// Asynchronous copies to shared memory: until they are waited for they may not have happened.
#include <set>

#include "cuda/emulator/tests/checks.h"

using namespace cuda_emulator;
using namespace cuda_emulator::tests;

namespace {

enum class Way {
  right,
  no_wait,       // reads before it waits
  no_commit,     // waits for what was not committed
  one_too_few,   // waits for all but two groups of two
  no_barrier,    // reads what others have copied
  overwritten,   // the next copy goes where others still read
  written_over,  // writes where a copy is under way
};

// out[t] = the sum over tiles k of x[k][t] + x[k][31 - t], with two buffers.
template <Way kWay>
__global__ void pipeline(const float* x, float* out, unsigned tiles) {
  SHARED_ARRAY(float, tile, [2][64]);
  const unsigned t = threadIdx.x;
  const auto begin = [&](unsigned k) {
    if (k < tiles) __pipeline_memcpy_async(&tile[k % 2][t], &x[k * 64 + t], 4);
    if (kWay != Way::no_commit) __pipeline_commit();
  };
  begin(0);
  float sum = 0;
  for (unsigned k = 0; k < tiles; ++k) {
    begin(k + 1);
    if (kWay != Way::no_wait) __pipeline_wait_prior(kWay == Way::one_too_few ? 2 : 1);
    if (kWay == Way::written_over && k + 1 < tiles) tile[(k + 1) % 2][t] = 0;
    if (kWay != Way::no_barrier) __syncthreads();
    sum += tile[k % 2][t] + tile[k % 2][63 - t];
    if (kWay != Way::overwritten) __syncthreads();
  }
  out[t] = sum;
}

template <Way kWay>
void run_pipeline() {
  const Array<float> x(counted<float>(256));
  const Array<float> out(std::size_t{64});
  launch<pipeline<kWay>>({1, 64}, x, out, 4U);
  for (const float value : out.values()) CHECK(value == 4 * 63 + 2 * 64 * (0 + 1 + 2 + 3));
}

}  // namespace

TEST_CASE("copies are read when they have been waited for") {
  check_passes(run_pipeline<Way::right>);
  NEEDS_OBSERVER
  for (const auto run :
       {run_pipeline<Way::no_wait>, run_pipeline<Way::no_commit>, run_pipeline<Way::one_too_few>}) {
    check_caught(run, {"touches what __pipeline_memcpy_async has yet to bring: 4 bytes at byte ",
                       "of the 512 bytes of shared array tile", "__pipeline_wait_prior()",
                       "copies_test.cu:3"});
  }
  check_caught(run_pipeline<Way::written_over>,
               {"touches what __pipeline_memcpy_async has yet to bring", "copies_test.cu:3"});
}

TEST_CASE("copies are another thread's to read after a barrier") {
  NEEDS_OBSERVER
  check_caught(run_pipeline<Way::no_barrier>, {"of the 512 bytes of shared array tile"});
  check_caught(run_pipeline<Way::overwritten>, {"of the 512 bytes of shared array tile"});
}

TEST_CASE("what is read too early is not there where nobody observes") {
  Settings blind = settings();
  blind.observed = false;
  std::set<bool> right;
  over_schedules([&](std::uint64_t schedule) {
    blind.schedule = schedule;
    const With with(blind);
    const Array<float> x(counted<float>(64));
    const Array<float> out(std::size_t{64});
    launch<pipeline<Way::no_wait>>({1, 64}, x, out, 1U);
    right.insert(out.values() == std::vector<float>(64, 63));
  });
  CHECK(right.contains(false));
}

// --- sizes

namespace {

__global__ void sizes(const float4* x, float4* out, unsigned bytes, unsigned zeros, int off) {
  SHARED_ARRAY(float4, s, [4]);
  auto* const to = reinterpret_cast<char*>(&s[threadIdx.x]) + off;
  s[threadIdx.x] = make_float4(-1, -1, -1, -1);
  __pipeline_memcpy_async(to, &x[threadIdx.x], bytes, zeros);
  __pipeline_commit();
  __pipeline_commit();  // an empty group
  __pipeline_wait_prior(1);
  out[threadIdx.x] = s[threadIdx.x];
}
__global__ void to_global(const float* x, float* out) {
  __pipeline_memcpy_async(out, x, 4);
  __pipeline_commit();
  __pipeline_wait_prior(0);
}
// The source is overwritten before the copy is waited for.
__global__ void source(float* x, float* out) {
  SHARED_ARRAY(float, s, [64]);
  const unsigned t = threadIdx.x;
  __pipeline_memcpy_async(&s[t], &x[t], 4);
  __pipeline_commit();
  x[(t + 1) % 64] = 5;
  __pipeline_wait_prior(0);
  out[t] = s[t];
}
__global__ void beyond(const float* x, float* out) {
  SHARED_ARRAY(float, s, [64]);
  const unsigned t = threadIdx.x;
  __pipeline_memcpy_async(&s[t], &x[t], 4);
  __pipeline_commit();
  __pipeline_wait_prior(0);
  out[t] = s[t];
}
// Ends with a copy under way; the next block uses the memory.
__global__ void forgotten(const float* x, float* out) {
  SHARED_ARRAY(float, s, [64]);
  const unsigned t = threadIdx.x;
  if (blockIdx.x % 2 == 0) {
    __pipeline_memcpy_async(&s[t], &x[t], 4);
    __pipeline_commit();
    return;
  }
  s[t] = x[t];
  out[blockIdx.x * 64 + t] = s[t];
}

}  // namespace

TEST_CASE("sizes and addresses of copies") {
  const Array<float4> x(std::vector<float4>(4, {1, 2, 3, 4}));
  const Array<float4> out(std::size_t{4});
  const auto run = [&](unsigned bytes, unsigned zeros, int off) {
    launch<sizes>({1, 4}, x, out, bytes, zeros, off);
    const float4 v = out.values()[2];
    return std::vector<float>{v.x, v.y, v.z, v.w};
  };
  over_schedules([&](std::uint64_t) {
    CHECK(run(16, 0, 0) == std::vector<float>{1, 2, 3, 4});
    CHECK(run(16, 8, 0) == std::vector<float>{1, 2, 0, 0});
    CHECK(run(16, 16, 0) == std::vector<float>{0, 0, 0, 0});
    CHECK(run(8, 0, 8) == std::vector<float>{-1, -1, 1, 2});
    CHECK(run(4, 0, 4) == std::vector<float>{-1, 1, -1, -1});
  });
  check_caught([&] { run(12, 0, 0); },
               {"__pipeline_memcpy_async of 12 bytes", "It copies 4, 8 or 16 bytes between"});
  check_caught([&] { run(16, 0, 8); }, {"to an address that is 8 above a multiple of 16"});
  check_caught([&] { run(4, 5, 0); }, {"of 4 bytes, 5 of them zero"});
  check_caught(
      [&] {
        launch<to_global>({1, 1}, x.as<float>(), out.as<float>());
      },
      {"__pipeline_memcpy_async to global memory. It copies from global to shared"});
}

TEST_CASE("the other ends of copies") {
  const Array<float> x(counted<float>(64));
  const Array<float> out(std::size_t{256});
  check_passes([&] { launch<forgotten>({4, 64}, x, out); });
  check_passes([&] { launch<beyond>({1, 64}, x, out); });
  NEEDS_OBSERVER
  check_caught(
      [&] {
        launch<source>({1, 64}, Array<float>(counted<float>(64)), out);
      },
      {"race: it ", "bytes of an allocation"});
  check_caught([&] { launch<beyond>({1, 65}, x, out); }, {"out of bounds: 4 bytes at byte 256 of"});
}
