#pragma once

#include <cstddef>
#include <cstdint>

#include "cuda/emulator/cublaslt.h"

// A grouped product of cuBLASLt as work of a stream. Not for users of the emulator.

struct cublasLtMatmulDescOpaque_t {
  cublasComputeType_t compute;
  cudaDataType_t scale;
  std::int32_t op_a = CUBLAS_OP_N, op_b = CUBLAS_OP_N;
};
struct cublasLtMatrixLayoutOpaque_t {
  cudaDataType_t type;
  int groups;
  const void *rows, *cols, *ld;
  std::int32_t order = CUBLASLT_ORDER_COL;
  std::int32_t size_width = CUBLASLT_INTEGER_WIDTH_32, ld_width = CUBLASLT_INTEGER_WIDTH_32;
};

namespace cuda_emulator {

// Of the integers of an array.
inline std::size_t bytes_of(std::int32_t width) {
  return width == CUBLASLT_INTEGER_WIDTH_64 ? 8 : 4;
}

// A matrix of each group.
struct Operand {
  const char* name;
  const void* pointers;
  cublasLtMatrixLayoutOpaque_t layout;
};
struct GroupedProduct {
  cublasLtMatmulDescOpaque_t desc;
  Operand a, b, d;
  double alpha, beta;
  bool skips_empty;
};

// Reads the arrays of the device and multiplies; throws where they are not as is asked.
void multiply_groups(const GroupedProduct& g);

}  // namespace cuda_emulator
