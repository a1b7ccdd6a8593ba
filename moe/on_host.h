#pragma once

#include "tensor/tensor.h"

namespace moegrad {

// f(x, ...) of copies on the host, its result on the device of x: what no kernel computes. Each
// copy is a wait for that device. The routers that do so say it in RouterTraits::on_host.
template <class F, class... T>
Tensor on_host(F&& f, const Tensor& x, const T&... more) {
  return f(x.to(Device::cpu), more.to(Device::cpu)...).to(x.device());
}

}  // namespace moegrad
