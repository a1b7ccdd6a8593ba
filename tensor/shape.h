#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "tensor/error.h"

namespace moegrad {

// The sizes of a tensor, outermost first; rank 0 is a scalar. Kept inline: no allocation.
class Shape {
 public:
  static constexpr int kMaxRank = 5;

  Shape() = default;
  Shape(std::initializer_list<std::int64_t> sizes) {
    for (const std::int64_t size : sizes) push_back(size);
  }

  int rank() const { return static_cast<int>(rank_); }
  std::int64_t operator[](int axis) const { return sizes_[static_cast<std::size_t>(axis)]; }
  std::int64_t& operator[](int axis) { return sizes_[static_cast<std::size_t>(axis)]; }
  // The size of the last axis; 1 for a scalar.
  std::int64_t back() const { return rank_ == 0 ? 1 : (*this)[rank() - 1]; }
  const std::int64_t* begin() const { return sizes_.data(); }
  const std::int64_t* end() const { return sizes_.data() + rank_; }

  void push_back(std::int64_t size) {
    if (rank_ == kMaxRank) fail("shape", "more than {} axes. Merge some by reshape.", kMaxRank);
    if (size < 0) fail("shape", "a size is {}. Sizes are 0 or more.", size);
    sizes_[static_cast<std::size_t>(rank_++)] = size;
  }

  // The product of the sizes; 1 for a scalar. An Error where it, or the product of some of the
  // sizes, is above kMostElements. Every tensor's shape has been through it.
  static constexpr std::int64_t kMostElements = std::int64_t{1} << 58;
  std::int64_t numel() const {
    std::int64_t n = 1;
    bool empty = false;
    for (const std::int64_t size : *this) {
      empty = empty || size == 0;
      if (size != 0 && (__builtin_mul_overflow(n, size, &n) || n > kMostElements)) too_large();
    }
    return empty ? 0 : n;
  }
  // The product of the sizes of the axes [first, last), of a tensor's shape.
  std::int64_t product(int first, int last) const {
    std::int64_t n = 1;
    for (int axis = first; axis < last; ++axis) n *= (*this)[axis];
    return n;
  }

  friend bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int axis = 0; axis < a.rank_; ++axis) {
      if (a[axis] != b[axis]) return false;
    }
    return true;
  }

  // "[2, 3]"; "[]" for a scalar.
  std::string str() const {
    std::string text = "[";
    for (int axis = 0; axis < rank_; ++axis) {
      if (axis > 0) text += ", ";
      text += std::to_string((*this)[axis]);
    }
    return text + "]";
  }

 private:
  [[noreturn]] void too_large() const {
    fail("shape", "{} has more than 2^58 elements. Use smaller sizes.", str());
  }

  std::array<std::int64_t, kMaxRank> sizes_{};
  // As wide as a size: a shape is copied in whole words, which a processor can forward from the
  // stores that made it.
  std::int64_t rank_ = 0;
};

}  // namespace moegrad

template <>
struct fmt::formatter<moegrad::Shape> : fmt::formatter<std::string> {
  auto format(const moegrad::Shape& shape, format_context& context) const {
    return formatter<std::string>::format(shape.str(), context);
  }
};
