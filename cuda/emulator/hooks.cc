// What -fsanitize=thread calls before each access to memory that others can see. Programs that link
// the emulator must not link the sanitizer's own library.
#include <cstring>

#include "cuda/emulator/emulator.h"
#include "cuda/emulator/observer.h"

using cuda_emulator::observer::Access;
using cuda_emulator::observer::now;
using cuda_emulator::observer::this_thread;
using cuda_emulator::observer::touch;

namespace {

bool called = false;  // __tsan_init, by each file that is compiled to be observed

inline bool observed() { return __atomic_load_n(&now.observed, __ATOMIC_RELAXED) == this_thread(); }

}  // namespace

bool cuda_emulator::kernels_are_observed() { return called; }

#define HERE __builtin_return_address(0)
#define HOOK(NAME, BYTES, ACCESS)                           \
  void __tsan_##NAME(void* at) {                            \
    if (observed()) touch(at, BYTES, Access::ACCESS, HERE); \
  }                                                         \
  void __tsan_unaligned_##NAME(void* at) {                  \
    if (observed()) touch(at, BYTES, Access::ACCESS, HERE); \
  }                                                         \
  void __tsan_volatile_##NAME(void* at) {                   \
    if (observed()) touch(at, BYTES, Access::ACCESS, HERE); \
  }

extern "C" {

HOOK(read1, 1, read)
HOOK(read2, 2, read)
HOOK(read4, 4, read)
HOOK(read8, 8, read)
HOOK(read16, 16, read)
HOOK(write1, 1, write)
HOOK(write2, 2, write)
HOOK(write4, 4, write)
HOOK(write8, 8, write)
HOOK(write16, 16, write)

void __tsan_read_range(void* at, unsigned long bytes) {
  if (observed()) touch(at, bytes, Access::read, HERE);
}
void __tsan_write_range(void* at, unsigned long bytes) {
  if (observed()) touch(at, bytes, Access::write, HERE);
}

// What kernel.h makes of calls of memcpy, memmove and memset.
#define COPY(NAME, FUNCTION)                                  \
  void* NAME(void* to, const void* from, std::size_t bytes) { \
    if (observed() && bytes > 0) {                            \
      touch(from, bytes, Access::read, HERE);                 \
      touch(to, bytes, Access::write, HERE);                  \
    }                                                         \
    return FUNCTION(to, from, bytes);                         \
  }
COPY(cuda_emulator_memcpy, std::memcpy)
COPY(cuda_emulator_memmove, std::memmove)
void* cuda_emulator_memset(void* to, int value, std::size_t bytes) {
  if (observed() && bytes > 0) touch(to, bytes, Access::write, HERE);
  return std::memset(to, value, bytes);
}

void __tsan_vptr_read(void*) {}
void __tsan_vptr_update(void*, void*) {}
void __tsan_init() { called = true; }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}

// Atomic operations of host code that shares a source with kernels: done as they are.
#define ATOMICS(BITS, T)                                                                       \
  T __tsan_atomic##BITS##_load(const volatile T* at, int) {                                    \
    return __atomic_load_n(at, __ATOMIC_SEQ_CST);                                              \
  }                                                                                            \
  void __tsan_atomic##BITS##_store(volatile T* at, T value, int) {                             \
    __atomic_store_n(at, value, __ATOMIC_SEQ_CST);                                             \
  }                                                                                            \
  T __tsan_atomic##BITS##_exchange(volatile T* at, T value, int) {                             \
    return __atomic_exchange_n(at, value, __ATOMIC_SEQ_CST);                                   \
  }                                                                                            \
  T __tsan_atomic##BITS##_fetch_add(volatile T* at, T value, int) {                            \
    return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);                                    \
  }                                                                                            \
  T __tsan_atomic##BITS##_fetch_sub(volatile T* at, T value, int) {                            \
    return __atomic_fetch_sub(at, value, __ATOMIC_SEQ_CST);                                    \
  }                                                                                            \
  T __tsan_atomic##BITS##_fetch_and(volatile T* at, T value, int) {                            \
    return __atomic_fetch_and(at, value, __ATOMIC_SEQ_CST);                                    \
  }                                                                                            \
  T __tsan_atomic##BITS##_fetch_or(volatile T* at, T value, int) {                             \
    return __atomic_fetch_or(at, value, __ATOMIC_SEQ_CST);                                     \
  }                                                                                            \
  int __tsan_atomic##BITS##_compare_exchange_strong(volatile T* at, T* expected, T value, int, \
                                                    int) {                                     \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST,           \
                                       __ATOMIC_SEQ_CST);                                      \
  }                                                                                            \
  int __tsan_atomic##BITS##_compare_exchange_weak(volatile T* at, T* expected, T value, int,   \
                                                  int) {                                       \
    return __atomic_compare_exchange_n(at, expected, value, false, __ATOMIC_SEQ_CST,           \
                                       __ATOMIC_SEQ_CST);                                      \
  }
ATOMICS(8, unsigned char)
ATOMICS(16, unsigned short)
ATOMICS(32, unsigned)
ATOMICS(64, unsigned long)
#undef ATOMICS
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) {}
}
