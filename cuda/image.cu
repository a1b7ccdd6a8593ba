// Convolution and pooling of images [N, C, H, W]. A convolution is a product with the unfolded
// image, which is never made: its elements are looked up.
#include <limits>

#include "cuda/kernels.h"
#include "cuda/product.h"
#include "cuda/sums.h"

namespace moegrad {
namespace {

using cuda::each;
using cuda::in;
using cuda::out;
using cuda::Tile;

struct Sizes {
  std::int64_t images, channels, height, width;  // of the input
  std::int64_t filters, out_height, out_width;   // of the result
  Window window;

  __host__ __device__ std::int64_t pixels() const { return height * width; }
  __host__ __device__ std::int64_t places() const { return out_height * out_width; }
  __host__ __device__ std::int64_t of_window() const { return window.height * window.width; }
  __host__ __device__ std::int64_t taps() const { return channels * of_window(); }
};

Sizes sizes_of(const Tensor& x, const Tensor& y, Window window) {
  return {x.size(0), x.size(1), x.size(2), x.size(3), y.size(1), y.size(2), y.size(3), window};
}

// n / d and what is left. Of 32 bits where they do: of 64 it takes a device a hundred instructions.
struct Quotient {
  std::int64_t times, rest;
  __device__ Quotient(std::int64_t n, std::int64_t d) {
    if ((n | d) >> 32 == 0) {
      const auto low = static_cast<std::uint32_t>(n);
      const auto by = static_cast<std::uint32_t>(d);
      times = low / by;
      rest = low % by;
    } else {
      times = n / d;
      rest = n % d;
    }
  }
};

// What tap `tap` of the window shows at a place of the result; null of the padding.
template <class T>
__device__ const T* unfolded(const Sizes& s, const T* image, std::int64_t tap, std::int64_t place) {
  const Quotient at(place, s.out_width);
  const Quotient of_channel(tap, s.of_window());
  const Quotient of_row(of_channel.rest, s.window.width);
  const std::int64_t channel = of_channel.times;
  const std::int64_t y = at.times * s.window.stride + of_row.times - s.window.padding;
  const std::int64_t x = at.rest * s.window.stride + of_row.rest - s.window.padding;
  if (y < 0 || y >= s.height || x < 0 || x >= s.width) return nullptr;
  return image + (channel * s.height + y) * s.width + x;
}

// y [O, places] = weight [O, taps] unfolded [taps, places], for each image
template <class T>
struct Convolution {
  using Element = T;
  Sizes s;
  const T* x;
  const T* weight;
  T* y;
  static constexpr bool a_by_rows = true, b_by_rows = true;

  __device__ bool find(std::int64_t block, int side, Tile& tile) const {
    cuda::take_tile(block, side, s.filters, s.places(), tile);
    tile.depth = s.taps();
    return true;
  }
  __device__ T a(const Tile&, std::int64_t row, std::int64_t k) const {
    return weight[row * s.taps() + k];
  }
  __device__ const T* shown(const Tile& tile, std::int64_t k, std::int64_t col) const {
    return unfolded(s, x + tile.group * s.channels * s.pixels(), k, col);
  }
  __device__ void put(const Tile& tile, std::int64_t row, std::int64_t col, T value) const {
    y[(tile.group * s.filters + row) * s.places() + col] = value;
  }
};

// dx [C, pixels] = sum over filters and places in the window of weight and of dy where the window
// at that place shows the pixel
template <class T>
struct InputGradient {
  using Element = T;
  Sizes s;
  const T* weight;
  const T* dy;
  T* dx;
  static constexpr bool a_by_rows = true, b_by_rows = true;

