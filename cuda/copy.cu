// Transfers, filling, copying, converting.
#include <limits>
#include <type_traits>

#include "cuda/kernels.h"
#include "cuda/launch.h"

namespace moegrad {
namespace {

using cuda::Divisor;
using cuda::each;
using cuda::each_cell;
using cuda::in;
using cuda::out;
using cuda::Quotient;

// Elements to be moved without looking at them.
template <class F>
void with_bits(DType dtype, F&& f) {
  if (size_of(dtype) == 8) return f(std::uint64_t{});
  f(std::uint32_t{});
}

// The nearest value towards zero that the target holds; NaN becomes 0 as an integer.
template <class To, class From>
__host__ __device__ To converted(From x) {
  if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
    if (x != x) return 0;
    const auto wide = static_cast<double>(x);
    if (wide <= std::numeric_limits<To>::min()) return std::numeric_limits<To>::min();
    if (wide >= std::numeric_limits<To>::max()) return std::numeric_limits<To>::max();
  }
  return static_cast<To>(x);
}

template <class T>
void fill_as(T value, std::int64_t n, T* y) {
  each("fill", n, [=] __device__(std::int64_t i) { y[i] = value; });
}

template <class T>
void copy_if_finite_as(const double* number, const T* x, std::int64_t n, T* y) {
  each("copy_if_finite", n, [=] __device__(std::int64_t i) {
    if (*number - *number == 0.0) y[i] = x[i];
  });
}

template <class From, class To>
void convert_as(const From* x, std::int64_t n, To* y) {
  each("convert", n, [=] __device__(std::int64_t i) { y[i] = converted<To>(x[i]); });
}

template <class T>
void accumulate_as(T alpha, const T* x, std::int64_t n, T* y) {
  each("accumulate", n, [=] __device__(std::int64_t i) { y[i] += alpha * x[i]; });
}

template <class T>
void copy_block_as(const T* from, std::int64_t from_row, std::int64_t rows, std::int64_t cols,
                   T* to, std::int64_t to_row) {
  each_cell("copy_block", rows, cols,
            [=] __device__(std::int64_t, std::int64_t row, std::int64_t col) {
              to[row * to_row + col] = from[row * from_row + col];
            });
}

template <class T>
void swap_axes_as(const T* x, std::int64_t n, std::int64_t b, std::int64_t m, std::int64_t c,
                  std::int64_t numel, T* to) {
  const Divisor by_c(c), by_n(n), by_b(b), by_m(m);
  each("swap_axes", numel, [=] __device__(std::int64_t i) {
    const Quotient i_c = by_c.of(i);
    const Quotient i_n = by_n.of(i_c.times);
    const Quotient i_b = by_b.of(i_n.times);
    const Quotient i_m = by_m.of(i_b.times);  // and i_a times
    to[i] = x[(((i_m.times * n + i_n.rest) * b + i_b.rest) * m + i_m.rest) * c + i_c.rest];
  });
}

template <class T>
void find_infinite(const T* x, std::int64_t n, std::int32_t* found) {
  each("all_finite", n, [=] __device__(std::int64_t i) {
    if (!(x[i] - x[i] == T(0))) atomicOr(found, 1);
  });
}

}  // namespace

void CudaKernels::upload(const std::byte* host, const Tensor& t) {
  cuda::upload(host, t.bytes(), reinterpret_cast<void*>(t.place_to_write()));
}

void CudaKernels::download(const Tensor& x, std::byte* host) {
  cuda::download(reinterpret_cast<const void*>(x.place()), x.bytes(), host);
}

void CudaKernels::fill(double value, const Tensor& t) {
  with_any(t.dtype(), [&](auto zero) {
    using T = decltype(zero);
    fill_as(converted<T>(value), t.numel(), out<T>(t));
  });
}

void CudaKernels::copy(const Tensor& x, const Tensor& t) {
  if (t.numel() == 0) return;
  cuda::require(cudaMemcpyAsync(cuda::bits_to_write<std::byte>(t), cuda::bits<std::byte>(x),
                                t.bytes(), cudaMemcpyDeviceToDevice, cuda::stream()),
                "copy");
}

void CudaKernels::copy_if_finite(const Tensor& number, const Tensor& x, const Tensor& t) {
  const double* const finite = in<double>(number);
  with_bits(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    copy_if_finite_as(finite, cuda::bits<T>(x), t.numel(), cuda::bits_to_write<T>(t));
  });
}

void CudaKernels::convert(const Tensor& x, const Tensor& t) {
  with_any(x.dtype(), [&](auto from) {
    with_any(t.dtype(),
             [&](auto to) { convert_as(in<decltype(from)>(x), t.numel(), out<decltype(to)>(t)); });
  });
}

void CudaKernels::accumulate(double alpha, const Tensor& x, const Tensor& y) {
  with_floating(y.dtype(), "accumulate", [&](auto zero) {
    using T = decltype(zero);
    accumulate_as(static_cast<T>(alpha), in<T>(x), y.numel(), out<T>(y));
  });
}

void CudaKernels::copy_block(const Tensor& src, std::int64_t src_offset, std::int64_t src_row,
                             std::int64_t rows, std::int64_t cols, std::int64_t dst_offset,
                             std::int64_t dst_row, const Tensor& dst) {
  with_bits(src.dtype(), [&](auto zero) {
    using T = decltype(zero);
    copy_block_as(cuda::bits<T>(src) + src_offset, src_row, rows, cols,
                  cuda::bits_to_write<T>(dst) + dst_offset, dst_row);
  });
}

void CudaKernels::swap_axes(const Tensor& x, std::int64_t, std::int64_t n, std::int64_t b,
                            std::int64_t m, std::int64_t c, const Tensor& t) {
  with_bits(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    swap_axes_as(cuda::bits<T>(x), n, b, m, c, t.numel(), cuda::bits_to_write<T>(t));
  });
}

bool CudaKernels::all_finite(const Tensor& x) {
  if (!is_floating(x.dtype())) return true;
  const Tensor found = Tensor::zeros({}, DType::i32, Device::cuda);
  with_floating(x.dtype(), "all_finite", [&](auto zero) {
    using T = decltype(zero);
    find_infinite(in<T>(x), x.numel(), out<std::int32_t>(found));
  });
  return found.item() == 0.0;
}

}  // namespace moegrad
