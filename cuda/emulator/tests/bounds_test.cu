// Accesses outside of arrays, to memory that was freed, to the host's memory, at wrong addresses.
#include "cuda/emulator/tests/checks.h"

using namespace cuda_emulator;
using namespace cuda_emulator::tests;

namespace {

__global__ void shift(const float* x, float* out, int by) {
  const int t = static_cast<int>(threadIdx.x);
  out[t] = x[t + by];
}
__global__ void shift_out(const float* x, float* out, int by) {
  const int t = static_cast<int>(threadIdx.x);
  out[t + by] = x[t];
}
__global__ void bytes(const char* x, char* out, int by) {
  const int t = static_cast<int>(threadIdx.x);
  out[t] = x[t + by];
}

template <auto kKernel, class T>
void run_shift(int by) {
  const Array<T> x(counted<T>(33));
  const Array<T> out(std::size_t{33});
  launch<kKernel>({1, 33}, x, out, by);
}

}  // namespace

TEST_CASE("global memory: behind the end, before the begin, far away") {
  check_passes([] { run_shift<shift, float>(0); });
  check_outside(
      [] { run_shift<shift, float>(1); },
      {"[shift] out of bounds: 4 bytes at byte 132 of the 132 bytes of an "
       "allocation. Check the index against the size. Block (0, 0, 0), thread (32, 0, 0), "
       "bounds_test.cu:11."});
  check_outside([] { run_shift<shift, float>(-1); },
                {"out of bounds: 4 bytes at byte -4 of the 132 bytes of an allocation"});
  check_outside([] { run_shift<shift_out, float>(1); }, {"out of bounds", "byte 132 of the 132"});
  check_outside([] { run_shift<bytes, char>(1); }, {"out of bounds: 1 bytes at byte 33 of the 33"});
  NEEDS_OBSERVER  // beyond what the address sanitizer has been told of
      check_caught([] { run_shift<shift, float>(900); },
                   {"out of bounds: 4 bytes at byte 3", "of the 132 bytes"});
  check_caught([] { run_shift<shift, float>(1000000000); }, {"out of bounds: 4 bytes at"});
}

// --- shared memory

namespace {

enum class Where { inside, behind, before, next_row, dynamic_behind, dynamic_before, local };

template <Where kWhere>
__global__ void shared(const float* x, float* out, int by) {
  SHARED_ARRAY(float, before, [32]);
  SHARED_ARRAY(float, tile, [4][8]);
  DYNAMIC_SHARED(float, row);
  const int t = static_cast<int>(threadIdx.x);
  before[t] = x[t];
  tile[t / 8][t % 8] = x[t];
  row[t] = x[t];
  __syncthreads();
  float* const flat = &tile[0][0];
  float own[4] = {0, 0, 0, 0};
  if (kWhere == Where::behind) flat[t + by] += 1;
  if (kWhere == Where::before) flat[t - by] += 1;
  if (kWhere == Where::next_row && t == 7) tile[t / 8][t % 8 + by] = 1;
  if (kWhere == Where::dynamic_behind) row[t + by] = 1;
  if (kWhere == Where::dynamic_before) row[t - by] = 1;
  if (kWhere == Where::local) own[t % 4 + by] = 1;
  out[t] = flat[t] + row[t] + own[3] + own[by % 4];
}

template <Where kWhere>
void run_shared(int by, std::size_t dynamic = 128) {
  const Array<float> x(counted<float>(32));
  const Array<float> out(std::size_t{32});
  launch<shared<kWhere>>({1, 32, dynamic}, x, out, by);
}

}  // namespace

