// Sums, maxima and copies along the middle axis of [outer, n, inner].

#include "tensor/cpu/index.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/lines.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/sum.h"
#include "tensor/math.h"

namespace moegrad {
namespace {

using cpu::parallel_for;

// Summands of one partial sum of a contiguous row.
constexpr std::int64_t kSumChunk = cpu::kLaneBlock;
constexpr std::int64_t kColumnBlock = 2048;  // columns summed side by side
constexpr std::int64_t kLogSumExpCost = 4;   // plain elements that an exponential costs

std::int64_t pieces_of(std::int64_t n, std::int64_t size) {
  return std::max<std::int64_t>(1, (n + size - 1) / size);
}

// out[o] = sum over j of term(o n + j), in chunks.
template <class T, class F>
void sum_long_rows(std::int64_t outer, std::int64_t n, T* out, F term) {
  const std::int64_t chunks = pieces_of(n, kSumChunk);
  const auto sum_of = [=](std::int64_t row, std::int64_t chunk) {
    const std::int64_t begin = chunk * kSumChunk;
    const std::int64_t first = row * n + begin;
    return cpu::lane_sum<T>(std::min(kSumChunk, n - begin),
                            [=](std::int64_t i) { return term(first + i); });
  };
  if (chunks == 1) {
    parallel_for(outer, cpu::items_per_grain(n), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t o = begin; o < end; ++o) out[o] = sum_of(o, 0);
    });
    return;
  }
  const Tensor workspace = Tensor::empty({outer, chunks}, dtype_of<T>, Device::cpu);
  T* const partial = workspace.write<T>();
  parallel_for(outer * chunks, cpu::items_per_grain(kSumChunk),
               [=](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   partial[i] = sum_of(i / chunks, i % chunks);
                 }
               });
  for (std::int64_t o = 0; o < outer; ++o) {
    double sum = 0.0;
    for (std::int64_t c = 0; c < chunks; ++c) sum += static_cast<double>(partial[o * chunks + c]);
    out[o] = static_cast<T>(sum);
  }
}

// out[o] = sum over j of f(x[o, j]).
template <class T, class F>
void sum_rows(const T* x, std::int64_t outer, std::int64_t n, T* out, F f) {
  if (n > cpu::kShortRow) {
    return sum_long_rows(outer, n, out, [=](std::int64_t i) { return f(x[i]); });
  }
  cpu::for_lines<T>({outer, n, 1}, 1, [=](const auto& lines) {
    cpu::Pack<T> sum = cpu::filled(T(0));
    for (std::int64_t p = 0; p < lines.packs(); ++p) {
      sum = cpu::map([f](T s, T v) { return s + f(v); }, sum, lines.load(x, p, T(0)));
    }
    lines.store_lines(out, sum);
  });
}

// out[o, i] = sum over j of f(x[o, j, i]), a block of columns at a time.
template <class T, class F>
void sum_columns(const T* x, AxisView view, T* out, F f) {
  const auto [outer, n, inner] = view;
  const std::int64_t rows = n > cpu::kShortSum ? cpu::kSumBlock : cpu::kShortSum;  // of a chunk
  const std::int64_t chunks = pieces_of(n, rows);
  const std::int64_t blocks = pieces_of(inner, kColumnBlock);
  Tensor workspace;
  if (chunks > 1) workspace = Tensor::empty({outer, chunks, inner}, dtype_of<T>, Device::cpu);
  T* const partial = chunks > 1 ? workspace.write<T>() : out;
  const std::int64_t cost = std::min(n, rows) * std::min(inner, kColumnBlock);
  parallel_for(outer * chunks * blocks, cpu::items_per_grain(cost),
               [=, n = n, inner = inner](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t piece = begin; piece < end; ++piece) {
                   const std::int64_t first_col = piece % blocks * kColumnBlock;
                   const std::int64_t cols = std::min(kColumnBlock, inner - first_col);
                   const std::int64_t o_chunk = piece / blocks;
                   const std::int64_t o = o_chunk / chunks;
                   const std::int64_t first_row = o_chunk % chunks * rows;
                   const std::int64_t last_row = std::min(n, first_row + rows);
                   T* const sums = partial + o_chunk * inner + first_col;
                   std::fill(sums, sums + cols, T(0));
                   for (std::int64_t j = first_row; j < last_row; ++j) {
                     const T* const from = x + (o * n + j) * inner + first_col;
                     for (std::int64_t i = 0; i < cols; ++i) sums[i] += f(from[i]);
                   }
                 }
               });
  if (chunks == 1) return;
  parallel_for(outer * inner, cpu::items_per_grain(chunks),
               [=, inner = inner](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t e = begin; e < end; ++e) {
                   const T* const column = partial + e / inner * chunks * inner + e % inner;
                   double sum = 0.0;
                   for (std::int64_t c = 0; c < chunks; ++c) {
                     sum += static_cast<double>(column[c * inner]);
                   }
                   out[e] = static_cast<T>(sum);
                 }
               });
}

template <class T, class F>
void sum_axis(const T* x, AxisView view, T* out, F f) {
  if (view.outer * view.inner == 0) return;
  if (view.inner == 1) {
    sum_rows(x, view.outer, view.n, out, f);
  } else {
    sum_columns(x, view, out, f);
  }
}

