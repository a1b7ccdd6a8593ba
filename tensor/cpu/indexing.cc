// Rows and columns by index; the k largest of a row.

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <memory>
#include <numeric>
#include <vector>

#include "tensor/cpu/index.h"
#include "tensor/cpu/kernels.h"
#include "tensor/cpu/lines.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/sum.h"
#include "tensor/cpu/tiles.h"

namespace moegrad {
namespace {

constexpr std::int64_t kScatterRanges = 64;  // of targets, pieces of scatter_add_rows
constexpr std::int64_t kInsertion = 32;      // up to this k, top_k keeps a sorted list
constexpr std::int64_t kSideBySide = 8;      // up to this, of rows that are not long
constexpr std::int64_t kLongRow = 256;

template <class T>
void add_row(const T* __restrict x, std::int64_t n, T* __restrict y) {
  for (std::int64_t i = 0; i < n; ++i) y[i] += x[i];
}

// The order of top_k: larger first, NaN before every number, the lower place first among equals.
template <class T>
struct Before {
  const T* row;
  bool operator()(std::int32_t i, std::int32_t j) const {
    const T a = row[i];
    const T b = row[j];
    if (a > b) return true;
    if (a < b) return false;
    const bool nan_a = a != a;
    const bool nan_b = b != b;
    return nan_a != nan_b ? nan_a : i < j;
  }
};

// One pass over the row with the best k so far kept in order.
template <class T>
void top_k_by_insertion(const T* row, std::int64_t n, std::int64_t k, std::int32_t* best) {
  const Before<T> before{row};
  std::int64_t held = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const auto candidate = static_cast<std::int32_t>(i);
    // Most candidates fail the plain comparison; what remains may be a NaN.
    if (held == k && (row[i] <= row[best[k - 1]] || !before(candidate, best[k - 1]))) continue;
    std::int64_t place = held < k ? held++ : k - 1;
    for (; place > 0 && before(candidate, best[place - 1]); --place) best[place] = best[place - 1];
    best[place] = candidate;
  }
}

// Elements of sixteen rows and their places, as numbers of the same type.
template <class T>
struct Elements {
  cpu::Pack<T> value, place;
};

// Row by row, x takes the place of the held one where it comes before it, and x is the held one
// from there on. An x that is new has the highest place; one that was held before has a lower place
// than its equals further down.
template <class T>
[[gnu::always_inline]] inline void move_down(Elements<T>& x, Elements<T>& held) {
  for (std::int64_t l = 0; l < cpu::kPack; ++l) {
    const T a = x.value.lane[l];
    const T b = held.value.lane[l];
    const T at_a = x.place.lane[l];
    const T at_b = held.place.lane[l];
    const bool before = (a > b) | ((a != a) & (b == b)) | (at_a < at_b);
    x.value.lane[l] = math::select(before, b, a);
    held.value.lane[l] = math::select(before, a, b);
    x.place.lane[l] = math::select(before, at_b, at_a);
    held.place.lane[l] = math::select(before, at_a, at_b);
  }
}

// Sixteen rows from `first` on, without branches: each element goes down the list of the best k so
// far.
template <class T>
void top_k_side_by_side(const T* x, std::int64_t rows, std::int64_t n, std::int64_t k,
                        std::int64_t first, std::int32_t* best) {
  const cpu::Across<T> lines({rows, n, 1}, first);
  Elements<T> list[kSideBySide];
  for (std::int64_t i = 0; i < n; ++i) {
    Elements<T> next = {lines.load(x, i, T(0)), cpu::filled(static_cast<T>(i))};
    const std::int64_t held = std::min(i, k);
    for (std::int64_t j = 0; j < held; ++j) move_down(next, list[j]);
    if (held < k) list[held] = next;
  }
  const cpu::Across<std::int32_t> to({rows, k, 1}, first);
  for (std::int64_t j = 0; j < k; ++j) {
    cpu::Pack<std::int32_t> place;
    for (std::int64_t l = 0; l < cpu::kPack; ++l) {
      place.lane[l] = static_cast<std::int32_t>(list[j].place.lane[l]);
    }
    to.store(best, j, place);
  }
}

template <class T>
void top_k_by_selection(const T* row, std::int64_t n, std::int64_t k, std::int32_t* places,
                        std::int32_t* best) {
  std::iota(places, places + n, 0);
  std::partial_sort_copy(places, places + n, best, best + k, Before<T>{row});
}

}  // namespace

