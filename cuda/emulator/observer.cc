#include "cuda/emulator/observer.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include <sys/mman.h>

#include "cuda/emulator/block.h"
#include "cuda/emulator/cell.h"
#include "cuda/emulator/memory.h"

namespace cuda_emulator::observer {

Now now;

void Now::begin_launch(bool observes) {
  if (interval > 0xc0000000U) {
    throw Error("[emulator] this program has passed 3 thousand million barriers. Call reset()");
  }
  launch_first = interval + 1;
  owner = observes ? this_thread() : nullptr;
  if (kernels_are_observed() && !observes) memory::assume_written();
}

namespace {

// Where an instruction is, in 32 bits; 0: too far away.
std::int32_t short_code(const void* code) {
  const auto anchor = reinterpret_cast<std::intptr_t>(&short_code);
  const std::intptr_t distance = reinterpret_cast<std::intptr_t>(code) - anchor;
  return distance == static_cast<std::int32_t>(distance) ? static_cast<std::int32_t>(distance) : 0;
}
std::string line_of_short(std::int32_t code) {
  if (code == 0) return {};
  return line_of(
      reinterpret_cast<const void*>(reinterpret_cast<std::intptr_t>(&short_code) + code));
}

// Cells of a range of addresses, made by the system as they are touched.
struct Shadow {
  std::uintptr_t base = 0;
  std::size_t bytes = 0;
  Cell* words = nullptr;
  Cell* parts = nullptr;  // of each byte

  bool covers(std::uintptr_t place) const { return place - base < bytes; }
  Cell& word(std::uintptr_t place) const { return words[(place - base) / 4]; }
  Cell* part(std::uintptr_t place) const { return parts + (place - base); }

  void cover(std::uintptr_t begin, std::size_t size) {
    base = begin;
    bytes = size;
    words = cells(size / 4);
    parts = cells(size);
  }
  static Cell* cells(std::size_t count) {
    void* const memory = mmap(nullptr, count * sizeof(Cell), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      std::fprintf(stderr, "[emulator] no addresses to observe memory with. Raise `ulimit -v`\n");
      std::abort();
    }
    return static_cast<Cell*>(memory);
  }
};
Shadow device_shadow, shared_shadow;

// --- words

// An access of some bytes, to memory of one kind.
struct Touch {
  const Shadow& shadow;
  std::uintptr_t place;
  std::size_t bytes;
  Access access;
  // What was before does not matter, but that it was written, in or after `written_since`.
  std::uint32_t since, written_since;
  const void* code;
  std::string (*name)(std::uintptr_t);