// Calls f(line, first) for each of the outer * inner lines along the axis; element j of a line is
// x[first + j * inner].
template <class F>
void for_lines(AxisView view, F&& f) {
  parallel_for(view.outer * view.inner, cpu::items_per_grain(view.n),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t line = begin; line < end; ++line) {
                   const std::int64_t o = line / view.inner;
                   f(line, o * view.n * view.inner + line % view.inner);
                 }
               });
}

void require_elements(const char* operation, AxisView view) {
  if (view.n == 0 && view.outer * view.inner > 0) {
    fail(operation, "an axis of size 0 has no largest element. Reduce a non-empty axis.");
  }
}

}  // namespace

void CpuKernels::reduce(Reduction reduction, const Tensor& x, AxisView view, const Tensor& out) {
  with_floating(out.dtype(), "reduce", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = out.write<T>();
    switch (reduction) {
      case Reduction::sum:
        sum_axis(from, view, to, [](T v) { return v; });
        break;
      case Reduction::sum_of_squares:
        sum_axis(from, view, to, [](T v) { return v * v; });
        break;
      case Reduction::max:
        require_elements("max", view);
        cpu::for_lines<T>(view, 1, [=](const auto& lines) {
          lines.store_lines(to, cpu::largest_of(lines, from));
        });
        break;
      case Reduction::logsumexp:
        cpu::for_lines<T>(view, kLogSumExpCost, [=](const auto& lines) {
          const cpu::Pack<T> top = cpu::largest_of(lines, from);
          // All -infinity, a NaN, or a +infinity: the largest is the result.
          const auto lse = [](T t, T sum) {
            return math::select(t - t == T(0), t + math::log(sum), t);
          };
          lines.store_lines(to, cpu::map(lse, top, cpu::exp_sum_of(lines, from, top)));
        });
        break;
    }
  });
}

void CpuKernels::squared_error(const Tensor& a, const Tensor& b, const Tensor& out) {
  with_floating(out.dtype(), "squared_error", [&](auto zero) {
    using T = decltype(zero);
    const T* const x = a.data<T>();
    const T* const y = b.data<T>();
    sum_long_rows(1, a.numel(), out.write<T>(),
                  [=](std::int64_t i) { return (x[i] - y[i]) * (x[i] - y[i]); });
  });
}

void CpuKernels::squared_error_backward(const Tensor& a, const Tensor& b, const Tensor& dy,
                                        double scale, const Tensor& da) {
  with_floating(da.dtype(), "squared_error_backward", [&](auto zero) {
    using T = decltype(zero);
    const T* const x = a.data<T>();
    const T* const y = b.data<T>();
    T* const to = da.write<T>();
    const T factor = static_cast<T>(2.0 * scale) * *dy.data<T>();
    parallel_for(a.numel(), cpu::kGrain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) to[i] = factor * (x[i] - y[i]);
    });
  });
}

void CpuKernels::argmax(const Tensor& x, AxisView view, const Tensor& index) {
  require_elements("argmax", view);
  with_floating(x.dtype(), "argmax", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    std::int32_t* const to = index.write<std::int32_t>();
    for_lines(view, [=](std::int64_t line, std::int64_t first) {
      std::int64_t best = 0;
      T top = from[first];
      for (std::int64_t j = 1; j < view.n && top == top; ++j) {
        const T value = from[first + j * view.inner];
        if (value > top || value != value) {
          best = j;
          top = value;
        }
      }
      to[line] = static_cast<std::int32_t>(best);
    });
  });
}

void CpuKernels::expand(const Tensor& x, double scale, AxisView view, const Tensor& out) {
  with_floating(out.dtype(), "expand", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = out.write<T>();
    const auto factor = static_cast<T>(scale);
    parallel_for(out.numel(), cpu::kGrain, [=](std::int64_t begin, std::int64_t end) {
      // Runs that read one element (inner = 1) or consecutive ones.
      for (std::int64_t e = begin; e < end;) {
        const std::int64_t length = view.inner == 1 ? view.n : view.inner;
        const std::int64_t run = e / length;
        const std::int64_t stop = std::min(end, (run + 1) * length);
        if (view.inner == 1) {
          std::fill(to + e, to + stop, factor * from[run]);
        } else {
          const T* const source = from + run / view.n * view.inner - run * length;
          for (std::int64_t i = e; i < stop; ++i) to[i] = factor * source[i];
        }
        e = stop;
      }
    });
  });
}

void CpuKernels::place(const Tensor& x, const Tensor& index, AxisView view, const Tensor& out) {
  const std::int32_t* const places = index.data<std::int32_t>();
  cpu::require_indices("place", places, index.numel(), 0, view.n);
  with_floating(out.dtype(), "place", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = out.write<T>();
    parallel_for(view.outer, cpu::items_per_grain(view.n * view.inner),
                 [=](std::int64_t begin, std::int64_t end) {
                   const std::int64_t block = view.n * view.inner;
                   std::fill(to + begin * block, to + end * block, T(0));
                   for (std::int64_t line = begin * view.inner; line < end * view.inner; ++line) {
                     const std::int64_t o = line / view.inner;
                     to[(o * view.n + places[line]) * view.inner + line % view.inner] = from[line];
                   }
                 });
  });
}

}  // namespace moegrad
