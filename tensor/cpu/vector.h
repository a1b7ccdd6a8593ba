#pragma once

#include <cstdint>

// The vectors of the machine this is compiled for, where loops do not become them by themselves.

namespace moegrad::cpu {

// Zen 4 computes vectors of 64 bytes in two halves: those of 32 are as fast and leave less idle at
// edges. (GCC 12 does not know Zen 4 yet: to it such a machine is a Zen 3 with AVX-512.)
#if defined(__AVX512F__) && (defined(__znver4__) || defined(__znver3__))
inline constexpr int kVectorBytes = 32;
#elif defined(__AVX512F__)
inline constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif
template <class T>
inline constexpr int kVectorLanes = kVectorBytes / sizeof(T);

namespace detail {
template <class T, int kBytes>
struct Lanes {
  using Type [[gnu::vector_size(kBytes), gnu::aligned(alignof(T)), gnu::may_alias]] = T;
};
}  // namespace detail

// Numbers side by side, with operators that work lane by lane; kVectorLanes of them where nothing
// else is said.
template <class T, int kBytes = kVectorBytes>
using Vector = typename detail::Lanes<T, kBytes>::Type;

template <int kBytes, class T>
Vector<T, kBytes> load_bytes(const T* from) {
  return *reinterpret_cast<const Vector<T, kBytes>*>(from);
}
template <class T>
Vector<T> load(const T* from) {
  return load_bytes<kVectorBytes>(from);
}
template <int kBytes, class T>
void store_bytes(T* to, Vector<T, kBytes> v) {
  *reinterpret_cast<Vector<T, kBytes>*>(to) = v;
}
template <class T>
void store(T* to, Vector<T> v) {
  store_bytes<kVectorBytes>(to, v);
}

}  // namespace moegrad::cpu
