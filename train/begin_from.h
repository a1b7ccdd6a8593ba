#pragma once

#include <functional>
#include <string_view>

#include "autograd/parameters.h"
#include "train/config.h"
#include "train/dataset.h"
#include "train/optimiser.h"

namespace moegrad {

// The parameters and moments of the run, or checkpoint, config.from, as far as they are those of this
// run (Checkpoints::copy_common); nothing where it is empty. Tells by `message` what was taken, what was
// not there, and where what is tested here may have been trained on there. An Error for text in other
// pieces.
void begin_from(const TrainConfig& config, const Task& task, Parameters& parameters,
                Optimiser& optimiser, const std::function<void(std::string_view)>& message);

}  // namespace moegrad
