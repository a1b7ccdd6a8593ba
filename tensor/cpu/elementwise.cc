// Element-wise functions of one and two arguments: one loop for each functor, found by its place in
// the list.

#include <array>

#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"

namespace moegrad {
namespace {

using cpu::kGrain;
using cpu::parallel_for;

constexpr bool needs_inputs(Needs needs) {
  return needs == Needs::inputs || needs == Needs::inputs_and_output;
}
constexpr bool needs_output(Needs needs) {
  return needs == Needs::output || needs == Needs::inputs_and_output;
}

// --- one argument

template <class T>
using UnaryLoop = void (*)(Scalars, const T* x, T* y, std::int64_t n);
template <class T>
using UnaryBackwardLoop = void (*)(Scalars, const T* x, const T* y, const T* dy, T* dx,
                                   std::int64_t n);

template <class T, class F>
void unary_loop(Scalars p, const T* x, T* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = F::f(x[i], p);
}

// Derivatives are put down before they are multiplied by: else relu's becomes a branch, and a slow
// one.
template <class T, class F>
void unary_backward_piece(Scalars p, const T* x, const T* y, const T* dy, T* dx, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    T x_i(0);
    T y_i(0);
    if constexpr (needs_inputs(F::kNeeds)) x_i = x[i];
    if constexpr (needs_output(F::kNeeds)) y_i = y[i];
    dx[i] = F::df(x_i, y_i, p);
  }
  for (std::int64_t i = 0; i < n; ++i) dx[i] *= dy[i];
}

template <class T, class F>
void unary_backward_loop(Scalars p, const T* x, const T* y, const T* dy, T* dx, std::int64_t n) {
  constexpr std::int64_t kPiece = 1024;  // stays in the nearest cache
  const auto from = [](const T* data, std::int64_t i) { return data == nullptr ? data : data + i; };
  for (std::int64_t i = 0; i < n; i += kPiece) {
    unary_backward_piece<T, F>(p, from(x, i), from(y, i), dy + i, dx + i, std::min(kPiece, n - i));
  }
}

template <class T, class... F>
constexpr std::array<UnaryLoop<T>, sizeof...(F)> unary_loops(TypeList<F...>) {
  return {&unary_loop<T, F>...};
}
template <class T, class... F>
constexpr std::array<UnaryBackwardLoop<T>, sizeof...(F)> unary_backward_loops(TypeList<F...>) {
  return {&unary_backward_loop<T, F>...};
}

template <class... F>
constexpr std::array<int, sizeof...(F)> unary_costs(TypeList<F...>) {
  return {cost_of<F>()...};
}
// Elements of a piece; `function` is in the list.
std::int64_t unary_grain(int function) {
  static constexpr auto kCosts = unary_costs(UnaryFunctors{});
  return cpu::items_per_grain(kCosts[static_cast<std::size_t>(function)]);
}

// --- two arguments

template <class T>
struct Operand {
  const T* data;
  Layout layout;
};

// The rows and columns to walk. Where every operand is laid out alike along both axes, the two are
// merged into one, so that short rows cost nothing and one long row is cut into pieces.
struct Walk {
  std::int64_t rows;
  std::int64_t cols;
  bool one() const { return rows == 1 && cols == 1; }
};

bool merges(Layout layout, Walk walk) {
  return walk.rows == 1 || layout.row == layout.col * walk.cols;
}

template <class... T>
Walk walk_over(std::int64_t rows, std::int64_t cols, Operand<T>&... operands) {
  Walk walk{rows, cols};
  if (cols == 1) {
    ((operands.layout.col = operands.layout.row), ...);
    walk = {1, rows};
  } else if ((merges(operands.layout, walk) && ...)) {
    walk = {1, rows * cols};
  }
  return walk;
}

// Calls f(row, col, count) for pieces of the result that lie in one row each.
template <class F>
void for_pieces(Walk walk, F&& f) {
  if (walk.rows == 1) {
    parallel_for(walk.cols, kGrain,
                 [&](std::int64_t begin, std::int64_t end) { f(0, begin, end - begin); });
  } else {
    parallel_for(walk.rows, cpu::items_per_grain(walk.cols),
                 [&](std::int64_t begin, std::int64_t end) {
                   for (std::int64_t row = begin; row < end; ++row) f(row, 0, walk.cols);
                 });
  }
}

template <class T>
const T* start(const Operand<T>& operand, std::int64_t row, std::int64_t col) {
  return operand.data + row * operand.layout.row + col * operand.layout.col;
}

// Clang has no such promise; it looks for overlaps when the loop runs.
#ifdef __clang__
#define MOEGRAD_IVDEP
#else
#define MOEGRAD_IVDEP _Pragma("GCC ivdep")
#endif

// y[i] = f(a[i * step_a], b[i * step_b], i); the usual steps are constants of the loop. Flattened:
// a call of f would keep the loops from becoming vectors. What f reads at i may lie where y[i] does
// (ivdep), but not elsewhere in y.
template <class T, class Y, class F>
[[gnu::flatten]] void binary_run(const T* a, std::int64_t step_a, const T* b, std::int64_t step_b,
                                 Y* y, std::int64_t n, F f) {
  if (step_a == 1 && step_b == 1) {
    MOEGRAD_IVDEP
    for (std::int64_t i = 0; i < n; ++i) y[i] = f(a[i], b[i], i);
  } else if (step_a == 1 && step_b == 0) {
    const T b_0 = *b;
    MOEGRAD_IVDEP
    for (std::int64_t i = 0; i < n; ++i) y[i] = f(a[i], b_0, i);
  } else if (step_a == 0 && step_b == 1) {
    const T a_0 = *a;
    MOEGRAD_IVDEP
    for (std::int64_t i = 0; i < n; ++i) y[i] = f(a_0, b[i], i);
  } else {
    for (std::int64_t i = 0; i < n; ++i) y[i] = f(a[i * step_a], b[i * step_b], i);
  }
}

template <class T, class Y, class F>
void binary_walk(Walk walk, Operand<T> a, Operand<T> b, Y* y, F f) {
  for_pieces(walk, [&](std::int64_t row, std::int64_t col, std::int64_t n) {
    const std::int64_t first = row * walk.cols + col;
    binary_run(start(a, row, col), a.layout.col, start(b, row, col), b.layout.col, y + first, n,
               [&f, first](T a_i, T b_i, std::int64_t i) { return f(a_i, b_i, first + i); });
  });
}

template <class T>
using BinaryLoop = void (*)(Walk, const Operand<T>& a, const Operand<T>& b, T* y);
template <class T>
using BinaryBackwardLoop = void (*)(Walk, const Operand<T>& a, const Operand<T>& b, const T* dy,
                                    T* da, T* db);

template <class T, class F>
void binary_loop(Walk walk, const Operand<T>& a, const Operand<T>& b, T* y) {
  if (walk.one()) {
    *y = F::f(*a.data, *b.data);
    return;
  }
  binary_walk(walk, a, b, y, [](T a_i, T b_i, std::int64_t) { return F::f(a_i, b_i); });
}

template <class F, class T>
T derivative_a(T a, T b) {
  return F::da(a, b, needs_output(F::kNeeds) ? F::f(a, b) : T(0));
}
template <class F, class T>
T derivative_b(T a, T b) {
  return F::db(a, b, needs_output(F::kNeeds) ? F::f(a, b) : T(0));
}

template <class T, class F>
void binary_backward_loop(Walk walk, const Operand<T>& a, const Operand<T>& b, const T* dy, T* da,
                          T* db) {
  if (walk.one()) {
    if (da != nullptr) *da = *dy * derivative_a<F>(*a.data, *b.data);
    if (db != nullptr) *db = *dy * derivative_b<F>(*a.data, *b.data);
    return;
  }
  if (da != nullptr) {
    binary_walk(walk, a, b, da,
                [dy](T a_i, T b_i, std::int64_t i) { return dy[i] * derivative_a<F>(a_i, b_i); });
  }
  if (db != nullptr) {
    binary_walk(walk, a, b, db,
                [dy](T a_i, T b_i, std::int64_t i) { return dy[i] * derivative_b<F>(a_i, b_i); });
  }
}

template <class T, class... F>
constexpr std::array<BinaryLoop<T>, sizeof...(F)> binary_loops(TypeList<F...>) {
  return {&binary_loop<T, F>...};
}
template <class T, class... F>
constexpr std::array<BinaryBackwardLoop<T>, sizeof...(F)> binary_backward_loops(TypeList<F...>) {
  return {&binary_backward_loop<T, F>...};
}

// An operand that is not needed may be undefined; it then reads one zero everywhere.
template <class T>
Operand<T> operand_of(const Tensor& t, const Layout& layout) {
  static constexpr T kZero(0);
  if (!t.defined()) return {&kZero, {}};
  return {t.data<T>(), layout};
}

template <class Loops>
auto loop_at(const Loops& loops, int function, const char* operation) {
  if (function < 0 || function >= static_cast<int>(loops.size())) {
    fail(operation, "there is no function {}. Use a place in the list of {} functors.", function,
         loops.size());
  }
  return loops[static_cast<std::size_t>(function)];
}

}  // namespace

