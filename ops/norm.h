#pragma once

#include "autograd/operation.h"
#include "autograd/tape.h"

namespace moegrad {

// Along the last axis C of x [..., C]: (x - mean) / sqrt(variance + epsilon) scale + shift, with
// the population variance; scale and shift [C].
Var layer_norm(Var x, Var scale, Var shift, double epsilon = 1e-5);
// x / sqrt(mean(x^2) + epsilon) scale
Var rms_norm(Var x, Var scale, double epsilon = 1e-6);

struct NormAttributes {
  double epsilon = 0.0;
};

struct LayerNorm {
  static constexpr std::string_view name = "layer_norm";
  static constexpr std::string_view summary =
      "(x - mean) / sqrt(variance + epsilon) scale + shift of each row";
  static constexpr std::string_view source = "Ba, Kiros & Hinton 2016";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  using Attributes = NormAttributes;
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

struct RmsNorm {
  static constexpr std::string_view name = "rms_norm";
  static constexpr std::string_view summary = "x / sqrt(mean(x^2) + epsilon) scale of each row";
  static constexpr std::string_view source = "Zhang & Sennrich 2019";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  using Attributes = NormAttributes;
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
