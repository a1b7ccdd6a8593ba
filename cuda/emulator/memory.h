#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "cuda/emulator/emulator.h"

// The device's memory: one range of addresses. What was freed is handed out again when all has
// been handed out once.
namespace cuda_emulator::memory {

struct Allocation {
  std::uintptr_t begin = 0;
  std::size_t bytes = 0;
  bool live = false;
  bool written = false;  // all of it, for all that is known
};

bool holds(const void* at);  // an address of the device's, allocated or not
// The allocation whose pages an address lies in; null: none.
const Allocation* find(const void* at);
// "byte 4 of the 16 bytes of an allocation", of the one that is nearest.
std::string place_of(const void* at);
// True where [at, at + bytes) lies in one live allocation.
bool whole(const void* at, std::size_t bytes);

void* take(std::size_t bytes);  // null: the device has no more
bool give(void* begin);         // false: nothing begins there
std::size_t used();
void reset();
void assume_written();  // of all that lives: a kernel has run that nobody observed

// While one lives, the memory may be touched.
class Open {
 public:
  Open();
  ~Open();
  Open(const Open&) = delete;
  Open& operator=(const Open&) = delete;
};

// Work that writes to the memory, done when it is open: at once, or just before it is touched next.
void write_late(std::function<void()> work);

// What memory holds that nobody wrote: NaN as f32, f64 and bf16, a large number as i32.
inline constexpr std::uint32_t kPoison = 0x7ff7fff7U;
void poison(void* at, std::size_t bytes);

}  // namespace cuda_emulator::memory
