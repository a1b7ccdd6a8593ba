#pragma once

#include <functional>
#include <memory>

#include "tensor/rng.h"
#include "tensor/storage.h"

namespace moegrad {

namespace cuda {
struct Graph;
}

// Work that a device does many times, and the host once: the first call runs it, the second records
// what it launches (a CUDA graph), and from then on a call is a single launch.
//
// Each call reads and writes the tensors that live on where they are now. What the work makes stays
// valid until this is gone, and has new elements after each call. All else is as it was when it was
// recorded: shapes, numbers of the host, branches. Where the work waits for the device, or brings it
// numbers of the host, the second call is an Error and nothing of it has run. Work that is Captured
// within other such work is one too. Other threads of the host wait while it is recorded.
class Captured {
 public:
  // An Error for a device without graphs.
  explicit Captured(Device device);

  // Random numbers of a generator with the seed and the stream of `rng` are each call's; seed and
  // position must stay. Those of other generators are drawn again.
  void operator()(const Rng& rng, const std::function<void()>& work);

 private:
  pool::Arena arena_;
  std::unique_ptr<cuda::Graph, void (*)(cuda::Graph*)> graph_;
  bool ran_ = false;
};

}  // namespace moegrad
