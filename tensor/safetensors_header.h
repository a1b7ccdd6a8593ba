#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tensor/tensor.h"

// The header of a .safetensors file (tensor/safetensors.h).
namespace moegrad::safetensors {

inline constexpr std::uint64_t kMaxHeader = 100'000'000;
inline constexpr std::string_view kMetadata = "__metadata__";

struct Stored {
  std::string_view name;
  DType dtype;
  std::uint64_t size;  // of an element in the file
};
// What a tensor is written as comes first.
inline constexpr std::array<Stored, 7> kStored = {{{"F32", DType::f32, 4},
                                                   {"F64", DType::f64, 8},
                                                   {"I32", DType::i32, 4},
                                                   {"I64", DType::i32, 8},
                                                   {"BF16", DType::f32, 2},
                                                   {"F16", DType::f32, 2},
                                                   {"U8", DType::i32, 1}}};

struct Entry {
  std::string name;
  const Stored* stored = nullptr;
  std::optional<Shape> shape;
  std::vector<std::uint64_t> offsets;  // [begin, end) in the data
  std::uint64_t bytes() const { return offsets[1] - offsets[0]; }
};

struct Header {
  std::map<std::string, Entry, std::less<>> entries;
  std::map<std::string, std::string, std::less<>> metadata;
};

// Reads the JSON of the header of `file`, whose elements have so many bytes. Every byte of them belongs
// to one tensor; an Error, with the tensor or the byte, for whatever is not of the format.
Header read_header(const std::string& file, const std::string& text, std::uint64_t data_bytes);

}  // namespace moegrad::safetensors
