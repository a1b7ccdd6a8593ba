#pragma once

#include <cstddef>

#include "tensor/dtype.h"

// The memory of Device::guarded: pages that the process may touch while an Open lives, and else
// not, reading included.
namespace moegrad::guarded {

// A piece of it, 64-byte aligned; null where none is left.
std::byte* take(std::size_t bytes);
void give(std::byte* memory, std::size_t bytes);

// While one lives, the memory may be touched, by every thread. Of another device: does nothing.
class Open {
 public:
  explicit Open(Device device);
  ~Open();
  Open(const Open&) = delete;
  Open& operator=(const Open&) = delete;

 private:
  bool opens_;
};
bool is_open();

}  // namespace moegrad::guarded
