#include "train/unicode.h"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "train/unicode_tables.h"

namespace moegrad {
namespace {

// The entry whose first .. last has the character, or null.
template <class Entries>
auto range_with(const Entries& entries, char32_t c) {
  const auto behind = std::upper_bound(std::begin(entries), std::end(entries), c,
                                       [](char32_t x, const auto& e) { return x < e.first; });
  const auto* found = behind == std::begin(entries) ? nullptr : std::prev(behind);
  return found != nullptr && c <= found->last ? found : nullptr;
}

// The letters of a Korean syllable, by the arithmetic of the Unicode standard, 3.12.
constexpr char32_t kFirstSyllable = 0xac00;
constexpr char32_t kSyllables = 11172;
void append_letters(char32_t syllable, std::u32string& out) {
  constexpr char32_t kVowels = 21;
  constexpr char32_t kFinals = 28;
  const char32_t index = syllable - kFirstSyllable;
  out += 0x1100 + index / (kVowels * kFinals);
  out += 0x1161 + index % (kVowels * kFinals) / kFinals;
  if (index % kFinals != 0) out += 0x11a7 + index % kFinals;
}

}  // namespace

void append_folded(char32_t c, std::u32string& out) {
  if (c < 0x80) {
    out += c >= U'A' && c <= U'Z' ? c + (U'a' - U'A') : c;
  } else if (c >= kFirstSyllable && c < kFirstSyllable + kSyllables) {
    append_letters(c, out);
  } else if (range_with(unicode::kMarks, c) == nullptr) {
    const unicode::Fold* fold = range_with(unicode::kFolds, c);
    const bool folds = fold != nullptr && (c - fold->first) % fold->step == 0;
    out += folds ? c - fold->first + fold->to : c;
  }
}

bool is_blank(char32_t c) {
  return c == 0x20 || (c >= 0x9 && c <= 0xd) || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool is_control(char32_t c) {
  return c != '\t' && c != '\n' && c != '\r' && range_with(unicode::kControls, c) != nullptr;
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) {
    return (c >= 0x21 && c <= 0x2f) || (c >= 0x3a && c <= 0x40) || (c >= 0x5b && c <= 0x60) ||
           (c >= 0x7b && c <= 0x7e);
  }
  return range_with(unicode::kPunctuation, c) != nullptr;
}

bool is_ideograph(char32_t c) {
  return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) ||
         (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2ceaf) ||
         (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
}

std::string to_utf8(std::u32string_view text) {
  std::string bytes;
  const auto put = [&](char32_t byte) { bytes += static_cast<char>(byte); };
  for (const char32_t c : text) {
    if (c < 0x80) {
      put(c);
      continue;
    }
    if (c < 0x800) {
      put(0xc0 | c >> 6U);
    } else if (c < 0x10000) {
      put(0xe0 | c >> 12U);
      put(0x80 | (c >> 6U & 0x3fU));
    } else {
      put(0xf0 | c >> 18U);
      put(0x80 | (c >> 12U & 0x3fU));
      put(0x80 | (c >> 6U & 0x3fU));
    }
    put(0x80 | (c & 0x3fU));
  }
  return bytes;
}

}  // namespace moegrad
