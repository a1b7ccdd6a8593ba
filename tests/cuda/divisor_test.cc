#include "cuda/divisor.h"

#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include "tensor/rng.h"

using namespace moegrad;

namespace {

constexpr std::int64_t kLargest = std::numeric_limits<std::int64_t>::max();

void check(std::int64_t n, std::int64_t d) {
  const cuda::Quotient q = cuda::Divisor(d).of(n);
  if (q.times == n / d && q.rest == n % d) return;
  CAPTURE(n);
  CAPTURE(d);
  CHECK(q.times == n / d);
  CHECK(q.rest == n % d);
}

// Powers of two and their neighbours, and small numbers.
std::vector<std::int64_t> edges() {
  std::vector<std::int64_t> all = {kLargest - 1, kLargest};
  for (int bits = 0; bits < 63; ++bits) {
    const std::int64_t power = std::int64_t{1} << bits;
    for (const std::int64_t n : {power - 1, power, power + 1}) all.push_back(n);
  }
  for (const std::int64_t n : {3, 5, 6, 7, 9, 10, 11, 12, 13, 14, 641, 768, 50257}) {
    all.push_back(n);
  }
  return all;
}

}  // namespace

TEST_CASE("divisor: quotient and rest are those of a division, at the edges") {
  for (const std::int64_t d : edges()) {
    if (d == 0) continue;
    for (const std::int64_t n : edges()) check(n, d);
    // The last that still has a quotient, and the first of the next.
    for (const std::int64_t times : edges()) {
      if (times == 0 || times > kLargest / d) continue;
      check(times * d - 1, d);
      check(times * d, d);
    }
    check(kLargest / d * d, d);
    check(kLargest / d * d - 1, d);
  }
}

TEST_CASE("divisor: of any numbers") {
  const Rng rng{5, 1};
  for (std::uint64_t i = 0; i < 200000; ++i) {
    const std::uint64_t bits = rng.bits(3 * i);
    const auto n = static_cast<std::int64_t>(rng.bits(3 * i + 1) >> (1 + bits % 63));
    const auto d = static_cast<std::int64_t>(rng.bits(3 * i + 2) >> (1 + bits / 64 % 63));
    if (d > 0) check(n, d);
  }
}

TEST_CASE("divisor: 0, of shapes without elements, is 1") {
  CHECK(cuda::Divisor(0).by() == 1);
  CHECK(cuda::Divisor(0).of(7).times == 7);
}
