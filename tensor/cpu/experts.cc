// The experts' networks, fused: tiles of one expert's rows go through the first product, which
// gathers them, the activation and the second product while they are in the cache, and nothing but
// the pre-activations is kept.

#include "tensor/cpu/experts.h"

#include "tensor/cpu/tiles.h"

namespace moegrad {
namespace cpu::network {
namespace {

template <class F, class T>
void forward(const ExpertTensors& tensors, const Tensor& x, const ExpertSlots& of_plan,
             const Tensor& h) {
  const Slots slots(of_plan);
  const Network<const T> w(tensors);
  const std::int64_t model = w.w1.rows;
  const std::int64_t hidden = w.w1.cols;
  const std::int64_t output = w.w2.cols;
  const T* const tokens = x.data<T>();
  T* const a_rows = of_plan.a.defined() ? of_plan.a.write<T>() : nullptr;
  T* const c_rows = of_plan.c.defined() ? of_plan.c.write<T>() : nullptr;
  T* const h_rows = h.write<T>();
  for (const Tensor* t : {&of_plan.a, &of_plan.c, &h}) clear_rest<T>(of_plan.offsets, *t);
  const std::int64_t most = tile_rows(model * hidden);
  const GroupTiles tiles(of_plan.offsets, most);
  const Workspace<T> workspace(most, 3 * hidden + kPad);
  const auto run = [=, &workspace](const Tile& t) {
    T* const u = workspace.of(t.worker);
    T* const unsaved = u + most * (hidden + kPad);
    T* const a = a_rows != nullptr ? a_rows + t.first * hidden : unsaved;
    T* c = nullptr;
    const Matrix<T> rows{tokens, model, false,
                         slots.tokens(t.first, t.rows(), workspace.tokens(t.worker))};
    linear(rows, t.rows(), w.w1, w.b1, t.group, a);
    if (w.w3) {
      c = c_rows != nullptr ? c_rows + t.first * hidden : unsaved + most * hidden;
      linear(rows, t.rows(), w.w3, w.b3, t.group, c);
    }
    for (std::int64_t r = 0; r < t.rows(); ++r) {
      activate<F>(a + r * hidden, c == nullptr ? c : c + r * hidden, hidden,
                  u + r * (hidden + kPad));
    }
    linear(Matrix<T>{u, hidden + kPad}, t.rows(), w.w2, w.b2, t.group, h_rows + t.first * output);
  };
  tiles.for_each(model * hidden / 16, run, kPanelRows);
}

}  // namespace
}  // namespace cpu::network

void CpuKernels::experts(Activation activation, const ExpertTensors& w, const Tensor& x,
                         const ExpertSlots& slots, const Tensor& h) {
  with_floating(x.dtype(), "experts", [&](auto zero) {
    cpu::network::with_activation(activation, [&](auto functor) {
      cpu::network::forward<decltype(functor), decltype(zero)>(w, x, slots, h);
    });
  });
}

}  // namespace moegrad
