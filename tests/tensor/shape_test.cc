#include "tensor/shape.h"

#include <doctest/doctest.h>

using moegrad::Error;
using moegrad::Shape;

TEST_CASE("a shape counts its elements") {
  CHECK(Shape{}.numel() == 1);
  CHECK(Shape{}.rank() == 0);
  CHECK(Shape{}.back() == 1);
  CHECK(Shape{3}.numel() == 3);
  CHECK(Shape{2, 3, 4}.numel() == 24);
  CHECK(Shape{2, 0, 4}.numel() == 0);
  CHECK(Shape{2, 3, 4}.back() == 4);
  CHECK(Shape{2, 3, 4}.product(1, 3) == 12);
  CHECK(Shape{2, 3, 4}.product(1, 1) == 1);
}

TEST_CASE("shapes compare by rank and sizes") {
  CHECK(Shape{2, 3} == Shape{2, 3});
  CHECK(Shape{2, 3} != Shape{3, 2});
  CHECK(Shape{2} != Shape{2, 1});
  CHECK(Shape{} != Shape{1});
}

TEST_CASE("a shape is written as a list") {
  CHECK(Shape{}.str() == "[]");
  CHECK(Shape{7}.str() == "[7]");
  CHECK(fmt::format("{}", Shape{2, 3}) == "[2, 3]");
}

TEST_CASE("a shape refuses negative sizes and too many axes") {
  CHECK_THROWS_WITH_AS(Shape({2, -1}), "[shape] a size is -1. Sizes are 0 or more.", Error);
  CHECK_NOTHROW(Shape({1, 2, 3, 4, 5}));
  CHECK_THROWS_WITH_AS(Shape({1, 2, 3, 4, 5, 6}),
                       "[shape] more than 5 axes. Merge some by reshape.", Error);
}

TEST_CASE("a shape is walked axis by axis") {
  Shape shape{2, 3};
  shape[0] = 5;
  std::int64_t sum = 0;
  for (const std::int64_t size : shape) sum += size;
  CHECK(sum == 8);
}

TEST_CASE("a shape refuses more elements than can be counted") {
  constexpr std::int64_t big = std::int64_t{1} << 60;
  const char* const message =
      "[shape] [1152921504606846977, 16] has more than 2^58 elements. Use smaller sizes.";
  CHECK_THROWS_WITH_AS(Shape({big + 1, 16}).numel(), message, Error);  // 16 modulo 2^64
  CHECK(Shape({std::int64_t{1} << 58}).numel() == std::int64_t{1} << 58);
  CHECK_THROWS_AS(Shape({(std::int64_t{1} << 58) + 1}).numel(), Error);
  CHECK_THROWS_AS(Shape({std::int64_t{1} << 32, std::int64_t{1} << 32}).numel(), Error);
  // With a 0, too: the product of the other sizes is a stride.
  CHECK_THROWS_AS(Shape({0, big, 16}).numel(), Error);
  CHECK_THROWS_AS(Shape({big, 16, 0}).numel(), Error);
  CHECK(Shape({0, 1000, 0}).numel() == 0);
  Shape changed{1, 16};
  changed[0] = big + 1;
  CHECK_THROWS_AS(changed.numel(), Error);
}
