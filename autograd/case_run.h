#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "autograd/tape.h"

// What the check of an operation (operation_check.cc) runs and compares.
namespace moegrad {

// The output of a program, and the gradients of <cotangent, output> by its inputs.
struct CaseRun {
  Tensor output;
  std::vector<Tensor> gradients;
};
// Without a cotangent a random one.
CaseRun run_case(const Program& program, const std::vector<Tensor>& inputs, const Tensor& cotangent,
                 const Mutation* mutation);
// Of the shape and type of t.
Tensor random_like(const Tensor& t, std::uint64_t stream);

// What two tensors of one shape are apart at most, and how large both are at most.
struct Apart {
  double difference = 0.0;  // NaN where an element is not finite
  double size = 0.0;
  // The difference is at most tolerance * size; or what rounding explains, and that only where it
  // is less than tolerance.
  bool within(double tolerance, const std::function<double()>& rounding) const;
};
Apart apart_of(const Tensor& a, const Tensor& b);

// What rounding does to a run, by number: the largest change of each when all elements of the
// inputs and of the cotangent move by their last bits. Terms that cancel show their size so, and
// what the program itself rounds is rounded anew.
struct CaseRounding {
  double output = 0.0;
  std::vector<double> gradients;
};
CaseRounding rounding_of(const Program& program, const std::vector<Tensor>& inputs,
                         const Tensor& cotangent, const Mutation* mutation);

// Both, flattened, one behind the other.
struct FlatJoin {
  static constexpr std::string_view name = "join", summary = "two flattened tensors in a row";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::nothing;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const NoAttributes&);
  static void backward(Backward& b, const NoAttributes&);
  static std::vector<OperationCase> cases() { return {}; }
};

// <a, b> of two tensors of one shape.
struct InnerProduct {
  static constexpr std::string_view name = "inner_product", summary = "sum of a b";
  static constexpr Claim claim = Claim::exact;
  static constexpr Needs needs = Needs::inputs;
  using Attributes = NoAttributes;
  static Tensor forward(Forward& in, const NoAttributes&);
  static void backward(Backward& b, const NoAttributes&);
  static std::vector<OperationCase> cases() { return {}; }
};

}  // namespace moegrad
