#include "tensor/error.h"

#include <algorithm>
#include <string>

#include <doctest/doctest.h>

#include "tests/temporary_files.h"

using moegrad::fail;
using moegrad::kLongestShown;
using moegrad::shown;
using moegrad::shown_format;
using moegrad::test::error_of;
using std::string_literals::operator""s;

TEST_CASE("a text is shown as it is where nothing in it is obeyed by a terminal") {
  for (const char* text : {"", "a name", "C:\\path 'quoted' \"{}\" %s `x` $y", "\xc3\xa9t\xc3\xa9",
                           "\xe6\x9c\xac", "\xf0\x9f\x99\x82"}) {
    CHECK(shown(text) == text);
  }
}

TEST_CASE("control characters and marks become escapes") {
  CHECK(shown("a\x1b[2Jb") == "a\\x1b[2Jb");
  CHECK(shown("one\ntwo\r\t\b\a") == "one\\x0atwo\\x0d\\x09\\x08\\x07");
  CHECK(shown("\0x\x7f"s) == "\\x00x\\x7f");
  CHECK(shown("\xc2\x9b"
              "2J") == "\\u009b2J");  // the control sequence introducer of C1
  CHECK(shown("\xc2\xa0") == "\xc2\xa0");
  CHECK(shown("\xe2\x80\xa8\xe2\x80\xa9") == "\\u2028\\u2029");
  CHECK(shown("\xe2\x80\xae"
              "txt\xe2\x81\xa6") == "\\u202etxt\\u2066");
  CHECK(shown("\xef\xbb\xbf") == "\\ufeff");
}

TEST_CASE("what is not UTF-8 becomes escapes, byte by byte") {
  CHECK(shown("\xff\xfe") == "\\xff\\xfe");
  CHECK(shown("\x9b") == "\\x9b");    // a bare continuation byte
  CHECK(shown("a\xc3") == "a\\xc3");  // cut short
  CHECK(shown("\xe2\x80") == "\\xe2\\x80");
  CHECK(shown("\xc0\x9b") == "\\xc0\\x9b");  // overlong
  CHECK(shown("\xe0\x80\x9b") == "\\xe0\\x80\\x9b");
  CHECK(shown("\xf0\x80\x80\x9b") == "\\xf0\\x80\\x80\\x9b");
  CHECK(shown("\xed\xa0\x80") == "\\xed\\xa0\\x80");           // a surrogate
  CHECK(shown("\xf4\x90\x80\x80") == "\\xf4\\x90\\x80\\x80");  // beyond U+10FFFF
  CHECK(shown("\xc3\x1b") == "\\xc3\\x1b");
}

TEST_CASE("a long text loses its middle, between characters, and says how long it was") {
  const std::string fits(kLongestShown, 'x');
  CHECK(shown(fits) == fits);
  const std::string text = "begin" + std::string(1'000'000, 'x') + "end";
  const std::string cut = shown(text);
  CHECK(cut.size() < kLongestShown);
  CHECK(cut.starts_with("beginxx"));
  CHECK(cut.ends_with("xxend"));
  CHECK(cut.find(" ...(1000008 bytes)... ") != std::string::npos);
  for (std::size_t shift = 0; shift < 4; ++shift) {
    std::string euros(shift, 'x');
    for (int i = 0; i < 1000; ++i) euros += "\xe2\x82\xac";
    CHECK(shown(euros).find('\\') == std::string::npos);
  }
  // Escapes are longer than what they stand for, and only so much.
  CHECK(shown(std::string(1'000'000, '\x1b')).size() < 4 * kLongestShown);
  CHECK(shown(std::string(1'000'000, '\x9b')).size() < 4 * kLongestShown);
  // What is shown already is not changed again.
  CHECK(shown(shown("a\x1b\n\xff")) == shown("a\x1b\n\xff"));
}

TEST_CASE("every text in a message is shown, its own line ends stay") {
  const std::string name = "a\nb";
  const std::string_view view = name;
  const char* const pointer = name.c_str();
  CHECK(shown_format("{}\n{}{:>6}|{}", name, view, pointer, "\x1b") ==
        "a\\x0ab\na\\x0ab" + std::string("a\\x0ab") + "|\\x1b");
  CHECK(shown_format("{:.2f} {} {}", 1.005, 7, true) == "1.00 7 true");
  CHECK(error_of([&] { fail("test", "'{}' of {} is '{}'. Stop.", name, 3, std::string("\r")); }) ==
        "[test] 'a\\x0ab' of 3 is '\\x0d'. Stop.");
}
