#include "cuda/emulator/shared.h"

#include <algorithm>
#include <stdexcept>

#include <sys/mman.h>

#include "cuda/emulator/address_sanitizer.h"
#include "cuda/emulator/block.h"
#include "cuda/emulator/memory.h"
#include "cuda/emulator/observer.h"

namespace cuda_emulator {
namespace {

constexpr std::size_t kLeastGap = 1024;  // between arrays, or as much as the array: belongs to none
constexpr std::size_t kRoom = std::size_t{8} << 20;
constexpr std::size_t kStaticLimit = 48 * 1024;  // bytes

std::string name_of(const SharedMemory::Array& array) {
  if (array.site == nullptr) return "dynamic shared memory";
  return "shared array " + std::string(array.site->name) + " (line " +
         std::to_string(array.site->line) + ")";
}

}  // namespace

void SharedMemory::begin_launch(std::size_t dynamic_bytes) {
  if (base_ == nullptr) {
    void* const memory = mmap(nullptr, kRoom, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("[emulator] no addresses for shared memory");
    base_ = static_cast<std::byte*>(memory);
    observer::cover_shared(base_, kRoom);
    used_ = kRoom;
  }
  forbid(base_, used_);
  arrays_.clear();
  used_ = kLeastGap;
  static_bytes_ = 0;
  dynamic_bytes_ = dynamic_bytes;
}

void SharedMemory::begin_block() {
  for (const Array& array : arrays_) memory::poison(array.begin, array.bytes);
}

std::byte* SharedMemory::array(const SharedSite* site) {
  for (const Array& array : arrays_) {
    if (array.site == site) return array.begin;
  }
  if (site == nullptr && dynamic_bytes_ == 0) {
    die("uses dynamic shared memory, and was launched with none. Give its bytes as .shared of the "
        "launch");
  }
  const std::size_t bytes = site == nullptr ? dynamic_bytes_ : site->bytes;
  if (site != nullptr && (static_bytes_ += bytes) > kStaticLimit) {
    die("declares " + std::to_string(static_bytes_) + " bytes of shared arrays, where " +
        std::to_string(kStaticLimit) + " are allowed. Use DYNAMIC_SHARED for the largest");
  }
  if (static_bytes_ + dynamic_bytes_ > settings().shared_memory) {
    die("needs " + std::to_string(static_bytes_ + dynamic_bytes_) +
        " bytes of shared memory, declared and dynamic, where a block may have " +
        std::to_string(settings().shared_memory) + ". Let a block do less at a time");
  }
  const std::size_t alignment = std::max<std::size_t>(site == nullptr ? 16 : site->alignment, 16);
  used_ = (used_ + alignment - 1) / alignment * alignment;
  std::byte* const begin = base_ + used_;
  used_ += bytes + std::max(bytes, kLeastGap);
  allow(begin, bytes);
  memory::poison(begin, bytes);
  arrays_.push_back({site, begin, bytes});
  return begin;
}

const SharedMemory::Array* SharedMemory::whole(const void* at, std::size_t bytes) const {
  const auto* const place = static_cast<const std::byte*>(at);
  for (const Array& array : arrays_) {
    if (place >= array.begin && place + bytes <= array.begin + array.bytes) return &array;
  }
  return nullptr;
}

// By the array that is nearest: an index may be too large or negative.
std::string SharedMemory::place_of(const void* at) const {
  const auto* const place = static_cast<const std::byte*>(at);
  const auto distance = [place](const Array& a) {
    return place < a.begin ? a.begin - place
                           : std::max<std::ptrdiff_t>(
                                 0, place - a.begin - static_cast<std::ptrdiff_t>(a.bytes) + 1);
  };
  const auto nearest =
      std::min_element(arrays_.begin(), arrays_.end(),
                       [&](const Array& a, const Array& b) { return distance(a) < distance(b); });
  if (nearest == arrays_.end()) return "no shared array";
  return "byte " + std::to_string(place - nearest->begin) + " of the " +
         std::to_string(nearest->bytes) + " bytes of " + name_of(*nearest);
}

}  // namespace cuda_emulator
