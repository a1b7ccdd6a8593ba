// Convolution and pooling of images [N, C, H, W]. A convolution is a matrix product with the
// unfolded image: one row for each place in the window, one column for each place in the result.

#include <algorithm>
#include <limits>

#include "tensor/cpu/finite.h"
#include "tensor/cpu/index.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/product.h"
#include "tensor/cpu/sum.h"

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
};

Sizes sizes_of(const Tensor& x, const Tensor& y, Window window) {
  return {x.size(0), x.size(1), x.size(2), x.size(3), y.size(1), y.size(2), y.size(3), window};
}

// The unfolded image is made in blocks of rows of the result, of about this many elements: they are
// to stay in the cache until the product has read them.
// Places of a chunk beyond which the sums of their products are added in f64.
constexpr std::int64_t kManyPlaces = 16384;
constexpr std::int64_t kUnfolded = 65536;

// Rows [first, first + count) of the result.
struct RowBlock {
  std::int64_t first;
  std::int64_t count;
};

std::int64_t block_rows(const Sizes& s) {
  const std::int64_t row = std::max<std::int64_t>(1, s.taps() * s.out_width);
  return std::clamp<std::int64_t>(kUnfolded / row, 1, std::max<std::int64_t>(1, s.out_height));
}

// Calls f(block) for all rows of the result.
template <class F>
void for_blocks(const Sizes& s, F&& f) {
  const std::int64_t rows = block_rows(s);
  for (std::int64_t first = 0; first < s.out_height; first += rows) {
    f(RowBlock{first, std::min(rows, s.out_height - first)});
  }
}

// For each tap and each row of the result calls f(unfolded, begin, end, image): the row begins at
// element `unfolded` of the unfolded block, and its places [begin, end) show the image from element
// `image` on, a stride apart; the others show padding.
template <class F>
void for_taps(const Sizes& s, RowBlock block, F&& f) {
  const std::int64_t stride = s.window.stride;
  std::int64_t unfolded = 0;
  for (std::int64_t c = 0; c < s.channels; ++c) {
    for (std::int64_t i = 0; i < s.window.height; ++i) {
      for (std::int64_t j = 0; j < s.window.width; ++j) {
        // Place ox shows column ox * stride + shift.
        const std::int64_t shift = j - s.window.padding;
        const auto first_at = [&](std::int64_t column) {  // the first place at or right of it
          return std::min(s.out_width,
                          (std::max<std::int64_t>(0, column - shift) + stride - 1) / stride);
        };
        const std::int64_t begin = first_at(0);
        const std::int64_t end = first_at(s.width);
        for (std::int64_t oy = block.first; oy < block.first + block.count; ++oy) {
          const std::int64_t y = oy * stride + i - s.window.padding;
          const bool inside = y >= 0 && y < s.height;
          f(unfolded, begin, inside ? end : begin,
            (c * s.height + y) * s.width + begin * stride + shift);
          unfolded += s.out_width;
        }
      }
    }
  }
}

template <class T>
void unfold(const Sizes& s, RowBlock block, const T* image, T* unfolded) {
  for_taps(s, block,
           [=](std::int64_t row, std::int64_t begin, std::int64_t end, std::int64_t from) {
             T* const to = unfolded + row;
             for (std::int64_t ox = 0; ox < begin; ++ox) to[ox] = T(0);
             if (s.window.stride == 1) {
               for (std::int64_t ox = begin; ox < end; ++ox) to[ox] = image[from + ox - begin];
             } else {
               for (std::int64_t ox = begin; ox < end; ++ox) {
                 to[ox] = image[from + (ox - begin) * s.window.stride];
               }
             }
             for (std::int64_t ox = end; ox < s.out_width; ++ox) to[ox] = T(0);
           });
}

// The adjoint of unfold: adds to each element of the image what unfold copied it to.
template <class T>
void fold(const Sizes& s, RowBlock block, const T* unfolded, T* image) {
  for_taps(s, block, [=](std::int64_t row, std::int64_t begin, std::int64_t end, std::int64_t to) {
    const T* const from = unfolded + row;
    if (s.window.stride == 1) {
      for (std::int64_t ox = begin; ox < end; ++ox) image[to + ox - begin] += from[ox];
    } else {
      for (std::int64_t ox = begin; ox < end; ++ox) {
        image[to + (ox - begin) * s.window.stride] += from[ox];
      }
    }
  });
}