void CpuKernels::unary(int function, Scalars p, const Tensor& x, const Tensor& y) {
  with_floating(y.dtype(), "unary", [&](auto zero) {
    using T = decltype(zero);
    static constexpr auto kLoops = unary_loops<T>(UnaryFunctors{});
    const auto loop = loop_at(kLoops, function, "unary");
    const T* const from = x.data<T>();
    T* const to = y.write<T>();
    parallel_for(y.numel(), unary_grain(function), [=](std::int64_t begin, std::int64_t end) {
      loop(p, from + begin, to + begin, end - begin);
    });
  });
}

void CpuKernels::unary_backward(int function, Scalars p, const Tensor& x, const Tensor& y,
                                const Tensor& dy, const Tensor& dx) {
  with_floating(dx.dtype(), "unary_backward", [&](auto zero) {
    using T = decltype(zero);
    static constexpr auto kLoops = unary_backward_loops<T>(UnaryFunctors{});
    const auto loop = loop_at(kLoops, function, "unary_backward");
    const T* const x_data = cpu::data_or_null<T>(x);
    const T* const y_data = cpu::data_or_null<T>(y);
    const T* const dy_data = dy.data<T>();
    T* const dx_data = dx.write<T>();
    parallel_for(dx.numel(), unary_grain(function), [=](std::int64_t begin, std::int64_t end) {
      loop(p, x_data == nullptr ? nullptr : x_data + begin,
           y_data == nullptr ? nullptr : y_data + begin, dy_data + begin, dx_data + begin,
           end - begin);
    });
  });
}

