#pragma once

#include "autograd/operation.h"
#include "autograd/tape.h"

namespace moegrad {

// Over all elements, to a scalar.
Var sum(Var x);
Var mean(Var x);
// Along one axis, which may count from the end; the axis goes, or stays with size 1.
Var sum(Var x, int axis, bool keep_axis = false);
Var mean(Var x, int axis, bool keep_axis = false);
// The gradient goes to the first of equal largest elements.
Var max(Var x, int axis, bool keep_axis = false);
// log sum e^x, without overflow
Var logsumexp(Var x, int axis, bool keep_axis = false);

// sqrt(sum x^2) over all elements or along one axis; the gradient of a norm of 0 is 0.
Var norm(Var x);
Var norm(Var x, int axis, bool keep_axis = false);
// y_j = the sum of the x_i with i <= j, along an axis
Var cumulative_sum(Var x, int axis);

struct ReduceAttributes {
  static constexpr int kAll = -1;
  int axis = kAll;  // from the front, or all
  bool keep_axis = false;
};

struct Sum {
  static constexpr std::string_view name = "sum";
  static constexpr std::string_view summary = "sum over an axis or all elements";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = ReduceAttributes;
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

struct Mean {
  static constexpr std::string_view name = "mean";
  static constexpr std::string_view summary = "mean over an axis or all elements";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = ReduceAttributes;
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

struct Max {
  static constexpr std::string_view name = "max";
  static constexpr std::string_view summary = "largest element along an axis; of equals the first";
  static constexpr Claim claim = Claim::exact_on_cell;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = ReduceAttributes;
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static void cell(std::span<const Tensor> in, const Attributes& p, Cell& cell);
  static std::vector<OperationCase> cases();
};

struct LogSumExp {
  static constexpr std::string_view name = "logsumexp";
  static constexpr std::string_view summary = "log sum e^x along an axis";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs_and_output;
  using Attributes = ReduceAttributes;
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

struct Norm {
  static constexpr std::string_view name = "norm";
  static constexpr std::string_view summary = "sqrt(sum x^2) over an axis or all elements";
  static constexpr Claim claim = Claim::exact_on_cell;
  static constexpr Needs needs = Needs::inputs_and_output;
  using Attributes = ReduceAttributes;
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static void cell(std::span<const Tensor> in, const Attributes& p, Cell& cell);
  static std::vector<OperationCase> cases();
};

struct CumulativeSum {
  static constexpr std::string_view name = "cumulative_sum";
  static constexpr std::string_view summary = "sum of the elements up to each along an axis";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  struct Attributes {
    int axis = 0;
  };
  static Tensor forward(Forward& in, const Attributes& p);
  static void backward(Backward& b, const Attributes& p);
  static std::vector<OperationCase> cases();
};

}  // namespace moegrad