// Calls f(tap, place) for each place of the block where a tap shows the image.
template <class F>
void for_shown(const Sizes& s, RowBlock block, F&& f) {
  const std::int64_t cols = block.count * s.out_width;
  for_taps(s, block, [&](std::int64_t row, std::int64_t begin, std::int64_t end, std::int64_t) {
    for (std::int64_t i = row + begin; i < row + end; ++i) f(i / cols, i % cols);
  });
}

// Space for one unfolded block for each worker.
template <class T>
Tensor unfolded_blocks(const Sizes& s) {
  return Tensor::empty({cpu::workers(), s.taps() * block_rows(s) * s.out_width}, dtype_of<T>,
                       Device::cpu);
}

}  // namespace

void CpuKernels::conv2d(const Tensor& x, const Tensor& weight, Window window, const Tensor& y) {
  const Sizes s = sizes_of(x, y, window);
  with_floating(y.dtype(), "conv2d", [&](auto zero) {
    using T = decltype(zero);
    const T* const x_data = x.data<T>();
    const T* const w = weight.data<T>();
    T* const y_data = y.write<T>();
    const Tensor workspace = unfolded_blocks<T>(s);
    const std::int64_t space = workspace.size(1);
    T* const unfolded = workspace.write<T>();
    const bool finite = cpu::all_finite(w, weight.numel());
    const PoolVector<T> copy = cpu::finite_part(w, finite ? 0 : weight.numel());
    const T* const factor = finite ? w : copy.data();
    cpu::parallel_pieces(s.images, [=](std::int64_t image, int worker) {
      T* const mine = unfolded + worker * space;
      for_blocks(s, [=](RowBlock block) {
        const std::int64_t cols = block.count * s.out_width;
        T* const to = y_data + image * s.result() + block.first * s.out_width;
        unfold(s, block, x_data + image * s.image(), mine);
        cpu::product(s.filters, cols, s.taps(), Matrix<T>{factor, s.taps()}, Matrix<T>{mine, cols},
                     T(0), to, s.places());
        if (finite) return;
        for_shown(s, block, [=](std::int64_t tap, std::int64_t place) {
          for (std::int64_t o = 0; o < s.filters; ++o) {
            const T value = w[o * s.taps() + tap];
            if (cpu::is_finite(value)) continue;
            to[o * s.places() + place] += value * mine[tap * cols + place];
          }
        });
      });
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
    T* const dx_data = dx.write<T>();
    const Tensor workspace = unfolded_blocks<T>(s);
    const std::int64_t space = workspace.size(1);
    T* const unfolded = workspace.write<T>();
    cpu::parallel_pieces(s.images, [=](std::int64_t image, int worker) {
      T* const mine = unfolded + worker * space;
      T* const to = dx_data + image * s.image();
      std::fill(to, to + s.image(), T(0));
      for_blocks(s, [=](RowBlock block) {
        const std::int64_t cols = block.count * s.out_width;
        const T* const from = dy_data + image * s.result() + block.first * s.out_width;
        cpu::product(s.taps(), cols, s.filters, Matrix<T>{w, s.taps(), true},
                     Matrix<T>{from, s.places()}, T(0), mine, cols);
        fold(s, block, mine, to);
      });
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
    T* const dw = dweight.write<T>();
    // One sum for each chunk of images, then the sum of the chunks: at most kChunks of them.
    constexpr std::int64_t kChunks = 16;
    const std::int64_t size = std::max<std::int64_t>(4, (s.images + kChunks - 1) / kChunks);
    const std::int64_t chunks = (s.images + size - 1) / size;
    const std::int64_t weights = s.filters * s.taps();
    const Tensor workspace = unfolded_blocks<T>(s);
    const std::int64_t space = workspace.size(1);
    const Tensor sums = Tensor::empty({chunks, weights}, dtype_of<T>, Device::cpu);
    T* const unfolded = workspace.write<T>();
    T* const partial = sums.write<T>();
    // `apart`: what is not finite in dy, which is not to meet padding.
    const auto add_chunk = [=](std::int64_t chunk, bool apart, T* mine, T* sum) {
      const std::int64_t first = chunk * size;
      const std::int64_t count = std::min(s.images, first + size) - first;
      // What is added is the product of a block, a sum over many places itself.
      const bool many = count * s.places() > kManyPlaces;
      cpu::LongSums<T> of_blocks(sum, weights, many ? count * s.places() : 0);
      const std::int64_t depth = many ? cpu::kSumBlock : cpu::kDepth;
      for (std::int64_t image = first; image < std::min(s.images, first + size); ++image) {
        const T* const of_image = dy_data + image * s.result();
        const PoolVector<T> copy = cpu::finite_part(of_image, apart ? s.result() : 0);
        for_blocks(s, [&](RowBlock block) {
          const std::int64_t cols = block.count * s.out_width;
          const std::int64_t begin = block.first * s.out_width;
          const T* const from = (apart ? copy.data() : of_image) + begin;
          unfold(s, block, x_data + image * s.image(), mine);
          cpu::product(s.filters, s.taps(), cols, Matrix<T>{from, s.places()},
                       Matrix<T>{mine, cols, true}, T(1), sum, s.taps(), depth);
          if (apart) {
            for_shown(s, block, [=](std::int64_t tap, std::int64_t place) {
              for (std::int64_t o = 0; o < s.filters; ++o) {
                const T value = of_image[o * s.places() + begin + place];
                if (cpu::is_finite(value)) continue;
                sum[o * s.taps() + tap] += value * mine[tap * cols + place];
              }
            });
          }
          of_blocks.added();
        });
      }
      of_blocks.finish();
    };
    cpu::parallel_pieces(chunks, [=](std::int64_t chunk, int worker) {
      T* const mine = unfolded + worker * space;
      T* const sum = partial + chunk * weights;
      add_chunk(chunk, false, mine, sum);
      if (!cpu::all_finite(sum, weights)) add_chunk(chunk, true, mine, sum);
    });
    std::fill(dw, dw + weights, T(0));
    for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
      for (std::int64_t i = 0; i < weights; ++i) dw[i] += partial[chunk * weights + i];
    }
  });
}

void CpuKernels::max_pool2d(const Tensor& x, Window window, const Tensor& y, const Tensor& index) {
  const Sizes s = sizes_of(x, y, window);
  std::int32_t* const place = index.write<std::int32_t>();
  with_floating(y.dtype(), "max_pool2d", [&](auto zero) {
    using T = decltype(zero);
    const T* const x_data = x.data<T>();
    T* const y_data = y.write<T>();
    const std::int64_t plane = s.height * s.width;
    const auto pool = [=](std::int64_t p, std::int64_t oy, std::int64_t ox) {
      const T* const in = x_data + p * plane;
      const std::int64_t top = oy * window.stride - window.padding;
      const std::int64_t left = ox * window.stride - window.padding;
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
      const std::int64_t o = (p * s.out_height + oy) * s.out_width + ox;
      y_data[o] = value;
      place[o] = static_cast<std::int32_t>(best);
    };
    cpu::parallel_for(s.images * s.channels,
                      cpu::items_per_grain(s.places() * window.height * window.width),
                      [=](std::int64_t begin, std::int64_t end) {
                        for (std::int64_t p = begin; p < end; ++p) {
                          for (std::int64_t oy = 0; oy < s.out_height; ++oy) {
                            for (std::int64_t ox = 0; ox < s.out_width; ++ox) pool(p, oy, ox);
                          }
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
    T* const dx_data = dx.write<T>();
    cpu::parallel_for(planes, cpu::items_per_grain(plane),
                      [=](std::int64_t begin, std::int64_t end) {
                        std::fill(dx_data + begin * plane, dx_data + end * plane, T(0));
                        for (std::int64_t p = begin; p < end; ++p) {
                          T* const to = dx_data + p * plane;
                          for (std::int64_t o = p * places; o < (p + 1) * places; ++o) {
                            if (place[o] >= 0) to[place[o]] += dy_data[o];
                          }
                        }
                      });
  });
}

}  // namespace moegrad
