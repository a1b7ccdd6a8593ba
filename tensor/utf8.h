#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace moegrad {

// The length of the UTF-8 sequence that a text, not empty, begins with, and its character; 0 where it is not
// well formed: cut, overlong, a surrogate, beyond U+10FFFF.
inline std::size_t first_character(std::string_view text, std::uint32_t& character) {
  const auto first = static_cast<unsigned char>(text[0]);
  character = first;
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  character = first & (0x7fU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0U) != 0x80U) return 0;
    character = character << 6U | (static_cast<unsigned char>(text[i]) & 0x3fU);
  }
  constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = character >= 0xd800 && character <= 0xdfff;
  return character < kLeast[length] || surrogate || character > 0x10ffff ? 0 : length;
}

}  // namespace moegrad
