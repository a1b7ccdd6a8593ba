#pragma once

#include <mutex>

#include "tensor/storage.h"

namespace moegrad {

// While any lives, fresh tensors are filled with signalling NaN and guarded.
class Poison {
 public:
  Poison() {
    const std::lock_guard lock(mutex_);
    if (living_++ == 0) before_ = pool::set_checked(true);
  }
  ~Poison() {
    const std::lock_guard lock(mutex_);
    if (--living_ == 0) pool::set_checked(before_);
  }
  Poison(const Poison&) = delete;
  Poison& operator=(const Poison&) = delete;

 private:
  static inline std::mutex mutex_;
  static inline int living_ = 0;  // on any thread
  static inline bool before_ = false;
};

}  // namespace moegrad
