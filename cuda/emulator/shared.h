#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "cuda/emulator/threads.h"

// The shared memory of the block that runs. Each array has its place for a launch.
namespace cuda_emulator {

class SharedMemory {
 public:
  struct Array {
    const SharedSite* site = nullptr;  // null: the dynamic one
    std::byte* begin = nullptr;
    std::size_t bytes = 0;
  };

  void begin_launch(std::size_t dynamic_bytes);
  void begin_block();  // what the last one left is poison
  std::byte* array(const SharedSite* site);
  // The array that holds [at, at + bytes); null: none.
  const Array* whole(const void* at, std::size_t bytes) const;
  std::string place_of(const void* at) const;

 private:
  std::byte* base_ = nullptr;
  std::vector<Array> arrays_;  // by address
  std::size_t used_ = 0, static_bytes_ = 0, dynamic_bytes_ = 0;
};

}  // namespace cuda_emulator