TEST_CASE("shared memory: behind the end, before the begin, in the next row") {
  check_passes([] { run_shared<Where::inside>(1); });
  check_outside(
      [] { run_shared<Where::behind>(32); },
      {"out of bounds: 4 bytes at byte ", " of the 128 bytes of shared array tile (line 5",
       "Check the index against the size"});
  check_outside([] { run_shared<Where::before>(32); },
                {"out of bounds: 4 bytes at byte -", " of the 128 bytes of shared array tile"});
  check_outside([] { run_shared<Where::dynamic_behind>(32); },
                {"out of bounds", " of the 128 bytes of dynamic shared memory"});
  check_outside([] { run_shared<Where::dynamic_before>(32); },
                {"out of bounds", "byte -", "of dynamic shared memory"});
  NEEDS_OBSERVER
  check_caught([] { run_shared<Where::next_row>(1); },
               {"out of bounds: index 8 of 'float", "bounds_test.cu:6"});
  check_caught([] { run_shared<Where::local>(2); }, {"out of bounds: index ", " of 'float"});
}

TEST_CASE("dynamic shared memory that nobody gave") {
  check_caught(
      [] { run_shared<Where::inside>(1, 0); },
      {"uses dynamic shared memory, and was launched with none. Give its bytes as .shared"});
}

// --- copies and fills

namespace {

__global__ void copy(const float* x, float* out, unsigned long n) { memcpy(out, x, n); }
__global__ void move(const float* x, float* out, unsigned long n) { std::memmove(out, x, n); }
__global__ void fill(const float*, float* out, unsigned long n) { memset(out, 0, n); }

struct Wide {
  double values[20];
};
__global__ void assign(const float* x, float* out, unsigned long n) {
  const auto* const from = reinterpret_cast<const Wide*>(x);
  auto* const to = reinterpret_cast<Wide*>(out);
  to[n] = from[n];
}

template <auto kKernel>
void run_copy(unsigned long n) {
  const Array<float> x(counted<float>(40));
  const Array<float> out(std::size_t{40});
  launch<kKernel>({1, 1}, x, out, n);
}

}  // namespace

TEST_CASE("memcpy, memmove, memset and structs are accesses") {
  check_passes([] {
    run_copy<copy>(160);
    run_copy<move>(160);
    run_copy<fill>(160);
    run_copy<assign>(0);
  });
  check_outside([] { run_copy<copy>(164); }, {"out of bounds: 164 bytes at byte 0 of the 160"});
  check_outside([] { run_copy<move>(161); }, {"out of bounds: 161 bytes at byte 0 of the 160"});
  check_outside([] { run_copy<fill>(164); }, {"out of bounds: 164 bytes", "bounds_test.cu:"});
  check_outside([] { run_copy<assign>(1); }, {"out of bounds: ", " byte 160 of the 160"});
}

// --- addresses

namespace {

__global__ void vectors(const float* x, float* out, int by) {
  const auto* const v = reinterpret_cast<const float4*>(x + by);
  const float4 f = v[threadIdx.x];
  out[threadIdx.x] = f.x + f.y + f.z + f.w;
}
__global__ void atomics(unsigned char* at, int by) {
  atomicAdd(reinterpret_cast<unsigned*>(at + by), 1U);
}

}  // namespace

TEST_CASE("vectors at addresses that are no multiples of their size") {
  const Array<float> x(counted<float>(64));
  const Array<float> out(std::size_t{8});
  const auto run = [&](int by) { launch<vectors>({1, 8}, x, out, by); };
  check_passes([&] { run(0); });
  check_passes([&] { run(4); });
#ifndef __clang__  // it does not look at copies of structs
  check_outside([&] { run(1); }, {"float4' at 0x", "where only multiples of 16 can be. Align the",
                                  "bounds_test.cu:"});
#endif
  const Array<unsigned char> bytes(std::vector<unsigned char>(16, 0));
  check_passes([&] { launch<atomics>({1, 8}, bytes, 4); });
  check_caught(
      [&] {
        launch<atomics>({1, 8}, bytes, 2);
      },
      {"misaligned: an atomic operation on an address that is no multiple of 4"});
}

