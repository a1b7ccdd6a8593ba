#include "tensor/cpu/packed_product.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "tensor/cpu/vector.h"
#include "tensor/of_this_thread.h"

namespace moegrad::cpu {
namespace {

// The block of c that is kept in registers: kRows rows of two vectors. With the two vectors of b
// and one element of a they fill the 16 registers of AVX; AVX-512 has 32.
#ifdef __AVX512VL__
constexpr int kRows = kVectorBytes == 64 ? 12 : 8;
#else
constexpr int kRows = 6;
#endif
template <class T>
constexpr int kCols = 2 * kVectorLanes<T>;
// Vectors for few columns: half of a vector of AVX-512 is as fast for them or faster.
constexpr int kFewBytes = std::min(kVectorBytes, 32);

// Blocks of a and b: kDepth of k, so that a panel of b stays in the first cache with the rows of a;
// kWide columns of b, whose panels stay in the second; kTall columns of a transposed a.
constexpr std::int64_t kWide = 512;
constexpr std::int64_t kTall = 144;

// Rows of a that lie a multiple of kCrowded bytes apart share two sets of the first cache or one,
// of kWays lines each: where a block has more rows than that, they are copied next to each other.
constexpr std::int64_t kCrowded = 2048;
constexpr int kWays = 8;
// A b of so many bytes is in the first cache: it is read as it lies.
constexpr std::int64_t kSmallBytes = 16384;

// Room for the panels of one thread: [panel of kRows lines][k][line] of a, and [panel of kCols
// lines][k][line] of b.
template <class T>
class Panels {
 public:
  Panels()
      : memory_(static_cast<T*>(
            std::aligned_alloc(64, static_cast<std::size_t>(kLeft + kRight) * sizeof(T)))) {
    if (memory_ == nullptr) throw std::bad_alloc();
  }
  T* left() const { return memory_.get(); }
  T* right() const { return memory_.get() + kLeft; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  static constexpr std::int64_t kLeft = std::max(kTall * kDepth, kRows*(kDepth + kPad));
  static constexpr std::int64_t kRight = kWide * kDepth;
  static_assert(kTall % kRows == 0 && kWide % kCols<T> == 0);

  std::unique_ptr<T, Free> memory_;
};

// The element (i, j) of the transpose of kVectorLanes vectors is exchanged bit by bit of i and j.
template <int kBit, class T, std::size_t... kLane>
[[gnu::always_inline]] inline void exchange(Vector<T>* v, std::index_sequence<kLane...>) {
  constexpr int n = kVectorLanes<T>;
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) {
    if ((i & kBit) != 0) continue;
    const Vector<T> low = v[i];
    const Vector<T> high = v[i | kBit];
    v[i] = __builtin_shufflevector(low, high,
                                   ((kLane & kBit) == 0 ? int(kLane) : n + int(kLane) - kBit)...);
    v[i | kBit] = __builtin_shufflevector(
        low, high, ((kLane & kBit) == 0 ? int(kLane) + kBit : n + int(kLane))...);
  }
}

template <class T>
[[gnu::always_inline]] inline void transpose(Vector<T>* v) {
  constexpr int n = kVectorLanes<T>;
  constexpr auto lanes = std::make_index_sequence<std::size_t(n)>{};
  if constexpr (n > 8) exchange<8, T>(v, lanes);
  if constexpr (n > 4) exchange<4, T>(v, lanes);
  if constexpr (n > 2) exchange<2, T>(v, lanes);
  exchange<1, T>(v, lanes);
}

// Rows of a matrix in memory, from one row and one column on.
template <class T>
struct Strided {
  const T* data;
  std::int64_t stride;
  const T* operator()(std::int64_t r) const { return data + r * stride; }
  Strided from(std::int64_t row, std::int64_t col) const { return {(*this)(row) + col, stride}; }
  void fetch(std::int64_t, std::int64_t, std::int64_t) const {}  // the processor foresees them
};
template <class T>
struct Listed {
  const T* data;
  std::int64_t stride;
  const std::int32_t* rows;
  const T* operator()(std::int64_t r) const { return data + rows[r] * stride; }
  Listed from(std::int64_t row, std::int64_t col) const { return {data + col, stride, rows + row}; }
  // Asks for `cols` elements of the rows [first, last).
  void fetch(std::int64_t first, std::int64_t last, std::int64_t cols) const {
    constexpr std::int64_t kLine = 64 / sizeof(T);
    for (std::int64_t r = first; r < last; ++r) {
      for (std::int64_t c = 0; c < cols; c += kLine) __builtin_prefetch((*this)(r) + c);
    }
  }
};

// Panels of `width` lines that are rows in memory, k elements each. Lines beyond the last are read
// again, and their results not used.
template <int kWidth, class T, class RowsOf>
void pack_rows(RowsOf row, std::int64_t width, std::int64_t k, T* to) {
  constexpr int n = kVectorLanes<T>;
  static_assert(kWidth % n == 0);
  for (std::int64_t first = 0; first < width; first += kWidth, to += kWidth * k) {
    row.fetch(std::min(width, first + kWidth), std::min(width, first + 2 * kWidth), k);
    const T* line[kWidth];
    for (int i = 0; i < kWidth; ++i) line[i] = row(std::min(first + i, width - 1));
    std::int64_t l = 0;
    for (; l + n <= k; l += n) {
      for (int group = 0; group < kWidth; group += n) {
        Vector<T> v[n];
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) v[i] = load(line[group + i] + l);
        transpose<T>(v);
#pragma GCC unroll 16
        for (int i = 0; i < n; ++i) store(to + (l + i) * kWidth + group, v[i]);
      }
    }
    for (; l < k; ++l) {
      for (int i = 0; i < kWidth; ++i) to[l * kWidth + i] = line[i][l];
    }
  }
}

// Panels of `width` lines that are columns in memory, from k rows: a few rows at a time, which are
// read from their beginning to their end. Whole vectors are copied where what they copy too much
// can be read and is written over.
template <int kWidth, class T, class RowsOf>
void pack_columns(RowsOf row, std::int64_t width, std::int64_t k, T* to) {
  constexpr std::int64_t kAtOnce = 8;
  constexpr int n = kVectorLanes<T>;
  constexpr int vectors = (kWidth + n - 1) / n;
  for (std::int64_t first = 0; first < k; first += kAtOnce) {
    const std::int64_t last = std::min(k, first + kAtOnce);
    row.fetch(last, std::min(k, last + kAtOnce), width);
    const std::int64_t whole = vectors * n == kWidth ? last : std::min(k - 1, last);
    std::int64_t line = 0;
    for (; line + vectors * n <= width; line += kWidth) {
      T* const panel = to + line * k;
      for (std::int64_t l = first; l < whole; ++l) {
        const T* const from = row(l) + line;
        for (int v = 0; v < vectors; ++v) store(panel + l * kWidth + v * n, load(from + v * n));
      }
      for (std::int64_t l = whole; l < last; ++l) {
        for (int i = 0; i < kWidth; ++i) panel[l * kWidth + i] = row(l)[line + i];
      }
    }
    for (; line < width; line += kWidth) {
      const std::int64_t beyond = std::min<std::int64_t>(kWidth, width - line);
      for (std::int64_t l = first; l < last; ++l) {
        const T* const from = row(l) + line;
        T* const at = to + line * k + l * kWidth;
        std::int64_t i = 0;
        for (; i + n <= beyond; i += n) store(at + i, load(from + i));
        for (; i < beyond; ++i) at[i] = from[i];
        for (; i < kWidth; ++i) at[i] = from[beyond - 1];
      }
    }
  }
}

// A few rows of a: columns of its transpose, packed or where they lie, ...
template <class T>
struct Panel {
  const T* data;
  std::int64_t stride;
  T at(std::int64_t l, int r) const { return data[l * stride + r]; }
};
// ... or rows where they lie.
template <class T>
struct InPlace {
  std::array<const T*, kRows> rows;
  T at(std::int64_t l, int r) const { return rows[static_cast<std::size_t>(r)][l]; }
};

// c [kHeight, kVectors] = a [kHeight, [first, last)] b [[first, last), kVectors] + beta c, columns
// counted in vectors
template <int kHeight, int kVectors, int kBytes, class T, class Left>
[[gnu::always_inline]] inline void add_block(std::int64_t first, std::int64_t last, const Left& a,
                                             const T* b, std::int64_t b_stride, T beta, T* c,
                                             std::int64_t stride) {
  constexpr int kLanes = kBytes / sizeof(T);
  Vector<T, kBytes> sum[kHeight][kVectors] = {};
#pragma GCC unroll 16
  for (int r = 0; r < kHeight; ++r) __builtin_prefetch(c + r * stride, 1);
#pragma GCC unroll 4
  for (std::int64_t l = first; l < last; ++l) {
    Vector<T, kBytes> right[kVectors];
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) right[v] = load_bytes<kBytes>(b + l * b_stride + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kHeight; ++r) {
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sum[r][v] += a.at(l, r) * right[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kHeight; ++r) {
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) {
      T* const at = c + r * stride + v * kLanes;
      store_bytes<kBytes>(at, beta == T(0) ? sum[r][v] : sum[r][v] + beta * load_bytes<kBytes>(at));
    }
  }
}

// The same for all of k, a `depth` at a time.
template <int kHeight, int kVectors, int kBytes, class T, class Left>
void block(std::int64_t k, std::int64_t depth, const Left& left, const T* b, std::int64_t b_stride,
           T beta, T* c, std::int64_t stride) {
  const Left a = left;  // in registers
  std::int64_t first = 0;
  do {  // once for k = 0
    const std::int64_t last = std::min(k, first + depth);
    add_block<kHeight, kVectors, kBytes, T>(first, last, a, b, b_stride, first == 0 ? beta : T(1),
                                            c, stride);
    first = last;
  } while (first < k);
}

template <class T, class Left>
using Block = void (*)(std::int64_t, std::int64_t, const Left&, const T*, std::int64_t, T, T*,
                       std::int64_t);

template <int kVectors, int kBytes, class T, class Left, std::size_t... kHeight>
constexpr std::array<Block<T, Left>, kRows> blocks_of(std::index_sequence<kHeight...>) {
  return {block<int(kHeight) + 1, kVectors, kBytes, T, Left>...};
}

// The same at the right edge of c, where only `cols` columns are left.
template <class T, class Left>
void narrow_block(Block<T, Left> run, std::int64_t k, std::int64_t depth, const Left& a, const T* b,
                  std::int64_t b_stride, T beta, T* c, std::int64_t stride, std::int64_t rows,
                  std::int64_t cols) {
  std::array<T, kRows * kCols<T>> whole;
  run(k, depth, a, b, b_stride, T(0), whole.data(), kCols<T>);
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t j = 0; j < cols; ++j) {
      const T sum = whole[r * kCols<T> + j];
      T& out = c[r * stride + j];
      out = beta == T(0) ? sum : sum + beta * out;
    }
  }
}

