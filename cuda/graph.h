#pragma once

#include <cstdint>

#include "cuda/runtime.h"
#include "tensor/rng.h"

// What kernels and the stream have to know of graphs; see device.h.
namespace moegrad::cuda {

// A generator as kernels get it.
struct Generator {
  Rng rng;
  const std::uint64_t* moved;  // on the device: how many streams on; null: fixed

  __device__ Rng now() const {
    return moved == nullptr ? rng : Rng{rng.seed, rng.stream + *moved, rng.position};
  }
};
// One of the seed and stream that a graph is recorded with moves with its replays.
Generator generator(const Rng& rng);

// The stream is this thread's alone from the one to the other: others wait where they ask for it.
void lock_stream();
void unlock_stream();

// An Error while this thread records a graph. `does`: what the host does that no replay would do.
void require_no_recording(const char* does);

}  // namespace moegrad::cuda
