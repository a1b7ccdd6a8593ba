#pragma once

#include "train/config.h"

namespace moegrad {

// Multiplications and additions (one each is one) of the matrix products of a step of training, forward
// and backward: 3 for each element of a matrix that a token meets, of an expert off R of ste-dense too;
// 1 where an estimator only runs an expert (ste-dense-router: E - k of them for a token, ste-probe: its
// probes); of causal attention over T places 3 T D a token and layer. What an estimator adds besides runs
// of experts is not counted.
double operations_of_step(const TrainConfig& config, const TaskShape& task);

}  // namespace moegrad