void CpuKernels::gather_rows(const Tensor& x, const Tensor& index, const Tensor& out) {
  const std::int64_t rows = index.numel();
  const std::int64_t cols = x.shape().product(1, x.rank());
  const std::int32_t* const source = index.data<std::int32_t>();
  cpu::require_indices("gather_rows", source, rows, -1, x.size(0));
  with_any(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = out.write<T>();
    if (cols == 0) return;
    cpu::parallel_for(rows, cpu::items_per_grain(cols), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        if (source[r] < 0) {
          std::fill(to + r * cols, to + (r + 1) * cols, T(0));
        } else {
          const T* const row = from + source[r] * cols;
          std::copy(row, row + cols, to + r * cols);
        }
      }
    });
  });
}

void CpuKernels::scatter_add_rows(const Tensor& x, const Tensor& index, const Tensor& out) {
  const std::int64_t rows = index.numel();
  const std::int64_t targets = out.size(0);
  const std::int64_t cols = out.shape().product(1, out.rank());
  const std::int32_t* const target = index.data<std::int32_t>();
  cpu::require_indices("scatter_add_rows", target, rows, -1, targets);
  with_floating(out.dtype(), "scatter_add_rows", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = out.write<T>();
    if (rows <= cpu::kShortSum && (rows + targets) * cols <= cpu::kGrain) {
      std::fill(to, to + targets * cols, T(0));
      for (std::int64_t r = 0; r < rows; ++r) {
        if (target[r] >= 0) add_row(from + r * cols, cols, to + target[r] * cols);
      }
      return;
    }
    // A piece owns a range of targets; the rows are sorted by range and else stay in order.
    const std::int64_t range = (targets + kScatterRanges - 1) / kScatterRanges;
    std::array<std::int64_t, kScatterRanges + 1> starts{};
    for (std::int64_t r = 0; r < rows; ++r) {
      if (target[r] >= 0) ++starts[static_cast<std::size_t>(target[r] / range) + 1];
    }
    std::partial_sum(starts.begin(), starts.end(), starts.begin());
    const Tensor sorted = Tensor::empty({rows}, DType::i32, Device::cpu);
    std::int32_t* const order = sorted.write<std::int32_t>();
    auto next = starts;
    for (std::int64_t r = 0; r < rows; ++r) {
      if (target[r] < 0) continue;
      order[next[static_cast<std::size_t>(target[r] / range)]++] = static_cast<std::int32_t>(r);
    }
    cpu::parallel_pieces(kScatterRanges, [=, &starts](std::int64_t piece, int) {
      const std::int64_t first = std::min(targets, piece * range);
      std::fill(to + first * cols, to + std::min(targets, first + range) * cols, T(0));
      const auto place = static_cast<std::size_t>(piece);
      const std::int64_t last = std::min(targets, first + range);
      // Rows of one target, where they are many: their own sums.
      std::vector<std::unique_ptr<cpu::LongSums<T>>> sums;
      if (starts[place + 1] - starts[place] > cpu::kShortSum) {
        PoolVector<std::int64_t> counts(static_cast<std::size_t>(last - first), 0);
        for (std::int64_t i = starts[place]; i < starts[place + 1]; ++i) {
          ++counts[static_cast<std::size_t>(target[order[i]] - first)];
        }
        sums.resize(counts.size());
        for (std::size_t t = 0; t < counts.size(); ++t) {
          if (counts[t] <= cpu::kShortSum) continue;
          T* const row = to + (first + static_cast<std::int64_t>(t)) * cols;
          sums[t] = std::make_unique<cpu::LongSums<T>>(row, cols, counts[t]);
        }
      }
      for (std::int64_t i = starts[place]; i < starts[place + 1]; ++i) {
        const std::int64_t t = target[order[i]];
        add_row(from + order[i] * cols, cols, to + t * cols);
        if (sums.empty()) continue;
        if (auto& sum = sums[static_cast<std::size_t>(t - first)]) sum->added();
      }
      for (const auto& sum : sums) {
        if (sum) sum->finish();
      }
    });
  });
}

