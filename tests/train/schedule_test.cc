#include "train/schedule.h"

#include <doctest/doctest.h>

namespace moegrad {
namespace {

TEST_CASE("schedule: constant, with and without warm-up") {
  const Schedule plain{.kind = Schedule::Kind::constant, .rate = 0.5, .total = 10};
  for (const int step : {0, 1, 9, 100}) CHECK(plain.at(step) == 0.5);
  const Schedule warm{.kind = Schedule::Kind::constant, .rate = 0.5, .warmup = 4, .total = 10};
  CHECK(warm.at(0) == doctest::Approx(0.125));
  CHECK(warm.at(1) == doctest::Approx(0.25));
  CHECK(warm.at(3) == doctest::Approx(0.5));
  CHECK(warm.at(4) == 0.5);
  CHECK(warm.at(9) == 0.5);
}

TEST_CASE("schedule: half a cosine behind the warm-up, down to the floor") {
  const Schedule s{.kind = Schedule::Kind::cosine, .rate = 2.0, .warmup = 2, .total = 10};
  CHECK(s.at(0) == doctest::Approx(1.0));
  CHECK(s.at(2) == doctest::Approx(2.0));
  CHECK(s.at(4) == doctest::Approx(1.0 + 0.70710678118654752));
  CHECK(s.at(6) == doctest::Approx(1.0));
  CHECK(s.at(10) == doctest::Approx(0.0));
  CHECK(s.at(1000) == doctest::Approx(0.0));
  for (int step = 3; step <= 10; ++step) CHECK(s.at(step) < s.at(step - 1));
  const Schedule floored{
      .kind = Schedule::Kind::cosine, .rate = 2.0, .warmup = 0, .total = 4, .floor = 0.1};
  CHECK(floored.at(2) == doctest::Approx(1.1));
  CHECK(floored.at(4) == doctest::Approx(0.2));
}

TEST_CASE("schedule: a single step") {
  const Schedule s{.kind = Schedule::Kind::cosine, .rate = 1.0, .warmup = 0, .total = 1};
  CHECK(s.at(0) == 1.0);
}

}  // namespace
}  // namespace moegrad
