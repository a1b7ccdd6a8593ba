#include "cuda/emulator/memory.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include <sys/mman.h>

#include "cuda/emulator/address_sanitizer.h"
#include "cuda/emulator/observer.h"

namespace cuda_emulator::memory {
namespace {

constexpr std::size_t kAddresses = std::size_t{256} << 30;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kMostPoison = std::size_t{64}
                                    << 20;  // of larger ones the pages stay untouched

struct Arena {
  std::uintptr_t base = 0;
  std::size_t reach = 0;                // bytes of addresses that were handed out, gaps included
  std::size_t used = 0;                 // bytes of live allocations
  std::vector<Allocation> allocations;  // by address
  int open = 0;
  bool touchable = false;
};
Arena& arena() {
  static auto* const arena = new Arena;  // outlives all that is static
  return *arena;
}

void begin(Arena& a) {
  if (a.base != 0) return;
  void* const memory =
      mmap(nullptr, kAddresses, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("[emulator] no addresses for the device");
  a.base = reinterpret_cast<std::uintptr_t>(memory);
  observer::cover_device(memory, kAddresses);
}

// A change of access goes over all pages in use: nothing is done where nothing changes.
void make(Arena& a, bool touchable) {
  if (a.touchable == touchable || a.base == 0) return;
  a.touchable = touchable;
  if (a.reach == 0) return;
  const int how = touchable ? PROT_READ | PROT_WRITE : PROT_NONE;
  if (mprotect(reinterpret_cast<void*>(a.base), a.reach, how) != 0) {
    throw std::runtime_error("[emulator] the system refuses to protect the device's memory");
  }
}

}  // namespace

bool holds(const void* at) {
  const Arena& a = arena();
  return reinterpret_cast<std::uintptr_t>(at) - a.base < kAddresses && a.base != 0;
}

const Allocation* find(const void* at) {
  const Arena& a = arena();
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  const auto after = std::upper_bound(
      a.allocations.begin(), a.allocations.end(), place,
      [](std::uintptr_t p, const Allocation& allocation) { return p < allocation.begin; });
  return after == a.allocations.begin() ? nullptr : &*(after - 1);
}

bool whole(const void* at, std::size_t bytes) {
  const Allocation* const found = find(at);
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  return found != nullptr && found->live && place + bytes <= found->begin + found->bytes;
}

void* take(std::size_t bytes) {
  Arena& a = arena();
  begin(a);
  if (bytes > settings().memory || a.used > settings().memory - bytes) return nullptr;
  // A page that belongs to none lies behind each.
  const std::size_t room = (bytes + 2 * kPage - 1) / kPage * kPage;
  if (room > kAddresses - a.reach) return nullptr;
  const std::uintptr_t place = a.base + a.reach;
  const Open open;
  void* const memory = reinterpret_cast<void*>(place);
  if (mprotect(memory, room, PROT_READ | PROT_WRITE) != 0) return nullptr;
  a.reach += room;
  a.used += bytes;
  a.allocations.push_back({place, bytes, true});
  if (bytes <= kMostPoison) poison(memory, bytes);
  forbid(static_cast<std::byte*>(memory) + bytes, room - bytes);
  return memory;
}

bool give(void* begin) {
  const auto place = reinterpret_cast<std::uintptr_t>(begin);
  auto* const found = const_cast<Allocation*>(find(begin));
  if (found == nullptr || found->begin != place || !found->live) return false;
  Arena& a = arena();
  found->live = false;
  a.used -= found->bytes;
  const Open open;
  const std::size_t pages = (found->bytes + kPage - 1) / kPage * kPage;
  if (pages > 0) madvise(begin, pages, MADV_DONTNEED);
  observer::forget(begin, pages);
  forbid(begin, found->bytes);
  return true;
}

std::size_t used() { return arena().used; }

void reset() {
  for (const Allocation& allocation : std::vector<Allocation>(arena().allocations)) {
    if (allocation.live) give(reinterpret_cast<void*>(allocation.begin));
  }
}

Open::Open() : opens_(true) {
  Arena& a = arena();
  if (a.open++ == 0) make(a, true);
}
Open::~Open() {
  Arena& a = arena();
  if (--a.open == 0) make(a, !settings().guarded);
}

void poison(void* at, std::size_t bytes) {
  auto* const to = static_cast<std::byte*>(at);
  std::size_t done = 0;
  for (; done + 4 <= bytes; done += 4) std::memcpy(to + done, &kPoison, 4);
  std::memset(to + done, 0xff, bytes - done);
}

}  // namespace cuda_emulator::memory
