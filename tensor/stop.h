#pragma once

#include <atomic>
#include <utility>

#include "tensor/error.h"

namespace moegrad {

// How work is asked to end early: null, or a number that becomes another one than 0.
using Stop = const std::atomic<int>*;

// While it lives, this thread's tapes end with an Interruption at their next operation or backward
// pass, once they are asked to; so do those that parallel_on_host() has made for it.
class StopScope {
 public:
  explicit StopScope(Stop stop) : before_(std::exchange(current_, stop)) {}
  ~StopScope() { current_ = before_; }
  StopScope(const StopScope&) = delete;
  StopScope& operator=(const StopScope&) = delete;

  static Stop current() { return current_; }
  static void look() {
    if (current_ != nullptr && current_->load(std::memory_order_relaxed) != 0) throw Interruption();
  }

 private:
  static constinit inline thread_local Stop current_ = nullptr;
  Stop before_;
};

}  // namespace moegrad
