#include "lab/statistics.h"

#include <cmath>
#include <vector>

#include <doctest/doctest.h>

#include "lab/compare.h"
#include "tensor/rng.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using Numbers = std::vector<double>;

TEST_CASE("a paired difference, by hand and by R's t.test") {
  // d = 1, 2, 3, 4: mean 2.5, s = 1.290994, error 0.645497, t = 3.872983 with 3 degrees.
  const PairedDifference d = paired_difference(Numbers{2, 4, 6, 8}, Numbers{1, 2, 3, 4}, 0.5);
  CHECK(d.pairs == 4);
  CHECK(d.mean == 2.5);
  CHECK(d.deviation == doctest::Approx(1.2909944487));
  CHECK(d.error == doctest::Approx(0.6454972244));
  CHECK(d.low == doctest::Approx(0.4457397432));
  CHECK(d.high == doctest::Approx(4.5542602568));
  CHECK(d.p_different == doctest::Approx(0.0304658921));
  CHECK(d.p_equivalent > 0.95);  // 2.5 is far above a margin of 0.5
  // The other way round: the same p-values.
  const PairedDifference e = paired_difference(Numbers{1, 2, 3, 4}, Numbers{2, 4, 6, 8}, 0.5);
  CHECK(e.mean == -2.5);
  CHECK(e.p_different == doctest::Approx(d.p_different));
  CHECK(e.p_equivalent == doctest::Approx(d.p_equivalent));
}

TEST_CASE("one pair, none, equal numbers, what is not finite") {
  const PairedDifference one = paired_difference(Numbers{2}, Numbers{1}, 0.1);
  CHECK(one.mean == 1.0);
  CHECK(std::isnan(one.error));
  CHECK(one.p_different == 1.0);
  CHECK(one.p_equivalent == 1.0);
  CHECK(std::isnan(paired_difference({}, {}, 0.1).mean));
  const PairedDifference same = paired_difference(Numbers{1, 2}, Numbers{1, 2}, 0.1);
  CHECK(same.p_different == 1.0);
  CHECK(same.p_equivalent == 0.0);
  CHECK(paired_difference(Numbers{2, 3}, Numbers{1, 2}, 0.1).p_different == 0.0);
  CHECK(paired_difference(Numbers{NAN, 3}, Numbers{1, 2}, 0.1).p_different == 1.0);
  CHECK(test::error_of([] {
          paired_difference(Numbers{1}, Numbers{1, 2}, 0.1);
        }) == "[statistics] 1 and 2 numbers. Pairs have one of each.");
  const PairedDifference ended =
      difference_of_ended(Numbers{2, NAN, 4, 6, 8}, Numbers{1, 7, 2, 3, NAN}, 0.5);
  CHECK(ended.pairs == 3);
  CHECK(ended.mean == doctest::Approx(2.0));
  CHECK(test::error_of([] {
          difference_of_ended(Numbers{1}, Numbers{1, 2}, 0.1);
        }) == "[statistics] 1 and 2 numbers. Pairs have one of each.");
}

TEST_CASE("Holm: by hand") {
  const std::vector<double> p = holm(Numbers{0.01, 0.04, 0.03, 0.005});
  CHECK(p[3] == doctest::Approx(0.02));
  CHECK(p[0] == doctest::Approx(0.03));
  CHECK(p[2] == doctest::Approx(0.06));
  CHECK(p[1] == doctest::Approx(0.06));  // 0.04 alone, and not below the one before it
  CHECK(holm(Numbers{0.9, 0.8})[1] == 1.0);
  CHECK(holm({}).empty());
  // Of four hypotheses two at most are true: times 2, 2, 2, 1.
  const std::vector<double> two = holm(Numbers{0.01, 0.04, 0.03, 0.005}, 2);
  CHECK(two[3] == doctest::Approx(0.01));
  CHECK(two[0] == doctest::Approx(0.02));
  CHECK(two[2] == doctest::Approx(0.06));
  CHECK(two[1] == doctest::Approx(0.06));
}

