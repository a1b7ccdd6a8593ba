#include "tensor/error.h"

#include <cstdint>

#include "tensor/utf8.h"

namespace moegrad {
namespace {

constexpr std::size_t kShownHead = 400;
constexpr std::size_t kShownTail = 150;

bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xc0U) == 0x80U; }

// Control characters, separators of lines and paragraphs, marks of the direction of writing, and
// the mark of byte order.
bool obeyed(std::uint32_t c) {
  return c < 0x20 || (c >= 0x7f && c < 0xa0) || c == 0x61c || (c >= 0x200e && c <= 0x200f) ||
         (c >= 0x2028 && c <= 0x202e) || (c >= 0x2066 && c <= 0x2069) || c == 0xfeff;
}

void append_shown(std::string& out, std::string_view text) {
  while (!text.empty()) {
    std::uint32_t character = 0;
    std::size_t length = first_character(text, character);
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
    const std::size_t length = first_character(text, character);
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