  std::string where(std::uintptr_t at) const {
    return std::to_string(bytes) + " bytes at " + name(at);
  }
};

[[noreturn, gnu::cold, gnu::noinline]] void die_of_race(const Touch& t, std::uintptr_t at,
                                                        const Found& found) {
  const Inside inside;
  const bool other_block = interval_of(found.other) < now.block_first;
  // Of the first read the interval alone is known.
  const bool thread_known = found.other > kSplit || interval_of(found.other) == now.interval;
  std::string who = other_block ? block_of(interval_of(found.other)) : "";
  if (!other_block && thread_of(found.other) == thread_of(now.stamp)) {
    who = "other threads";  // the last that read it is this one
  } else if (thread_known) {
    who += (other_block ? " " : "") + cuda_emulator::thread_of(thread_of(found.other));
  }
  const std::string line = line_of_short(found.code);
  std::string what = found.what;
  what.replace(what.find("{}"), 2, who);
  if (!line.empty()) what += " at " + line;
  const bool one_warp = !other_block && warp_of(found.other) == warp_of(now.stamp) &&
                        (found.other & kSeveralWarps) == 0;
  die("race: it " + what + ": " + t.where(at) +
          (other_block ? ". Blocks of a launch run in any order: use two launches, or memory that "
                         "one block alone touches"
           : one_warp  ? ". No barrier lies between: put a __syncwarp() or __syncthreads() there"
                       : ". No barrier lies between: put a __syncthreads() there"),
      line_of(t.code));
}

[[noreturn, gnu::cold, gnu::noinline]] void die_of_silence(const Touch& t, std::uintptr_t at) {
  const Inside inside;
  die("reads what nobody has written: " + t.where(at) +
          (&t.shadow == &shared_shadow
               ? ". Write it first; if another thread does, put a __syncthreads() between"
               : ". Write it first, by a copy or an earlier launch"),
      line_of(t.code));
}

// The words that are touched in parts, or were, or wait for a copy.
[[gnu::cold, gnu::noinline]] void touch_parts(const Touch& t, std::uintptr_t word, Cell& cell) {
  const Inside inside;
  if (interval_of(cell.write) == kComing) {
    die("touches what __pipeline_memcpy_async has yet to bring: " + t.where(word) +
            ". First __pipeline_commit() and __pipeline_wait_prior(), in the thread that copies",
        line_of(t.code));
  }
  Cell* const parts = t.shadow.part(word);
  if (interval_of(cell.write) != kSplit) {
    for (std::size_t i = 0; i < 4; ++i) parts[i] = cell;
    cell.write = kSplit;
  }
  // Structs have bytes that nobody writes: of a word one is enough.
  if (t.access != Access::write) {
    bool any = false;
    for (std::size_t i = 0; i < 4; ++i) any |= interval_of(parts[i].write) >= t.written_since;
    if (!any) die_of_silence(t, word);
  }
  const std::uintptr_t first = std::max(word, t.place);
  const std::uintptr_t end = std::min(word + 4, t.place + t.bytes);
  const std::int32_t code = short_code(t.code);
  bool same = t.access == Access::write && first == word && end == word + 4;
  for (std::uintptr_t at = first; at < end; ++at) {
    Cell& part = parts[at - word];
    const Found found = touch_cell(part, t.access, t.since, code);
    if (found.what != nullptr) die_of_race(t, at, found);
    same = same && interval_of(part.read) < t.since;
  }
  if (same) cell = parts[0];  // whole again
}

template <Access kAccess>
inline void touch_words(const Touch& t) {
  const std::int32_t code = short_code(t.code);
  const std::uintptr_t end = t.place + t.bytes;
  for (std::uintptr_t word = t.place & ~std::uintptr_t{3}; word < end; word += 4) {
    Cell& cell = t.shadow.word(word);
    if (word < t.place || word + 4 > end || interval_of(cell.write) >= kComing) {
      touch_parts(t, word, cell);
      continue;
    }
    if (kAccess != Access::write && interval_of(cell.write) < t.written_since) {
      die_of_silence(t, word);
    }
    const Found found = touch_cell(cell, kAccess, t.since, code);
    if (found.what != nullptr) die_of_race(t, word, found);
  }
}

inline void touch_all(const Touch& t) {
  switch (t.access) {
    case Access::read:
      return touch_words<Access::read>(t);
    case Access::write:
      return touch_words<Access::write>(t);
    case Access::atomic:
      return touch_words<Access::atomic>(t);
  }
}

// --- places

std::string device_name(std::uintptr_t place) {
  return memory::place_of(reinterpret_cast<const void*>(place));
}
std::string shared_name(std::uintptr_t place) {
  return shared_place(reinterpret_cast<const void*>(place));
}

bool within(const Extent& extent, std::uintptr_t place, std::size_t bytes) {
  return place - extent.begin < extent.bytes && bytes <= extent.bytes - (place - extent.begin);
}

// Most accesses are to a few allocations, or a few shared arrays, in turn.
struct Known {
  Extent extent;
  std::uint32_t written_since = kHost;
};
class FewKnown {
 public:
  // Null: not among them.
  const Known* find(std::uintptr_t place, std::size_t bytes) const {
    for (const Known& k : known_) {
      if (within(k.extent, place, bytes)) return &k;
    }
    return nullptr;
  }
  const Known* add(const Known& k) {
    Known& at = known_[next_++ % 4];
    at = k;
    return &at;
  }
  void clear() { *this = {}; }

