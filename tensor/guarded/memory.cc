#include "tensor/guarded/memory.h"

#include <atomic>
#include <mutex>

#include <sys/mman.h>

namespace moegrad::guarded {
namespace {

// Addresses for all that tests will ask for; a page costs memory once it is touched.
constexpr std::size_t kAddresses = std::size_t{64} << 30;
constexpr std::size_t kPiece = std::size_t{1} << 20;  // the pages are protected by so many bytes

class Arena {
 public:
  std::byte* take(std::size_t bytes) {
    const std::scoped_lock lock(mutex_);
    if (base_ == nullptr) {
      void* const memory =
          mmap(nullptr, kAddresses, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
      if (memory == MAP_FAILED) return nullptr;
      base_ = static_cast<std::byte*>(memory);
    }
    if (bytes > kAddresses - used_) return nullptr;
    std::byte* const piece = base_ + used_;
    used_ += bytes;
    if (used_ > reach_) {
      reach_ = (used_ + kPiece - 1) / kPiece * kPiece;
      if (depth_ > 0) protect(PROT_READ | PROT_WRITE);
    }
    return piece;
  }

  void open() {
    const std::scoped_lock lock(mutex_);
    if (depth_++ == 0) protect(PROT_READ | PROT_WRITE);
  }
  void close() {
    const std::scoped_lock lock(mutex_);
    if (--depth_ == 0) protect(PROT_NONE);
  }
  bool is_open() const { return depth_.load(std::memory_order_acquire) > 0; }

 private:
  void protect(int how) const {
    if (reach_ > 0 && mprotect(base_, reach_, how) != 0) {
      fail("guarded", "the system refuses to protect {} bytes. Use the cpu device.", reach_);
    }
  }

  std::mutex mutex_;
  std::byte* base_ = nullptr;
  std::size_t used_ = 0;
  std::size_t reach_ = 0;  // used_, in whole pieces
  std::atomic<int> depth_{0};
};

Arena& arena() {
  static auto* const arena = new Arena;  // outlives tensors of static lifetime
  return *arena;
}

}  // namespace

std::byte* take(std::size_t bytes) { return arena().take(bytes); }
// The addresses are not used again: whoever still reads there is found out.
void give(std::byte* memory, std::size_t bytes) {
  const Open open(Device::guarded);
  constexpr std::size_t kPage = 4096;
  const auto begin = (reinterpret_cast<std::uintptr_t>(memory) + kPage - 1) / kPage * kPage;
  const auto end = (reinterpret_cast<std::uintptr_t>(memory) + bytes) / kPage * kPage;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

Open::Open(Device device) : opens_(device == Device::guarded) {
  if (opens_) arena().open();
}
Open::~Open() {
  if (opens_) arena().close();
}
bool is_open() { return arena().is_open(); }

}  // namespace moegrad::guarded
