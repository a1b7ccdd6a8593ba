#pragma once

#include "cuda/cublas.h"
#include "cuda/emulator/emulator.h"
#include "tests/kernels/rounded.h"

// What the tests of products by cuBLAS and cuBLASLt share: the same by the own kernels.
namespace moegrad::test {

class ProductsScope {
 public:
  explicit ProductsScope(cuda::Products now) : before_(cuda::products()) {
    cuda::set_products(now);
  }
  ~ProductsScope() { cuda::set_products(before_); }
  ProductsScope(const ProductsScope&) = delete;
  ProductsScope& operator=(const ProductsScope&) = delete;

 private:
  cuda::Products before_;
};

inline Kernels& device() { return kernels(Device::cuda); }
inline Tensor there(const Shape& shape, DType dtype, std::uint64_t seed) {
  return random(shape, dtype, seed).to(Device::cuda);
}

// What f writes, fresh and poisoned, and how often it made that call.
struct Written {
  Tensor tensor;
  std::size_t calls;
};
template <class F>
Written written(cuda::Products who, const char* call, const Shape& shape, DType dtype, const F& f) {
  const CheckedPool checked;
  const ProductsScope scope(who);
  const cuda_emulator::Log log;
  const Tensor out = Tensor::empty(shape, dtype, Device::cuda);
  f(out);
  return {out.to(Device::cpu), log.count(call)};
}

// The same sums in another order.
inline void check_same(const Tensor& got, const Tensor& want, std::int64_t depth) {
  check_close(got, want.to_vector(), 4.0 * static_cast<double>(depth + 8));
}

// Experts with a gate and biases on some choices of none: the products there and back, and how often
// they made that call.
struct ExpertsPass {
  std::vector<Tensor> results;
  std::size_t calls;
};
inline ExpertsPass experts_pass(cuda::Products who, const char* call, DType dtype,
                                std::int64_t slots, std::int64_t k) {
  const std::int64_t experts = 3;
  const std::int64_t tokens = slots / k;
  const Tensor selected = random_integers({tokens, k}, 5, -1, experts).to(Device::cuda);
  const Tensor offsets = selected.like({experts + 1});
  const Tensor order = selected.like({tokens * k});
  device().plan(selected, experts, offsets, order, selected.like());
  const auto weights_of = [&](const Shape& shape, std::uint64_t seed) {
    return random(shape, dtype, seed, -0.5, 0.5).to(Device::cuda);
  };
  ExpertTensors w;
  w.w1 = weights_of({experts, 4, 8}, 1);
  w.b1 = weights_of({experts, 8}, 2);
  w.w2 = weights_of({experts, 8, 4}, 3);
  w.b2 = weights_of({experts, 4}, 4);
  w.w3 = weights_of({experts, 4, 8}, 5);
  w.b3 = weights_of({experts, 8}, 6);
  const Tensor x = weights_of({tokens, 4}, 7);
  const Tensor dy = weights_of({tokens, 4}, 8);
  const Tensor weights = weights_of({tokens, k}, 9);
  const ProductsScope scope(who);
  const CheckedPool checked;
  const cuda_emulator::Log log;
  const ExpertSlots plan{order, offsets, k};
  const Tensor h = x.like({tokens * k, 4});
  device().experts(Activation::swiglu, w, x, plan, h);
  ExpertTensors dw;
  for (auto member : {&ExpertTensors::w1, &ExpertTensors::b1, &ExpertTensors::w2,
                      &ExpertTensors::b2, &ExpertTensors::w3, &ExpertTensors::b3}) {
    dw.*member = (w.*member).like();
  }
  const ExpertSlotsBackward back{plan, weights, x.like({tokens * k, 4}), {}};
  device().experts_backward(Activation::swiglu, w, x, dy, {&back, 1}, dw);
  return {{h, back.dslots, dw.w1, dw.w2, dw.w3, dw.b1}, log.count(call)};
}

// Near one another, as a whole: what is rounded to `unit` on the way was rounded elsewhere.
inline void check_near(const ExpertsPass& got, const ExpertsPass& want, double unit) {
  for (std::size_t i = 0; i < want.results.size(); ++i) {
    CAPTURE(i);
    const Values x = got.results[i].to_vector();
    const Values y = want.results[i].to_vector();
    double difference = 0.0;
    double length = 0.0;
    for (std::size_t j = 0; j < x.size(); ++j) {
      difference += (x[j] - y[j]) * (x[j] - y[j]);
      length += y[j] * y[j];
    }
    const bool wide = want.results[i].dtype() == DType::f64;
    CHECK(std::sqrt(difference) <= (4 * unit + (wide ? 1e-13 : 1e-5)) * std::sqrt(length));
  }
}

}  // namespace moegrad::test