  __device__ bool find(std::int64_t block, int side, Tile& tile) const {
    cuda::take_tile(block, side, s.channels, s.pixels(), tile);
    tile.depth = s.filters * s.of_window();
    return true;
  }
  __device__ T a(const Tile&, std::int64_t row, std::int64_t k) const {
    const Quotient filter(k, s.of_window());
    return weight[(filter.times * s.channels + row) * s.of_window() + filter.rest];
  }
  __device__ const T* shown(const Tile& tile, std::int64_t k, std::int64_t col) const {
    const Quotient pixel(col, s.width);
    const Quotient filter(k, s.of_window());
    const Quotient tap(filter.rest, s.window.width);
    const std::int64_t up = pixel.times + s.window.padding - tap.times;
    const std::int64_t left = pixel.rest + s.window.padding - tap.rest;
    if (up < 0 || left < 0) return nullptr;
    const Quotient y(up, s.window.stride);
    const Quotient x(left, s.window.stride);
    if (y.rest != 0 || x.rest != 0 || y.times >= s.out_height || x.times >= s.out_width) {
      return nullptr;
    }
    const std::int64_t plane = tile.group * s.filters + filter.times;
    return dy + (plane * s.out_height + y.times) * s.out_width + x.times;
  }
  __device__ void put(const Tile& tile, std::int64_t row, std::int64_t col, T value) const {
    dx[(tile.group * s.channels + row) * s.pixels() + col] = value;
  }
};

// partial [chunks, O, taps]: of a chunk of images the sum over places of dy and of what the window
// shows there
template <class T>
struct WeightGradient {
  using Element = T;
  Sizes s;
  std::int64_t chunk;  // images of one
  const T* x;
  const T* dy;
  T* partial;
  static constexpr bool a_by_rows = true, b_by_rows = false;

