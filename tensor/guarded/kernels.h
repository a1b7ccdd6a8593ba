#pragma once

#include "tensor/kernels.h"

namespace moegrad {

// The CPU's kernels, each of which opens the guarded memory for as long as it runs and refuses
// tensors of other devices.
Kernels& guarded_kernels();

}  // namespace moegrad