// b where a block reads it: the panel of kCols columns from column j on.
template <class T>
struct Right {
  const T* data;
  std::int64_t of_panel;  // elements from a panel to the next
  std::int64_t stride;    // elements from a row to the next
  const T* panel(std::int64_t j) const { return data + j / kCols<T> * of_panel; }
};

// c [m, n] = a, b, + beta c, where rows(i, count) are `count` rows of a from i on
template <class T, class RowsOf>
void blocks(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t depth, RowsOf rows,
            Right<T> b, T beta, T* c, std::int64_t stride) {
  using Left = decltype(rows(0, 0));
  static constexpr auto kHeights = std::make_index_sequence<kRows>{};
  static constexpr auto kFew = blocks_of<1, kFewBytes, T, Left>(kHeights);
  static constexpr auto kOne = blocks_of<1, kVectorBytes, T, Left>(kHeights);
  static constexpr auto kTwo = blocks_of<2, kVectorBytes, T, Left>(kHeights);
  constexpr std::int64_t few = kFewBytes / sizeof(T);
  for (std::int64_t i = 0; i < m; i += kRows) {
    const std::int64_t count = std::min<std::int64_t>(kRows, m - i);
    const Left a = rows(i, count);
    for (std::int64_t j = 0; j < n; j += kCols<T>) {
      const std::int64_t cols = std::min<std::int64_t>(kCols<T>, n - j);
      const auto& heights = cols > kVectorLanes<T> ? kTwo : cols > few ? kOne : kFew;
      const Block<T, Left> run = heights[static_cast<std::size_t>(count - 1)];
      T* const to = c + i * stride + j;
      if (cols % kVectorLanes<T> == 0 || cols == few) {
        run(k, depth, a, b.panel(j), b.stride, beta, to, stride);
      } else {
        narrow_block<T, Left>(run, k, depth, a, b.panel(j), b.stride, beta, to, stride, count,
                              cols);
      }
    }
  }
}