void CpuKernels::take_columns(const Tensor& x, const Tensor& index, const Tensor& out) {
  const std::int64_t rows = index.size(0);
  const std::int64_t k = index.size(1);
  const std::int64_t cols = x.size(1);
  const std::int32_t* const source = index.data<std::int32_t>();
  cpu::require_indices("take_columns", source, rows * k, -1, cols);
  with_any(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = out.write<T>();
    cpu::parallel_for(rows, cpu::items_per_grain(k), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        for (std::int64_t j = r * k; j < (r + 1) * k; ++j) {
          to[j] = source[j] < 0 ? T(0) : from[r * cols + source[j]];
        }
      }
    });
  });
}

void CpuKernels::put_columns(const Tensor& x, const Tensor& index, const Tensor& out) {
  const std::int64_t rows = index.size(0);
  const std::int64_t k = index.size(1);
  const std::int64_t cols = out.size(1);
  const std::int32_t* const target = index.data<std::int32_t>();
  cpu::require_indices("put_columns", target, rows * k, -1, cols);
  with_any(out.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    T* const to = out.write<T>();
    cpu::parallel_for(rows, cpu::items_per_grain(cols), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r) {
        cpu::LongSums<T> sums(to + r * cols, cols, k);
        for (std::int64_t j = r * k; j < (r + 1) * k; ++j) {
          if (target[j] >= 0) to[r * cols + target[j]] += from[j];
          sums.added();
        }
        sums.finish();
      }
    });
  });
}

void CpuKernels::top_k(const Tensor& x, std::int64_t k, const Tensor& index) {
  const std::int64_t rows = x.size(0);
  const std::int64_t n = x.size(1);
  if (k < 0 || k > n) fail("top_k", "k is {} for rows of {} elements. Use 0 to {}.", k, n, n);
  if (k == 0) return;
  std::int32_t* const best = index.write<std::int32_t>();
  with_floating(x.dtype(), "top_k", [&](auto zero) {
    using T = decltype(zero);
    const T* const from = x.data<T>();
    const std::int64_t grain = cpu::items_per_grain(4 * n);
    if (k <= kSideBySide && n <= kLongRow) {
      const std::int64_t blocks = cpu::tiles_of(rows, cpu::kPack);
      cpu::parallel_for(blocks, grain / cpu::kPack + 1, [=](std::int64_t begin, std::int64_t end) {
        for (std::int64_t b = begin; b < end; ++b) {
          top_k_side_by_side(from, rows, n, k, b * cpu::kPack, best);
        }
      });
      return;
    }
    if (k <= kInsertion) {
      cpu::parallel_for(rows, grain, [=](std::int64_t begin, std::int64_t end) {
        for (std::int64_t r = begin; r < end; ++r) {
          top_k_by_insertion(from + r * n, n, k, best + r * k);
        }
      });
      return;
    }
    const Tensor workspace = Tensor::empty({cpu::workers(), n}, DType::i32, Device::cpu);
    std::int32_t* const places = workspace.write<std::int32_t>();
    cpu::parallel_pieces((rows + grain - 1) / grain, [=](std::int64_t piece, int worker) {
      for (std::int64_t r = piece * grain; r < std::min(rows, (piece + 1) * grain); ++r) {
        top_k_by_selection(from + r * n, n, k, places + worker * n, best + r * k);
      }
    });
  });
}

void CpuKernels::cycle(std::int64_t each, std::int64_t period, const Tensor& out) {
  std::int32_t* const to = out.write<std::int32_t>();
  cpu::parallel_for(out.numel(), cpu::kGrain, [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) to[i] = static_cast<std::int32_t>(i / each % period);
  });
}

}  // namespace moegrad
