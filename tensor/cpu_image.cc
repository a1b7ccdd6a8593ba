// Convolution and pooling of images [N, C, H, W]. A convolution is a matrix product with the
// unfolded image: one row for each place in the window, one column for each place in the result.

#include <limits>

#include "tensor/cpu_index.h"
#include "tensor/cpu_kernels.h"
#include "tensor/cpu_parallel.h"
#include "tensor/cpu_product.h"

namespace moegrad {
namespace {

using cpu::Matrix;

struct Sizes {
  std::int64_t images, channels, height, width;  // of the input
  std::int64_t filters, out_height, out_width;   // of the result
  Window window;

  std::int64_t image() const { return channels * height * width; }
  std::int64_t places() const { return out_height * out_width; }
  std::int64_t taps() const { return channels * window.height * window.width; }
  std::int64_t result() const { return filters * places(); }
  std::int64_t unfolded() const { return taps() * places(); }
};

Sizes sizes_of(const Tensor& x, const Tensor& y, Window window) {
  return {x.size(0), x.size(1), x.size(2), x.size(3), y.size(1), y.size(2), y.size(3), window};
}

// Calls f(element of the unfolded image, element of the image it shows, or -1 for padding).
template <class F>
void for_taps(const Sizes& s, F&& f) {
  std::int64_t tap = 0;
  for (std::int64_t c = 0; c < s.channels; ++c) {
    for (std::int64_t i = 0; i < s.window.height; ++i) {
      for (std::int64_t j = 0; j < s.window.width; ++j, ++tap) {
        for (std::int64_t oy = 0; oy < s.out_height; ++oy) {
          const std::int64_t y = oy * s.window.stride + i - s.window.padding;
          const bool inside = y >= 0 && y < s.height;
          const std::int64_t row = (c * s.height + y) * s.width;
          const std::int64_t first = tap * s.places() + oy * s.out_width;
          for (std::int64_t ox = 0; ox < s.out_width; ++ox) {
            const std::int64_t x = ox * s.window.stride + j - s.window.padding;
            f(first + ox, inside && x >= 0 && x < s.width ? row + x : -1);
          }
        }
      }
    }
  }
}

template <class T>
void unfold(const Sizes& s, const T* image, T* unfolded) {
  for_taps(
      s, [=](std::int64_t to, std::int64_t from) { unfolded[to] = from < 0 ? T(0) : image[from]; });
}

// The adjoint of unfold: image = the sum of what unfold copied each element to.
template <class T>
void fold(const Sizes& s, const T* unfolded, T* image) {
  std::fill(image, image + s.image(), T(0));
  for_taps(s, [=](std::int64_t from, std::int64_t to) {
    if (to >= 0) image[to] += unfolded[from];
  });
}

}  // namespace

void CpuKernels::conv2d(const Tensor& x, const Tensor& weight, Window window, const Tensor& y) {
  const Sizes s = sizes_of(x, y, window);
  with_floating(y.dtype(), "conv2d", [&](auto zero) {
    using T = decltype(zero);
    const T* const x_data = x.data<T>();
    const T* const w = weight.data<T>();
    T* const y_data = y.data<T>();
    const Tensor workspace = Tensor::empty({cpu::workers(), s.unfolded()}, dtype_of<T>);
    T* const unfolded = workspace.data<T>();
    cpu::parallel_pieces(s.images, [=](std::int64_t image, int worker) {
      T* const mine = unfolded + worker * s.unfolded();
      unfold(s, x_data + image * s.image(), mine);
      cpu::product(s.filters, s.places(), s.taps(), Matrix<T>{w, s.taps()},
                   Matrix<T>{mine, s.places()}, T(0), y_data + image * s.result(), s.places());
    });
  });
}

void CpuKernels::conv2d_backward_input(const Tensor& weight, const Tensor& dy, Window window,
                                       const Tensor& dx) {
  const Sizes s = sizes_of(dx, dy, window);
  with_floating(dx.dtype(), "conv2d_backward_input", [&](auto zero) {
    using T = decltype(zero);
    const T* const w = weight.data<T>();
    const T* const dy_data = dy.data<T>();
    T* const dx_data = dx.data<T>();
    const Tensor workspace = Tensor::empty({cpu::workers(), s.unfolded()}, dtype_of<T>);
    T* const unfolded = workspace.data<T>();
    cpu::parallel_pieces(s.images, [=](std::int64_t image, int worker) {
      T* const mine = unfolded + worker * s.unfolded();
      cpu::product(s.taps(), s.places(), s.filters, Matrix<T>{w, s.taps(), true},
                   Matrix<T>{dy_data + image * s.result(), s.places()}, T(0), mine, s.places());
      fold(s, mine, dx_data + image * s.image());
    });
  });
}

void CpuKernels::conv2d_backward_weight(const Tensor& x, const Tensor& dy, Window window,
                                        const Tensor& dweight) {
  const Sizes s = sizes_of(x, dy, window);
  with_floating(dweight.dtype(), "conv2d_backward_weight", [&](auto zero) {
    using T = decltype(zero);
    const T* const x_data = x.data<T>();
    const T* const dy_data = dy.data<T>();
    T* const dw = dweight.data<T>();
    // One sum for each chunk of images, then the sum of the chunks: at most kChunks of them.
    constexpr std::int64_t kChunks = 16;
    const std::int64_t size = std::max<std::int64_t>(4, (s.images + kChunks - 1) / kChunks);
    const std::int64_t chunks = (s.images + size - 1) / size;
    const std::int64_t weights = s.filters * s.taps();
    const Tensor workspace = Tensor::empty({cpu::workers(), s.unfolded()}, dtype_of<T>);
    const Tensor sums = Tensor::empty({chunks, weights}, dtype_of<T>);
    T* const unfolded = workspace.data<T>();
    T* const partial = sums.data<T>();
    cpu::parallel_pieces(chunks, [=](std::int64_t chunk, int worker) {
      T* const mine = unfolded + worker * s.unfolded();
      const std::int64_t first = chunk * size;
      for (std::int64_t image = first; image < std::min(s.images, first + size); ++image) {
        unfold(s, x_data + image * s.image(), mine);
        cpu::product(s.filters, s.taps(), s.places(),
                     Matrix<T>{dy_data + image * s.result(), s.places()},
                     Matrix<T>{mine, s.places(), true}, image == first ? T(0) : T(1),
                     partial + chunk * weights, s.taps());
      }
    });
    std::fill(dw, dw + weights, T(0));
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (std::int64_t i = 0; i < weights; ++i) dw[i] += partial[chunk * weights + i];
    }
  });
}

