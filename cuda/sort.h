#pragma once

#include "cuda/fault.h"
#include "tensor/tensor.h"

namespace moegrad::cuda {

// Kernels::plan, in the name of an operation: a stable counting sort of selected [N, k] by its
// values in [0, experts), -1 for none. Other values are a fault of the kind `wrong`; then no
// expert has slots.
void sort_choices(const char* operation, FaultKind wrong, const Tensor& selected,
                  std::int64_t experts, const Tensor& offsets, const Tensor& order,
                  const Tensor& inverse);

}  // namespace moegrad::cuda
