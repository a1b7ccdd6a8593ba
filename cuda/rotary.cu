// Rotary positions: a thread a pair.
#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace moegrad {
namespace {

using cuda::in;
using cuda::out;

template <class T>
void rotate_as(const T* x, const T* cos, const T* sin, bool back, std::int64_t rows,
               std::int64_t length, std::int64_t half, T* y) {
  const cuda::Divisor by_length(length);
  cuda::each_cell("rotary", rows, half,
                  [=] __device__(std::int64_t, std::int64_t row, std::int64_t col) {
                    const std::int64_t first = row * 2 * half + col;
                    const std::int64_t second = first + half;
                    const std::int64_t place = by_length.of(row).rest * 2 * half + col;
                    const T a = x[first];
                    const T b = x[second];
                    if (back) {
                      y[first] = a * cos[place] + b * sin[place + half];
                      y[second] = b * cos[place + half] - a * sin[place];
                    } else {
                      y[first] = a * cos[place] - b * sin[place];
                      y[second] = b * cos[place + half] + a * sin[place + half];
                    }
                  });
}

}  // namespace

void CudaKernels::rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, bool back,
                         const Tensor& y) {
  with_floating(y.dtype(), "rotary", [&](auto zero) {
    using T = decltype(zero);
    rotate_as(in<T>(x), in<T>(cos), in<T>(sin), back, x.size(0), cos.size(0), cos.size(1) / 2,
              out<T>(y));
  });
}

}  // namespace moegrad