// c [m, n] = a [m, k] b + beta c; a^T lies in memory where a is `transposed`
template <class T, class RowsOf>
void rows_times(std::int64_t m, std::int64_t n, std::int64_t k, std::int64_t depth, RowsOf a,
                bool transposed, const Panels<T>& panels, Right<T> b, T beta, T* c,
                std::int64_t stride) {
  if constexpr (std::is_same_v<RowsOf, Strided<T>>) {
    if (transposed && n <= kCols<T>) {  // panels of a would be read once
      const auto as_it_lies = [&](std::int64_t first, std::int64_t) {
        return Panel<T>{a.data + first, a.stride};
      };
      return blocks(m, n, k, depth, as_it_lies, b, beta, c, stride);
    }
  }
  if (transposed) {
    const auto packed = [&](std::int64_t first, std::int64_t) {
      return Panel<T>{panels.left() + first * k, kRows};
    };
    for (std::int64_t i = 0; i < m; i += kTall) {
      const std::int64_t tall = std::min(kTall, m - i);
      pack_columns<kRows>(a.from(0, i), tall, k, panels.left());
      blocks(tall, n, k, depth, packed, b, beta, c + i * stride, stride);
    }
    return;
  }
  const bool crowded = kRows > kWays && a.stride * std::int64_t{sizeof(T)} % kCrowded == 0;
  const auto in_place = [&](std::int64_t first, std::int64_t count) {
    const std::int64_t next = first + count;
    a.fetch(next, std::min(m, next + kRows), k);
    InPlace<T> left;
    for (int r = 0; r < kRows; ++r) {
      const T* const row = a(first + std::min<std::int64_t>(r, count - 1));
      T* const copy = panels.left() + r * (kDepth + kPad);
      if (crowded && r < count) std::copy_n(row, k, copy);
      left.rows[static_cast<std::size_t>(r)] = crowded && r < count ? copy : row;
    }
    return left;
  };
  blocks(m, n, k, depth, in_place, b, beta, c, stride);
}

