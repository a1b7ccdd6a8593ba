#pragma once

#include <cstdint>
#include <filesystem>

#include "tensor/tensor.h"

namespace moegrad {

// The elements of an array that may be anything.
inline constexpr std::int64_t kMostNumbers = std::int64_t{1} << 28;

// A .npy file of NumPy (format versions 1 to 3, numpy.lib.format): the magic bytes, the length of the
// header, the header, {'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }, the elements.
// Gives f64 [rows, columns]. Reads bool, i1 to i8, u1 to u8, f2, f4 and f8, little-endian, in the
// order of C or of Fortran. Errors: another type, an array of Python objects above all, another
// number of axes, a file longer or shorter than its sizes say, more than kMostNumbers elements;
// they come before memory for the elements is taken.
Tensor read_npy(const std::filesystem::path& path);

}  // namespace moegrad
