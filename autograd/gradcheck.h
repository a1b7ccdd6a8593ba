#pragma once

#include <limits>
#include <span>
#include <string>
#include <vector>

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
  std::uint64_t seed = 1;
  // Random numbers of the program's draws and noise.
  Rng rng = {};
  const Mutation* mutation = nullptr;
};

// What was found for one input, at its worst element (or direction).
struct InputReport {
  Verdict verdict = Verdict::pass;
  std::int64_t worst = -1;  // element, or number of the direction
  double analytic = 0.0;
  double numeric = 0.0;
  double error_estimate = 0.0;
  // |a - n| / max(|a|, |n|, what rounding lets be told apart)
  double relative_error = 0.0;
  std::string reason;  // of a verdict other than pass
};

struct GradcheckReport {
  Verdict verdict = Verdict::pass;
  std::vector<InputReport> inputs;  // integer inputs are not moved and always pass
  double max_error = 0.0;           // the largest relative error of all inputs
  double wall = std::numeric_limits<double>::infinity();  // distance to the nearest kink
  std::string culprit;  // on failure: the first node whose own local check fails
  std::string text() const;
};

// Checks the gradients of any program on the tape against finite differences of the same program
// with all its decisions frozen: so the straight-through, the sparse and the sampled ones too. The
// program must depend on its inputs, the tape and its decisions only. Inputs are f64 (checked) or
// i32 (passed through).
//
//   GradcheckReport r = gradcheck([](Tape&, std::span<const Var> x) { return tanh(x[0]); }, {x});
GradcheckReport gradcheck(const Program& program, std::span<const Tensor> inputs,
                          const GradcheckOptions& options = {});
inline GradcheckReport gradcheck(const Program& program, std::initializer_list<Tensor> inputs,
                                 const GradcheckOptions& options = {}) {
  return gradcheck(program, std::span<const Tensor>(inputs.begin(), inputs.size()), options);
}

}  // namespace moegrad