TEST_CASE("McNemar's test: by hand") {
  using Guesses = std::vector<std::int32_t>;
  // Of ten examples a alone has five right, b alone one: both tails of six coins with one head at
  // most, 2 (1 + 6) / 64.
  const Guesses labels = {0, 1, 2, 0, 1, 2, 0, 1, 2, 0};
  const Guesses a = {0, 1, 2, 0, 1, 0, 0, 2, 2, 0};
  const Guesses b = {1, 0, 0, 1, 0, 2, 0, 2, 2, 0};
  const PairedGuesses g = paired_guesses(a, b, labels);
  CHECK(g.only_a == 5);
  CHECK(g.only_b == 1);
  CHECK(g.p == doctest::Approx(14.0 / 64.0));
  const PairedGuesses turned = paired_guesses(b, a, labels);
  CHECK(turned.only_a == 1);
  CHECK(turned.p == g.p);
  // As often one as the other; never; always.
  CHECK(paired_guesses(Guesses{0, 1}, Guesses{1, 0}, Guesses{0, 0}).p == 1.0);
  CHECK(paired_guesses(a, a, labels).p == 1.0);
  CHECK(paired_guesses({}, {}, {}).p == 1.0);
  CHECK(paired_guesses(Guesses(20, 0), Guesses(20, 1), Guesses(20, 0)).p ==
        doctest::Approx(std::ldexp(1.0, -19)));
  CHECK(test::error_of([&] { paired_guesses(a, b, Guesses{0}); }) ==
        "[statistics] 10 and 10 guesses for 1 labels. Give one of each for every example.");
}

TEST_CASE("verdicts") {
  const PairedDifference d{.pairs = 4, .mean = -1.0};
  CHECK(compared(d, 0.01, 0.5) == Finding::lower);
  CHECK(compared({.pairs = 4, .mean = 1.0}, 0.01, 0.5) == Finding::higher);
  CHECK(compared(d, 0.01, 0.01) == Finding::equivalent);
  CHECK(compared(d, 0.06, 0.06) == Finding::undecided);
  CHECK(seeds_needed(0.051, 0.051) == doctest::Approx(9.85));
}

// Of 2000 tables of 4 comparisons without any difference about 5 % say that there is one.
TEST_CASE("errors of a whole table are as rare as promised") {
  int tables_wrong = 0;
  Rng rng{.seed = 5};
  constexpr int kTables = 2000;
  for (int table = 0; table < kTables; ++table) {
    Numbers p;
    for (int row = 0; row < 4; ++row) {
      const Numbers a = rng.normal({6}, DType::f64).to_vector();
      p.push_back(paired_difference(a, Numbers(6, 0.0), 0.1).p_different);
    }
    for (const double corrected : holm(p)) {
      if (corrected < 0.05) {
        ++tables_wrong;
        break;
      }
    }
  }
  CHECK(tables_wrong > 0.03 * kTables);
  CHECK(tables_wrong < 0.07 * kTables);
}

TEST_CASE("judged: of both tests of n differences, times n at most") {
  PairedDifference d;
  d.p_different = 0.02;
  d.p_equivalent = 1.0;
  const std::vector<Judged> all = judged({d, d});
  CHECK(all[0].p_different == doctest::Approx(0.04));
  CHECK(all[1].p_different == doctest::Approx(0.04));
  CHECK(all[0].p_equivalent == 1.0);
}

// One mean is 0 and the other at the margin: the first may be called different, the second equivalent,
// and about 5 % of the tables may say either. Corrected apart, each test has 5 % of its own.
TEST_CASE("both tests of a table together err as rarely as promised") {
  int together = 0;
  int apart = 0;
  Rng rng{.seed = 6};
  constexpr int kTables = 2000;
  constexpr double kWide = 6.0;
  for (int table = 0; table < kTables; ++table) {
    const Numbers none = rng.normal({6}, DType::f64).to_vector();
    Numbers wide = rng.normal({6}, DType::f64).to_vector();
    for (double& d : wide) d += kWide;
    const Numbers zeros(6, 0.0);
    const std::vector<PairedDifference> differences = {paired_difference(none, zeros, kWide),
                                                       paired_difference(wide, zeros, kWide)};
    const std::vector<Judged> all = judged(differences);
    together += all[0].p_different < 0.05 || all[1].p_equivalent < 0.05;
    const Numbers different = {differences[0].p_different, differences[1].p_different};
    const Numbers equivalent = {differences[0].p_equivalent, differences[1].p_equivalent};
    apart += holm(different)[0] < 0.05 || holm(equivalent)[1] < 0.05;
  }
  CHECK(together > 0.03 * kTables);
  CHECK(together < 0.06 * kTables);
  CHECK(apart > 0.08 * kTables);
}
