#pragma once

#include <cstdint>

// The vectors of the machine this is compiled for, where loops do not become them by themselves.

namespace moegrad::cpu {

#ifdef __AVX__
inline constexpr int kVectorBytes = 32;
#else
inline constexpr int kVectorBytes = 16;
#endif
template <class T>
inline constexpr int kVectorLanes = kVectorBytes / sizeof(T);

namespace detail {
template <class T>
struct Lanes;
template <>
struct Lanes<float> {
  using Type [[gnu::vector_size(kVectorBytes), gnu::aligned(4), gnu::may_alias]] = float;
};
template <>
struct Lanes<double> {
  using Type [[gnu::vector_size(kVectorBytes), gnu::aligned(8), gnu::may_alias]] = double;
};
}  // namespace detail

// kVectorLanes numbers, with operators that work lane by lane.
template <class T>
using Vector = typename detail::Lanes<T>::Type;

template <class T>
Vector<T> load(const T* from) {
  return *reinterpret_cast<const Vector<T>*>(from);
}
template <class T>
void store(T* to, Vector<T> v) {
  *reinterpret_cast<Vector<T>*>(to) = v;
}

}  // namespace moegrad::cpu