void CpuKernels::max_pool2d(const Tensor& x, Window window, const Tensor& y, const Tensor& index) {
  const Sizes s = sizes_of(x, y, window);
  std::int32_t* const place = index.data<std::int32_t>();
  with_floating(y.dtype(), "max_pool2d", [&](auto zero) {
    using T = decltype(zero);
    const T* const x_data = x.data<T>();
    T* const y_data = y.data<T>();
    const std::int64_t plane = s.height * s.width;
    cpu::parallel_for(
        s.images * s.channels, cpu::items_per_grain(s.places() * window.height * window.width),
        [=](std::int64_t begin, std::int64_t end) {
          for (std::int64_t o = begin * s.places(); o < end * s.places(); ++o) {
            const T* const in = x_data + o / s.places() * plane;
            const std::int64_t top = o % s.places() / s.out_width * window.stride - window.padding;
            const std::int64_t left = o % s.out_width * window.stride - window.padding;
            std::int64_t best = -1;  // nothing but padding so far
            T value = -std::numeric_limits<T>::infinity();
            for (std::int64_t i = std::max<std::int64_t>(0, top);
                 i < std::min(s.height, top + window.height); ++i) {
              for (std::int64_t j = std::max<std::int64_t>(0, left);
                   j < std::min(s.width, left + window.width); ++j) {
                const T candidate = in[i * s.width + j];
                if (best < 0 || candidate > value || (candidate != candidate && value == value)) {
                  best = i * s.width + j;
                  value = candidate;
                }
              }
            }
            y_data[o] = value;
            place[o] = static_cast<std::int32_t>(best);
          }
        });
  });
}

void CpuKernels::max_pool2d_backward(const Tensor& dy, const Tensor& index, const Tensor& dx) {
  const std::int64_t planes = dx.size(0) * dx.size(1);
  const std::int64_t plane = dx.size(2) * dx.size(3);
  const std::int64_t places = dy.size(2) * dy.size(3);
  const std::int32_t* const place = index.data<std::int32_t>();
  cpu::require_indices("max_pool2d_backward", place, index.numel(), -1, plane);
  with_floating(dx.dtype(), "max_pool2d_backward", [&](auto zero) {
    using T = decltype(zero);
    const T* const dy_data = dy.data<T>();
    T* const dx_data = dx.data<T>();
    cpu::parallel_for(planes, cpu::items_per_grain(plane),
                      [=](std::int64_t begin, std::int64_t end) {
                        std::fill(dx_data + begin * plane, dx_data + end * plane, T(0));
                        for (std::int64_t o = begin * places; o < end * places; ++o) {
                          if (place[o] >= 0) dx_data[o / places * plane + place[o]] += dy_data[o];
                        }
                      });
  });
}

}  // namespace moegrad
