#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

// What __pipeline_memcpy_async has begun in the block that runs.
namespace cuda_emulator {

class Copies {
 public:
  struct Copy {
    std::byte* to;
    const std::byte* from;
    std::size_t bytes, zeros;  // the last `zeros` bytes are zero, and not read
    bool done = false;
  };

  void begin_block(int threads);  // with none under way
  // Done at once if `now`, else when it is waited for. It counts as the kernel's access both times.
  void begin(int thread, Copy copy, bool now, const void* code);
  void commit(int thread);
  void wait(int thread, std::size_t left, const void* code);  // for all but the last groups

 private:
  struct Queue {
    std::vector<Copy> open;                 // not committed
    std::vector<std::vector<Copy>> groups;  // committed, not waited for
  };
  std::vector<Queue> queues_;  // by thread; none where no thread copies
  int threads_ = 0;
};

}  // namespace cuda_emulator
