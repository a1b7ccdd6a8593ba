#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>

#include "tensor/tensor.h"

namespace moegrad {

// Named tensors and free text, as a .safetensors file holds them. Tensors are on the cpu.
struct TensorFile {
  std::map<std::string, Tensor, std::less<>> tensors;
  std::map<std::string, std::string, std::less<>> metadata;
  std::filesystem::path path;  // where it was read from; empty otherwise

  // Null where there is none of this name.
  const Tensor* find(std::string_view name) const;
  // An error where there is none: it names the file and the nearest name that exists.
  const Tensor& at(std::string_view name) const;
};

// The safetensors format (https://github.com/huggingface/safetensors): the length of the header as
// a little-endian u64; the header, JSON `{"name": {"dtype", "shape", "data_offsets"},
// "__metadata__": {"key": "text"}}`; the elements. Reads F32, F64, I32, I64 as i32 where every
// value fits, U8 as i32, and BF16 and F16 as f32, which holds each of their numbers. The file is not trusted:
// nothing is allocated or read before its sizes have been checked against the file, and each kind
// of damage has its own error, with the tensor or the byte where it was found.
TensorFile read_safetensors(const std::filesystem::path& path);

// Writes f32 (F32), f64 (F64) and i32 (I32), atomically. The same tensors and metadata give the
// same bytes: f64 first, so that every tensor is aligned to its elements, then by name; the header
// padded with spaces to a multiple of 8 bytes.
void write_safetensors(const std::filesystem::path& path, const TensorFile& file);

}  // namespace moegrad
