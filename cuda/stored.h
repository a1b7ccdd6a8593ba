#pragma once

#include "cuda/cublas.h"
#include "cuda/products.h"
#include "tensor/maths.h"

// Factors as cuBLAS takes them: where they lie in memory, or copies.
namespace moegrad::cuda {

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

// Copies in bf16 of what at(matrix, line, i) points to, 0 where that is null. Lines and their number
// are filled up with zeros to multiples of 8, so that lines begin at multiples of 16 bytes.
template <class At>
Stored in_bf16(const char* operation, std::int64_t count, std::int64_t lines, std::int64_t length,
               bool by_rows, const At& at) {
  const std::int64_t pitch = 8 * pieces_of(length, 8);
  const std::int64_t step = 8 * pieces_of(lines, 8) * pitch;
  Stored s = {{nullptr, by_rows, pitch, step},
              2,
              Tensor::empty({count * step / 2}, DType::i32, Device::cuda)};
  auto* const to = reinterpret_cast<bf16*>(out<std::int32_t>(s.kept));
  each(operation, count * step, [=] __device__(std::int64_t i) {
    const std::int64_t line = i % step / pitch;
    const auto* const x =
        line < lines && i % pitch < length ? at(i / step, line, i % pitch) : nullptr;
    to[i] = bf16(x == nullptr ? 0.0F : static_cast<float>(*x));
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
                     [=] __device__(std::int64_t number, std::int64_t line, std::int64_t i) {
                       return data + number * step + line * pitch + i;
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
                   [=] __device__(std::int64_t, std::int64_t slot, std::int64_t i) {
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

// Adds the bias to what a product without it has given.
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

}  // namespace moegrad::cuda
