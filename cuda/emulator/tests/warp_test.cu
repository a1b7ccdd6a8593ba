// The collectives of a warp: what they return, and what they refuse.
#include "cuda/emulator/tests/checks.h"

using namespace cuda_emulator;
using namespace cuda_emulator::tests;

namespace {

constexpr unsigned kFull = 0xffffffffU;

__global__ void values(float* f, double* d, int* i, unsigned* u) {
  const int t = static_cast<int>(threadIdx.x), lane = t % 32, at = t * 8;
  f[at] = __shfl_sync(kFull, static_cast<float>(t), 5);
  f[at + 1] = __shfl_xor_sync(kFull, static_cast<float>(t), 3);
  f[at + 2] = __shfl_up_sync(kFull, static_cast<float>(t), 2);
  f[at + 3] = __shfl_down_sync(kFull, static_cast<float>(t), 2);
  f[at + 4] = __shfl_sync(kFull, static_cast<float>(t), 9, 8);
  f[at + 5] = __shfl_down_sync(kFull, static_cast<float>(t), 3, 16);
  f[at + 6] = __shfl_xor_sync(kFull, static_cast<float>(t), 12, 8);
  f[at + 7] = __shfl_up_sync(kFull, static_cast<float>(t), 1, 4);
  d[t] = __shfl_xor_sync(kFull, t + 0.5, 16);
  i[at] = __any_sync(kFull, lane == 40 ? 1 : 0);
  i[at + 1] = __any_sync(kFull, t == 40 ? 1 : 0);
  i[at + 2] = __all_sync(kFull, t < 32 ? 1 : 0);
  i[at + 3] = __reduce_add_sync(kFull, lane - 20);
  i[at + 4] = __reduce_max_sync(kFull, lane - 40);
  i[at + 5] = __reduce_min_sync(kFull, lane - 40);
  i[at + 6] = __popc(__ballot_sync(kFull, lane % 5));
  i[at + 7] = __ffs(static_cast<int>(__match_any_sync(kFull, lane / 4)));
  u[t] = __reduce_max_sync(kFull, static_cast<unsigned>(-lane));
}

enum class Way { right, mask, partial, divergent_lanes, two_lines, half_returned, width };

template <Way kWay>
__global__ void shuffles(float* out) {
  const unsigned t = threadIdx.x;
  float v = static_cast<float>(t);
  if (kWay == Way::half_returned && t >= 16) return;
  if (kWay == Way::mask) v += __shfl_xor_sync(0x0000ffffU, v, 1);
  if (kWay == Way::width) v += __shfl_xor_sync(kFull, v, 1, 12);
  if (kWay == Way::divergent_lanes && t < 8) v += __shfl_xor_sync(kFull, v, 1);
  if (kWay == Way::two_lines) {
    if (t < 8) {
      v += __shfl_xor_sync(kFull, v, 1);
    } else {
      v += __shfl_xor_sync(kFull, v, 2);
    }
  }
  __syncwarp();
  out[t] = v;
}

template <Way kWay>
void run_shuffles(unsigned threads = 32) {
  const Array<float> out(std::size_t{threads});
  launch<shuffles<kWay>>({1, threads}, out);
}

}  // namespace

TEST_CASE("what the lanes get") {
  over_schedules([&](std::uint64_t) {
    const Array<float> f(std::size_t{64 * 8});
    const Array<double> d(std::size_t{64});
    const Array<int> i(std::size_t{64 * 8});
    const Array<unsigned> u(std::size_t{64});
    launch<values>({1, 64}, f, d, i, u);
    const std::vector<float> got_f = f.values();
    const std::vector<double> got_d = d.values();
    const std::vector<int> got_i = i.values();
    const std::vector<unsigned> got_u = u.values();
    for (int t = 0; t < 64; ++t) {
      CAPTURE(t);
      const int lane = t % 32, first = t - lane;
      const int want_f[] = {first + 5,
                            first + (lane ^ 3),
                            lane >= 2 ? t - 2 : t,
                            lane < 30 ? t + 2 : t,
                            first + lane / 8 * 8 + 1,
                            lane % 16 < 13 ? t + 3 : t,
                            (lane ^ 12) / 8 <= lane / 8 ? first + (lane ^ 12) : t,
                            lane % 4 >= 1 ? t - 1 : t};
      const int want_i[] = {0,  first == 32 ? 1 : 0, first == 0 ? 1 : 0, 496 - 640, -9, -40,
                            25, lane / 4 * 4 + 1};
      for (int k = 0; k < 8; ++k) {
        CAPTURE(k);
        const auto at = static_cast<std::size_t>(t * 8 + k);
        CHECK(got_f[at] == static_cast<float>(want_f[k]));
        CHECK(got_i[at] == want_i[k]);
      }
      CHECK(got_d[static_cast<std::size_t>(t)] == first + (lane ^ 16) + 0.5);
      CHECK(got_u[static_cast<std::size_t>(t)] == static_cast<unsigned>(-1));
    }
  });
}

TEST_CASE("masks that are not full, and warps that are not whole") {
  check_passes([] { run_shuffles<Way::right>(); });
  check_passes([] { run_shuffles<Way::right>(96); });
  check_caught(
      [] { run_shuffles<Way::mask>(); },
      {"__shfl_xor_sync (warp_test.cu:40) has the mask 0x0000ffff", "Let all 32 lanes take part"});
  check_caught([] { run_shuffles<Way::right>(48); },
               {"__syncwarp (warp_test.cu:50) in a warp of 16 threads",
                "Launch blocks of a multiple of 32 threads"});
  check_caught([] { run_shuffles<Way::width>(); }, {"__shfl_xor_sync of width 12. Use a power of"});
}

TEST_CASE("lanes that take another way") {
  check_caught([] { run_shuffles<Way::divergent_lanes>(); },
               {"divergent barrier", "__shfl_xor_sync (warp_test.cu:42)",
                "__syncwarp (warp_test.cu:50)", "Let all threads of the warp"});
  check_caught([] { run_shuffles<Way::two_lines>(); },
               {"divergent barrier", "warp_test.cu:45", "warp_test.cu:47"});
  check_caught([] { run_shuffles<Way::half_returned>(); },
               {"a barrier that not all threads come to", "16 wait at __syncwarp",
                "16 returned before it, the first of them thread (16, 0, 0)"});
}
