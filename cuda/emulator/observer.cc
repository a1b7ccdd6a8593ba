#include "cuda/emulator/observer.h"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cuda/emulator/block.h"
#include "cuda/emulator/memory.h"

namespace cuda_emulator::observer {

Now now;

namespace {

// A word's last access of each kind: interval 32 | thread 10 | warp epoch 16 | bytes 4 | two flags.
struct Stamp {
  std::uint32_t interval = 0;  // 0: never
  std::uint32_t thread : 10 = 0;
  std::uint32_t epoch : 16 = 0;
  std::uint32_t bytes : 4 = 0;
  std::uint32_t first : 1 = 0;   // of a write: atomic; of reads: of several warps
  std::uint32_t second : 1 = 0;  // of reads: of several threads in this epoch of the warp
};
struct Cell {
  Stamp write;
  Stamp read;
  std::uint32_t first_read = 0;  // the interval of the first read in this launch
  std::uint32_t first_thread = 0;
};

// Cells of a range of addresses, made by the system as they are touched.
struct Shadow {
  std::uintptr_t base = 0;
  std::size_t words = 0;
  Cell* cells = nullptr;

  void cover(std::uintptr_t begin, std::size_t bytes) {
    base = begin;
    words = bytes / 4;
    void* const memory = mmap(nullptr, words * sizeof(Cell), PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
      std::fprintf(stderr, "[emulator] no addresses to observe memory with\n");
      std::abort();
    }
    cells = static_cast<Cell*>(memory);
  }
};
Shadow device_shadow, shared_shadow;

// --- what is in the image of the program and cannot be written: constants

struct Range {
  std::uintptr_t begin, end;
};
std::vector<Range>& constants() {
  static auto* const ranges = [] {
    auto* const all = new std::vector<Range>;
    dl_iterate_phdr(
        [](dl_phdr_info* info, std::size_t, void* into) {
          for (int i = 0; i < info->dlpi_phnum; ++i) {
            const auto& segment = info->dlpi_phdr[i];
            const bool relocated = segment.p_type == PT_GNU_RELRO;
            if (!relocated && (segment.p_type != PT_LOAD || (segment.p_flags & PF_W) != 0))
              continue;
            const std::uintptr_t begin = info->dlpi_addr + segment.p_vaddr;
            static_cast<std::vector<Range>*>(into)->push_back({begin, begin + segment.p_memsz});
          }
          return 0;
        },
        all);
    return all;
  }();
  return *ranges;
}
bool is_constant(std::uintptr_t at) {
  for (const Range& range : constants()) {
    if (at >= range.begin && at < range.end) return true;
  }
  return false;
}

// --- races

bool same_warp(std::uint32_t a, std::uint32_t b) { return a / 32 == b / 32; }

// True where an earlier access, not from before interval `since`, and this one are in no order.
bool unordered(const Stamp& before, std::uint32_t bytes, std::uint32_t since) {
  if (before.interval < since || (before.bytes & bytes) == 0) return false;
  if (before.interval < now.block_first) return true;  // another block's
  if (before.interval != now.interval || before.thread == now.thread) return false;
  return !same_warp(before.thread, now.thread) || before.epoch == (now.warp_epoch & 0xffffU);
}

struct Found {
  const char* what = nullptr;  // null: all is well
  std::uint32_t interval = 0, thread = 0;
};

Stamp stamp(std::uint32_t bytes) {
  Stamp s;
  s.interval = now.interval;
  s.thread = now.thread & 0x3ffU;
  s.epoch = now.warp_epoch & 0xffffU;
  s.bytes = bytes & 0xfU;
  return s;
}

Found read(Cell& cell, std::uint32_t bytes, std::uint32_t since) {
  if (unordered(cell.write, bytes, since)) {
    return {"read what was written", cell.write.interval, cell.write.thread};
  }
  Stamp next = stamp(bytes);
  const Stamp& last = cell.read;
  if (last.interval == now.interval) {
    next.bytes |= last.bytes;
    next.first = last.first;
    if (last.thread != next.thread) {
      if (!same_warp(last.thread, next.thread)) next.first = 1;
      if (last.epoch == next.epoch) next.second = 1;
    } else if (last.epoch == next.epoch) {
      next.second = last.second;
    }
  }
  if (cell.first_read < since) {
    cell.first_read = now.interval;
    cell.first_thread = now.thread;
  }
  cell.read = next;
  return {};
}

Found write(Cell& cell, std::uint32_t bytes, bool atomic, std::uint32_t since) {
  if (!(atomic && cell.write.first == 1) && unordered(cell.write, bytes, since)) {
    return {"wrote what was written", cell.write.interval, cell.write.thread};
  }
  if (unordered(cell.read, bytes, since)) {
    return {"wrote what was read", cell.read.interval, cell.read.thread};
  }
  if (cell.first_read >= since && cell.first_read < now.block_first &&
      (cell.read.bytes & bytes) != 0) {
    return {"wrote what was read", cell.first_read, cell.first_thread};
  }
  const bool one_interval = cell.read.interval == now.interval && (cell.read.bytes & bytes) != 0;
  if (one_interval && (cell.read.first == 1 ||
                       (cell.read.second == 1 && cell.read.epoch == (now.warp_epoch & 0xffffU)))) {
    return {"wrote what others had read", cell.read.interval, cell.read.thread};
  }
  Stamp next = stamp(bytes);
  next.first = atomic ? 1 : 0;
  if (cell.write.interval == now.interval && cell.write.thread == next.thread) {
    next.bytes |= cell.write.bytes;
  }
  cell.write = next;
  return {};
}

std::string side(std::uint32_t interval, std::uint32_t thread) {
  return block_of(interval) + " thread " + std::to_string(thread);
}

// What was before interval `since` does not matter, but for `written`: what has been written since
// then may be read.
void check(Shadow& shadow, std::uintptr_t place, std::size_t bytes, Access access,
           std::uint32_t since, std::uint32_t written_since, const void* code,
           std::string (*name)(std::uintptr_t)) {
  for (std::uintptr_t word = place & ~std::uintptr_t{3}; word < place + bytes; word += 4) {
    const std::uintptr_t low = word < place ? place - word : 0;
    const std::uintptr_t high = word + 4 > place + bytes ? place + bytes - word : 4;
    const auto mask = static_cast<std::uint32_t>(((1U << high) - 1) & ~((1U << low) - 1));
    Cell& cell = shadow.cells[(word - shadow.base) / 4];
    if (access != Access::write && cell.write.interval < written_since) {
      die("reads what nobody has written: " + name(word + low), code);
    }
    const Found found = access == Access::read ? read(cell, mask, since)
                                               : write(cell, mask, access == Access::atomic, since);
    if (found.what != nullptr) {
      die("race: " + side(now.interval, now.thread) + " " + found.what + " by " +
              side(found.interval, found.thread) + " with no barrier between: " + name(word + low),
          code);
    }
  }
}

std::string device_name(std::uintptr_t place) {
  const memory::Allocation* const a = memory::find(reinterpret_cast<const void*>(place));
  if (a == nullptr) return "no allocation";
  return "byte " + std::to_string(place - a->begin) + " of an allocation of " +
         std::to_string(a->bytes) + " bytes";
}
std::string shared_name(std::uintptr_t place) {
  return shared_place(reinterpret_cast<const void*>(place));
}

memory::Allocation last;  // most accesses follow one another

void touch_device(std::uintptr_t place, std::size_t bytes, Access access, const void* code) {
  if (!last.live || place < last.begin || place + bytes > last.begin + last.bytes) {
    const memory::Allocation* const a = memory::find(reinterpret_cast<const void*>(place));
    if (a == nullptr || place + bytes > a->begin + a->bytes) {
      die("out of bounds: " + std::to_string(bytes) + " bytes at " + device_name(place), code);
    }
    if (!a->live) die("memory that was freed: " + device_name(place), code);
    last = *a;
  }
  check(device_shadow, place, bytes, access, now.launch_first, 1, code, device_name);
}

}  // namespace

void touch(const void* at, std::size_t bytes, Access access, const void* code) {
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  if (place - device_shadow.base < device_shadow.words * 4) {
    touch_device(place, bytes, access, code);
  } else if (place - shared_shadow.base < shared_shadow.words * 4) {
    if (!shared_whole(at, bytes)) {
      die("out of bounds: " + std::to_string(bytes) + " bytes at " + shared_name(place), code);
    }
    check(shared_shadow, place, bytes, access, now.block_first, now.block_first, code, shared_name);
  } else if (!is_own(at) && !(access == Access::read && is_constant(place))) {
    die("touches memory of the host", code);
  }
}

void cover_device(const void* begin, std::size_t bytes) {
  device_shadow.cover(reinterpret_cast<std::uintptr_t>(begin), bytes);
}
void cover_shared(const void* begin, std::size_t bytes) {
  shared_shadow.cover(reinterpret_cast<std::uintptr_t>(begin), bytes);
}

void forget(const void* at, std::size_t bytes) {
  last = {};
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  if (device_shadow.cells == nullptr || bytes == 0) return;
  madvise(device_shadow.cells + (place - device_shadow.base) / 4, bytes / 4 * sizeof(Cell),
          MADV_DONTNEED);
}

void written(const void* at, std::size_t bytes) {
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  if (device_shadow.cells == nullptr || place - device_shadow.base >= device_shadow.words * 4)
    return;
  Stamp stamp;
  stamp.interval = 1;
  for (std::uintptr_t word = place & ~std::uintptr_t{3}; word < place + bytes; word += 4) {
    Cell& cell = device_shadow.cells[(word - device_shadow.base) / 4];
    if (cell.write.interval == 0) cell.write = stamp;
  }
}

void expect(const void* at, std::size_t bytes) {
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  if (place - shared_shadow.base >= shared_shadow.words * 4) return;
  for (std::uintptr_t word = place; word < place + bytes; word += 4) {
    shared_shadow.cells[(word - shared_shadow.base) / 4].write = {};
  }
}

std::string line_of(const void* code) {
  Dl_info info;
  if (code == nullptr || dladdr(code, &info) == 0) return "";
  const auto offset =
      reinterpret_cast<std::uintptr_t>(code) - reinterpret_cast<std::uintptr_t>(info.dli_fbase) - 1;
  char command[512];
  std::snprintf(command, sizeof command, "addr2line -e /proc/%d/exe 0x%zx 2>/dev/null", getpid(),
                static_cast<std::size_t>(offset));
  std::string line;
  if (std::FILE* const output = popen(command, "r"); output != nullptr) {
    char text[512];
    if (std::fgets(text, sizeof text, output) != nullptr) line = text;
    pclose(output);
  }
  while (!line.empty() && (line.back() == '\n' || line.back() == ' ')) line.pop_back();
  const std::size_t slash = line.rfind('/');
  if (slash != std::string::npos) line.erase(0, slash + 1);
  if (const std::size_t extra = line.find(" ("); extra != std::string::npos) line.erase(extra);
  return line.empty() || line.front() == '?' ? std::string() : line;
}

}  // namespace cuda_emulator::observer