void CpuKernels::binary(int function, std::int64_t rows, std::int64_t cols, const Tensor& a,
                        const Layout& layout_a, const Tensor& b, const Layout& layout_b,
                        const Tensor& y) {
  with_floating(y.dtype(), "binary", [&](auto zero) {
    using T = decltype(zero);
    static constexpr auto kLoops = binary_loops<T>(BinaryFunctors{});
    const auto loop = loop_at(kLoops, function, "binary");
    Operand<T> left{a.data<T>(), layout_a};
    Operand<T> right{b.data<T>(), layout_b};
    const Walk walk = walk_over(rows, cols, left, right);
    loop(walk, left, right, y.write<T>());
  });
}

void CpuKernels::binary_backward(int function, std::int64_t rows, std::int64_t cols,
                                 const Tensor& a, const Layout& layout_a, const Tensor& b,
                                 const Layout& layout_b, const Tensor& dy, const Tensor& da,
                                 const Tensor& db) {
  with_floating(dy.dtype(), "binary_backward", [&](auto zero) {
    using T = decltype(zero);
    static constexpr auto kLoops = binary_backward_loops<T>(BinaryFunctors{});
    const auto loop = loop_at(kLoops, function, "binary_backward");
    Operand<T> left = operand_of<T>(a, layout_a);
    Operand<T> right = operand_of<T>(b, layout_b);
    const Walk walk = walk_over(rows, cols, left, right);
    loop(walk, left, right, dy.data<T>(), da.defined() ? da.write<T>() : nullptr,
         db.defined() ? db.write<T>() : nullptr);
  });
}

void CpuKernels::where(const Tensor& condition, std::int64_t rows, std::int64_t cols,
                       const Tensor& a, const Layout& layout_a, const Tensor& b,
                       const Layout& layout_b, const Tensor& y) {
  with_any(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const std::int32_t* const chosen = condition.data<std::int32_t>();
    Operand<T> left{a.data<T>(), layout_a};
    Operand<T> right{b.data<T>(), layout_b};
    const Walk walk = walk_over(rows, cols, left, right);
    binary_walk(walk, left, right, y.write<T>(),
                [chosen](T a_i, T b_i, std::int64_t i) { return chosen[i] != 0 ? a_i : b_i; });
  });
}

void CpuKernels::greater(std::int64_t rows, std::int64_t cols, const Tensor& a,
                         const Layout& layout_a, const Tensor& b, const Layout& layout_b,
                         const Tensor& out) {
  with_any(a.dtype(), [&](auto zero) {
    using T = decltype(zero);
    Operand<T> left{a.data<T>(), layout_a};
    Operand<T> right{b.data<T>(), layout_b};
    const Walk walk = walk_over(rows, cols, left, right);
    binary_walk(walk, left, right, out.write<std::int32_t>(),
                [](T a_i, T b_i, std::int64_t) { return a_i > b_i ? 1 : 0; });
  });
}

}  // namespace moegrad