TEST_CASE("memory that was freed") {
  const Array<float> out(std::size_t{33});
  check_outside(
      [&] {
        float* x = nullptr;
        cudaMalloc(&x, 132);
        cudaMemset(x, 0, 132);
        cudaFree(x);
        launch<shift>({1, 33}, x, out, 0);
      },
      {"memory that was freed: 4 bytes at byte ", " of the 132 bytes of an allocation"});
  // Memory that is taken again is another's.
  float *first = nullptr, *second = nullptr;
  cudaMalloc(&first, 132);
  cudaFree(first);
  cudaMalloc(&second, 132);
  CHECK(first != second);
  CHECK(cudaFree(second) == cudaSuccess);
  CHECK(cudaFree(second) == cudaErrorInvalidValue);
  CHECK(holds(refusal(), "[cudaFree] freed before"));
  cudaGetLastError();
}

// --- the host's memory

namespace {

int of_the_host = 3;
constexpr int kTable[] = {1, 2, 3, 4};
const float kConstant = 2;

__global__ void reads(const float* x, float* out) { out[0] = x[0]; }
__global__ void reads_global(float* out) { out[0] = static_cast<float>(of_the_host); }
__global__ void writes_global(const float* x) { of_the_host = static_cast<int>(x[0]); }
__global__ void writes(int* at) { *at = 1; }
__global__ void reads_constants(float* out, int n) {
  out[0] = static_cast<float>(kTable[n]) + kConstant;
}

}  // namespace

TEST_CASE("kernels do not touch the host's memory") {
  NEEDS_OBSERVER
  const Array<float> x(counted<float>(4));
  const Array<float> out(std::size_t{1});
  const float local = 1;
  const auto heap = std::make_unique<float>(1.0F);
  float* null = nullptr;
  check_passes([&] { launch<reads>({1, 1}, x, out); });
  check_passes([&] { launch<reads_constants>({1, 1}, out, 2); });
  check_caught(
      [&] {
        launch<reads>({1, 1}, &local, out);
      },
      {"reads 4 bytes at memory of the host (0x", "Give the kernel values, or pointers to",
       "bounds_test.cu:"});
  check_caught([&] { launch<reads>({1, 1}, heap.get(), out); }, {"at memory of the host"});
  check_caught(
      [&] {
        launch<reads>({1, 1}, x, heap.get());
      },
      {"writes 4 bytes at memory of the host"});
  check_caught([&] { launch<reads>({1, 1}, null, out); }, {"reads 4 bytes at the null pointer"});
  check_caught(
      [&] {
        launch<reads_global>({1, 1}, out);
      },
      {"reads 4 bytes at a global variable of the host"});
  check_caught(
      [&] {
        launch<writes_global>({1, 1}, x);
      },
      {"writes 4 bytes at a global variable of the host"});
  check_caught(
      [&] {
        launch<writes>({1, 1}, const_cast<int*>(&kTable[1]));
      },
      {"writes 4 bytes at a constant"});
  CHECK(of_the_host == 3);
}

TEST_CASE("the host does not touch the device's memory") {
  const Array<float> x(counted<float>(4));
  volatile float sink = 0;
  for (const bool write : {false, true}) {
    const Child child = in_child([&] {
      float* const at = x;
      if (write) {
        at[2] = 1;
      } else {
        sink = at[2];
      }
    });
    CAPTURE(child.text);
    CHECK((child.signal == SIGSEGV || (kAddressSanitizer && child.status != 0)));
    CHECK(holds(child.text,
                "[emulator] the host touches memory of the device: byte 8 of the 16 "
                "bytes of an allocation. Copy it with cudaMemcpy."));
    if (!kAddressSanitizer) CHECK(holds(child.text, "bounds_test.cu:"));
  }
  // After a launch too; and where the guard is off, it may.
  launch<reads>({1, 1}, x, x);
  CHECK(in_child([&] { sink = x[0]; }).text != "");
  Settings open = settings();
  open.guarded = false;
  {
    const With with(open);
    launch<reads>({1, 1}, x, x);
    CHECK(x[3] == 3);
  }
  launch<reads>({1, 1}, x, x);
  CHECK(in_child([&] { sink = x[0]; }).text != "");
}
