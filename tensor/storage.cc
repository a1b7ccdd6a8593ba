#include "tensor/storage.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>
#include <new>
#include <thread>
#include <type_traits>
#include <utility>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "cuda/device.h"
#include "tensor/guarded/memory.h"

namespace moegrad {
namespace {

constexpr std::size_t kAlignment = 64;
constexpr std::size_t kGuardBytes = 64;
constexpr unsigned char kGuard = 0xa5;
constexpr std::size_t kMostBytes = std::size_t{1} << 40;  // beyond any machine this runs on
constexpr int kSizeClasses = 4 * 64;

// Size classes: four to each power of two, so that at most a quarter of a block is unused.
int class_of(std::size_t bytes) {
  const std::size_t units = (bytes + kAlignment - 1) / kAlignment;
  if (units <= 4) return units == 0 ? 0 : static_cast<int>(units) - 1;
  const int exponent = std::bit_width(units - 1) - 1;  // 2^exponent < units <= 2^(exponent+1)
  const std::size_t quarter = std::size_t{1} << (exponent - 2);
  const std::size_t step = (units - (std::size_t{1} << exponent) + quarter - 1) / quarter;
  return 4 * (exponent - 1) + static_cast<int>(step) - 1;
}

std::size_t capacity_of(int size_class) {
  if (size_class < 4) return static_cast<std::size_t>(size_class + 1) * kAlignment;
  const int exponent = size_class / 4 + 1;
  const auto step = static_cast<std::size_t>(size_class % 4) + 1;
  return ((std::size_t{1} << exponent) + step * (std::size_t{1} << (exponent - 2))) * kAlignment;
}

// Large blocks ask for huge pages: products walk through columns, a page at each step.
constexpr std::size_t kHugePage = std::size_t{2} << 20;
std::size_t alignment_of(std::size_t capacity) {
  return capacity >= 2 * kHugePage ? kHugePage : kAlignment;
}

// Room for a block, or null. In front of it there is room for its header's address.
std::byte* from_system(std::size_t capacity) {
  const std::size_t alignment = alignment_of(capacity);
  void* const memory =
      ::operator new (kAlignment + capacity, std::align_val_t{alignment}, std::nothrow);
#ifdef MADV_HUGEPAGE
  if (memory != nullptr && alignment == kHugePage) {  // a wish: its failure is no error
    madvise(memory, capacity / kHugePage * kHugePage, MADV_HUGEPAGE);
  }
#endif
  return memory == nullptr ? nullptr : static_cast<std::byte*>(memory) + kAlignment;
}
void to_system(std::byte* memory, std::size_t capacity) {
  ::operator delete (memory - kAlignment, std::align_val_t{alignment_of(capacity)});
}

// A lock that is held for a few instructions: one atomic exchange where nobody else wants it.
class SpinLock {
 public:
  void lock() {
    while (held_.exchange(true, std::memory_order_acquire)) {
      while (held_.load(std::memory_order_relaxed)) std::this_thread::yield();
    }
  }
  void unlock() { held_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> held_{false};
};

// Test mode; see pool::set_checked.
constinit std::atomic<bool> fill_and_check{false};

// What this thread may still take from the system, where there is a pool::Budget.
constinit thread_local std::size_t budget_left = std::numeric_limits<std::size_t>::max();

}  // namespace

// Free blocks, by size class.
class FreeBlocks {
 public:
  void give(Storage::Block* block) {
    Storage::Block*& head = heads_[static_cast<std::size_t>(block->size_class)];
    block->next_free = head;
    head = block;
  }
  // Null where there is none.
  Storage::Block* take(int size_class) {
    Storage::Block*& head = heads_[static_cast<std::size_t>(size_class)];
    Storage::Block* const block = head;
    if (block == nullptr) return nullptr;
    head = block->next_free;
    __builtin_prefetch(head);  // for the next call, which would wait for it
    return block;
  }
  // Takes all, for f(block).
  template <class F>
  void clear(F&& f) {
    for (Storage::Block*& head : heads_) {
      while (head != nullptr) f(std::exchange(head, head->next_free));
    }
  }

 private:
  std::array<Storage::Block*, kSizeClasses> heads_{};
};

// Lives until the arena and the last tensor of it are gone.
struct pool::Arena::Blocks {
  FreeBlocks free;
  std::int64_t held = 0;  // by tensors
  bool closed = false;    // the arena is gone
};

namespace {

// The arena that tensors of this thread take blocks of; see pool::Arena::Use.
struct InUse {
  pool::Arena::Blocks* arena = nullptr;
  Device device = Device::cpu;
  bool frozen = false;
};
constinit thread_local InUse in_use;

class Pool {
 public:
  constexpr explicit Pool(Device device) : device_(device) {}

