#include "cuda/emulator/memory.h"

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <utility>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>

#include "cuda/emulator/address_sanitizer.h"
#include "cuda/emulator/block.h"
#include "cuda/emulator/observer.h"

namespace cuda_emulator::memory {
namespace {

constexpr std::size_t kAddresses = std::size_t{256} << 30;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kMostGap = std::size_t{1} << 30;
constexpr std::size_t kMostForbidden = std::size_t{1} << 20;  // that a sanitizer is told of
constexpr std::size_t kMostPoison = std::size_t{64}
                                    << 20;  // of larger ones the pages stay untouched

struct Arena {
  std::uintptr_t base = 0;
  std::size_t reach = kPage;            // bytes of addresses that were handed out, gaps included
  std::size_t pages = 0;                // of them and some more: what is opened and closed
  std::size_t used = 0;                 // bytes of live allocations
  std::vector<Allocation> allocations;  // by address
  std::vector<std::function<void()>> late;  // writes, for when it is open again
  int open = 0;
  bool touchable = false;
};
Arena& arena() {
  static auto* const arena = new Arena;  // outlives all that is static
  return *arena;
}

struct sigaction before_us;

// Of who touches the device's memory and must not: says so, then leaves the signal to who had it.
void on_fault(int signal, siginfo_t* info, void* context) {
  sigaction(signal, &before_us, nullptr);
  const void* const at = info->si_addr;
  const void* code = nullptr;
#if defined(__x86_64__)
  code = reinterpret_cast<const void*>(
      static_cast<const ucontext_t*>(context)->uc_mcontext.gregs[REG_RIP] + 1);
#else
  (void)context;
#endif
  if (in_kernel()) {
    std::fprintf(stderr,
                 "[emulator] a kernel touches %p, which is no memory of the device. %s %s\n", at,
                 where().c_str(), observer::line_of(code).c_str());
  } else if (holds(at)) {
    std::fprintf(
        stderr,
        "[emulator] the host touches memory of the device: %s. Copy it with cudaMemcpy. %s\n",
        place_of(at).c_str(), observer::line_of(code).c_str());
  }
}

// Others may have set theirs since: a framework of tests does, for each test.
void listen() {
  struct sigaction now = {};
  sigaction(SIGSEGV, nullptr, &now);
  if ((now.sa_flags & SA_SIGINFO) != 0 && now.sa_sigaction == on_fault) return;
  before_us = now;
  struct sigaction action = {};
  action.sa_sigaction = on_fault;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK;
  sigaction(SIGSEGV, &action, nullptr);
}

void begin(Arena& a) {
  if (a.base != 0) return;
  void* const memory = mmap(nullptr, kAddresses + kHugePage, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::runtime_error("[emulator] no addresses for the device");
  a.base = (reinterpret_cast<std::uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
  void* const base = reinterpret_cast<void*>(a.base);
  forbid(base, kPage);
  observer::cover_device(base, kAddresses);
}

void protect(std::uintptr_t begin, std::size_t bytes, bool touchable) {
  const int how = touchable ? PROT_READ | PROT_WRITE : PROT_NONE;
  if (mprotect(reinterpret_cast<void*>(begin), bytes, how) != 0) {
    throw std::runtime_error("[emulator] the system refuses to protect the device's memory");
  }
}

// A change of access goes over all pages in use: nothing is done where nothing changes.
void make(Arena& a, bool touchable) {
  if (a.touchable == touchable || a.pages == 0) return;
  a.touchable = touchable;
  if (!touchable) listen();
  protect(a.base, a.pages, touchable);
}

// Addresses up to `reach`. They are opened and closed for each launch, which takes as long as they
// have pages: of those that are filled anyway, the system is asked for huge ones.
void extend(Arena& a, std::size_t reach, bool filled) {
  a.reach = reach;
  if (reach <= a.pages) return;
  const std::uintptr_t begin = a.base + a.pages;
  const std::size_t more = (reach - a.pages + kHugePage - 1) / kHugePage * kHugePage;
  protect(begin, more, a.touchable);
  madvise(reinterpret_cast<void*>(begin), more, filled ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  a.pages += more;
}

// With what lies behind it: as much again that belongs to none, so that an index that is far off
// meets nothing.
std::size_t room_of(std::size_t bytes) {
  return (bytes + std::clamp(bytes, kPage, kMostGap) + kPage - 1) / kPage * kPage;
}

// A sanitizer is told of the begin of what lies behind an allocation, of its end, and of the begin
// of an allocation that was freed.
template <class F>
void each_forbidden(const Allocation& a, F&& f) {
  const std::size_t behind = room_of(a.bytes) - a.bytes;
  f(reinterpret_cast<const void*>(a.begin + a.bytes), std::min(behind, kMostForbidden));
  f(reinterpret_cast<const void*>(a.begin + room_of(a.bytes) - kPage), kPage);
  if (!a.live) f(reinterpret_cast<const void*>(a.begin), std::min(a.bytes, kMostForbidden));
}

// Where `room` bytes are free: behind all that has been handed out or, when there is no more, in
// place of what was freed. 0: nowhere.
std::uintptr_t place_for(Arena& a, std::size_t room, bool filled) {
  if (room <= kAddresses - a.reach) {
    extend(a, a.reach + room, filled);
    return a.base + a.reach - room;
  }
  auto first = a.allocations.begin();
  for (auto i = first; i != a.allocations.end(); ++i) {
    if (i->live) {
      first = i + 1;
      continue;
    }
    const auto next = i + 1;
    const std::uintptr_t end = next == a.allocations.end() ? a.base + a.reach : next->begin;
    if (end - first->begin < room) continue;
    const std::uintptr_t place = first->begin;
    std::for_each(first, next, [](const Allocation& old) { each_forbidden(old, allow); });
    a.allocations.erase(first, next);
    return place;
  }
  return 0;
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

std::string place_of(const void* at) {
  const auto place = reinterpret_cast<std::uintptr_t>(at);
  const Allocation* nearest = find(at);
  const Arena& a = arena();
  const Allocation* const after = nearest == nullptr ? a.allocations.data() : nearest + 1;
  if (after != a.allocations.data() + a.allocations.size() &&
      (nearest == nullptr || (place >= nearest->begin + nearest->bytes &&
                              after->begin - place < place - (nearest->begin + nearest->bytes)))) {
    nearest = after;
  }
  if (nearest == nullptr) return "no allocation";
  const auto offset = static_cast<std::ptrdiff_t>(place - nearest->begin);
  return "byte " + std::to_string(offset) + " of the " + std::to_string(nearest->bytes) +
         " bytes of an allocation";
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
  const std::size_t room = room_of(bytes);
  const bool filled = bytes <= kMostPoison;
  const std::uintptr_t place = place_for(a, room, filled);
  if (place == 0) return nullptr;
  const Open open;
  void* const memory = reinterpret_cast<void*>(place);
  a.used += bytes;
  const auto after =
      std::upper_bound(a.allocations.begin(), a.allocations.end(), place,
                       [](std::uintptr_t p, const Allocation& other) { return p < other.begin; });
  const auto taken = a.allocations.insert(after, {place, bytes, true, false});
  if (filled) poison(memory, bytes);
  each_forbidden(*taken, forbid);
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
  each_forbidden(*found, forbid);
  return true;
}

std::size_t used() { return arena().used; }

void reset() {
  Arena& a = arena();
  if (a.base == 0) return;
  void* const memory = reinterpret_cast<void*>(a.base);
  a.late.clear();
  madvise(memory, a.reach, MADV_DONTNEED);
  observer::forget(memory, a.reach);
  observer::restart();
  for (const Allocation& allocation : a.allocations) each_forbidden(allocation, allow);
  a.allocations.clear();
  a.reach = kPage;
  a.used = 0;
}

void assume_written() {
  for (Allocation& allocation : arena().allocations) allocation.written = true;
  observer::forget_place();
}

void write_late(std::function<void()> work) {
  Arena& a = arena();
  if (a.touchable) {
    work();
  } else {
    a.late.push_back(std::move(work));
  }
}

Open::Open() {
  Arena& a = arena();
  if (a.open++ > 0) return;
  make(a, true);
  for (const std::function<void()>& work : a.late) work();
  a.late.clear();
}
Open::~Open() {
  Arena& a = arena();
  if (--a.open == 0) make(a, !settings().guarded);
}

void poison(void* at, std::size_t bytes) {
  std::fill_n(static_cast<std::uint32_t*>(at), bytes / 4, kPoison);
  std::memset(static_cast<std::byte*>(at) + bytes / 4 * 4, 0xff, bytes % 4);
}

}  // namespace cuda_emulator::memory
