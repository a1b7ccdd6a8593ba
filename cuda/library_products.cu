// Products by cuBLAS: in one call, or of groups in a loop on the host.
#include <vector>

#include "cuda/cublas.h"
#include "cuda/device.h"
#include "cuda/products.h"
#include "cuda/stream.h"
#include "tensor/maths.h"

namespace moegrad::cuda {
namespace {

using cuda_emulator::bf16;

template <class T>
Numbers numbers_of() {
  if (std::is_same_v<T, double>) return Numbers::f64;
  return maths() == Maths::tf32   ? Numbers::tf32
         : maths() == Maths::bf16 ? Numbers::bf16
                                  : Numbers::f32;
}

// Matrices [count, rows, cols] as they lie in memory, and what keeps a copy of them.
struct Stored {
  GemmFactor factor;
  std::int64_t size;  // bytes of an element
  Tensor kept;

  // Of matrix `number`, from row `row` on.
  GemmFactor from(std::int64_t number, std::int64_t row) const {
    GemmFactor part = factor;
    part.data = static_cast<const std::byte*>(factor.data) +
                (number * factor.step + row * factor.pitch) * size;
    return part;
  }
};

// Copies in bf16 of what at(row, col) points to, whose rows begin at multiples of 16 bytes.
template <class At>
Stored in_bf16(const char* operation, std::int64_t count, std::int64_t rows, std::int64_t cols,
               bool by_rows, const At& at) {
  const std::int64_t pitch = 8 * pieces_of(cols, 8);
  Stored s = {{nullptr, by_rows, pitch, rows * pitch},
              2,
              Tensor::empty({count * rows * pitch / 2}, DType::i32, Device::cuda)};
  auto* const to = reinterpret_cast<bf16*>(out<std::int32_t>(s.kept));
  each(operation, count * rows * cols, [=] __device__(std::int64_t i) {
    const auto* const x = at(i / cols, i % cols);
    if (x != nullptr) to[i / cols * pitch + i % cols] = bf16(static_cast<float>(*x));
  });
  s.factor.data = to;
  return s;
}

// A factor of logical size [rows, cols]; `count` of them.
template <class T>
Stored stored(const char* operation, const Factor<T>& x, std::int64_t count, std::int64_t rows,
              std::int64_t cols, bool by_rows) {
  const std::int64_t lines = by_rows ? rows : cols;
  const std::int64_t length = by_rows ? cols : rows;
  const std::int64_t pitch = by_rows ? x.row_step : x.col_step;
  if (numbers_of<T>() != Numbers::bf16) {
    return {{x.data, by_rows, pitch, x.step}, static_cast<std::int64_t>(sizeof(T)), Tensor()};
  }
  const T* const data = x.data;
  const std::int64_t step = x.step;
  Stored s = in_bf16(operation, step == 0 ? 1 : count, lines, length, by_rows,
                     [=] __device__(std::int64_t line, std::int64_t i) {
                       return data + line / lines * step + line % lines * pitch + i;
                     });
  if (step == 0) s.factor.step = 0;
  return s;
}

// The rows of slots, copied where they are listed or to be rounded; not those behind the last group.
template <class T>
Stored stored_rows(const char* operation, const Rows<T>& x, const Groups& groups,
                   std::int64_t slots, std::int64_t width, bool by_rows) {
  if (numbers_of<T>() == Numbers::bf16) {
    return in_bf16(operation, 1, slots, width, by_rows,
                   [=] __device__(std::int64_t slot, std::int64_t i) {
                     return slot < groups.offsets[groups.count] ? x.at(slot, i) : nullptr;
                   });
  }
  const auto size = static_cast<std::int64_t>(sizeof(T));
  if (x.order == nullptr) return {{x.data, by_rows, x.step, 0}, size, Tensor()};
  const std::int64_t pitch = 4 * pieces_of(width, 4);
  Stored s = {{nullptr, by_rows, pitch, 0},
              size,
              Tensor::empty({slots * pitch}, dtype_of<T>, Device::cuda)};
  T* const to = out<T>(s.kept);
  each(operation, slots * width, [=] __device__(std::int64_t i) {
    if (i / width >= groups.offsets[groups.count]) return;
    to[i / width * pitch + i % width] = *x.at(i / width, i % width);
  });
  s.factor.data = to;
  return s;
}

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

template <class T>
void add_bias(const char* operation, const Linear<T>& p) {
  each(operation, p.slots * p.cols, [=] __device__(std::int64_t i) {
    const std::int64_t row = i / p.cols;
    if (row >= p.groups.offsets[p.groups.count]) return;
    std::int64_t e = 0;
    while (p.groups.offsets[e + 1] <= row) ++e;
    p.to[i] += p.bias[e * p.cols + i % p.cols];
  });
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
