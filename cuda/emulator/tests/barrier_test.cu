// Barriers that not all threads come to.
#include "cuda/emulator/tests/checks.h"

using namespace cuda_emulator;
using namespace cuda_emulator::tests;

namespace {

enum class Way { right, in_a_branch, two_lines, returned, one_more_turn };

template <Way kWay>
__global__ void barriers(int* out) {
  const unsigned t = threadIdx.x;
  if (kWay == Way::returned && t >= 48) return;
  if (kWay == Way::in_a_branch && t < 16) {
    __syncthreads();
  }
  if (kWay == Way::two_lines) {
    if (t % 2 == 0) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  }
  if (kWay != Way::two_lines) __syncthreads();
  for (unsigned i = 0; i < (kWay == Way::one_more_turn && t == 5 ? 3 : 2); ++i) __syncthreads();
  out[t] = 1;
}

template <Way kWay>
void run_barriers() {
  const Array<int> out(std::size_t{64});
  launch<barriers<kWay>>({1, 64}, out);
  CHECK(out.values() == std::vector<int>(64, 1));
}

__global__ void counts(const int* x, int* out) {
  const unsigned t = threadIdx.x;
  const int p = x[t] > 100 ? 1 : 0;
  const int n = __syncthreads_count(x[t] % 3 == 0 ? 7 : 0);
  const int all = __syncthreads_and(x[t] >= 0 ? 2 : 0);
  const int any = __syncthreads_or(p);
  const int not_all = __syncthreads_and(p);
  if (t == 0) {
    out[0] = n;
    out[1] = all;
    out[2] = any;
    out[3] = not_all;
  }
}

}  // namespace

TEST_CASE("all threads come to each barrier") {
  check_passes(run_barriers<Way::right>);
  check_caught(run_barriers<Way::in_a_branch>,
               {"divergent barrier: this thread comes to __syncthreads (barrier_test.cu:",
                "waits at __syncthreads (barrier_test.cu:", "Let all threads of the block",
                "Block (0, 0, 0), thread ("});
  check_caught(run_barriers<Way::two_lines>,
               {"divergent barrier", "barrier_test.cu:20", "barrier_test.cu:22"});
}

TEST_CASE("threads that have returned, or go round once more") {
  check_caught(run_barriers<Way::returned>,
               {"a barrier that not all threads come to: of 64 threads",
                "48 wait at __syncthreads (barrier_test.cu:25), the first of them thread (0, 0, 0)",
                "16 returned before it, the first of them thread (48, 0, 0)", "Block (0, 0, 0)."});
  check_caught(run_barriers<Way::one_more_turn>,
               {"1 wait at __syncthreads (barrier_test.cu:26), the first of them thread (5, 0, 0)",
                "63 returned before it"});
}

TEST_CASE("the device goes on after a kernel that was ended") {
  for (int i = 0; i < 5; ++i) {
    CHECK(error_of(run_barriers<Way::returned>) != "");
    CHECK(error_of(run_barriers<Way::right>) == "");
  }
}

TEST_CASE("barriers that count") {
  const Array<int> x(counted<int>(96));
  over_schedules([&](std::uint64_t) {
    const Array<int> out(std::size_t{4});
    launch<counts>({1, 96}, x, out);
    CHECK(out.values() == std::vector<int>{32, 1, 0, 0});
  });
}