  __device__ bool find(std::int64_t block, int side, Tile& tile) const {
    cuda::take_tile(block, side, s.filters, s.taps(), tile);
    const std::int64_t left = s.images - tile.group * chunk;
    tile.depth = (left < chunk ? left : chunk) * s.places();
    return true;
  }
  __device__ T a(const Tile& tile, std::int64_t row, std::int64_t k) const {
    const Quotient image(k, s.places());
    return dy[((tile.group * chunk + image.times) * s.filters + row) * s.places() + image.rest];
  }
  __device__ const T* shown(const Tile& tile, std::int64_t k, std::int64_t col) const {
    const Quotient image(k, s.places());
    const std::int64_t number = tile.group * chunk + image.times;
    return unfolded(s, x + number * s.channels * s.pixels(), col, image.rest);
  }
  __device__ void put(const Tile& tile, std::int64_t row, std::int64_t col, T value) const {
    partial[(tile.group * s.filters + row) * s.taps() + col] = value;
  }
};

template <class Problem>
void run_tiles(const char* operation, const Problem& p, std::int64_t batch, std::int64_t rows,
               std::int64_t cols) {
  if (batch * rows * cols == 0) return;
  const bool small = rows <= 2 * cuda::kSmallSide || cols <= 2 * cuda::kSmallSide;
  cuda::run_product(operation, p, small, [=](int side) {
    return batch * cuda::pieces_of(rows, side) * cuda::pieces_of(cols, side);
  });
}

template <class T>
void sum_partials(const T* partial, std::int64_t chunks, std::int64_t weights, T* to) {
  cuda::sum_lines(
      "conv2d_backward_weight", {1, chunks, weights},
      [=] __device__(std::int64_t at) { return partial[at]; }, to);
}

template <class T>
void max_pool_as(const Sizes& s, const T* x, std::int64_t numel, T* y, std::int32_t* index) {
  const cuda::Divisor by_width(s.out_width), by_height(s.out_height);
  each("max_pool2d", numel, [=] __device__(std::int64_t o) {
    const cuda::Quotient row = by_width.of(o);
    const cuda::Quotient number = by_height.of(row.times);
    const T* const plane = x + number.times * s.pixels();
    const std::int64_t top = number.rest * s.window.stride - s.window.padding;
    const std::int64_t left = row.rest * s.window.stride - s.window.padding;
    std::int64_t best = -1;  // nothing but padding so far
    T value = -std::numeric_limits<T>::infinity();
    for (std::int64_t i = top < 0 ? 0 : top; i < s.height && i < top + s.window.height; ++i) {
      for (std::int64_t j = left < 0 ? 0 : left; j < s.width && j < left + s.window.width; ++j) {
        const T candidate = plane[i * s.width + j];
        if (best < 0 || candidate > value || (candidate != candidate && value == value)) {
          best = i * s.width + j;
          value = candidate;
        }
      }
    }
    y[o] = value;
    index[o] = static_cast<std::int32_t>(best);
  });
}

// A plane by one warp, 32 places at a time; to a pixel they are added in their order, by the first
// lane of those that name it.
template <class T>
void max_pool_backward_as(const T* dy, const std::int32_t* index, std::int64_t planes,
                          std::int64_t places, std::int64_t pixels, cuda::IndexCheck check, T* dx) {
  cuda::each_warp("max_pool2d_backward", planes, [=] __device__(std::int64_t p, unsigned lane) {
    T* const to = dx + p * pixels;
    for (std::int64_t i = lane; i < pixels; i += cuda::kWarp) to[i] = T(0);
    __syncwarp();
    for (std::int64_t first = 0; first < places; first += cuda::kWarp) {
      const std::int64_t o = p * places + first + lane;
      std::int32_t pixel = first + lane < places ? index[o] : -1;
      if (!check(pixel, o)) pixel = -1;
      const T value = pixel >= 0 ? dy[o] : T(0);
      const unsigned same = __match_any_sync(cuda::kAllLanes, pixel);
      unsigned left = pixel >= 0 && (same & ((1U << lane) - 1)) == 0 ? same : 0;  // to be added
      T sum = left != 0 ? to[pixel] : T(0);
      const bool adds = left != 0;
      while (__any_sync(cuda::kAllLanes, left != 0)) {
        const int next = left != 0 ? __ffs(static_cast<int>(left)) - 1 : 0;
        const T of_lane = __shfl_sync(cuda::kAllLanes, value, next);
        if (left != 0) sum += of_lane;
        left &= left - 1;
      }
      if (adds) to[pixel] = sum;
      __syncwarp();
    }
  });
}

}  // namespace

void CudaKernels::conv2d(const Tensor& x, const Tensor& weight, Window window, const Tensor& y) {
  const Sizes s = sizes_of(x, y, window);
  with_floating(y.dtype(), "conv2d", [&](auto zero) {
    using T = decltype(zero);
    run_tiles("conv2d", Convolution<T>{s, in<T>(x), in<T>(weight), out<T>(y)}, s.images, s.filters,
              s.places());
  });
}

void CudaKernels::conv2d_backward_input(const Tensor& weight, const Tensor& dy, Window window,
                                        const Tensor& dx) {
  const Sizes s = sizes_of(dx, dy, window);
  with_floating(dx.dtype(), "conv2d_backward_input", [&](auto zero) {
    using T = decltype(zero);
    run_tiles("conv2d_backward_input", InputGradient<T>{s, in<T>(weight), in<T>(dy), out<T>(dx)},
              s.images, s.channels, s.pixels());
  });
}

void CudaKernels::conv2d_backward_weight(const Tensor& x, const Tensor& dy, Window window,
                                         const Tensor& dweight) {
  const Sizes s = sizes_of(x, dy, window);
  constexpr std::int64_t kMostChunks = 64;
  const std::int64_t chunk = std::max<std::int64_t>(1, cuda::pieces_of(s.images, kMostChunks));
  const std::int64_t chunks = cuda::pieces_of(s.images, chunk);
  const Tensor partial = dweight.like({chunks, s.filters, s.taps()});
  with_floating(dweight.dtype(), "conv2d_backward_weight", [&](auto zero) {
    using T = decltype(zero);
    run_tiles("conv2d_backward_weight",
              WeightGradient<T>{s, chunk, in<T>(x), in<T>(dy), out<T>(partial)}, chunks, s.filters,
              s.taps());
    sum_partials(in<T>(partial), chunks, s.filters * s.taps(), out<T>(dweight));
  });
}

void CudaKernels::max_pool2d(const Tensor& x, Window window, const Tensor& y, const Tensor& index) {
  with_floating(y.dtype(), "max_pool2d", [&](auto zero) {
    using T = decltype(zero);
    max_pool_as(sizes_of(x, y, window), in<T>(x), y.numel(), out<T>(y), out<std::int32_t>(index));
  });
}

void CudaKernels::max_pool2d_backward(const Tensor& dy, const Tensor& index, const Tensor& dx) {
  const std::int64_t pixels = dx.size(2) * dx.size(3);
  const cuda::IndexCheck check = cuda::indices("max_pool2d_backward", -1, pixels);
  with_floating(dx.dtype(), "max_pool2d_backward", [&](auto zero) {
    using T = decltype(zero);
    max_pool_backward_as(in<T>(dy), in<std::int32_t>(index), dx.size(0) * dx.size(1),
                         dy.size(2) * dy.size(3), pixels, check, out<T>(dx));
  });
}

}  // namespace moegrad
