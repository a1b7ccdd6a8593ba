#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <utility>

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
}  // namespace pool

// A reference-counted block of 64-byte aligned memory from the pool of its device.
class Storage {
 public:
  Storage() = default;
  static Storage allocate(std::size_t bytes, Device device);

  Storage(const Storage& other) noexcept : block_(other.block_) {
    if (block_ != nullptr) block_->references.fetch_add(1, std::memory_order_relaxed);
  }
  Storage(Storage&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  Storage& operator=(Storage other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~Storage() {
    if (block_ != nullptr && block_->references.fetch_sub(1, std::memory_order_acq_rel) == 1) {
      release(block_);
    }
  }

  std::byte* data() const { return block_ == nullptr ? nullptr : block_->data; }
  std::size_t bytes() const { return block_ == nullptr ? 0 : block_->bytes; }
  // True when this handle is the only one.
  bool unique() const {
    return block_ != nullptr && block_->references.load(std::memory_order_acquire) == 1;
  }
  explicit operator bool() const { return block_ != nullptr; }
  friend bool operator==(const Storage& a, const Storage& b) { return a.block_ == b.block_; }

  struct Block {
    std::byte* data;       // 64-byte aligned
    std::size_t bytes;     // asked for
    std::size_t capacity;  // of the size class
    int size_class;
    Device device;
    bool guarded;  // has guard bytes behind `bytes`
    std::atomic<int> references;
    Block* next_free;
  };

 private:
  explicit Storage(Block* block) : block_(block) {}
  static void release(Block* block);

  Block* block_ = nullptr;
};

}  // namespace moegrad
