// Rows and columns by index; the k largest of a row.
#include "cuda/kernels.h"
#include "cuda/lines.h"
#include "cuda/sort.h"

namespace moegrad {
namespace {

using cuda::each;
using cuda::each_cell;
using cuda::each_line;
using cuda::in;
using cuda::Line;
using cuda::out;
using cuda::Team;

template <class T>
void gather_rows_as(const T* x, const std::int32_t* index, std::int64_t rows, std::int64_t cols,
                    cuda::IndexCheck check, T* to) {
  each_cell("gather_rows", rows, cols,
            [=] __device__(std::int64_t i, std::int64_t at, std::int64_t col) {
              const std::int64_t row = index[at];
              to[i] = check(row, at) && row >= 0 ? x[row * cols + col] : T(0);
            });
}

// A sum of at most so many is left to the type itself.
constexpr std::int64_t kShortSum = 256;

template <class Sum, class T, class Term>
__device__ T sum_in_order(std::int64_t begin, std::int64_t end, const Term& term) {
  Sum sum(0);
  for (std::int64_t i = begin; i < end; ++i) sum += static_cast<Sum>(term(i));
  return static_cast<T>(sum);
}

// The rows of a target are order[offsets[target] ..], each element of it has one owner.
template <class T>
void scatter_add_rows_as(const T* x, const std::int32_t* order, const std::int32_t* offsets,
                         std::int64_t targets, std::int64_t cols, T* to) {
  each_cell("scatter_add_rows", targets, cols,
            [=] __device__(std::int64_t i, std::int64_t target, std::int64_t col) {
              const std::int64_t begin = offsets[target];
              const std::int64_t end = offsets[target + 1];
              const auto row = [=](std::int64_t r) { return x[order[r] * cols + col]; };
              to[i] = end - begin <= kShortSum ? sum_in_order<T, T>(begin, end, row)
                                               : sum_in_order<double, T>(begin, end, row);
            });
}

template <class T>
void take_columns_as(const T* x, const std::int32_t* index, std::int64_t rows, std::int64_t k,
                     std::int64_t cols, cuda::IndexCheck check, T* to) {
  each_cell("take_columns", rows, k,
            [=] __device__(std::int64_t i, std::int64_t row, std::int64_t) {
              const std::int32_t c = index[i];
              to[i] = check(c, i) && c >= 0 ? x[row * cols + c] : T(0);
            });
}

template <class Sum, class T>
void put_columns_as(const T* x, const std::int32_t* index, std::int64_t rows, std::int64_t k,
                    std::int64_t cols, cuda::IndexCheck check, T* to) {
  each_cell("put_columns", rows, cols,
            [=] __device__(std::int64_t i, std::int64_t row, std::int64_t col) {
              Sum sum(0);
              for (std::int64_t j = row * k; j < (row + 1) * k; ++j) {
                if (check(index[j], j) && index[j] == col) sum += static_cast<Sum>(x[j]);
              }
              to[i] = static_cast<T>(sum);
            });
}

// The next largest of a row, k times: of those that come after the one taken last.
template <class T>
void top_k_as(const T* x, std::int64_t rows, std::int64_t n, std::int64_t k, std::int32_t* index) {
  each_line("top_k", {rows, n, 1}, [=] __device__(const Line& line, const Team& team) {
    std::int64_t last = -1;
    for (std::int64_t taken = 0; taken < k; ++taken) {
      last = cuda::next_in_order(x, line, team, last);
      if (team.leads()) index[line.number * k + taken] = static_cast<std::int32_t>(last);
    }
  });
}

// A row by a block that ranks every element, where k is large: its place is the number of those
// that come before it.
template <class T>
void sort_rows_as(const T* x, std::int64_t rows, std::int64_t n, std::int64_t k,
                  std::int32_t* index) {
  each_cell("top_k", rows, n, [=] __device__(std::int64_t, std::int64_t r, std::int64_t mine) {
    const T* const row = x + r * n;
    std::int64_t before = 0;
    for (std::int64_t j = 0; j < n; ++j) {
      if (j != mine && cuda::comes_before(row[j], j, row[mine], mine)) ++before;
    }
    if (before < k) index[r * k + before] = static_cast<std::int32_t>(mine);
  });
}

}  // namespace

void CudaKernels::gather_rows(const Tensor& x, const Tensor& index, const Tensor& t) {
  const std::int64_t cols = x.shape().product(1, x.rank());
  const cuda::IndexCheck check = cuda::indices("gather_rows", -1, x.size(0));
  with_any(t.dtype(), [&](auto zero) {
    using T = decltype(zero);
    gather_rows_as(in<T>(x), in<std::int32_t>(index), index.numel(), cols, check, out<T>(t));
  });
}

void CudaKernels::scatter_add_rows(const Tensor& x, const Tensor& index, const Tensor& t) {
  const std::int64_t targets = t.size(0);
  const std::int64_t rows = index.numel();
  // The rows sorted by target, each target's in their order: as the slots of a plan.
  const Tensor offsets = index.like({targets + 1});
  const Tensor order = index.like({rows});
  const Tensor inverse = index.like({rows, 1});
  cuda::sort_choices("scatter_add_rows", cuda::kIndexFault, index.reshape({rows, 1}), targets,
                     offsets, order, inverse);
  with_floating(t.dtype(), "scatter_add_rows", [&](auto zero) {
    using T = decltype(zero);
    scatter_add_rows_as(in<T>(x), in<std::int32_t>(order), in<std::int32_t>(offsets), targets,
                        t.shape().product(1, t.rank()), out<T>(t));
  });
}

void CudaKernels::take_columns(const Tensor& x, const Tensor& index, const Tensor& t) {
  const cuda::IndexCheck check = cuda::indices("take_columns", -1, x.size(1));
  with_any(t.dtype(), [&](auto zero) {
    using T = decltype(zero);
    take_columns_as(in<T>(x), in<std::int32_t>(index), index.size(0), index.size(1), x.size(1),
                    check, out<T>(t));
  });
}

void CudaKernels::put_columns(const Tensor& x, const Tensor& index, const Tensor& t) {
  const cuda::IndexCheck check = cuda::indices("put_columns", -1, t.size(1));
  const std::int64_t k = index.size(1);
  with_any(t.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const auto put = k <= kShortSum ? put_columns_as<T, T> : put_columns_as<double, T>;
    put(in<T>(x), in<std::int32_t>(index), t.size(0), k, t.size(1), check, out<T>(t));
  });
}

void CudaKernels::top_k(const Tensor& x, std::int64_t k, const Tensor& index) {
  const std::int64_t rows = x.size(0);
  const std::int64_t n = x.size(1);
  if (k < 0 || k > n) fail("top_k", "k is {} for rows of {} elements. Use 0 to {}.", k, n, n);
  if (k == 0) return;
  constexpr std::int64_t kManyTaken = 32;
  with_floating(x.dtype(), "top_k", [&](auto zero) {
    using T = decltype(zero);
    if (k > kManyTaken) {
      sort_rows_as(in<T>(x), rows, n, k, out<std::int32_t>(index));
    } else {
      top_k_as(in<T>(x), rows, n, k, out<std::int32_t>(index));
    }
  });
}

void CudaKernels::cycle(std::int64_t each_of, std::int64_t period, const Tensor& t) {
  std::int32_t* const to = out<std::int32_t>(t);
  const cuda::Divisor by_each(each_of), by_period(period);
  each("cycle", t.numel(), [=] __device__(std::int64_t i) {
    to[i] = static_cast<std::int32_t>(by_period.of(by_each.times(i)).rest);
  });
}

}  // namespace moegrad
