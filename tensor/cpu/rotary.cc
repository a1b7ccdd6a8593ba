// Rotary positions.

#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"

namespace moegrad {
namespace {

// One row x of two halves; each pointer is a row of [2 half].
template <class T>
void rotate_row(std::int64_t half, const T* __restrict x, const T* __restrict cos,
                const T* __restrict sin, T* __restrict y) {
  for (std::int64_t i = 0; i < half; ++i) y[i] = x[i] * cos[i] - x[half + i] * sin[i];
  for (std::int64_t i = half; i < 2 * half; ++i) y[i] = x[i] * cos[i] + x[i - half] * sin[i];
}
template <class T>
void rotate_row_back(std::int64_t half, const T* __restrict x, const T* __restrict cos,
                     const T* __restrict sin, T* __restrict y) {
  for (std::int64_t i = 0; i < half; ++i) y[i] = x[i] * cos[i] + x[half + i] * sin[half + i];
  for (std::int64_t i = half; i < 2 * half; ++i) {
    y[i] = x[i] * cos[i] - x[i - half] * sin[i - half];
  }
}

}  // namespace

void CpuKernels::rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, bool back,
                        const Tensor& y) {
  with_floating(y.dtype(), "rotary", [&](auto zero) {
    using T = decltype(zero);
    const std::int64_t length = cos.size(0);
    const std::int64_t width = cos.size(1);
    const T* const x_data = x.data<T>();
    const T* const cos_data = cos.data<T>();
    const T* const sin_data = sin.data<T>();
    T* const y_data = y.write<T>();
    const auto row = back ? rotate_row_back<T> : rotate_row<T>;
    cpu::parallel_for(
        x.size(0), cpu::items_per_grain(width), [=](std::int64_t begin, std::int64_t end) {
          std::int64_t place = begin % length;
          for (std::int64_t r = begin; r < end; ++r, place = place + 1 == length ? 0 : place + 1) {
            row(width / 2, x_data + r * width, cos_data + place * width, sin_data + place * width,
                y_data + r * width);
          }
        });
  });
}

}  // namespace moegrad
