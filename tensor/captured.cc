#include "tensor/captured.h"

#include "cuda/device.h"

namespace moegrad {

Captured::Captured(Device device) : arena_(device), graph_(nullptr, cuda::drop) {
  if (device != Device::cuda) {
    fail("graph", "the {} device records no graphs. Use cuda, or do not record.", name_of(device));
  }
}

void Captured::operator()(const Rng& rng, const std::function<void()>& work) {
  if (!ran_) {
    const pool::Arena::Use use(arena_);
    work();
    ran_ = true;
    return;
  }
  if (graph_ == nullptr) {
    const pool::Arena::Use use(arena_, true);
    cuda::begin_recording(rng);
    try {
      work();
    } catch (...) {
      cuda::abandon_recording();
      throw;
    }
    graph_.reset(cuda::end_recording());
  }
  cuda::replay(*graph_, rng);
}

}  // namespace moegrad
