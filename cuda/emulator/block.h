#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
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
  bool observed = false;  // the kernel is compiled to be observed
};
// Throws Error where a kernel does what is not allowed.
void run(const Grid& grid);
bool in_kernel();  // this host thread runs one

// Ends the kernel with an Error that names it, the block and the thread; `line` as line_of() has it.
[[noreturn]] void die(const std::string& what, const std::string& line = {});

// --- for what threads call

// Observation is for the kernel's own accesses, not for what the emulator does in its name.
class Inside {
 public:
  [[gnu::always_inline]] Inside() : before_(observer::now.observed) { observer::observe(nullptr); }
  [[gnu::always_inline]] ~Inside() { observer::observe(before_); }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;

 private:
  const void* before_;
};

// What a collective's lanes have given, each one word.
using Lanes = std::array<std::uint64_t, 32>;
// Gives a value to a collective of the warp, waits for all its lanes and returns what each has
// given, for the caller to read before its next collective. The last that comes does `together`
// before any goes on.
const Lanes& exchange(const char* what, unsigned mask, std::uint64_t value, const Here& here,
                      void (*together)(const Lanes&) = nullptr);
unsigned lane();  // the running thread's, in its warp

// --- of the block that runs, for what observes it

std::string block_of(std::uint32_t interval);  // "block (3, 0, 0)": the one that it was of
std::string thread_of(std::uint32_t number);   // "thread (5, 0, 0)"
std::string where();                           // "sum, block (3, 0, 0), thread (5, 0, 0)"
bool is_own(const void* at);                   // the running thread's: its stack, its arguments
// Where the shared array that holds [at, at + bytes) begins and how long it is; bytes 0: none.
struct Extent {
  std::uintptr_t begin = 0;
  std::size_t bytes = 0;
};
Extent shared_extent(const void* at, std::size_t bytes);
std::string shared_place(const void* at);

}  // namespace cuda_emulator
