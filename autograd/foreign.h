#pragma once

#include <functional>
#include <span>
#include <vector>

#include "autograd/tape.h"

namespace moegrad {

// One run of a foreign program: what its callback may ask the tape for.
class ForeignRun {
 public:
  explicit ForeignRun(Tape& tape, bool saves) : tape_(tape), saves_(saves) {}

  Decisions& decisions() { return tape_.decisions(); }
  Decisions::Mode mode() { return tape_.decisions().mode(); }
  Cell& cell() { return tape_.cell(); }
  // For draws and noise; who asks makes an expectation a Monte Carlo one (autograd/expectation.h).
  Rng& rng() { return tape_.rng(); }
  // False where no backward pass will follow: a vjp is not wanted.
  bool saves() const { return saves_; }
  // For a program that works on a tape of its own: its decisions and cells are this one's.
  Tape& tape() { return tape_; }

 private:
  Tape& tape_;
  bool saves_;
};

// Given dL/dy: dL/dx of each input; undefined where it is zero or the input is of integers.
using ForeignVjp = std::function<std::vector<Tensor>(const Tensor& cotangent)>;

struct ForeignResult {
  Tensor output;
  ForeignVjp vjp = nullptr;  // empty: the output depends on no input
};

// A program of another system (PyTorch, JAX, NumPy): from inputs on the host to one output.
using ForeignProgram =
    std::function<ForeignResult(ForeignRun& run, std::span<const Tensor> inputs)>;

// The foreign program as one operation of the tape, so that gradcheck and expectation can be asked
// about it. Its selections and draws go through the run's decisions, or it keeps them itself and
// throws ReplayMismatch for another cell; its kinks report to the run's cell. What the callback
// throws passes through; an Interruption stops a check. A pass holds the vjp until it is released.
Program foreign(ForeignProgram program);

}  // namespace moegrad
