#pragma once

#include <string>

#include "autograd/tape.h"

namespace moegrad {

// "node 7 (mul)": the first recorded node whose backward pass is not the derivative of its own
// forward pass, by differences within its cell; or that there is none; empty where no node can be run
// apart from its program. `mutation` as in the run.
std::string find_culprit(Tape& tape, const Mutation* mutation, Rng& rng);

}  // namespace moegrad
