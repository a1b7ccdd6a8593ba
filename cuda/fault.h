#pragma once

#include <cstdint>

// What a kernel cannot throw: that an index it was given is out of range, or the like. The first
// fault since the last look is kept in a record of the device's, which the next transfer to the
// host reads; see stream.h.
namespace moegrad::cuda {

enum FaultKind : int {
  kNoFault,
  kIndexFault,
  kChoiceFault,
  kRoomFault,
  kProbabilityFault,
  kSumFault
};

struct Fault {
  int kind = kNoFault;
  int operation = 0;       // its number
  std::int64_t value = 0;  // the index; how many choices
  std::int64_t low = 0;    // the smallest index
  std::int64_t limit = 0;  // one past the largest; the room
  std::int64_t place = 0;  // of the index; the row
  double number = 0.0;     // the probability, the sum
};

}  // namespace moegrad::cuda
