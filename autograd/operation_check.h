#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/gradcheck.h"
#include "autograd/operation.h"

namespace moegrad {

// One row of `moegrad gradcheck`: a thing, its claim, the oracle that was asked, what came out.
struct CheckRow {
  std::string name;
  std::string kind;  // operation, router, estimator
  std::string claim;
  std::string oracle;
  std::string dtype = "f64, f32";
  int cases = 0;
  double max_error = 0.0;  // the largest relative error of a gradient against its oracle
  Verdict verdict = Verdict::pass;
  std::string reason;  // of a verdict other than pass
  // Cases where the gradient of an input and its differences are zero everywhere, and the names of
  // such inputs. They pass: a gradient that is zero is then right. Nothing is learned through it.
  int dead = 0;
  std::vector<std::string> dead_inputs;

  // Notes a result; the first one that is not a pass gives the reason.
  void note(Verdict result, const std::string& why);
  void note(bool ok, const std::string& why) { note(ok ? Verdict::pass : Verdict::fail, why); }
  void error(double e) {
    if (!(e <= max_error)) max_error = e;
  }
  // What gradcheck found: its verdict and its error.
  void note(const GradcheckReport& report, const std::string& label);
  // The dead inputs that it found of a case.
  void count_dead(const GradcheckReport& report);
};

// A declared operation, or a documented function composed of operations (`operation` is null then).
struct OperationEntry {
  std::string_view name;
  std::string_view summary;
  std::string_view source;
  Claim claim;
  std::function<std::vector<OperationCase>()> cases;
  const Operation* operation;
  std::string_view never_empty;  // why there is no case of size 0; mostly there is one
};

// A documented function: what Declared asks, without forward and backward of its own.
template <class F>
concept Documented = requires {
  { F::name } -> std::convertible_to<std::string_view>;
  { F::summary } -> std::convertible_to<std::string_view>;
  { F::claim } -> std::convertible_to<Claim>;
  { F::cases() } -> std::same_as<std::vector<OperationCase>>;
};

// What differences hold to judge a claim: nothing for exact, selections for exact on the cell.
Decisions::Hold held_for(Claim claim);

template <Documented Op>
OperationEntry entry_of() {
  static_assert(Op::claim != Claim::biased_order && Op::claim != Claim::documented,
                "nothing could show this claim of an operation");
  OperationEntry entry{Op::name, Op::summary, "textbook", Op::claim, &Op::cases, nullptr, {}};
  if constexpr (requires { Op::source; }) entry.source = Op::source;
  if constexpr (requires { Op::never_empty; }) entry.never_empty = Op::never_empty;
  if constexpr (Declared<Op>) entry.operation = &operation<Op>();
  return entry;
}

// Checks an operation on all of its cases: its claim against differences, and the structure that
// every backward pass must have (linear in the cotangent, accumulating, repeatable, zero for a zero
// cotangent, correct for f(x, x), inputs and saved tensors left alone, every element written, f32
// close to f64, sizes 0 and 1 among the cases). `mutation` breaks it on purpose; then the first
// failure ends the check. The cases' programs run on the device.
CheckRow check_operation(const OperationEntry& entry, const Mutation* mutation = nullptr,
                         Device device = Device::cpu);

// The inputs of a case, drawn from its ranges.
std::vector<Tensor> make_inputs(const OperationCase& c, DType dtype, std::uint64_t seed = 1);

}  // namespace moegrad
