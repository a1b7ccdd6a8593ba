#pragma once

#include <string_view>

namespace moegrad {

// How a CUDA device multiplies matrices of f32. exact: in f32. tf32, bf16: operands are rounded to
// 11 or 8 binary digits, to be multiplied by tensor cores; sums are f32, and so is what is stored.
// See docs/gpu.md. Products of f64 are errors then. The CPU knows exact alone.
enum class Maths { exact, tf32, bf16 };

inline std::string_view name_of(Maths maths) {
  return maths == Maths::tf32 ? "tf32" : maths == Maths::bf16 ? "bf16" : "exact";
}

namespace detail {
inline constinit thread_local Maths current_maths = Maths::exact;
}
// Of all that this thread computes from here on.
inline void set_maths(Maths maths) { detail::current_maths = maths; }
inline Maths maths() { return detail::current_maths; }

// Sets it for as long as it lives.
class MathsScope {
 public:
  explicit MathsScope(Maths now) : before_(maths()) { set_maths(now); }
  ~MathsScope() { set_maths(before_); }
  MathsScope(const MathsScope&) = delete;
  MathsScope& operator=(const MathsScope&) = delete;

 private:
  Maths before_;
};

}  // namespace moegrad