// Calls f with the rows of x in memory.
template <class T, class F>
void with_rows(Matrix<T> x, F&& f) {
  if (x.rows == nullptr) {
    f(Strided<T>{x.data, x.stride});
  } else {
    f(Listed<T>{x.data, x.stride, x.rows});
  }
}

}  // namespace

template <class T>
void packed_product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b,
                    T beta, T* c, std::int64_t c_stride, std::int64_t depth) {
  const Panels<T>& panels = of_this_thread<Panels<T>>();
  for (std::int64_t j = 0; j < n; j += kWide) {
    const std::int64_t wide = std::min(kWide, n - j);
    // Panels that are read once are not worth their copy, nor where b is small; but whole vectors
    // must end where rows of b do.
    const bool as_it_lies = !b.transposed && b.rows == nullptr && wide % kVectorLanes<T> == 0 &&
                            (m <= kRows || k * wide * std::int64_t{sizeof(T)} <= kSmallBytes);
    std::int64_t l = 0;
    do {  // once for k = 0
      const std::int64_t deep = std::min(kDepth, k - l);
      Right<T> right{panels.right(), kCols<T> * deep, kCols<T>};
      if (as_it_lies) {
        right = {b.data + l * b.stride + j, kCols<T>, b.stride};
      } else {
        with_rows(b, [&](auto rows) {
          if (b.transposed) {
            pack_rows<kCols<T>>(rows.from(j, l), wide, deep, panels.right());
          } else {
            pack_columns<kCols<T>>(rows.from(l, j), wide, deep, panels.right());
          }
        });
      }
      with_rows(a, [&](auto rows) {
        rows_times(m, wide, deep, depth, a.transposed ? rows.from(l, 0) : rows.from(0, l),
                   a.transposed, panels, right, l == 0 ? beta : T(1), c + j, c_stride);
      });
      l += kDepth;
    } while (l < k);
  }
}

template void packed_product(std::int64_t, std::int64_t, std::int64_t, Matrix<float>, Matrix<float>,
                             float, float*, std::int64_t, std::int64_t);
template void packed_product(std::int64_t, std::int64_t, std::int64_t, Matrix<double>,
                             Matrix<double>, double, double*, std::int64_t, std::int64_t);

}  // namespace moegrad::cpu
