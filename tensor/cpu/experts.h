#pragma once

#include <algorithm>
#include <type_traits>

#include "tensor/cpu/kernels.h"
#include "tensor/cpu/parallel.h"
#include "tensor/cpu/product.h"
#include "tensor/cpu/sum.h"
#include "tensor/cpu/tiles.h"

// What both passes through the experts' networks share (experts.cc, experts_backward.cc).

namespace moegrad::cpu::network {

// Rows of a tile, for expert matrices of this many elements: every tile copies them into panels, so
// the larger they are the more rows have to share that, as far as the cache allows.
inline std::int64_t tile_rows(std::int64_t elements) {
  return elements < (1 << 15) ? 128 : std::clamp<std::int64_t>(elements / 512, 256, 512);
}

// Rows that take as long as the copy of a matrix into panels for them does: what a tile costs
// besides its own.
inline constexpr std::int64_t kPanelRows = 8;

// Row-major [rows, cols] for each expert; null where there is none. T is const where it is read.
template <class T>
struct Stack {
  T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t cols = 0;

  explicit operator bool() const { return data != nullptr; }
  T* at(std::int64_t e) const { return data + e * rows * cols; }
};

template <class T>
Stack<T> stack(const Tensor& t) {
  if (!t.defined()) return {};
  Stack<T> s{nullptr, t.rank() == 3 ? t.size(1) : 1, t.shape().back()};
  if constexpr (std::is_const_v<T>) {
    s.data = t.data<T>();
  } else {
    s.data = t.write<T>();
  }
  return s;
}

template <class T>
struct Network {
  explicit Network(const ExpertTensors& t)
      : w1(stack<T>(t.w1)),
        b1(stack<T>(t.b1)),
        w3(stack<T>(t.w3)),
        b3(stack<T>(t.b3)),
        w2(stack<T>(t.w2)),
        b2(stack<T>(t.b2)) {}
  Stack<T> w1, b1, w3, b3, w2, b2;
};

// Slots of a pass, and the tokens they belong to.
struct Slots {
  explicit Slots(const ExpertSlots& s) : order(s.order.data<std::int32_t>()), k(s.choices) {}
  const std::int32_t* order;
  std::int64_t k;
  // The tokens of the slots [first, first + rows): where they stand, or put down at `to`.
  const std::int32_t* tokens(std::int64_t first, std::int64_t rows, std::int32_t* to) const {
    if (k == 1) return order + first;
    put_tokens(first, rows, to);
    return to;
  }
  void put_tokens(std::int64_t first, std::int64_t rows, std::int32_t* to) const {
    for (std::int64_t r = 0; r < rows; ++r) {
      to[r] = order[first + r] / static_cast<std::int32_t>(k);
    }
  }
};

// Memory for [rows, cols] elements and the tokens of as many rows for each worker.
template <class T>
class Workspace {
 public:
  Workspace(std::int64_t rows, std::int64_t cols)
      : rows_(rows),
        count_(rows * cols),
        memory_(Tensor::empty({workers(), count_}, dtype_of<T>, Device::cpu)),
        tokens_(Tensor::empty({workers(), rows}, DType::i32, Device::cpu)) {}
  T* of(int worker) const { return memory_.write<T>() + worker * count_; }
  std::int32_t* tokens(int worker) const { return tokens_.write<std::int32_t>() + worker * rows_; }

 private:
  std::int64_t rows_, count_;
  Tensor memory_;
  Tensor tokens_;
};

template <class T>
void add_row(const T* row, std::int64_t rows, std::int64_t cols, T* to) {
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) to[r * cols + c] += row[c];
  }
}

// to [rows, w.cols] = x [rows, w.rows] w_e
template <class T>
void times(Matrix<T> x, std::int64_t rows, Stack<const T> w, std::int64_t e, T* to) {
  product(rows, w.cols, w.rows, x, Matrix<T>{w.at(e), w.cols}, T(0), to, w.cols);
}
// the same, plus the bias b_e where there is one
template <class T>
void linear(Matrix<T> x, std::int64_t rows, Stack<const T> w, Stack<const T> b, std::int64_t e,
            T* to) {
  times(x, rows, w, e, to);
  if (b) add_row(b.at(e), rows, w.cols, to);
}
// u = act(a), or act(a) c where c is given.
template <class F, class T>
void activate(const T* a, const T* c, std::int64_t n, T* u) {
  for (std::int64_t i = 0; i < n; ++i) u[i] = F::f(a[i], {});
  if (c == nullptr) return;
  for (std::int64_t i = 0; i < n; ++i) u[i] *= c[i];
}

// With the adjoint du of u, times `scale`: da in its place, and dc where c is given. (Derivatives
// are put down before they are multiplied by: else relu's becomes a branch, and a slow one.)
template <class F, class T>
void activate_backward(const T* a, const T* c, T scale, std::int64_t n, T* du, T* dc) {
  if (c != nullptr) {
    for (std::int64_t i = 0; i < n; ++i) {
      const T g = du[i] * scale;
      dc[i] = g * F::f(a[i], {});
      du[i] = g * c[i] * F::df(a[i], T(0), {});
    }
  } else {
    for (std::int64_t i = 0; i < n; ++i) dc[i] = F::df(a[i], T(0), {});
    for (std::int64_t i = 0; i < n; ++i) du[i] = du[i] * scale * dc[i];
  }
}

// Both at once where there is no c: u = scale act(a), and da in the place of du. Returns
// <act(a), du>.
template <class F, class T>
T activate_both_ways(const T* __restrict a, T scale, std::int64_t n, T* __restrict u,
                     T* __restrict du) {
  return lane_blocks<T>(n, [=](std::int64_t first, auto count, T* lanes) {
    T value[kLanes];
    T slope[kLanes];
    for (std::int64_t l = 0; l < count; ++l) value[l] = F::f(a[first + l], {});
    for (std::int64_t l = 0; l < count; ++l) slope[l] = F::df(a[first + l], T(0), {});
    for (std::int64_t l = 0; l < count; ++l) lanes[l] += value[l] * du[first + l];
    for (std::int64_t l = 0; l < count; ++l) u[first + l] = value[l] * scale;
    for (std::int64_t l = 0; l < count; ++l) du[first + l] = du[first + l] * scale * slope[l];
  });
}

// Calls f with the functor of the activation; swiglu's is silu.
template <class Call>
void with_activation(Activation activation, Call&& f) {
  switch (activation) {
    case Activation::relu:
      return f(functor::Relu{});
    case Activation::gelu:
      return f(functor::GeluErf{});
    default:
      return f(functor::Silu{});
  }
}

}  // namespace moegrad::cpu::network
