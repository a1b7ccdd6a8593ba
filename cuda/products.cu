// How products are computed: by plain tiles, on tensor cores where maths() asks for it, by cuBLAS
// where products() does.
#include <vector>

#include "cuda/products.h"
#include "cuda/stream.h"
#include "tensor/maths.h"

namespace moegrad::cuda {
namespace {

// A problem as product.h asks for it.
template <class P>
struct InMemory : P {
  bool a_whole, b_whole;

  template <class T>
  __device__ void put(const Tile& tile, std::int64_t row, std::int64_t col, T value) const {
    P::put(tile, row, col, value, false);
  }
};

template <class P>
void multiply_exactly(const char* operation, const P& p) {
  run_product(operation, InMemory<P>{p, p.a_aligned(), p.b_aligned()}, !p.fits(2 * kSmallSide),
              [&](int side) { return p.blocks(side); });
}

template <class P>
void multiply_as_asked(const char* operation, const P& p) {
  constexpr bool kWide = std::is_same_v<typename P::Element, double>;
  const bool rounds = maths() != Maths::exact;
  if (kWide && rounds) {
    fail(operation, "maths is {}, for products of f32, and these are of f64. Use exact.",
         name_of(maths()));
  }
  if (p.is_empty() || multiply_by_library(operation, p)) return;
  if constexpr (!kWide) {
    if (rounds) return multiply_on_tensor_cores(operation, p);
  }
  multiply_exactly(operation, p);
}

}  // namespace

template <class T>
void multiply(const char* operation, const MatMul<T>& p) {
  multiply_as_asked(operation, p);
}
template <class T>
void multiply(const char* operation, const Linear<T>& p) {
  multiply_as_asked(operation, p);
}
template <class T>
void multiply(const char* operation, const Outer<T>& p) {
  multiply_as_asked(operation, p);
}

template void multiply(const char*, const MatMul<float>&);
template void multiply(const char*, const MatMul<double>&);
template void multiply(const char*, const Linear<float>&);
template void multiply(const char*, const Linear<double>&);
template void multiply(const char*, const Outer<float>&);
template void multiply(const char*, const Outer<double>&);

}  // namespace moegrad::cuda
