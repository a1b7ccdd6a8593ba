#include "tensor/parse.h"

#include <cstdint>

#include <doctest/doctest.h>

using moegrad::parse_number;

TEST_CASE("whole numbers: the whole text, decimal, within the type and the bounds") {
  using Int = std::int64_t;
  CHECK(parse_number<Int>("0") == 0);
  CHECK(parse_number<Int>("-12") == -12);
  CHECK(parse_number<Int>("007") == 7);
  CHECK(parse_number<Int>("9223372036854775807") == INT64_MAX);
  CHECK(parse_number<Int>("-9223372036854775808") == INT64_MIN);
  CHECK(parse_number<std::uint64_t>("18446744073709551615") == UINT64_MAX);
  for (const char* text :
       {"", "-", "+1", " 1", "1 ", "1.0", "1e3", "0x10", "abc", "1a", "1\n", "9223372036854775808",
        "-9223372036854775809", "123456789012345678901234567890"}) {
    CAPTURE(text);
    CHECK_FALSE(parse_number<Int>(text));
  }
  CHECK_FALSE(parse_number<Int>(std::string_view("1\0", 2)));
  CHECK_FALSE(parse_number<std::uint64_t>("-1"));
  CHECK_FALSE(parse_number<std::uint64_t>("18446744073709551616"));
  CHECK(parse_number<Int>("5", 5, 5) == 5);
  CHECK_FALSE(parse_number<Int>("4", 5, 6));
  CHECK_FALSE(parse_number<Int>("7", 5, 6));
}

TEST_CASE("numbers: NaN is none") {
  CHECK(parse_number<double>("1e-3") == 1e-3);
  CHECK(parse_number<double>("-inf") == -INFINITY);
  CHECK_FALSE(parse_number<double>("nan"));
  CHECK_FALSE(parse_number<double>("1e999"));
  CHECK_FALSE(parse_number<double>("1.5x"));
  CHECK_FALSE(parse_number<double>("inf", 0.0, 1e6));
}

TEST_CASE("the first number of a text") {
  CHECK(moegrad::first_number("VmRSS:\t  1234 kB, 5") == 1234);
  CHECK(moegrad::first_number("7") == 7);
  CHECK(moegrad::first_number("none") == 0);
  CHECK(moegrad::first_number("") == 0);
  CHECK(moegrad::first_number("99999999999999999999999") == 0);
}
