#pragma once

#include <cstddef>

// Words to the sanitizers that the emulator is compiled with, if any.

#if defined(__SANITIZE_ADDRESS__)
#define CUDA_EMULATOR_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define CUDA_EMULATOR_ASAN 1
#endif
#endif

#ifdef CUDA_EMULATOR_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#include <sanitizer/lsan_interface.h>
#endif

namespace cuda_emulator {

// [at, at + bytes) must not be touched, or may be again.
inline void forbid([[maybe_unused]] const void* at, [[maybe_unused]] std::size_t bytes) {
#ifdef CUDA_EMULATOR_ASAN
  __asan_poison_memory_region(at, bytes);
#endif
}
inline void allow([[maybe_unused]] const void* at, [[maybe_unused]] std::size_t bytes) {
#ifdef CUDA_EMULATOR_ASAN
  __asan_unpoison_memory_region(at, bytes);
#endif
}

// What is allocated while one lives may be lost.
class AllowLeaks {
 public:
#ifdef CUDA_EMULATOR_ASAN
  AllowLeaks() { __lsan_disable(); }
  ~AllowLeaks() { __lsan_enable(); }
#else
  AllowLeaks() {}  // NOLINT(modernize-use-equals-default): an object that is there for what it does
#endif
  AllowLeaks(const AllowLeaks&) = delete;
  AllowLeaks& operator=(const AllowLeaks&) = delete;
};

// Around a change of stacks: from the one whose place for a fake stack is `keep` to another; then,
// on the other side, with what that had kept. Where the stack that was left lies is written to
// `bottom` and `size`.
inline void begin_switch([[maybe_unused]] void** keep, [[maybe_unused]] const void* bottom,
                         [[maybe_unused]] std::size_t size) {
#ifdef CUDA_EMULATOR_ASAN
  __sanitizer_start_switch_fiber(keep, bottom, size);
#endif
}
inline void finish_switch([[maybe_unused]] void* kept, [[maybe_unused]] const void** bottom,
                          [[maybe_unused]] std::size_t* size) {
#ifdef CUDA_EMULATOR_ASAN
  __sanitizer_finish_switch_fiber(kept, bottom, size);
#endif
}

}  // namespace cuda_emulator
