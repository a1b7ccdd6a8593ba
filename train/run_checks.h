#pragma once

#include "tensor/tensor.h"
#include "train/config.h"

namespace moegrad {

// An Error, before the data are read, for a mixture that makes no sense and for norms_of an estimator that
// keeps a state, or does not go with the router.
void check_run(const TrainConfig& config);

// An Error where a step cannot be captured (tensor/captured.h): the device has no graphs, or something is
// computed on the host.
void require_capturable(const TrainConfig& config, Device device);

// With the estimator norms_of in place of its own.
TrainConfig with_other_estimator(TrainConfig config);

}  // namespace moegrad