  Storage::Block* take(std::size_t bytes) {
    const bool checked = fill_and_check.load(std::memory_order_relaxed);
    if (bytes > kMostBytes) fail("storage", "{} bytes asked for. Use smaller tensors.", bytes);
    const int size_class = class_of(bytes + (checked ? kGuardBytes : 0));
    Storage::Block* block = take_cached(size_class);
    if (block == nullptr) block = take_from_system(bytes, size_class);
    block->bytes = bytes;
    block->checked = checked;
    block->references.store(1, std::memory_order_relaxed);
    block->version.store(0, std::memory_order_relaxed);
    if (checked) {
      if (device_ == Device::cuda) cuda::renew(block->data, bytes);
      set_guard(*block);
    }
    return block;
  }

  void give(Storage::Block* block) {
    if (block->checked) check_guard(*block);
    if (block->arena != nullptr) [[unlikely]]
      return give_to_arena(block);
    const std::lock_guard lock(lock_);
    count_given(*block);
    free_.give(block);
  }

  void release_cached() {
    FreeBlocks blocks;
    {
      const std::lock_guard lock(lock_);
      std::swap(blocks, free_);
    }
    std::size_t bytes = 0;
    blocks.clear([&](Storage::Block* block) {
      bytes += block->capacity;
      if (device_ == Device::cpu) to_system(block->data, block->capacity);
      if (device_ == Device::guarded) guarded::give(block->data, block->capacity);
      if (device_ == Device::cuda) cuda::give(block->data);
      delete block;
    });
    const std::lock_guard lock(lock_);
    stats_.bytes_cached -= bytes;
  }

  void close(pool::Arena::Blocks* arena) {
    const std::lock_guard lock(lock_);
    arena->free.clear([&](Storage::Block* block) {
      block->arena = nullptr;
      free_.give(block);
    });
    arena->closed = true;
    if (arena->held == 0) delete arena;
  }

  PoolStats stats() {
    const std::lock_guard lock(lock_);
    return stats_;
  }
  void reset_peak() {
    const std::lock_guard lock(lock_);
    stats_.peak_bytes_in_use = stats_.bytes_in_use;
  }

 private:
  // Null where none is in use.
  pool::Arena::Blocks* arena() const { return in_use.device == device_ ? in_use.arena : nullptr; }

  // Null where none of this class is cached.
  Storage::Block* take_cached(int size_class) {
    if (in_use.arena != nullptr && arena() != nullptr) [[unlikely]]
      return take_of_arena(size_class);
    const std::lock_guard lock(lock_);
    Storage::Block* const block = free_.take(size_class);
    if (block == nullptr) return nullptr;
    stats_.bytes_cached -= block->capacity;
    count_taken(*block);
    return block;
  }

  // Apart from the ways that all take: those with an arena.
  [[gnu::noinline]] Storage::Block* take_of_arena(int size_class) {
    const std::lock_guard lock(lock_);
    Storage::Block* block = arena()->free.take(size_class);
    if (block == nullptr) block = free_.take(size_class);
    if (block == nullptr) return nullptr;
    stats_.bytes_cached -= block->capacity;
    count_taken(*block);
    adopt(*block);
    return block;
  }
  [[gnu::noinline]] void give_to_arena(Storage::Block* block) {
    const std::lock_guard lock(lock_);
    count_given(*block);
    pool::Arena::Blocks* const arena = block->arena;
    --arena->held;
    if (!arena->closed) return arena->free.give(block);
    block->arena = nullptr;
    free_.give(block);
    if (arena->held == 0) delete arena;
  }
  void adopt(Storage::Block& block) const {
    block.arena = arena();
    if (block.arena != nullptr) ++block.arena->held;
  }

  void count_taken(const Storage::Block& block) {
    ++stats_.allocations;
    stats_.bytes_in_use += block.capacity;
    stats_.peak_bytes_in_use = std::max(stats_.peak_bytes_in_use, stats_.bytes_in_use);
  }
  void count_given(const Storage::Block& block) {
    stats_.bytes_in_use -= block.capacity;
    stats_.bytes_cached += block.capacity;
  }

  [[gnu::noinline]] Storage::Block* take_from_system(std::size_t bytes, int size_class) {
    const std::size_t capacity = capacity_of(size_class);
    if (capacity > budget_left) {
      fail("storage",
           "{} bytes asked for, where {} are left. Use smaller sizes, or a larger limit.", bytes,
           budget_left);
    }
    if (arena() != nullptr && in_use.frozen) {
      fail("storage",
           "{} bytes asked for by work that is done again, and that took no such block before. Let "
           "it take the same each time.",
           bytes);
    }
    std::byte* memory = more(capacity);
    if (memory == nullptr) {  // cached blocks of other sizes may be in the way
      release_cached();
      memory = more(capacity);
    }
    if (memory == nullptr) {
      if (device_ != Device::cuda) {
        fail("storage", "the system has no memory for {} bytes. Use a smaller batch.", bytes);
      }
      fail("storage", "{} bytes asked for, {} held by tensors, and {}. Use a smaller batch.", bytes,
           stats().bytes_in_use, cuda::memory_text());
    }
    if (budget_left != std::numeric_limits<std::size_t>::max()) budget_left -= capacity;
    auto* const block = new Storage::Block;
    block->data = memory;
    block->device = device_;
    block->capacity = capacity;
    if (device_ == Device::cpu) std::memcpy(memory - kAlignment, &block, sizeof block);
    block->size_class = size_class;
    const std::lock_guard lock(lock_);
    ++stats_.system_allocations;
    count_taken(*block);
    adopt(*block);
    return block;
  }