 private:
  Known known_[4];
  unsigned next_ = 0;
};
FewKnown allocations, arrays;
std::uint32_t arrays_launch = 0;

[[noreturn, gnu::cold, gnu::noinline]] void die_of_place(const std::string& what, const char* hint,
                                                         const void* code) {
  die(what + ". " + hint, line_of(code));
}

[[gnu::cold, gnu::noinline]] const Known* find_allocation(std::uintptr_t place, std::size_t bytes,
                                                          const void* code) {
  const Inside inside;
  const memory::Allocation* const a = memory::find(reinterpret_cast<const void*>(place));
  if (a == nullptr || !within({a->begin, a->bytes}, place, bytes)) {
    die_of_place("out of bounds: " + std::to_string(bytes) + " bytes at " + device_name(place),
                 "Check the index against the size", code);
  }
  if (!a->live) {
    die_of_place(
        "memory that was freed: " + std::to_string(bytes) + " bytes at " + device_name(place),
        "Free it when the work that needs it is done", code);
  }
  return allocations.add(
      {{a->begin, a->bytes}, a->written ? 0 : static_cast<std::uint32_t>(kHost)});
}

[[gnu::cold, gnu::noinline]] void find_array(const void* at, std::size_t bytes, const void* code) {
  const Inside inside;
  if (arrays_launch != now.launch_first) arrays.clear();
  arrays_launch = now.launch_first;
  const Extent array = shared_extent(at, bytes);
  if (array.bytes != 0) {
    arrays.add({array});
    return;
  }
  die_of_place("out of bounds: " + std::to_string(bytes) + " bytes at " +
                   shared_name(reinterpret_cast<std::uintptr_t>(at)),
               "Check the index against the size", code);
}

[[gnu::cold, gnu::noinline]] void touch_elsewhere(const void* at, std::size_t bytes, Access access,
                                                  const void* code) {
  const Inside inside;
  if (is_own(at) || (access == Access::read && is_constant(at))) return;
  char address[32];
  std::snprintf(address, sizeof address, "%p", at);
  const std::string what = std::string(access == Access::read ? "reads " : "writes ") +
                           std::to_string(bytes) + " bytes at ";
  if (reinterpret_cast<std::uintptr_t>(at) < 65536) {
    die_of_place(what + "the null pointer (" + address + ")",
                 "Give the kernel what cudaMalloc has returned", code);
  }
  die_of_place(what +
                   (is_constant(at) ? "a constant"
                    : is_static(at) ? "a global variable of the host"
                                    : "memory of the host") +
                   " (" + address + ")",
               "Give the kernel values, or pointers to memory of the device", code);
}

}  // namespace

void touch(const void* at, std::size_t bytes, Access access, const void* code) {
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  if (device_shadow.covers(place)) {
    const Known* known = allocations.find(place, bytes);
    if (known == nullptr) known = find_allocation(place, bytes, code);
    touch_all({device_shadow, place, bytes, access, now.launch_first, known->written_since, code,
               device_name});
  } else if (shared_shadow.covers(place)) {
    if (arrays_launch != now.launch_first || arrays.find(place, bytes) == nullptr) {
      find_array(at, bytes, code);
    }
    touch_all(
        {shared_shadow, place, bytes, access, now.block_first, now.block_first, code, shared_name});
  } else {
    touch_elsewhere(at, bytes, access, code);
  }
}

void cover_device(const void* begin, std::size_t bytes) {
  if (kernels_are_observed()) device_shadow.cover(reinterpret_cast<std::uintptr_t>(begin), bytes);
}
void cover_shared(const void* begin, std::size_t bytes) {
  if (kernels_are_observed()) shared_shadow.cover(reinterpret_cast<std::uintptr_t>(begin), bytes);
}

void forget_place() { allocations.clear(); }

void forget(const void* at, std::size_t bytes) {
  forget_place();
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  if (!device_shadow.covers(place) || bytes == 0) return;
  madvise(&device_shadow.word(place), bytes / 4 * sizeof(Cell), MADV_DONTNEED);
  madvise(device_shadow.part(place), bytes * sizeof(Cell), MADV_DONTNEED);
}

const void* first_unwritten(const void* at, std::size_t bytes) {
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  if (!settings().observed || !device_shadow.covers(place)) return nullptr;
  const memory::Allocation* const a = memory::find(at);
  if (a == nullptr || a->written) return nullptr;
  for (std::uintptr_t word = place & ~std::uintptr_t{3}; word < place + bytes; word += 4) {
    if (device_shadow.word(word).write == 0) return reinterpret_cast<const void*>(word);
  }
  return nullptr;
}

void written(const void* at, std::size_t bytes) {
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  if (!device_shadow.covers(place)) return;
  for (std::uintptr_t word = place & ~std::uintptr_t{3}; word < place + bytes; word += 4) {
    Cell& cell = device_shadow.word(word);
    if (interval_of(cell.write) == 0) {
      cell.write = kHost;
    } else if (interval_of(cell.write) == kSplit) {
      for (std::size_t i = 0; i < 4; ++i) {
        Cell& part = device_shadow.part(word)[i];
        if (part.write == 0) part.write = kHost;
      }
    }
  }
}

void unwritten(const void* at, std::size_t bytes) {
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  if (!device_shadow.covers(place)) return;
  for (std::uintptr_t word = place & ~std::uintptr_t{3}; word < place + bytes; word += 4) {
    device_shadow.word(word) = {};
  }
}

void restart() {
  forget_place();
  arrays_launch = 0;
  now = {};
  if (shared_shadow.bytes == 0) return;
  madvise(shared_shadow.words, shared_shadow.bytes / 4 * sizeof(Cell), MADV_DONTNEED);
  madvise(shared_shadow.parts, shared_shadow.bytes * sizeof(Cell), MADV_DONTNEED);
}

void expect(const void* at, std::size_t bytes) {
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  if (!shared_shadow.covers(place)) return;
  for (std::uintptr_t word = place; word < place + bytes; word += 4) {
    shared_shadow.word(word).write = kComing;
  }
}
void arrived(const void* at, std::size_t bytes) {
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  if (!shared_shadow.covers(place)) return;
  for (std::uintptr_t word = place; word < place + bytes; word += 4) {
    shared_shadow.word(word).write = 0;
  }
}

}  // namespace cuda_emulator::observer
