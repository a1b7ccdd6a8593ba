#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "tensor/kernels.h"

// What the rest of the library knows of CUDA. A build without it has absent.cc in place of
// device.cc.
namespace moegrad::cuda {

// An Error where this build has no CUDA, or this machine no device or no driver for it.
Kernels& kernels();

// For the pool: memory of the device, null where none is left, and given back.
std::byte* take(std::size_t bytes);
void give(std::byte* memory);
// Bytes of the device set to a value, and whether all of them still have it.
void set_bytes(std::byte* memory, unsigned char value, std::size_t bytes);
bool have_value(const std::byte* memory, unsigned char value, std::size_t bytes);
// A block that was given back is handed out again: on the emulated device, to be written before it
// is read.
void renew(std::byte* memory, std::size_t bytes);
// "1234 bytes of 85899345920 are free on the device", for messages.
std::string memory_text();

// An Error of what kernels have found wrong in what they were given since the last call, such as an
// index out of range; waits for them. Transfers to the host do the same.
void check_faults();

// A CUDA graph. What is launched while it is recorded does not run; the host must not wait then, nor
// bring numbers, and all that is read and written has to stay where it is as long as the graph is.
struct Graph;
// Random kernels of a generator with the seed and the stream of `rng` take those of each replay's.
void begin_recording(const Rng& rng);
Graph* end_recording();
void abandon_recording();
bool recording();
void replay(const Graph& graph, const Rng& rng);
void drop(Graph* graph);

// For tests, of the emulated device: the order in which it runs blocks and threads, 0 as they are
// numbered. A GPU has its own.
void set_schedule(std::uint64_t seed);

}  // namespace moegrad::cuda
