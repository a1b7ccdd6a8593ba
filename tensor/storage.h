#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "tensor/dtype.h"

namespace moegrad {

// What a device's pool has done so far. A steady training step leaves `system_allocations` alone.
struct PoolStats {
  std::uint64_t system_allocations = 0;  // blocks taken from the system
  std::uint64_t allocations = 0;         // blocks handed out, cached ones included
  std::size_t bytes_in_use = 0;          // held by live storages
  std::size_t peak_bytes_in_use = 0;     // the largest bytes_in_use since reset_peak()
  std::size_t bytes_cached = 0;          // kept for reuse
};

// The caching pool of a device. Freed blocks are kept by size class and handed out again.
namespace pool {
PoolStats stats(Device device);
void reset_peak(Device device);
// Gives every cached block back to the system.
void release_cached(Device device);
// Test mode: fresh tensors are filled with signalling NaN (i32: a huge number) and each block gets
// guard bytes behind it, checked when it is freed; a write past the end aborts with a message.
// Returns the previous setting.
bool set_checked(bool checked);
bool checked();
// While one lives, what this thread asks for may make the CPU's pool grow by at most `bytes`; more
// is an Error. For work on sizes that come from a file.
class Budget {
 public:
  explicit Budget(std::size_t bytes);
  ~Budget();
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;

 private:
  std::size_t before_;
};
// Blocks of a device apart from all others, for work that finds them where they were when it is done
// again. They go to the pool when this is gone; those that tensors still hold, with these.
class Arena {
 public:
  explicit Arena(Device device);
  ~Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  struct Blocks;
  // While one lives, tensors of the device that this thread makes take blocks of the arena, and add
  // what it lacks; frozen, the system is asked for none: an Error. A second one at once is one too.
  class Use {
   public:
    explicit Use(Arena& arena, bool frozen = false);
    ~Use();
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    Device device_;
  };

 private:
  Device device_;
  Blocks* blocks_;
};
// Memory of the CPU's pool for other things than tensors, 64-byte aligned; see PoolVector.
void* take(std::size_t bytes);
void give(void* memory);
}  // namespace pool

// For what every step builds and drops again: a vector whose memory comes from the CPU's pool.
template <class T>
struct PoolAllocator {
  using value_type = T;
  PoolAllocator() = default;
  template <class U>
  PoolAllocator(const PoolAllocator<U>&) {
  }  // NOLINT(google-explicit-constructor): as the standard has it
  T* allocate(std::size_t n) { return static_cast<T*>(pool::take(n * sizeof(T))); }
  void deallocate(T* memory, std::size_t) { pool::give(memory); }
  friend bool operator==(const PoolAllocator&, const PoolAllocator&) { return true; }
};
template <class T>
using PoolVector = std::vector<T, PoolAllocator<T>>;

// A reference-counted block of 64-byte aligned memory from the pool of its device, or memory of
// somebody else's.
class Storage {
 public:
  Storage() = default;
  static Storage allocate(std::size_t bytes, Device device);
  // `bytes` from `data` on of that device, kept alive by `owner` as long as any handle to them is.
  static Storage view(void* data, std::size_t bytes, Device device, std::shared_ptr<void> owner);

  Storage(const Storage& other) noexcept : block_(other.block_) {
    if (block_ != nullptr) block_->references.fetch_add(1, std::memory_order_relaxed);
  }
  Storage(Storage&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  Storage& operator=(Storage other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~Storage() {
    if (block_ != nullptr) drop(block_);
  }

  // Where the bytes are on their device. Of a device that is not the CPU the host must not read
  // there.
  std::byte* data() const { return block_ == nullptr ? nullptr : block_->data; }
  std::size_t bytes() const { return block_ == nullptr ? 0 : block_->bytes; }
  // How often somebody was about to write, since the block was handed out.
  std::uint32_t version() const {
    return block_ == nullptr ? 0 : block_->version.load(std::memory_order_relaxed);
  }
  // Two threads that write at once may count as one: it is the change that matters.
  void count_write() const {
    if (block_ != nullptr) block_->version.store(version() + 1, std::memory_order_relaxed);
  }
  // True when this handle is the only one.
  bool unique() const {
    return block_ != nullptr && block_->references.load(std::memory_order_acquire) == 1;
  }
  explicit operator bool() const { return block_ != nullptr; }
  friend bool operator==(const Storage& a, const Storage& b) { return a.block_ == b.block_; }

  // On the host, apart from its bytes.
  struct Block {
    std::byte* data = nullptr;
    std::size_t bytes = 0;     // asked for
    std::size_t capacity = 0;  // of the size class
    Block* next_free = nullptr;
    std::atomic<int> references{1};
    std::atomic<std::uint32_t> version{0};
    int size_class = 0;
    Device device = Device::cpu;
    pool::Arena::Blocks* arena = nullptr;  // whose it is; null: the pool's
    bool checked = false;                  // has guard bytes behind `bytes`
    std::shared_ptr<void> owner;           // of bytes that are not the pool's
  };

 private:
  explicit Storage(Block* block) : block_(block) {}
  static void drop(Block* block);

  Block* block_ = nullptr;
};

}  // namespace moegrad
