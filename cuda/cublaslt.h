#pragma once

#include <cstdint>
#include <string>

// Products of groups by cuBLASLt, of sizes that the device alone knows. Its interface is experimental
// and newer than the toolkit that this is compiled with: its functions are looked up in the library
// that is loaded.
namespace moegrad::cuda {

// to_e [rows_e, cols_e] = left_e right_e + beta to_e for each group e, all by columns: left of bf16
// [rows_e, depth_e], or where transposes_left stored as [depth_e, rows_e]; right likewise; to of f32.
// The device's: where they begin, their sizes, and elements from one column to the next. Columns have
// a multiple of 16 bytes, unless there are none.
struct GroupedGemm {
  std::int32_t groups;
  bool transposes_left, transposes_right;
  float beta;
  const void* const* left;
  const void* const* right;
  void* const* to;
  const std::int32_t *rows, *cols, *depth, *left_pitch, *right_pitch, *to_pitch;
  std::int64_t average_rows, average_cols, average_depth;  // as far as the host knows
};

// Why there is none here: the library's version, or the device; empty: there is.
std::string cublaslt_trouble();
// What the library answers where it does not multiply; null: it does.
const char* multiply_by_cublaslt(const char* operation, const GroupedGemm& g);

}  // namespace moegrad::cuda
