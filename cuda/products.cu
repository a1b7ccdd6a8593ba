// How products are computed.
#include "cuda/products.h"

namespace moegrad::cuda {
namespace {

template <class Problem>
void run_exact(const char* operation, const Problem& p) {
  if (p.is_empty()) return;
  run_product(operation, p, !p.fits(2 * kSmallSide), [&](int side) { return p.blocks(side); });
}

}  // namespace

template <class T>
void multiply(const char* operation, const MatMul<T>& p) {
  run_exact(operation, p);
}
template <class T>
void multiply(const char* operation, const Linear<T>& p) {
  run_exact(operation, p);
}
template <class T>
void multiply(const char* operation, const Outer<T>& p) {
  run_exact(operation, p);
}

template void multiply(const char*, const MatMul<float>&);
template void multiply(const char*, const MatMul<double>&);
template void multiply(const char*, const Linear<float>&);
template void multiply(const char*, const Linear<double>&);
template void multiply(const char*, const Outer<float>&);
template void multiply(const char*, const Outer<double>&);

}  // namespace moegrad::cuda
