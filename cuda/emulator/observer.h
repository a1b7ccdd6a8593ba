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
// Words that are touched in parts are looked at byte by byte.
namespace cuda_emulator::observer {

// interval 32 bits | thread 10 | warp's epoch 19 | three flags
using Stamp = std::uint64_t;
inline constexpr std::uint32_t kMostIntervals = 0xfffffff0U;

// Different for any two host threads. Here and below: a function that kernels' files may have a copy
// of must not be called where accesses are observed, for that copy is observed.
[[gnu::always_inline]] inline const void* this_thread() {
  static thread_local char here;
  return &here;
}

// Where the running thread of the kernel stands.
struct Now {
  // The host thread whose accesses are the kernel's; null: none is.
  const void* observed = nullptr;
  const void* owner = nullptr;     // what `observed` is in code of the kernel
  Stamp stamp = 0;                 // the running thread's
  std::uint32_t interval = 1;      // the first belongs to the host
  std::uint32_t block_first = 1;   // the interval that its block began with,
  std::uint32_t launch_first = 1;  // and its launch

  void begin_launch(bool observes);
  void begin_interval() { ++interval; }
  void begin_block() { block_first = interval; }
  // `epoch` counts the collectives of the thread's warp in this interval.
  void stand(std::uint32_t thread, std::uint32_t epoch) {
    stamp =
        interval | static_cast<Stamp>(thread) << 32 | static_cast<Stamp>(epoch & 0x7ffffU) << 42;
  }
};
extern Now now;

enum class Access { read, write, atomic };
// Other host threads read it meanwhile.
[[gnu::always_inline]] inline void observe(const void* who) {
  __atomic_store_n(&now.observed, who, __ATOMIC_RELAXED);
}
inline bool observing() { return now.owner != nullptr; }
// An access by the running thread, from the instruction before `code`. Throws nothing: what is
// wrong ends the kernel.
void touch(const void* at, std::size_t bytes, Access access, const void* code);

// What nobody has written of the device's [at, at + bytes); null: nothing, or not known.
const void* first_unwritten(const void* at, std::size_t bytes);
// What the host has written; what the host lets go of.
void written(const void* at, std::size_t bytes);
void unwritten(const void* at, std::size_t bytes);
void forget(const void* at, std::size_t bytes);
void forget_place();  // what is known of an allocation has changed
void restart();       // when all has been forgotten
// What a late copy will write to shared memory, for nobody to touch until it has arrived.
void expect(const void* at, std::size_t bytes);
void arrived(const void* at, std::size_t bytes);
// The addresses of the device's memory, and of a block's shared memory.
void cover_device(const void* begin, std::size_t bytes);
void cover_shared(const void* begin, std::size_t bytes);

// --- about the program (image.cc)

// "kernel.cu:12"; empty where the program does not know its lines.
std::string line_of(const void* code);
bool is_constant(const void* at);  // in a part of the program that cannot be written
bool is_static(const void* at);    // in a part that can: a global variable

}  // namespace cuda_emulator::observer
