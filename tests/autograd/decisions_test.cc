#include "autograd/decisions.h"

#include <cmath>
#include <limits>
#include <map>

#include <doctest/doctest.h>

#include "autograd/tape.h"

using namespace moegrad;

namespace {

Tensor number(double value) { return Tensor::scalar(value); }

// Asks for one f64 scalar that would be computed as `value`.
double ask(Decisions& d, std::string_view kind, double value) {
  return d.decide(kind, DType::f64, {}, [&] { return number(value); }).item();
}

Tensor row(std::initializer_list<double> p) {
  return Tensor::of<double>({1, static_cast<std::int64_t>(p.size())}, p);
}

}  // namespace

TEST_CASE("live decisions are computed each time and not kept") {
  Decisions d;
  CHECK(d.live());
  CHECK(ask(d, "a", 1.0) == 1.0);
  CHECK(ask(d, "a", 2.0) == 2.0);
  CHECK(d.recorded() == 0);
}

TEST_CASE("recorded decisions are replayed, as often as asked") {
  Decisions d = Decisions::recorder();
  CHECK(ask(d, "a", 1.0) == 1.0);
  CHECK(ask(d, "b", 2.0) == 2.0);
  CHECK(d.recorded() == 2);
  for (int run = 0; run < 2; ++run) {
    d.replay();
    CHECK(d.mode() == Decisions::Mode::replay);
    CHECK(ask(d, "a", -1.0) == 1.0);
    CHECK(ask(d, "b", -2.0) == 2.0);
    CHECK_NOTHROW(d.finish_replay());
  }
}

TEST_CASE("what was recorded is a copy") {
  Decisions d = Decisions::recorder();
  const Tensor value = d.decide("a", DType::f64, {}, [] { return number(1.0); });
  value.write<double>()[0] = 5.0;
  d.replay();
  CHECK(ask(d, "a", 0.0) == 1.0);
}

TEST_CASE("replaying another program is an error that says what differs") {
  Decisions d = Decisions::recorder();
  ask(d, "a", 1.0);
  ask(d, "b", 2.0);
  d.replay();

  SUBCASE("another kind") {
    CHECK_THROWS_WITH_AS(
        ask(d, "b", 0.0),
        "[decisions] replay asks for 'b' as decision 1, where 'a' was recorded. Replay the same "
        "program.",
        Error);
  }
  SUBCASE("another shape") {
    CHECK_THROWS_WITH_AS(
        d.decide("a", DType::f64, {2}, [] { return number(0.0); }),
        "[decisions] 'a' is asked for as f64 [2], and was recorded as f64 []. The shapes must "
        "agree.",
        Error);
  }
  SUBCASE("another type") {
    CHECK_THROWS_WITH_AS(
        d.decide("a", DType::i32, {}, [] { return number(0.0); }),
        "[decisions] 'a' is asked for as i32 [], and was recorded as f64 []. The shapes must "
        "agree.",
        Error);
  }
  SUBCASE("too many") {
    ask(d, "a", 0.0);
    ask(d, "b", 0.0);
    CHECK_THROWS_WITH_AS(
        ask(d, "c", 0.0),
        "[decisions] replay asks for decision 3 ('c'), and only 2 were recorded. Replay the same "
        "program.",
        Error);
  }
  SUBCASE("too few") {
    ask(d, "a", 0.0);
    CHECK_THROWS_WITH_AS(
        d.finish_replay(),
        "[decisions] replay ended after 1 of 2 decisions; the next recorded one is 'b'. Replay the "
        "same program.",
        Error);
  }
}

TEST_CASE("live decisions cannot be replayed") {
  Decisions d;
  CHECK_THROWS_WITH_AS(
      d.replay(), "[decisions] replay of decisions that were not recorded. Start from recorder().",
      Error);
}

TEST_CASE("a decision can be given from outside") {
  Decisions d;
  d.give("a", number(7.0));
  CHECK(d.has("a"));
  CHECK(!d.has("b"));
  CHECK(ask(d, "a", 1.0) == 7.0);
  CHECK(ask(d, "a", 1.0) == 7.0);
  CHECK(ask(d, "b", 1.0) == 1.0);

  d.give("a", number(8.0));
  CHECK(ask(d, "a", 1.0) == 8.0);

  d.give("a", Tensor::of<double>({2}, {1.0, 2.0}));
  CHECK_THROWS_WITH_AS(
      ask(d, "a", 1.0),
      "[decisions] 'a' is asked for as f64 [], and was given as f64 [2]. The shapes must agree.",
      Error);
}

TEST_CASE("a given decision is recorded like any other") {
  Decisions d = Decisions::recorder();
  d.give("a", number(7.0));
  ask(d, "a", 1.0);
  CHECK(d.recorded() == 1);
  d.replay();
  CHECK(ask(d, "a", 1.0) == 7.0);
}