  std::byte* more(std::size_t capacity) const {
    if (device_ == Device::cuda) return cuda::take(capacity);
    return device_ == Device::guarded ? guarded::take(capacity) : from_system(capacity);
  }

  static void set_guard(const Storage::Block& block) {
    if (block.device == Device::cuda) {
      return cuda::set_bytes(block.data + block.bytes, kGuard, kGuardBytes);
    }
    const guarded::Open open(block.device);
    std::memset(block.data + block.bytes, kGuard, kGuardBytes);
  }

  static void check_guard(Storage::Block& block) {
    if (block.device == Device::cuda) {
      if (cuda::recording()) return;  // nothing has run
      if (cuda::have_value(block.data + block.bytes, kGuard, kGuardBytes)) return;
      std::fprintf(stderr, "moegrad: the end of a tensor of %zu bytes was overwritten\n",
                   block.bytes);
      std::abort();
    }
    const guarded::Open open(block.device);
    for (std::size_t i = 0; i < kGuardBytes; ++i) {
      if (block.data[block.bytes + i] != std::byte{kGuard}) {
        std::fprintf(stderr, "moegrad: byte %zu behind a tensor of %zu bytes was overwritten\n", i,
                     block.bytes);
        std::abort();
      }
    }
  }

  Device device_;
  SpinLock lock_;
  FreeBlocks free_;
  PoolStats stats_;
};

// Constant from the start and never destroyed: tensors of static lifetime may come before and
// after everything else.
constinit Pool cpu_pool{Device::cpu};
constinit Pool guarded_pool{Device::guarded};
constinit Pool cuda_pool{Device::cuda};
static_assert(std::is_trivially_destructible_v<Pool>);

Pool& pool_of(Device device) {
  if (device == Device::cpu) return cpu_pool;
  return device == Device::guarded ? guarded_pool : cuda_pool;
}

}  // namespace

Storage Storage::allocate(std::size_t bytes, Device device) {
  return Storage(pool_of(device).take(bytes));
}

Storage Storage::view(void* data, std::size_t bytes, Device device, std::shared_ptr<void> owner) {
  auto* const block = new Block;
  block->data = static_cast<std::byte*>(data);
  block->bytes = bytes;
  block->device = device;
  block->owner = owner == nullptr ? std::shared_ptr<void>(data, [](void*) {}) : std::move(owner);
  return Storage(block);
}

void Storage::drop(Block* block) {
  // The only handle needs no atomic subtraction: nobody else can make another one.
  if (block->references.load(std::memory_order_acquire) != 1 &&
      block->references.fetch_sub(1, std::memory_order_acq_rel) != 1) {
    return;
  }
  if (block->owner == nullptr) {
    pool_of(block->device).give(block);
  } else {
    delete block;
  }
}

namespace pool {

PoolStats stats(Device device) { return pool_of(device).stats(); }
void reset_peak(Device device) { pool_of(device).reset_peak(); }
void release_cached(Device device) { pool_of(device).release_cached(); }
bool set_checked(bool checked) { return fill_and_check.exchange(checked); }
bool checked() { return fill_and_check.load(); }

Budget::Budget(std::size_t bytes) : before_(std::exchange(budget_left, bytes)) {}
Budget::~Budget() { budget_left = before_; }

Arena::Arena(Device device) : device_(device), blocks_(new Blocks) {}
Arena::~Arena() { pool_of(device_).close(blocks_); }
Arena::Use::Use(Arena& arena, bool frozen) : device_(arena.device_) {
  if (in_use.arena != nullptr) {
    fail("storage", "work with memory of its own begins within such work. Capture one of them.");
  }
  in_use = {arena.blocks_, device_, frozen};
}
Arena::Use::~Use() { in_use = {}; }

void* take(std::size_t bytes) { return cpu_pool.take(bytes)->data; }
void give(void* memory) {
  Storage::Block* block = nullptr;
  std::memcpy(&block, static_cast<std::byte*>(memory) - kAlignment, sizeof block);
  cpu_pool.give(block);
}

}  // namespace pool
}  // namespace moegrad
