// Filling, copying, converting.

#include <atomic>
#include <cstring>
#include <limits>
#include <type_traits>

#include "tensor/cpu/finite.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"

namespace moegrad {
namespace {

using cpu::kGrain;
using cpu::parallel_for;

// Calls f with an unsigned integer of the size of a dtype, to move elements without looking at
// them.
template <class F>
void with_bits(DType dtype, F&& f) {
  if (size_of(dtype) == 8) return f(std::uint64_t{});
  f(std::uint32_t{});
}

template <class T>
const T* elements(const Tensor& t) {
  return reinterpret_cast<const T*>(t.raw());
}
template <class T>
T* elements_to_write(const Tensor& t) {
  return reinterpret_cast<T*>(t.write_raw());
}

// The nearest value towards zero that the target holds; NaN becomes 0 as an integer.
template <class To, class From>
To converted(From x) {
  if constexpr (std::is_integral_v<To> && std::is_floating_point_v<From>) {
    if (x != x) return 0;
    const auto wide = static_cast<double>(x);
    if (wide <= std::numeric_limits<To>::min()) return std::numeric_limits<To>::min();
    if (wide >= std::numeric_limits<To>::max()) return std::numeric_limits<To>::max();
  }
  return static_cast<To>(x);
}

}  // namespace

void CpuKernels::fill(double value, const Tensor& out) {
  with_any(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    T* const y = out.write<T>();
    const T v = converted<T>(value);
    parallel_for(out.numel(), 4 * kGrain,
                 [=](std::int64_t begin, std::int64_t end) { std::fill(y + begin, y + end, v); });
  });
}

void CpuKernels::upload(const std::byte* host, const Tensor& out) {
  std::memcpy(out.write_raw(), host, out.bytes());
}

void CpuKernels::download(const Tensor& x, std::byte* host) {
  std::memcpy(host, x.raw(), x.bytes());
}

void CpuKernels::copy(const Tensor& x, const Tensor& out) {
  const std::byte* const from = x.raw();
  std::byte* const to = out.write_raw();
  parallel_for(static_cast<std::int64_t>(out.bytes()), 16 * kGrain,
               [=](std::int64_t begin, std::int64_t end) {
                 std::memcpy(to + begin, from + begin, static_cast<std::size_t>(end - begin));
               });
}

void CpuKernels::copy_if_finite(const Tensor& number, const Tensor& x, const Tensor& out) {
  if (std::isfinite(*number.data<double>())) copy(x, out);
}

void CpuKernels::convert(const Tensor& x, const Tensor& out) {
  with_any(x.dtype(), [&](auto from_zero) {
    with_any(out.dtype(), [&](auto to_zero) {
      using From = decltype(from_zero);
      using To = decltype(to_zero);
      const From* const from = x.data<From>();
      To* const to = out.write<To>();
      parallel_for(out.numel(), kGrain, [=](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) to[i] = converted<To>(from[i]);
      });
    });
  });
}

void CpuKernels::accumulate(double alpha, const Tensor& x, const Tensor& y) {
  with_floating(y.dtype(), "accumulate", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = y.write<T>();
    const T factor = static_cast<T>(alpha);
    parallel_for(y.numel(), kGrain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) to[i] += factor * from[i];
    });
  });
}

void CpuKernels::copy_block(const Tensor& src, std::int64_t src_offset, std::int64_t src_row,
                            std::int64_t rows, std::int64_t cols, std::int64_t dst_offset,
                            std::int64_t dst_row, const Tensor& dst) {
  if (cols == 0) return;
  with_bits(src.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* const from = elements<T>(src) + src_offset;
    T* const to = elements_to_write<T>(dst) + dst_offset;
    parallel_for(rows, cpu::items_per_grain(cols), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        std::memcpy(to + r * dst_row, from + r * src_row,
                    static_cast<std::size_t>(cols) * sizeof(T));
      }
    });
  });
}

void CpuKernels::swap_axes(const Tensor& x, std::int64_t a, std::int64_t n, std::int64_t b,
                           std::int64_t m, std::int64_t c, const Tensor& out) {
  if (out.numel() == 0) return;
  with_bits(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* const from = elements<T>(x);
    T* const to = elements_to_write<T>(out);
    // One row of the result is all of [n, c] at one place of [a, m, b].
    parallel_for(a * m * b, cpu::items_per_grain(n * c), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        const std::int64_t i_b = row % b;
        const std::int64_t i_m = row / b % m;
        const std::int64_t i_a = row / b / m;
        const T* const source = from + (i_a * n * b * m + i_b * m + i_m) * c;
        T* const target = to + row * n * c;
        for (std::int64_t i_n = 0; i_n < n; ++i_n) {
          const T* const piece = source + i_n * b * m * c;
          if (c == 1) {
            target[i_n] = *piece;
          } else {
            std::memcpy(target + i_n * c, piece, static_cast<std::size_t>(c) * sizeof(T));
          }
        }
      }
    });
  });
}

bool CpuKernels::all_finite(const Tensor& x) {
  if (!is_floating(x.dtype())) return true;
  return with_floating(x.dtype(), "all_finite", [&](auto zero) {
    using T = decltype(zero);
    const T* const values = x.data<T>();
    std::atomic<bool> finite{true};
    parallel_for(x.numel(), 4 * kGrain, [&](std::int64_t begin, std::int64_t end) {
      if (!cpu::all_finite(values + begin, end - begin)) {
        finite.store(false, std::memory_order_relaxed);
      }
    });
    return finite.load();
  });
}

}  // namespace moegrad
