#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "cuda/emulator/bf16.h"
#include "cuda/emulator/cublas.h"

// What the calls of cuBLAS and cuBLASLt share: a product of matrices by columns, what is asked of
// them, and the loop. Not for users of the emulator.
namespace cuda_emulator {

// What is wrong with a call: its status and why.
struct Trouble {
  cublasStatus_t status = CUBLAS_STATUS_SUCCESS;
  std::string why;
};
inline Trouble invalid(std::string why) { return {CUBLAS_STATUS_INVALID_VALUE, std::move(why)}; }
inline std::string text(long long n) { return std::to_string(n); }

inline std::size_t size_of(cudaDataType type) {
  return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : 2;
}

// By columns; `stride` elements from one of a batch to the next.
struct Matrix {
  const char* name;
  std::byte* at;
  cudaDataType type;
  std::int64_t rows, columns, ld;
  long long stride;

  std::size_t size() const { return size_of(type); }
  std::byte* column(std::int64_t batch, std::int64_t j) const {
    return at + (batch * stride + j * ld) * static_cast<std::int64_t>(size());
  }
  std::size_t column_bytes() const { return static_cast<std::size_t>(rows) * size(); }
  template <class T>
  T get(std::int64_t batch, std::int64_t i, std::int64_t j) const {
    const std::byte* const place = column(batch, j) + i * static_cast<std::int64_t>(size());
    if (type == CUDA_R_64F) return static_cast<T>(*reinterpret_cast<const double*>(place));
    if (type == CUDA_R_32F) return static_cast<T>(*reinterpret_cast<const float*>(place));
    return static_cast<T>(static_cast<float>(*reinterpret_cast<const bf16*>(place)));
  }
  template <class T>
  void set(std::int64_t batch, std::int64_t i, std::int64_t j, T value) const {
    std::byte* const place = column(batch, j) + i * static_cast<std::int64_t>(size());
    if (type == CUDA_R_64F) *reinterpret_cast<double*>(place) = static_cast<double>(value);
    if (type == CUDA_R_32F) *reinterpret_cast<float*>(place) = static_cast<float>(value);
    if (type == CUDA_R_16BF) *reinterpret_cast<bf16*>(place) = bf16(static_cast<float>(value));
  }
};

struct Product {
  const char* call;
  Matrix a, b, c;
  bool transposes_a, transposes_b, tf32;
  std::int64_t k;
  int batches;
  // The numbers, or where they will be on the device.
  double alpha = 0, beta = 0;
  const void *device_alpha = nullptr, *device_beta = nullptr;
};

// Sets the shapes of A, B and C.
void set_shape(Product& p, std::int64_t m, std::int64_t n, std::int64_t k);
Trouble check_leading(const Matrix& x);
// Where the matrices of a product that is not empty lie; `aligned` to 16 bytes.
Trouble check_places(const Product& p, bool aligned);
// Throws where nobody has written what is read.
void run(const Product& p);

}  // namespace cuda_emulator
