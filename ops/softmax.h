#pragma once

#include "autograd/operation.h"
#include "autograd/tape.h"

namespace moegrad {

// e^x / sum e^x along an axis, which may count from the end.
Var softmax(Var x, int axis = -1);
// x - log sum e^x along an axis
Var log_softmax(Var x, int axis = -1);

struct SoftmaxAttributes {
  int axis = 0;  // from the front
};

struct Softmax {
  static constexpr std::string_view name = "softmax";
  static constexpr std::string_view summary = "e^x / sum e^x along an axis";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::output;
  using Attributes = SoftmaxAttributes;
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

struct LogSoftmax {
  static constexpr std::string_view name = "log_softmax";
  static constexpr std::string_view summary = "x - log sum e^x along an axis";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::output;
  using Attributes = SoftmaxAttributes;
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
