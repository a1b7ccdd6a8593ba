#pragma once

#include <cstdint>

namespace moegrad::cpu {

// A matrix in memory: row r starts at data + r * stride; read as its transpose where told.
template <class T>
struct Matrix {
  const T* data;
  std::int64_t stride;
  bool transposed = false;
};

// c [m, n] = op(a) [m, k] op(b) [k, n] + beta c, on the calling thread alone; rows of c are
// c_stride elements apart. c is not read when beta is 0. This is the one place that decides which
// library computes a product.
void product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<float> a, Matrix<float> b,
             float beta, float* c, std::int64_t c_stride);
void product(std::int64_t m, std::int64_t n, std::int64_t k, Matrix<double> a, Matrix<double> b,
             double beta, double* c, std::int64_t c_stride);

}  // namespace moegrad::cpu
