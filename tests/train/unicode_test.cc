#include "train/unicode.h"

#include <doctest/doctest.h>

namespace moegrad {
namespace {

std::u32string folded(std::u32string_view text) {
  std::u32string out;
  for (const char32_t c : text) append_folded(c, out);
  return out;
}

}  // namespace

TEST_CASE("folded: decomposed, without marks, in lower case") {
  CHECK(folded(U"ABCxyz019[]") == U"abcxyz019[]");
  CHECK(folded(U"ÀÉÎÕÜŸ àéîõüÿ") == U"aeiouy aeiouy");
  CHECK(folded(U"ÆØŁß") == U"æøłß");  // letters of their own
  CHECK(folded(U"ΆΩ") == U"αω");
  CHECK(folded(U"ЁЙ") == U"еи");
  CHECK(folded(U"e\u0301\u0327") == U"e");
  CHECK(folded(U"がパ") == U"かハ");
  CHECK(folded(U"각가") == U"\u1100\u1161\u11a8\u1100\u1161");
  CHECK(folded(U"힣") == U"\u1112\u1175\u11c2");
  CHECK(folded(U"\u0130") == U"i");  // I with a dot
  CHECK(folded(U"東\U0001f600") == U"東\U0001f600");
}

TEST_CASE("kinds of characters, at the ends of their ranges") {
  for (const char32_t c : {U' ', U'\t', U'\n', U'\r', U'\u00a0', U'\u2003', U'\u3000'}) {
    CHECK(is_blank(c));
  }
  for (const char32_t c : {U'a', U'\u200b', U'\0', U'.'}) CHECK(!is_blank(c));
  for (const char32_t c : {U'\0', U'\x1f', U'\x7f', U'\u00ad', U'\u200b', U'\ufeff', U'\ue000'}) {
    CHECK(is_control(c));
  }
  for (const char32_t c : {U' ', U'\t', U'a', U'\u0301'}) CHECK(!is_control(c));
  for (const char32_t c :
       {U'!', U'/', U':', U'@', U'[', U'`', U'{', U'~', U'$', U'«', U'…', U'。'}) {
    CHECK(is_punctuation(c));
  }
  for (const char32_t c : {U'0', U'9', U'A', U'Z', U'a', U'z', U'£', U'\u0301'}) {
    CHECK(!is_punctuation(c));
  }
  for (const char32_t c : {U'\u4e00', U'\u9fff', U'\u3400', U'\U00020000', U'\uf900'}) {
    CHECK(is_ideograph(c));
  }
  for (const char32_t c : {U'か', U'가', U'a', U'\u4dc0'}) CHECK(!is_ideograph(c));
}

TEST_CASE("to_utf8: characters of one to four bytes") {
  CHECK(to_utf8(U"aé東\U0001f600") == "aé東\U0001f600");
  CHECK(to_utf8(U"") == "");
}

}  // namespace moegrad
