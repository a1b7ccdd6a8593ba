#pragma once

#include "autograd/operation.h"
#include "autograd/tape.h"

namespace moegrad {

// x on another device, with its gradient on the way back; x itself where it is there already. From
// a device to the host both are waits for all that was asked of the device before.
Var to(Var x, Device device);

// The program on a device, between inputs and an output on the host: so that whoever looks at
// numbers on the host, a check say, can look at what a device computes.
Program on_device(Device device, const Program& program);

struct Transfer {
  static constexpr std::string_view name = "transfer";
  static constexpr std::string_view summary = "x on another device";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  struct Attributes {
    Device from = Device::cpu, to = Device::cpu;
  };
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
