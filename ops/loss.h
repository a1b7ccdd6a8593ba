#pragma once

#include <optional>

#include "autograd/operation.h"
#include "autograd/tape.h"

namespace moegrad {

// The mean over rows of logsumexp(logits) - logits[label], for logits [N, C] and i32 labels [N]. A
// row whose label is ignore_index (any number, also that of a class) counts nowhere: the mean is
// over the others, and its gradient is exactly 0. Where all are ignored the loss is 0 (PyTorch:
// NaN). Labels on another device are checked by its kernels, where -1 is a row of loss 0 that
// counts in the mean; with an ignore_index they are copied to the host first.
Var cross_entropy(Var logits, const Tensor& labels,
                  std::optional<std::int32_t> ignore_index = std::nullopt);
// mean (a - b)^2, of equal shapes
Var mse(Var a, Var b);
// mean softplus(logit) - logit target, of equal shapes: binary cross-entropy
Var bce_with_logits(Var logits, Var targets);

struct CrossEntropy {
  static constexpr std::string_view name = "cross_entropy";
  static constexpr std::string_view summary = "mean over rows of -log softmax(logits)[label]";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  static constexpr std::string_view never_empty = "the mean over no rows is undefined";
  struct Attributes {
    double scale = 1.0;  // 1 / the number of rows that count, or 0
  };
  static Tensor forward(Forward& in, const Attributes&);
  static void backward(Backward& b, const Attributes&);
  static std::vector<OperationCase> cases();
};

struct Mse {
  static constexpr std::string_view name = "mse";
  static constexpr std::string_view summary = "mean (a - b)^2";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  static constexpr std::string_view never_empty = "the mean over no elements is undefined";
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const Attributes&);  // a, b
  static void backward(Backward& b, const Attributes&);
  static std::vector<OperationCase> cases();
};

struct BceWithLogits {
  static constexpr std::string_view name = "bce_with_logits";
  static constexpr std::string_view summary = "mean softplus(logit) - logit target";
  static constexpr Claim claim = Claim::exact;
  static constexpr std::string_view never_empty = "the mean over no elements is undefined";
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
