#pragma once

#include <cstdint>

#include "autograd/foreign.h"

namespace moegrad::python {

// What a callback is given: a run, as long as the call lasts.
class Run {
 public:
  explicit Run(ForeignRun& run) : run_(&run) {}
  void end() { run_ = nullptr; }
  ForeignRun& get() const {
    if (run_ == nullptr) fail("run", "it is over. Use it within the call that it was given to.");
    return *run_;
  }
  // How many passes of layers it has made before.
  std::uint64_t count_pass() { return passes_++; }

 private:
  ForeignRun* run_;
  std::uint64_t passes_ = 0;
};

}  // namespace moegrad::python
