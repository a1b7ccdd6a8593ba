// The experts' networks on the slots of a plan: products that gather and add as they go.
#include "cuda/kernels.h"
#include "cuda/products.h"

namespace moegrad {
namespace {

using cuda::each;
using cuda::each_cell;
using cuda::in;
using cuda::Linear;
using cuda::out;
using cuda::Outer;
using cuda::Rows;

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

// The slots of a plan.
struct Slots {
  explicit Slots(const ExpertSlots& s)
      : groups{in<std::int32_t>(s.offsets), s.offsets.numel() - 1},
        order(in<std::int32_t>(s.order)),
        count(s.order.numel()),
        choices(s.choices) {}
  cuda::Groups groups;
  const std::int32_t* order;
  std::int64_t count;
  cuda::Divisor choices;
  __device__ std::int64_t token(std::int64_t slot) const { return choices.times(order[slot]); }
  // One past the last slot that is of a group.
  __device__ std::int64_t end() const { return groups.offsets[groups.count]; }
};

template <class T>
Rows<T> by_slot(const Slots& slots, const T* data, std::int64_t cols) {
  return {data, slots.count, cols};
}
template <class T>
Rows<T> by_token(const Slots& slots, const Tensor& x) {
  return {in<T>(x), x.size(0), x.size(1), slots.order, slots.choices};
}

// to [S, cols] = rows op(w_e) + bias_e, or added to what is there; w [E, depth, cols], or [E, cols,
// depth] where transposed.
template <class T>
void linear(const char* operation, const Slots& slots, const Rows<T>& rows, const Tensor& w,
            bool transposed, const Tensor& bias, bool adds, T* to) {
  const std::int64_t cols = w.size(transposed ? 1 : 2);
  const std::int64_t depth = w.size(transposed ? 2 : 1);
  cuda::multiply<T>(
      operation, Linear<T>{slots.groups,
                           slots.count,
                           rows,
                           {in<T>(w), depth * cols, transposed ? 1 : cols, transposed ? depth : 1},
                           in<T>(bias),
                           cols,
                           depth,
                           adds,
                           to,
                           !transposed});
}

// u = act(a), or act(a) c; 0 in rows of none
template <class F, class T>
void activate(const Slots& slots, const T* a, const T* c, std::int64_t cols, T* u) {
  each("experts", slots.count * cols, [=] __device__(std::int64_t i) {
    if (i >= slots.end() * cols) {
      u[i] = T(0);
      return;
    }
    const T value = F::f(a[i], {});
    u[i] = c == nullptr ? value : value * c[i];
  });
}

template <class T>
void clear_rest(const char* operation, const Slots& slots, std::int64_t cols, T* x) {
  cuda::clear_rest(operation, slots.groups, slots.count, cols, x);
}

template <class T>
Tensor workspace(std::int64_t rows, std::int64_t cols) {
  return Tensor::empty({rows, cols}, dtype_of<T>, Device::cuda);
}

// a, and c of swiglu; 0 in rows of none where they are kept
template <class T>
void pre_activations(const ExpertTensors& w, const Slots& slots, const Rows<T>& x, T* a, T* c) {
  const std::int64_t hidden = w.w1.size(2);
  linear("experts", slots, x, w.w1, false, w.b1, false, a);
  clear_rest("experts", slots, hidden, a);
  if (c == nullptr) return;
  linear("experts", slots, x, w.w3, false, w.b3, false, c);
  clear_rest("experts", slots, hidden, c);
}

template <class F, class T>
void experts_as(const ExpertTensors& w, const Tensor& x, const ExpertSlots& s, const Tensor& h) {
  const Slots slots(s);
  const std::int64_t hidden = w.w1.size(2);
  const bool gated = w.w3.defined();
  const Tensor a = s.a.defined() ? s.a : workspace<T>(slots.count, hidden);
  const Tensor c = !gated || s.c.defined() ? s.c : workspace<T>(slots.count, hidden);
  const Tensor u = workspace<T>(slots.count, hidden);
  pre_activations(w, slots, by_token<T>(slots, x), out<T>(a), gated ? out<T>(c) : nullptr);
  activate<F>(slots, in<T>(a), gated ? in<T>(c) : nullptr, hidden, out<T>(u));
  linear("experts", slots, by_slot(slots, in<T>(u), hidden), w.w2, false, w.b2, false, out<T>(h));
  clear_rest("experts", slots, w.w2.size(2), out<T>(h));
}

// --- the way back

// With q = dy w2^T of the slots, unweighted: u of the plan, da in the place of q, and dc.
template <class F, class T>
void activate_backward(const Slots& slots, const T* weights, const T* a, const T* c,
                       std::int64_t cols, T* q, T* dc) {
  const auto of_slot = [=] __device__(std::int64_t i, std::int64_t slot, std::int64_t) {
    if (slot >= slots.end()) {
      q[i] = T(0);
      if (dc != nullptr) dc[i] = T(0);
      return;
    }
    const T g = weights == nullptr ? q[i] : q[i] * weights[slots.order[slot]];
    if (dc != nullptr) {
      dc[i] = g * F::f(a[i], {});
      q[i] = g * c[i] * F::df(a[i], T(0), {});
    } else {
      q[i] = g * F::df(a[i], T(0), {});
    }
  };
  each_cell("experts_backward", slots.count, cols, of_slot);
}

// dweights of the choices that have slots: <q, u> + <dy, b2>
template <class T>
void weights_backward(const Slots& slots, const T* q, const T* u, std::int64_t hidden, const T* dy,
                      const T* b2, std::int64_t cols, T* dweights) {
  cuda::each_warp("experts_backward", slots.count, [=] __device__(std::int64_t s, unsigned lane) {
    if (s >= slots.end()) return;
    double sum = 0.0;
    for (std::int64_t i = lane; i < hidden; i += cuda::kWarp) {
      sum += static_cast<double>(q[s * hidden + i] * u[s * hidden + i]);
    }
    if (b2 != nullptr) {
      const std::int64_t e = slots.groups.of(s);
      const T* const row = dy + slots.token(s) * cols;
      for (std::int64_t i = lane; i < cols; i += cuda::kWarp) {
        sum += static_cast<double>(row[i] * b2[e * cols + i]);
      }
    }
    sum = cuda::warp_sum(sum);
    if (lane == 0) dweights[slots.order[s]] = static_cast<T>(sum);
  });
}

// g [S, cols]: what comes back to each slot.
template <class T>
void adjoints(const Slots& slots, const T* weights, const Rows<T>& dy, T* g) {
  const std::int64_t cols = dy.step;
  each_cell("experts_backward", slots.count, cols,
            [=] __device__(std::int64_t i, std::int64_t s, std::int64_t col) {
              if (s >= slots.end()) {
                g[i] = T(0);
                return;
              }
              const T value = *dy.at(s, col);
              g[i] = weights == nullptr ? value : value * weights[slots.order[s]];
            });
}

// to [E, cols] = the sums of the rows of each expert's slots, or added to what is there
template <class T>
void sum_slots(const Slots& slots, const T* rows, std::int64_t cols, bool adds, T* to) {
  const auto of_expert = [=] __device__(std::int64_t i, std::int64_t e, std::int64_t col) {
    double sum = adds ? static_cast<double>(to[i]) : 0.0;
    for (std::int64_t s = slots.groups.offsets[e]; s < slots.groups.offsets[e + 1]; ++s) {
      sum += static_cast<double>(rows[s * cols + col]);
    }
    to[i] = static_cast<T>(sum);
  };
  each_cell("experts_backward", slots.groups.count, cols, of_expert);
}

template <class F, class T>
void experts_backward_as(const ExpertTensors& w, const Tensor& x, const Tensor& dy,
                         const ExpertSlotsBackward& s, bool adds, const ExpertTensors& dw) {
  const Slots slots(s);
  const std::int64_t hidden = w.w1.size(2);
  const std::int64_t depth = x.size(1);
  const std::int64_t cols = w.w2.size(2);
  const bool gated = w.w3.defined();
  const T* const weights = in<T>(s.weights);
  const Rows<T> tokens = by_token<T>(slots, x);
  const Rows<T> back =
      weights == nullptr ? by_slot(slots, in<T>(dy), cols) : by_token<T>(slots, dy);

  const bool kept = s.a.defined();
  const Tensor a = kept ? s.a : workspace<T>(slots.count, hidden);
  const Tensor c = !gated || kept ? s.c : workspace<T>(slots.count, hidden);
  if (!kept) pre_activations<T>(w, slots, tokens, out<T>(a), gated ? out<T>(c) : nullptr);
  const T* const gate = gated ? in<T>(c) : nullptr;
  const Tensor u = workspace<T>(slots.count, hidden);
  activate<F>(slots, in<T>(a), gate, hidden, out<T>(u));

  const Tensor da = workspace<T>(slots.count, hidden);
  linear("experts_backward", slots, back, w.w2, true, Tensor(), false, out<T>(da));
  if (s.dweights.defined()) {
    const Tensor& dweights = s.dweights;
    T* const to = out<T>(dweights);
    each("experts_backward", dweights.numel(), [=] __device__(std::int64_t i) { to[i] = T(0); });
    weights_backward(slots, in<T>(da), in<T>(u), hidden, in<T>(dy), in<T>(w.b2), cols, to);
  }
  const Tensor dc = gated ? workspace<T>(slots.count, hidden) : Tensor();
  activate_backward<F>(slots, weights, in<T>(a), gate, hidden, out<T>(da), out<T>(dc));

  const Rows<T> of_a = by_slot(slots, in<T>(da), hidden);
  const Rows<T> of_c = by_slot(slots, in<T>(dc), hidden);
  if (s.dslots.defined()) {
    T* const to = out<T>(s.dslots);
    linear("experts_backward", slots, of_a, w.w1, true, Tensor(), false, to);
    if (gated) linear("experts_backward", slots, of_c, w.w3, true, Tensor(), true, to);
    clear_rest("experts_backward", slots, depth, to);
  }

  const auto outer_of = [&](const Rows<T>& left, const Rows<T>& right, const Tensor& to) {
    if (!to.defined()) return;
    cuda::multiply<T>("experts_backward", Outer<T>{slots.groups, slots.count, left, right,
                                                   to.size(1), to.size(2), adds, out<T>(to)});
  };
  const auto sum_of = [&](const T* rows, std::int64_t width, const Tensor& to) {
    if (to.defined()) sum_slots(slots, rows, width, adds, out<T>(to));
  };
  outer_of(tokens, of_a, dw.w1);
  sum_of(of_a.data, hidden, dw.b1);
  outer_of(tokens, of_c, dw.w3);
  sum_of(of_c.data, hidden, dw.b3);
  if (!dw.w2.defined() && !dw.b2.defined()) return;
  const Tensor g = workspace<T>(slots.count, cols);
  adjoints(slots, weights, back, out<T>(g));
  outer_of(by_slot(slots, in<T>(u), hidden), by_slot(slots, in<T>(g), cols), dw.w2);
  sum_of(in<T>(g), cols, dw.b2);
}

}  // namespace

void CudaKernels::experts(Activation activation, const ExpertTensors& w, const Tensor& x,
                          const ExpertSlots& slots, const Tensor& h) {
  with_floating(h.dtype(), "experts", [&](auto zero) {
    with_activation(activation, [&](auto functor) {
      experts_as<decltype(functor), decltype(zero)>(w, x, slots, h);
    });
  });
}

void CudaKernels::experts_backward(Activation activation, const ExpertTensors& w, const Tensor& x,
                                   const Tensor& dy, std::span<const ExpertSlotsBackward> plans,
                                   const ExpertTensors& dw) {
  with_floating(dy.dtype(), "experts_backward", [&](auto zero) {
    with_activation(activation, [&](auto functor) {
      bool adds = false;
      for (const ExpertSlotsBackward& s : plans) {
        experts_backward_as<decltype(functor), decltype(zero)>(w, x, dy, s, adds, dw);
        adds = true;
      }
    });
  });
  if (!plans.empty()) return;
  for (const Tensor* t : {&dw.w1, &dw.b1, &dw.w3, &dw.b3, &dw.w2, &dw.b2}) {
    if (t->defined()) fill(0.0, *t);
  }
}

}  // namespace moegrad
