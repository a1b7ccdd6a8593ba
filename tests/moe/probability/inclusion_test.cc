// Inclusion under sequential sampling against sums over all orders and sets.

#include "moe/probability/inclusion.h"

#include <cmath>

#include <doctest/doctest.h>

#include "tests/moe/probability/all_sets.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using namespace moegrad::test;

TEST_CASE("inclusion under sequential sampling is the sum of P(S) over the sets that hold i") {
  for (const double scale : {0.4, 1.5, 4.0}) {
    const std::vector<double> o = random_logits(6, 4, scale);
    const std::vector<double> g = softmax(o);
    for (std::size_t k = 1; k <= 6; ++k) {
      std::vector<double> pi(6, 0.0);
      for (const Set& set : sets_of(6, k)) {
        for (const std::int32_t i : set) {
          pi[static_cast<std::size_t>(i)] += over_all_orders(g, set);
        }
      }
      CAPTURE(scale);
      CAPTURE(k);
      const auto size = static_cast<std::int64_t>(k);
      const std::vector<double> a = log_inclusion_by_subsets(o, size);
      const std::vector<double> b = log_inclusion_by_integral(o, size);
      for (std::size_t i = 0; i < 6; ++i) {
        check_close(std::exp(a[i]), pi[i], 1e-12);
        check_close(std::exp(b[i]), pi[i], 1e-12);
        check_close(std::exp(log_inclusion(o, size)[i]), pi[i], 1e-12);
      }
    }
  }
}

TEST_CASE("inclusion by integral for many experts") {
  const std::vector<double> middle = random_logits(14, 5, 2.0);
  const std::vector<double> a = log_inclusion_by_subsets(middle, 6);
  const std::vector<double> b = log_inclusion_by_integral(middle, 6);
  for (std::size_t i = 0; i < a.size(); ++i) check_close(std::exp(a[i]), std::exp(b[i]), 1e-12);
  for (const auto& [experts, k, scale] :
       {std::tuple<std::int64_t, std::int64_t, double>{64, 8, 1.5},
        {128, 64, 0.5},
        {200, 3, 3.0}}) {
    double sum = 0.0;
    for (const double v : log_inclusion(random_logits(experts, 6, scale), k)) sum += std::exp(v);
    check_close(sum, static_cast<double>(k), 1e-12);
  }
  // Equal logits: k/E.
  check_close(std::exp(log_inclusion(std::vector<double>(150, 2.0), 40)[77]), 40.0 / 150.0, 1e-12);
}

// The k largest are ahead of all others by a gap: the others get in before the last of these only.
TEST_CASE("inclusion by integral with a gap below the k-th logit") {
  for (const double gap : {5.0, 19.0, 21.0, 50.0, 2000.0}) {
    CAPTURE(gap);
    const std::vector<double> o = {0.3, -gap, -0.4, -gap - 2.0, 0.0, -gap - 0.5, -3.0 * gap};
    const std::vector<double> a = log_inclusion_by_subsets(o, 3);
    const std::vector<double> b = log_inclusion_by_integral(o, 3);
    for (std::size_t i = 0; i < o.size(); ++i) {
      CHECK(std::abs(a[i] - b[i]) < 1e-12 * std::fmax(1.0, gap));
    }
  }
}

TEST_CASE("inclusion among two, in closed form") {
  for (const double gap : {0.0, 1e-9, 5.0, 50.0, 2000.0, 2e4}) {
    CAPTURE(gap);
    for (const std::vector<double>& o :
         {std::vector<double>{0.3, -gap, -0.4, -gap - 2.0, -gap - 0.5},
          {0.0, -gap, -gap},
          {-gap, -gap - 1.0, -3.0 * gap, 0.0},
          {gap, gap, gap, gap}}) {
      const std::vector<double> a = log_inclusion_by_subsets(o, 2);
      const std::vector<double> b = log_inclusion_of_two(o);
      double sum = 0.0;
      for (std::size_t i = 0; i < o.size(); ++i) {
        CHECK(std::abs(a[i] - b[i]) < 1e-12 * std::fmax(1.0, gap));
        sum += std::exp(b[i]);
      }
      check_close(sum, 2.0, 1e-11);
    }
  }
  CHECK(log_inclusion_of_two(std::vector<double>{3.0, -1e4}) == std::vector<double>{0.0, 0.0});
}

TEST_CASE("inclusion for logits of +-1e4, ties and E = 1") {
  const std::vector<double> o = {1e4, -1e4, -1e4, -1e4, 1e4 + 1.0};
  // The two large ones come first; then the three small ones are even.
  for (const std::vector<double>& pi :
       {log_inclusion_by_subsets(o, 3), log_inclusion_by_integral(o, 3)}) {
    CHECK(pi[0] == doctest::Approx(0.0).epsilon(1e-12));
    check_close(std::exp(pi[1]), 1.0 / 3.0, 1e-11);
  }
  check_close(log_inclusion_by_subsets(o, 1)[1], log_inclusion_by_integral(o, 1)[1], 1e-12);
  CHECK(log_inclusion(std::vector<double>{-7.0}, 1)[0] == 0.0);
}

TEST_CASE("inclusion: refusals") {
  const std::vector<double> o = {0.0, 1.0, 2.0};
  CHECK(error_of([&] { log_inclusion(o, 4); }).find("k is 4 with 3") != std::string::npos);
  CHECK(error_of([&] {
          log_inclusion_by_subsets(std::vector<double>(21, 0.0), 2);
        }).find("integral") != std::string::npos);
}
