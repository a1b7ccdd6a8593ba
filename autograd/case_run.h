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
  double terms = 0.0;  // the root of the sum of (result times its gradient)^2, of all on the tape
};
// Without a cotangent a random one.
CaseRun run_case(const Program& program, const std::vector<Tensor>& inputs, const Tensor& cotangent,
                 const Mutation* mutation);
// Of the shape and type of t.
Tensor random_like(const Tensor& t, std::uint64_t stream);

// What rounding does to a tensor at most, and the size of the terms that it is the sum of.
struct Rounding {
  double change = 0.0;
  double terms = 0.0;
};

// What two tensors of one shape are apart at most, and how large both are at most.
struct Apart {
  double difference = 0.0;  // NaN where an element is not finite
  double size = 0.0;
  // The difference is at most tolerance * size; or what rounding explains, and that only where it
  // is at most tolerance * terms.
  bool within(double tolerance, const std::function<Rounding()>& rounding) const;
};
Apart apart_of(const Tensor& a, const Tensor& b);

// A floor for the gradient by `input`, which may be a sum of terms that cancel, of these `terms` on
// the tape (CaseRun): their size is `terms` over the largest element of the input, or over 1 where
// that is larger, and the change a few epsilon of it.
Rounding rounding_floor(double terms, const Tensor& input);

// What rounding does to a run: the largest change of each number when all elements of the inputs
// and of the cotangent move by their last bits, or the floor. Terms that cancel show their size so,
// and what the program itself rounds is rounded anew.
struct CaseRounding {
  Rounding output;
  std::vector<Rounding> gradients;
};
CaseRounding rounding_of(const Program& program, const std::vector<Tensor>& inputs,
                         const Tensor& cotangent, const Mutation* mutation);

// Whether a is `factor`, a power of two, times b: each element to the bit, or both among what
// underflows.
bool is_multiple(const Tensor& a, double factor, const Tensor& b);

// Sets of n inputs, as bits, whose gradients may be wanted without those of the others: all sets of
// up to 4 inputs; of more each alone, and all but each.
std::vector<unsigned> subsets_of(std::size_t n);

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