TEST_CASE("a categorical draw") {
  SUBCASE("follows its probabilities") {
    constexpr int kDraws = 20000;
    const double p[] = {0.1, 0.0, 0.6, 0.3};
    const Tensor rows = Tensor::empty({kDraws, 4}, DType::f64);
    for (int i = 0; i < 4 * kDraws; ++i) rows.write<double>()[i] = p[i % 4];
    Rng rng{3, 0, 0};
    Decisions d;
    const Tensor drawn = d.categorical("draw", rows, rng);
    CHECK(rng.position == kDraws);
    double counts[4] = {};
    for (const std::int32_t i : drawn.values<std::int32_t>()) counts[i] += 1.0;
    for (int i = 0; i < 4; ++i) {
      const double deviation = std::sqrt(kDraws * p[i] * (1.0 - p[i]));
      CHECK(std::abs(counts[i] - kDraws * p[i]) <= 4.0 * deviation);
    }
  }
  SUBCASE("is the same for the same generator, and moves it") {
    Decisions d;
    Rng a{1, 2, 3};
    Rng b{1, 2, 3};
    const Tensor p = Tensor::full({50, 4}, 0.25, DType::f32);
    CHECK(d.categorical("draw", p, a).same_bits(d.categorical("draw", p, b)));
    CHECK(!d.categorical("draw", p, a).same_bits(Tensor::zeros({50}, DType::i32)));
    CHECK(a.position == 103);
  }
  SUBCASE("takes the last possible outcome where rounding leaves the sum short") {
    Decisions d;
    Rng rng;
    CHECK(d.categorical("draw", row({0.0, 1.0 - 1e-6, 0.0}), rng).at(0) == 1.0);
  }
  SUBCASE("is replayed without taking numbers") {
    Decisions d = Decisions::recorder();
    Rng rng{5, 0, 0};
    const Tensor p = Tensor::full({6, 3}, 1.0 / 3.0, DType::f64);
    const Tensor drawn = d.categorical("draw", p, rng);
    d.replay();
    const Rng before = rng;
    CHECK(d.categorical("draw", p, rng).same_bits(drawn));
    CHECK(rng == before);
  }
  SUBCASE("of no rows") {
    Decisions d;
    Rng rng;
    CHECK(d.categorical("draw", Tensor::zeros({0, 3}, DType::f64), rng).numel() == 0);
  }
  SUBCASE("refuses what is no distribution") {
    Rng rng;
    for (Decisions d : {Decisions(), Decisions::enumerator()}) {
      CHECK_THROWS_WITH_AS(
          d.categorical("draw", Tensor::full({3}, 0.5, DType::f64), rng),
          "[categorical] probabilities are f64 [3]. They must be floating, [rows, outcomes].",
          Error);
      CHECK_THROWS_WITH_AS(
          d.categorical("draw", row({0.0, 0.0}), rng),
          "[categorical] row 0 holds no positive probability. Give each row a sum of 1.", Error);
      CHECK_THROWS_WITH_AS(d.categorical("draw", row({-0.5, 1.5}), rng),
                           "[categorical] row 0 holds the probability -0.5. Use 0 or more.", Error);
      const double nan = std::numeric_limits<double>::quiet_NaN();
      CHECK_THROWS_WITH_AS(d.categorical("draw", row({nan, 1.0}), rng),
                           "[categorical] row 0 holds the probability nan. Use 0 or more.", Error);
    }
    for (Decisions d : {Decisions::enumerator(), Decisions()}) {
      CHECK_THROWS_WITH_AS(
          d.categorical("draw", row({0.25, 0.25}), rng),
          "[categorical] row 0 has probabilities that add up to 0.5. Divide by the sum.", Error);
    }
  }
}

TEST_CASE("enumeration runs every outcome of sequential draws once, with its probability") {
  const double p[] = {0.5, 0.0, 0.2, 0.3};
  Decisions d = Decisions::enumerator();
  Rng rng;
  std::map<std::pair<int, int>, double> outcomes;
  do {  // two draws without replacement: the second depends on the first
    const int first =
        static_cast<int>(d.categorical("draw", row({p[0], p[1], p[2], p[3]}), rng).at(0));
    double q[4];
    for (int i = 0; i < 4; ++i) q[i] = i == first ? 0.0 : p[i] / (1.0 - p[first]);
    const int second =
        static_cast<int>(d.categorical("draw", row({q[0], q[1], q[2], q[3]}), rng).at(0));
    CHECK(outcomes.count({first, second}) == 0);
    outcomes[{first, second}] = d.probability();
  } while (d.next_outcome());

  CHECK(rng.position == 0);
  CHECK(outcomes.size() == 6);
  double sum = 0.0;
  for (const auto& [pair, probability] : outcomes) {
    CHECK(probability ==
          doctest::Approx(p[pair.first] * p[pair.second] / (1.0 - p[pair.first])).epsilon(1e-14));
    sum += probability;
  }
  CHECK(sum == doctest::Approx(1.0).epsilon(1e-14));
}

TEST_CASE("enumeration: rows are drawn one after the other, and a run may end early") {
  Decisions d = Decisions::enumerator();
  Rng rng;
  int runs = 0;
  double sum = 0.0;
  do {
    const Tensor drawn =
        d.categorical("draw", Tensor::of<double>({2, 2}, {0.25, 0.75, 0.4, 0.6}), rng);
    if (drawn.at(0) == 1.0) d.categorical("more", row({0.1, 0.2, 0.7}), rng);
    ++runs;
    sum += d.probability();
  } while (d.next_outcome());
  CHECK(runs == 2 + 2 * 3);
  CHECK(sum == doctest::Approx(1.0).epsilon(1e-14));
}

TEST_CASE("enumeration of a program without draws is one run") {
  Decisions d = Decisions::enumerator();
  CHECK(ask(d, "a", 1.0) == 1.0);
  CHECK(d.probability() == 1.0);
  CHECK(!d.next_outcome());
}

TEST_CASE("a given draw is not enumerated") {
  Decisions d = Decisions::enumerator();
  d.give("draw", Tensor::of<std::int32_t>({1}, {1}));
  Rng rng;
  CHECK(d.categorical("draw", row({0.5, 0.5}), rng).at(0) == 1.0);
  CHECK(d.probability() == 1.0);
  CHECK(!d.next_outcome());
}
