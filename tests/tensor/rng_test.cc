#include "tensor/rng.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

#include <doctest/doctest.h>

using namespace moegrad;

namespace {
using Words = std::array<std::uint32_t, 4>;
}

// The known answers of the authors' library, Random123.
TEST_CASE("philox gives the published words") {
  CHECK(philox(0, 0, 0) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox(~std::uint64_t{0}, ~std::uint64_t{0}, ~std::uint64_t{0}) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("a number depends on seed, stream and position alone") {
  const Rng rng{7, 3};
  CHECK(rng.bits(5) == Rng{7, 3, 5}.bits(0));
  CHECK(rng.bits(5) == Rng{7, 3, 2}.bits(3));
  std::set<std::uint64_t> seen;
  for (std::uint64_t i = 0; i < 1000; ++i) seen.insert(rng.bits(i));
  for (std::uint64_t i = 0; i < 1000; ++i) seen.insert(rng.split(4).bits(i));
  for (std::uint64_t i = 0; i < 1000; ++i) seen.insert(Rng{8, 3}.bits(i));
  CHECK(seen.size() == 3000);
}

TEST_CASE("both halves of a philox block are used") {
  const Words words = philox(7, 0, 3);
  CHECK(Rng{7, 3}.bits(0) == ((std::uint64_t{words[1]} << 32) | words[0]));
  CHECK(Rng{7, 3}.bits(1) == ((std::uint64_t{words[3]} << 32) | words[2]));
}

TEST_CASE("take moves, split does not") {
  Rng rng{1, 2};
  const Rng at = rng.take(10);
  CHECK(at == Rng{1, 2, 0});
  CHECK(rng == Rng{1, 2, 10});
  CHECK(rng.split(9) == Rng{1, 9, 0});
  CHECK(rng.position == 10);
}

TEST_CASE("uniform numbers lie strictly between 0 and 1 and fill the interval") {
  const Rng rng{11, 0};
  double sum = 0.0;
  double squares = 0.0;
  constexpr int kCount = 20000;
  for (std::uint64_t i = 0; i < kCount; ++i) {
    const double u = rng.uniform(i);
    CHECK_UNARY(u > 0.0 && u < 1.0);
    sum += u;
    squares += u * u;
  }
  // Four standard errors of the mean of u and of u^2.
  CHECK(std::abs(sum / kCount - 0.5) < 4 * std::sqrt(1.0 / 12 / kCount));
  CHECK(std::abs(squares / kCount - 1.0 / 3) < 4 * std::sqrt(4.0 / 45 / kCount));
}

TEST_CASE("tensors of random numbers follow one another") {
  Rng whole{3, 1};
  Rng parts{3, 1};
  const Tensor all = whole.uniform({10}, DType::f64);
  const Tensor first = parts.uniform({4}, DType::f64);
  const Tensor second = parts.uniform({2, 3}, DType::f64);
  CHECK(all.rows(0, 4).same_bits(first));
  CHECK(all.rows(4, 10).reshape({2, 3}).same_bits(second));
  CHECK(whole == parts);

  Rng normal_whole{3, 1};
  Rng normal_parts{3, 1};
  const Tensor normals = normal_whole.normal({5}, DType::f32);
  CHECK(normals.rows(0, 3).same_bits(normal_parts.normal({3}, DType::f32)));
  CHECK(normals.rows(3, 5).same_bits(normal_parts.normal({2}, DType::f32)));
  CHECK(normal_whole.position == 10);
  CHECK(Rng(whole).gumbel({0}, DType::f32, Device::cpu).numel() == 0);
}

TEST_CASE("a permutation holds every place once") {
  Rng rng{5, 0};
  for (const std::int64_t n : {0, 1, 2, 100}) {
    const Tensor p = rng.permutation(n);
    std::vector<double> values = p.to_vector();
    if (n == 100) CHECK_FALSE(std::is_sorted(values.begin(), values.end()));
    std::sort(values.begin(), values.end());
    for (std::int64_t i = 0; i < n; ++i) CHECK(values[static_cast<std::size_t>(i)] == i);
  }
  CHECK_FALSE(rng.permutation(100).same_bits(rng.permutation(100)));
}

TEST_CASE("all permutations of three are equally likely") {
  Rng rng{6, 0};
  std::array<int, 27> count{};
  constexpr int kDraws = 6000;
  for (int draw = 0; draw < kDraws; ++draw) {
    const Tensor p = rng.permutation(3);
    ++count[static_cast<std::size_t>(p.at(0) * 9 + p.at(1) * 3 + p.at(2))];
  }
  for (const int n : count) {
    if (n != 0) CHECK(std::abs(n - 1000) < 5 * std::sqrt(1000.0));
  }
  CHECK(std::count(count.begin(), count.end(), 0) == 21);
}

TEST_CASE("a permutation has as many numbers as i32 can hold") {
  Rng rng{1, 0, 0};
  CHECK_THROWS_AS(rng.permutation(-1), Error);
  CHECK_THROWS_AS(rng.permutation(std::int64_t{1} << 31), Error);
  CHECK_THROWS_AS(rng.permutation(INT64_MAX), Error);
}
