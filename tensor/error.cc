#include "tensor/error.h"

#include <cstdint>

namespace moegrad {
namespace {

constexpr std::size_t kShownHead = 400;
constexpr std::size_t kShownTail = 150;

bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xc0U) == 0x80U; }

// The length of the UTF-8 sequence that the text begins with, and its character; 0 where it is not
// well formed: cut, overlong, a surrogate, beyond U+10FFFF.
std::size_t decode(std::string_view text, std::uint32_t& character) {
  const auto first = static_cast<unsigned char>(text[0]);
  character = first;
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  character = first & (0x7fU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if (!continues(text[i])) return 0;
    character = character << 6U | (static_cast<unsigned char>(text[i]) & 0x3fU);
  }
  constexpr std::uint32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool surrogate = character >= 0xd800 && character <= 0xdfff;
  return character < kLeast[length] || surrogate || character > 0x10ffff ? 0 : length;
}

// Control characters, separators of lines and paragraphs, marks of the direction of writing, and
// the mark of byte order.
bool obeyed(std::uint32_t c) {
  return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x61c || (c >= 0x200e && c <= 0x200f) ||
         (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

void append_shown(std::string& out, std::string_view text) {
  while (!text.empty()) {
    std::uint32_t character = 0;
    std::size_t length = decode(text, character);
    if (length == 0) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(text[0]));
      length = 1;
    } else if (!obeyed(character)) {
      out += text.substr(0, length);
    } else if (character < 0x80) {
      out += fmt::format("\\x{:02x}", character);
    } else {
      out += fmt::format("\\u{:04x}", character);
    }
    text.remove_prefix(length);
  }
}

}  // namespace

bool is_utf8(std::string_view text) {
  while (!text.empty()) {
    std::uint32_t character = 0;
    const std::size_t length = decode(text, character);
    if (length == 0) return false;
    text.remove_prefix(length);
  }
  return true;
}

std::string shown(std::string_view text) {
  std::string out;
  if (text.size() <= kLongestShown) {
    append_shown(out, text);
    return out;
  }
  // Not in the middle of a character.
  std::size_t head = kShownHead;
  std::size_t tail = text.size() - kShownTail;
  for (int i = 0; i < 3 && continues(text[head]); ++i) --head;
  for (int i = 0; i < 3 && continues(text[tail]); ++i) ++tail;
  append_shown(out, text.substr(0, head));
  out += fmt::format(" ...({} bytes)... ", text.size());
  append_shown(out, text.substr(tail));
  return out;
}

}  // namespace moegrad
