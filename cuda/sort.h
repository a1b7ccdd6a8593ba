#pragma once

#include "tensor/tensor.h"

namespace moegrad::cuda {

// Kernels::plan, in the name of an operation: a stable counting sort of selected [N, k] by its
// values in [0, experts), -1 for none. Where there is a fault nothing is written.
void sort_choices(const char* operation, const Tensor& selected, std::int64_t experts,
                  const Tensor& offsets, const Tensor& order, const Tensor& inverse);

}  // namespace moegrad::cuda
