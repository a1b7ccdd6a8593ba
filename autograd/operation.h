#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "tensor/elementwise.h"
#include "tensor/tensor.h"

namespace moegrad {

class Tape;
class Var;

// What a backward pass claims to be. Each claim has its own oracle (docs/gradient-checking.md).
enum class Claim {
  exact,          // the derivative of the forward pass
  exact_on_cell,  // the same, within a cell on which the discrete part is constant
  surrogate,      // the derivative of the forward pass with all decisions frozen
  unbiased,       // its expectation over the draws is the derivative of the expected loss
  biased_order,   // that holds for polynomials up to a stated degree, and no further
  documented,     // its bias and variance on fixed cases are the recorded figures
};
constexpr std::string_view name_of(Claim claim) {
  switch (claim) {
    case Claim::exact:
      return "exact";
    case Claim::exact_on_cell:
      return "exact on the cell";
    case Claim::surrogate:
      return "surrogate";
    case Claim::unbiased:
      return "unbiased";
    case Claim::biased_order:
      return "biased, with a stated order";
    default:
      return "biased, as documented";
  }
}

// A differentiable program: records on the tape, from leaves made of its inputs, one output.
using Program = std::function<Var(Tape&, std::span<const Var>)>;

// The shape of an input of a case, and the range its values are drawn from.
struct CaseInput {
  Shape shape;
  double low = -2.0;
  double high = 2.0;
};

// One case of an operation: what to run it on. It is checked, timed and documented from here.
struct OperationCase {
  std::string label;
  std::vector<CaseInput> inputs;
  Program program;
  // Optional: the same function written out from other operations; values and gradients must agree.
  Program written_out = nullptr;
};

// What forward is given: the inputs, and a place to save what backward will want besides.
class Forward {
 public:
  Forward(std::span<const Tensor* const> inputs, std::vector<Tensor>* saved)
      : inputs_(inputs), saved_(saved) {}

  std::size_t size() const { return inputs_.size(); }
  // An undefined tensor for an optional input that was left out.
  const Tensor& operator[](std::size_t i) const { return *inputs_[i]; }
  // True where a backward pass may follow: what is worked out for it alone can be left out else.
  bool saves() const { return saved_ != nullptr; }
  // Kept for Backward::saved, in the order of the calls. Dropped where no gradient will be asked.
  void save(const Tensor& tensor) {
    if (saved_ != nullptr) saved_->push_back(tensor);
  }

 private:
  std::span<const Tensor* const> inputs_;
  std::vector<Tensor>* saved_;
};

class Backward;

// The distance of an evaluation to the nearest wall of its cell, and the cell's signature: equal
// for two evaluations in the same cell (the signs of relu's inputs, the places of the maxima).
class Cell {
 public:
  void distance(double d) { distance_ = d < distance_ ? d : distance_; }
  void signature(std::uint64_t word) {
    signature_ = (signature_ ^ word) * 0x100000001b3ULL + 0x9e3779b97f4a7c15ULL;
  }
  double distance() const { return distance_; }
  std::uint64_t signature() const { return signature_; }

 private:
  double distance_ = std::numeric_limits<double>::infinity();
  std::uint64_t signature_ = 0xcbf29ce484222325ULL;
};

// An operation as the tape sees it; made from the declaration below by operation<Op>(). The kinds
// of leaves are operations with a name alone.
struct Operation {
  std::string_view name;
  Needs needs;
  std::size_t required;  // inputs from this place on are optional: their Var may be undefined
  Tensor (*forward)(Forward&, const void* attributes);
  void (*backward)(Backward&, const void* attributes);
  void (*cell)(std::span<const Tensor> inputs, const void* attributes, Cell&);  // or null
  bool local = true;  // a function of its inputs alone: it can be run again apart from its tape
  std::optional<Claim> claim = {};  // none: a leaf, or a program of others
};

// The declaration of an operation: a struct with these static members. `Attributes` are the numbers
// of one call, trivially copyable and aligned like an integer at most (tensors are inputs). Forward
// is a pure function of inputs and attributes. An operation with a kink declares `cell` as well;
// one with optional inputs, its last ones, how many are `required`.
template <class Op>
concept Declared = requires(Forward& f, Backward& b, const typename Op::Attributes& a) {
  { Op::name } -> std::convertible_to<std::string_view>;
  { Op::summary } -> std::convertible_to<std::string_view>;
  { Op::claim } -> std::convertible_to<Claim>;
  { Op::needs } -> std::convertible_to<Needs>;
  { Op::forward(f, a) } -> std::same_as<Tensor>;
  { Op::backward(b, a) } -> std::same_as<void>;
  { Op::cases() } -> std::same_as<std::vector<OperationCase>>;
  requires std::is_trivially_copyable_v<typename Op::Attributes>;
  requires alignof(typename Op::Attributes) <= alignof(std::uint64_t);
};

template <class Op>
concept HasCell = requires(std::span<const Tensor> in, const typename Op::Attributes& a, Cell& c) {
  Op::cell(in, a, c);
};

template <class Op>
constexpr std::size_t required_inputs() {
  if constexpr (requires { Op::required; }) {
    return Op::required;
  } else {
    return std::numeric_limits<std::size_t>::max();
  }
}

template <Declared Op>
const Operation& operation() {
  using A = typename Op::Attributes;
  static constexpr Operation instance = {
      Op::name,
      Op::needs,
      required_inputs<Op>(),
      [](Forward& f, const void* a) { return Op::forward(f, *static_cast<const A*>(a)); },
      [](Backward& b, const void* a) { Op::backward(b, *static_cast<const A*>(a)); },
      []() -> decltype(Operation::cell) {
        if constexpr (HasCell<Op>) {
          return [](std::span<const Tensor> in, const void* a, Cell& c) {
            Op::cell(in, *static_cast<const A*>(a), c);
          };
        } else {
          return nullptr;
        }
      }(),
      true,
      Op::claim,
  };
  return instance;
}

// For operations without numbers of a call.
struct NoAttributes {};

}  // namespace moegrad
