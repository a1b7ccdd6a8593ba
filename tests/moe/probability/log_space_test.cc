// Sums in logs.

#include "moe/probability/log_space.h"

#include <cmath>

#include <doctest/doctest.h>

#include "tests/moe/probability/all_sets.h"

using namespace moegrad;
using namespace moegrad::test;

TEST_CASE("log(1 - e^-x) keeps its digits at both ends") {
  check_close(log1mexp(std::log(1e-20)), std::log(1e-20), 1e-15);
  check_close(log1mexp(std::log(1e-5)), std::log(1e-5 - 0.5e-10 + 1e-15 / 6.0), 1e-14);
  check_close(log1mexp(std::log(40.0)), -std::exp(-40.0), 1e-14);
  CHECK(log1mexp(1e4) == 0.0);
}

TEST_CASE("sums of logs, where nothing is left too") {
  check_close(log_add(std::log(3.0), std::log(4.0)), std::log(7.0), 1e-15);
  CHECK(log_add(1e4, -1e4) == 1e4);
  CHECK(log_add(kLogZero, kLogZero) == kLogZero);
  check_close(log_sum_exp(std::vector<double>{-1e4, -1e4}), std::log(2.0) - 1e4, 1e-15);
  CHECK(log_sum_exp({}) == kLogZero);
}
