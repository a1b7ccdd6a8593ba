#pragma once

#include <atomic>

#include "tensor/error.h"

namespace moegrad {

// How a study is asked to end early: null, or a number that becomes another one than 0. An
// Interruption then; called at every pass through a layer.
using Stop = const std::atomic<int>*;

inline void look_at(Stop stop) {
  if (stop != nullptr && stop->load(std::memory_order_relaxed) != 0) throw Interruption();
}

}  // namespace moegrad
