// Products by cuBLAS: in one call, or of groups in a loop on the host.
#include <vector>

#include "cuda/device.h"
#include "cuda/stored.h"
#include "cuda/stream.h"

namespace moegrad::cuda {
namespace {

// Where groups begin, and the end of the last: waits.
std::vector<std::int32_t> read_offsets(const char* operation, const Groups& groups) {
  if (recording()) {
    fail(operation,
         "MOEGRAD_CUDA_PRODUCTS is loop, which reads the sizes of groups on the host, and "
         "a captured step cannot wait for it. Use own or cublas, or do not capture.");
  }
  std::vector<std::int32_t> offsets(static_cast<std::size_t>(groups.count + 1));
  require(cudaMemcpyAsync(offsets.data(), groups.offsets, offsets.size() * sizeof(std::int32_t),
                          cudaMemcpyDeviceToHost, stream()),
          operation);
  require(cudaStreamSynchronize(stream()), operation);
  return offsets;
}

bool is_for_loop(const Groups& groups, std::int64_t slots) {
  return products() == Products::loop && groups.count > 0 && slots / groups.count >= kLoopRows;
}

bool is_grouped() { return products() == Products::grouped && maths() == Maths::bf16; }

// f(e) makes the product of group e, of `rows` slots from `first` on. False: cuBLAS cannot do them all.
template <class F>
bool each_group(const char* operation, const Groups& groups, const F& f) {
  const std::vector<std::int32_t> offsets = read_offsets(operation, groups);
  std::vector<Gemm> all;
  for (std::int64_t e = 0; e < groups.count; ++e) {
    const auto at = static_cast<std::size_t>(e);
    all.push_back(f(e, offsets[at], offsets[at + 1] - offsets[at]));
    if (!fits_cublas(all.back())) return false;
  }
  for (const Gemm& g : all) {
    if (g.rows * g.cols > 0) multiply_by_cublas(operation, g);
  }
  return true;
}

}  // namespace

template <class T>
bool multiply_by_library(const char* operation, const MatMul<T>& p) {
  if (products() == Products::own) return false;
  const Stored left = stored(operation, p.left, p.batch, p.rows, p.depth, p.a_by_rows);
  const Stored right = stored(operation, p.right, p.batch, p.depth, p.cols, p.b_by_rows);
  const Gemm g = {numbers_of<T>(),
                  left.factor,
                  right.factor,
                  p.batch,
                  p.rows,
                  p.cols,
                  p.depth,
                  static_cast<double>(p.beta),
                  p.to};
  if (!fits_cublas(g)) return false;
  multiply_by_cublas(operation, g);
  return true;
}

template <class T>
bool multiply_by_library(const char* operation, const Linear<T>& p) {
  if constexpr (std::is_same_v<T, float>) {
    if (is_grouped()) return multiply_grouped(operation, p);
  }
  if (!is_for_loop(p.groups, p.slots)) return false;
  const Stored rows = stored_rows(operation, p.rows, p.groups, p.slots, p.depth, true);
  const Stored w = stored(operation, p.w, p.groups.count, p.depth, p.cols, p.b_by_rows);
  const bool done =
      each_group(operation, p.groups, [&](std::int64_t e, std::int64_t first, std::int64_t count) {
        return Gemm{numbers_of<T>(), rows.from(0, first), w.from(e, 0),         1, count, p.cols,
                    p.depth,         p.adds ? 1.0 : 0.0,  p.to + first * p.cols};
      });
  if (done && p.bias != nullptr) add_bias(operation, p);
  return done;
}

template <class T>
bool multiply_by_library(const char* operation, const Outer<T>& p) {
  if constexpr (std::is_same_v<T, float>) {
    if (is_grouped()) return multiply_grouped(operation, p);
  }
  if (!is_for_loop(p.groups, p.slots)) return false;
  const Stored left = stored_rows(operation, p.left, p.groups, p.slots, p.rows, false);
  const Stored right = stored_rows(operation, p.right, p.groups, p.slots, p.cols, true);
  return each_group(
      operation, p.groups, [&](std::int64_t e, std::int64_t first, std::int64_t count) {
        return Gemm{
            numbers_of<T>(), left.from(0, first), right.from(0, first),      1, p.rows, p.cols,
            count,           p.adds ? 1.0 : 0.0,  p.to + e * p.rows * p.cols};
      });
}

template bool multiply_by_library(const char*, const MatMul<float>&);
template bool multiply_by_library(const char*, const MatMul<double>&);
template bool multiply_by_library(const char*, const Linear<float>&);
template bool multiply_by_library(const char*, const Linear<double>&);
template bool multiply_by_library(const char*, const Outer<float>&);
template bool multiply_by_library(const char*, const Outer<double>&);

}  // namespace moegrad::cuda
