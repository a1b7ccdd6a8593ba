#pragma once

#include <cstdint>

#include "tensor/cpu/product.h"

namespace moegrad::cpu {

// product() by blocks that are copied into panels, so that the innermost loop reads memory in order
// and keeps a block of c in registers (K. Goto and R. van de Geijn, "Anatomy of high-performance
// matrix multiplication", ACM TOMS 34, 2008). Every element is a sum over k in one order, whatever
// m and n are and wherever the block lies: `depth` products, kDepth at most, are added up in
// registers, and these sums to c.
template <class T>
void packed_product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<T> a, Matrix<T> b,
                    T beta, T* c, std::int64_t c_stride, std::int64_t depth);

}  // namespace moegrad::cpu
