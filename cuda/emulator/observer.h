#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

// Who has touched which word, in kernels compiled to be observed (g++ -fsanitize=thread, whose
// calls before each access end here and not in the sanitizer's library).
//
// Time is cut into intervals: one begins with each block and with each barrier of a block, and all
// are numbered one after the other, since blocks run in turn. Two accesses of one word, not both of
// them reads or atomic, are a race if no barrier lies between them:
//   - of two blocks of one launch, always;
//   - of two threads of a block in one interval, but for two of one warp with a barrier of the warp
//     between them.
// A word counts as one however much of it is touched; of accesses to parts of a word only those
// that share a byte are compared.
namespace cuda_emulator::observer {

// Where the running thread stands.
struct Now {
  bool observing = false;
  std::uint32_t thread = 0;      // in its block
  std::uint32_t warp_epoch = 0;  // collectives of its warp in this interval
  std::uint32_t interval = 0;
  std::uint32_t block_first = 0;   // the interval that its block began with,
  std::uint32_t launch_first = 0;  // and its launch
};
extern Now now;

enum class Access { read, write, atomic };
// An access by the running thread, from the instruction before `code`. Throws nothing: what is
// wrong ends the kernel.
void touch(const void* at, std::size_t bytes, Access access, const void* code);

// What the host or a late copy has written; what the host lets go of.
void written(const void* at, std::size_t bytes);
void forget(const void* at, std::size_t bytes);
// What a copy will write to shared memory: nobody's to read until then.
void expect(const void* at, std::size_t bytes);
// The addresses of the device's memory, and of a block's shared memory.
void cover_device(const void* begin, std::size_t bytes);
void cover_shared(const void* begin, std::size_t bytes);

// "kernel.cu:12"; empty where the program does not know its lines.
std::string line_of(const void* code);

}  // namespace cuda_emulator::observer
