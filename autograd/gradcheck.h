#pragma once

#include <limits>
#include <span>
#include <string>
#include <vector>

#include "autograd/decisions.h"
#include "autograd/tape.h"

namespace moegrad {

enum class Verdict { pass, inconclusive, fail };
std::string_view name_of(Verdict verdict);
inline Verdict worse(Verdict a, Verdict b) { return a > b ? a : b; }

struct GradcheckOptions {
  // Pass: |a - n| <= relative * max(|a|, |n|) + error_factor * error + rounding, for an analytic a
  // and a numeric n with its own error estimate.
  double relative = 1e-7;
  double error_factor = 4.0;
  // Every element is moved by itself up to this many; above it, random directions.
  std::int64_t elementwise_limit = 200;
  int directions = 5;
  // Random cotangents; asymmetric, never all ones.
  int cotangents = 3;
  // Asks again for 2^10 and 2^-10 times a cotangent: a vjp is linear.
  bool linear = true;
  // Which decisions the differences hold: all for a surrogate or an estimate given its draws. What
  // claims to be the exact derivative is checked with less held: then stop_gradient hides nothing.
  Decisions::Hold hold = Decisions::Hold::all;
  std::uint64_t seed = 1;
  // Random numbers of the program's draws and noise.
  Rng rng = {};
  // Where the program runs. Inputs and output stay on the host.
  Device device = Device::cpu;
  const Mutation* mutation = nullptr;
  std::vector<std::string> names = {};  // of the inputs, for the report; "input 0", ... else
};

// What was found for one input, at its worst element (or direction).
struct InputReport {
  std::string name;
  Verdict verdict = Verdict::pass;
  std::int64_t worst = -1;  // element, or number of the direction
  double analytic = 0.0;
  double numeric = 0.0;
  double error_estimate = 0.0;
  // |a - n| / max(|a|, |n|, what rounding lets be told apart)
  double relative_error = 0.0;
  std::string reason;  // of a verdict other than pass
  // Pairs of an analytic and a numeric number, and those of them that the rounding of the
  // differences hides: they neither pass nor fail.
  std::int64_t compared = 0;
  std::int64_t excused = 0;
  std::int64_t not_moved = 0;  // elements that are not finite
  bool dead = false;  // gradient and differences are zero everywhere: nothing can be learned here
};

struct GradcheckReport {
  Verdict verdict = Verdict::pass;
  std::vector<InputReport> inputs;  // integer inputs are not moved and always pass
  double max_error = 0.0;           // the largest relative error of all inputs
  // Distance to the nearest kink; on a device 0 where relu sees the zeros of slots of no expert.
  double wall = std::numeric_limits<double>::infinity();
  std::string culprit;        // on failure: the first node whose own local check fails
  std::int64_t left_out = 0;  // outputs that are the same infinity at all points
  std::string text() const;
};

// Checks the gradients of any program on the tape against finite differences of the same program
// with its decisions frozen: so the straight-through, the sparse and the sampled ones too. The
// program must depend on its inputs, the tape and its decisions only. Inputs are f64 (checked) or
// i32 (passed through). Outputs whose sizes lie further apart than 1e3 are compared by themselves.
// Errors: an input of f32; nothing to compare (no floating input or no output with elements, no
// cotangents, no directions); a tolerance or factor with which anything would pass (above 0.01, or
// 100 error estimates), or that is negative or NaN.
//
//   GradcheckReport r = gradcheck([](Tape&, std::span<const Var> x) { return tanh(x[0]); }, {x});
GradcheckReport gradcheck(const Program& program, std::span<const Tensor> inputs,
                          const GradcheckOptions& options = {});
inline GradcheckReport gradcheck(const Program& program, std::initializer_list<Tensor> inputs,
                                 const GradcheckOptions& options = {}) {
  return gradcheck(program, std::span<const Tensor>(inputs.begin(), inputs.size()), options);
}

}  // namespace moegrad
