#pragma once

#include <cstdint>

#include "cuda/emulator/observer.h"

// What the observer knows of one word, and when an access is a race with those before it.
namespace cuda_emulator::observer {

inline constexpr Stamp kAtomic = Stamp{1} << 61;  // of a write
inline constexpr Stamp kSeveralWarps = Stamp{1}
                                       << 62;  // of reads: of several warps in the interval
inline constexpr Stamp kSeveralThreads = Stamp{1} << 63;  // of reads: in this epoch of the warp
inline constexpr Stamp kFlags = kAtomic | kSeveralWarps | kSeveralThreads;
// In place of a write's interval:
inline constexpr Stamp kSplit = 0xffffffffU;   // the word is looked at by bytes
inline constexpr Stamp kComing = 0xfffffffeU;  // a late copy will write it
inline constexpr Stamp kHost = 1;

inline std::uint32_t interval_of(Stamp s) { return static_cast<std::uint32_t>(s); }
inline std::uint32_t thread_of(Stamp s) { return static_cast<std::uint32_t>(s >> 32) & 0x3ffU; }
inline std::uint32_t warp_of(Stamp s) { return static_cast<std::uint32_t>(s >> 37) & 0x1fU; }
inline std::uint32_t epoch_of(Stamp s) { return static_cast<std::uint32_t>(s >> 42) & 0x7ffffU; }

// What is known of a word or of a byte. 0: never.
struct Cell {
  Stamp write, read;          // the last of each
  std::uint32_t first_read;   // the interval of the first read in its launch
  std::uint32_t plain_write;  // of the last write before the atomic ones
  std::int32_t write_code, read_code;
};

// What is wrong with an access.
struct Found {
  const char* what = nullptr;  // "read what {} wrote"; null: nothing
  Stamp other = 0;             // whose
  std::int32_t code = 0;       // where
};

// True where an earlier access, not from before interval `since`, and this one are in no order.
inline bool unordered(Stamp before, std::uint32_t since) {
  const std::uint32_t interval = interval_of(before);
  if (interval < since) return false;
  if (interval < now.block_first) return true;  // another block's
  if (interval != now.interval || thread_of(before) == thread_of(now.stamp)) return false;
  return warp_of(before) != warp_of(now.stamp) || epoch_of(before) == epoch_of(now.stamp);
}

inline Found read(Cell& cell, std::uint32_t since, std::int32_t code) {
  if (interval_of(cell.write) >= since && unordered(cell.write, since)) {
    return {"read what {} wrote", cell.write, cell.write_code};
  }
  const Stamp last = cell.read;
  if ((last & ~kFlags) == now.stamp) return {};
  Stamp next = now.stamp;
  if (interval_of(last) == now.interval) {
    const bool same_epoch = epoch_of(last) == epoch_of(next);
    next |= last & kSeveralWarps;
    if (thread_of(last) == thread_of(next)) {
      if (same_epoch) next |= last & kSeveralThreads;
    } else {
      if (warp_of(last) != warp_of(next)) next |= kSeveralWarps;
      if (same_epoch) next |= kSeveralThreads;
    }
  }
  if (cell.first_read < since) cell.first_read = now.interval;
  cell.read = next;
  cell.read_code = code;
  return {};
}

// What is wrong with a write beside the reads.
inline Found beside_reads(const Cell& cell, std::uint32_t since) {
  if (interval_of(cell.read) < since) return {};
  if (unordered(cell.read, since)) return {"wrote what {} read", cell.read, cell.read_code};
  if (cell.first_read < now.block_first) {
    return {"wrote what {} read", cell.first_read, cell.read_code};
  }
  if (interval_of(cell.read) != now.interval) return {};
  if ((cell.read & kSeveralWarps) != 0 ||
      ((cell.read & kSeveralThreads) != 0 && epoch_of(cell.read) == epoch_of(now.stamp))) {
    return {"wrote what {} read", cell.read, cell.read_code};
  }
  return {};
}

inline Found write(Cell& cell, std::uint32_t since, std::int32_t code) {
  if (interval_of(cell.write) >= since && unordered(cell.write, since)) {
    return {"wrote what {} wrote", cell.write, cell.write_code};
  }
  if (const Found found = beside_reads(cell, since); found.what != nullptr) return found;
  cell.write = now.stamp;
  cell.write_code = code;
  return {};
}

// Atomic operations are in order among themselves.
inline Found write_atomically(Cell& cell, std::uint32_t since, std::int32_t code) {
  if ((cell.write & kAtomic) == 0) {
    if (unordered(cell.write, since)) {
      return {"changed atomically what {} wrote plainly", cell.write, cell.write_code};
    }
    cell.plain_write = interval_of(cell.write);
  } else if (cell.plain_write >= since &&
             (cell.plain_write < now.block_first ||
              (cell.plain_write == now.interval && warp_of(cell.write) != warp_of(now.stamp)))) {
    return {"changed atomically what {} wrote plainly", cell.write, cell.write_code};
  }
  if (const Found found = beside_reads(cell, since); found.what != nullptr) return found;
  cell.write = now.stamp | kAtomic;
  cell.write_code = code;
  return {};
}

inline Found touch_cell(Cell& cell, Access access, std::uint32_t since, std::int32_t code) {
  if (access == Access::read) return read(cell, since, code);
  if (access == Access::write) return write(cell, since, code);
  return write_atomically(cell, since, code);
}

}  // namespace cuda_emulator::observer
