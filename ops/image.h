#pragma once

#include "autograd/operation.h"
#include "autograd/tape.h"

namespace moegrad {

// Images are [N, C, H, W].

// Cross-correlation with weight [O, C, h, w], plus bias [O] where one is given: [N, O, H', W'] with
// H' = (H + 2 padding - h) / stride + 1, rounded down.
Var conv2d(Var x, Var weight, Var bias, std::int64_t stride = 1, std::int64_t padding = 0);
// The largest of each window of size x size; the gradient goes to the first of equals.
Var max_pool2d(Var x, std::int64_t size, std::int64_t stride);

struct Conv2d {
  static constexpr std::string_view name = "conv2d";
  static constexpr std::string_view summary = "cross-correlation of images with filters, plus bias";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  struct Attributes {
    std::int64_t stride = 1;
    std::int64_t padding = 0;
  };
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

struct MaxPool2d {
  static constexpr std::string_view name = "max_pool2d";
  static constexpr std::string_view summary = "the largest of each window of an image";
  static constexpr Claim claim = Claim::exact_on_cell;
  static constexpr Needs needs = Needs::nothing;
  struct Attributes {
    std::int64_t size = 1;
    std::int64_t stride = 1;
  };
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static void cell(std::span<const Tensor> in, const Attributes& p, Cell& cell);
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
