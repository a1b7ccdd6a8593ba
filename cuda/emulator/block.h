#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <source_location>
#include <string>

#include "cuda/emulator/emulator.h"
#include "cuda/emulator/observer.h"
#include "cuda/emulator/types.h"

// Runs a grid's blocks in turn, each thread of a block a fiber.
namespace cuda_emulator {

struct Grid {
  std::string kernel;
  dim3 blocks, threads;
  std::size_t dynamic_bytes = 0;
  void (*body)(const void* arguments) = nullptr;  // what a thread does
  std::shared_ptr<const void> arguments;
  std::size_t argument_bytes = 0;
};
// Throws Error where a kernel does what is not allowed.
void run(const Grid& grid);

// --- for what threads call

// Observation is for the kernel's own accesses, not for what the emulator does in its name.
class Inside {
 public:
  Inside() { observer::now.observing = false; }
  ~Inside() { observer::now.observing = settings().observed; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
};

// Gives a value to a collective of the warp, waits for all its lanes and returns what each has given.
std::array<std::uint64_t, 32> exchange(const char* collective, unsigned mask, std::uint64_t value,
                                       const std::source_location& here);
unsigned lane();  // the running thread's, in its warp

// --- of the block that runs, for what observes it

// Ends the kernel with an Error that names it, the block and the thread.
[[noreturn]] void die(const std::string& what, const void* code = nullptr);
// "block (3, 0, 0)": the one that an interval was of.
std::string block_of(std::uint32_t interval);
// Memory of the running thread: its stack, and what the kernel was given.
bool is_own(const void* at);
// [at, at + bytes) lies in one array of the block; where at lies.
bool shared_whole(const void* at, std::size_t bytes);
std::string shared_place(const void* at);

}  // namespace cuda_emulator
