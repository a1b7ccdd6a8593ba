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
        "[decisions] replay asks for 'a' as f64 [2], and it was recorded as f64 []. Replay the "
        "same program.",
        Error);
  }
  SUBCASE("another type") {
    CHECK_THROWS_WITH_AS(
        d.decide("a", DType::i32, {}, [] { return number(0.0); }),
        "[decisions] replay asks for 'a' as i32 [], and it was recorded as f64 []. Replay the "
        "same program.",
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

TEST_CASE("what is handed out is a copy") {
  Decisions d = Decisions::recorder();
  const auto ask_tensor = [&] { return d.decide("a", DType::f64, {}, [] { return number(1.0); }); };
  ask_tensor();
  for (int run = 0; run < 2; ++run) {
    d.replay();
    const Tensor value = ask_tensor();
    CHECK(value.item() == 1.0);
    value.write<double>()[0] = 9.0;
  }
}

TEST_CASE("a replay may hold nothing") {
  Decisions d = Decisions::recorder();
  const auto select = [&](std::int32_t place) {
    return d.decide("place", DType::i32, {}, [=] { return Tensor::scalar(place); }).at(0);
  };
  ask(d, "a", 1.0);
  select(3);
  d.replay(Decisions::Hold::nothing);
  CHECK(ask(d, "a", 2.0) == 2.0);
  CHECK(select(3) == 3.0);
  CHECK_NOTHROW(d.finish_replay());
  d.replay(Decisions::Hold::nothing);
  ask(d, "a", 2.0);
  CHECK_THROWS_WITH_AS(
      select(4),
      "[decisions] replay computes 'place' anew, and it is another one. Replay the "
      "same program.",
      ReplayMismatch);
  d.replay();
  CHECK(ask(d, "a", 2.0) == 1.0);
  CHECK(select(4) == 3.0);
}

TEST_CASE("decisions of one kind that have changed places are a mismatch") {
  Decisions d = Decisions::recorder();
  ask(d, "a", 1.0);
  ask(d, "a", 2.0);
  d.replay();
  CHECK(ask(d, "a", 1.1) == 1.0);
  CHECK(ask(d, "a", 1.9) == 2.0);
  d.replay();
  CHECK_THROWS_WITH_AS(ask(d, "a", 1.9),
                       "[decisions] replay comes to 'a' where another decision of this kind was "
                       "recorded. Replay the same program.",
                       ReplayMismatch);
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
    const Tensor rows = Tensor::empty({kDraws, 4}, DType::f64, Device::cpu);
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
    const Tensor p = Tensor::full({50, 4}, 0.25, DType::f32, Device::cpu);
    CHECK(d.categorical("draw", p, a).same_bits(d.categorical("draw", p, b)));
    CHECK(!d.categorical("draw", p, a).same_bits(Tensor::zeros({50}, DType::i32, Device::cpu)));
    CHECK(a.position == 103);
  }
  SUBCASE("takes the last possible outcome where rounding leaves the sum short") {
    Decisions d;
    Rng rng;
    CHECK(d.categorical("draw", row({0.0, 1.0 - 1e-6, 0.0}), rng).at(0) == 1.0);
  }
  SUBCASE("is replayed, taking the same numbers") {
    Decisions d = Decisions::recorder();
    Rng rng{5, 0, 0};
    const Tensor p = Tensor::full({6, 3}, 1.0 / 3.0, DType::f64, Device::cpu);
    const Tensor drawn = d.categorical("draw", p, rng);
    d.replay();
    const Rng after = rng;
    rng = Rng{5, 0, 0};
    // Another distribution now; the draw is kept.
    const Tensor other = Tensor::of<double>({6, 3}, {1, 0, 0, 0, 1, 0, 0, 0, 1,  //
                                                     1, 0, 0, 0, 1, 0, 0, 0, 1});
    CHECK(d.categorical("draw", other, rng).same_bits(drawn));
    CHECK(rng == after);
  }
  SUBCASE("of no rows") {
    Decisions d;
    Rng rng;
    CHECK(d.categorical("draw", Tensor::zeros({0, 3}, DType::f64, Device::cpu), rng).numel() == 0);
  }
  SUBCASE("refuses what is no distribution") {
    Rng rng;
    for (Decisions d : {Decisions(), Decisions::enumerator()}) {
      CHECK_THROWS_WITH_AS(
          d.categorical("draw", Tensor::full({3}, 0.5, DType::f64, Device::cpu), rng),
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

TEST_CASE("a Bernoulli draw") {
  Rng rng{4, 0, 0};
  SUBCASE("follows its probabilities, in their shape") {
    const Tensor p = Tensor::empty({3, 10000}, DType::f64, Device::cpu);
    for (std::int64_t i = 0; i < p.numel(); ++i) p.write<double>()[i] = i < 10000 ? 0.25 : 0.9;
    Decisions d;
    const Tensor drawn = d.bernoulli("coin", p, rng);
    CHECK(drawn.shape() == p.shape());
    CHECK(rng.position == 30000);
    double ones[2] = {};
    for (std::int64_t i = 0; i < p.numel(); ++i) ones[i < 10000 ? 0 : 1] += drawn.at(i);
    CHECK(std::abs(ones[0] - 2500.0) < 4.0 * std::sqrt(10000 * 0.25 * 0.75));
    CHECK(std::abs(ones[1] - 18000.0) < 4.0 * std::sqrt(20000 * 0.9 * 0.1));
  }
  SUBCASE("is enumerated, and what is certain is no draw of two outcomes") {
    Decisions d = Decisions::enumerator();
    std::map<std::vector<double>, double> seen;
    do {
      const Tensor drawn = d.bernoulli("coin", Tensor::of<double>({4}, {0.25, 0.0, 1.0, 0.9}), rng);
      seen[drawn.to_vector()] += d.probability();
    } while (d.next_outcome());
    CHECK(rng.position == 0);
    REQUIRE(seen.size() == 4);
    CHECK(seen[{0, 0, 1, 0}] == doctest::Approx(0.75 * 0.1));
    CHECK(seen[{0, 0, 1, 1}] == doctest::Approx(0.75 * 0.9));
    CHECK(seen[{1, 0, 1, 0}] == doctest::Approx(0.25 * 0.1));
    CHECK(seen[{1, 0, 1, 1}] == doctest::Approx(0.25 * 0.9));
  }
  SUBCASE("is replayed, whatever the generator stands at; a given one is taken") {
    Decisions d = Decisions::recorder();
    const Tensor p = Tensor::full({20}, 0.5, DType::f32, Device::cpu);
    const Tensor drawn = d.bernoulli("coin", p, rng);
    d.replay();
    CHECK(rng.position == 20);
    CHECK(d.bernoulli("coin", p, rng).same_bits(drawn));
    Decisions given = Decisions::enumerator();
    given.give("coin", Tensor::zeros({20}, DType::i32, Device::cpu));
    CHECK(given.bernoulli("coin", p, rng).same_bits(Tensor::zeros({20}, DType::i32, Device::cpu)));
    CHECK(!given.next_outcome());
  }
  SUBCASE("of nothing") {
    Decisions d = Decisions::enumerator();
    CHECK(d.bernoulli("coin", Tensor::zeros({0, 3}, DType::f64, Device::cpu), rng).numel() == 0);
    CHECK(!d.next_outcome());
  }
  SUBCASE("refuses what is no probability") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (Decisions d : {Decisions(), Decisions::enumerator()}) {
      CHECK_THROWS_WITH_AS(d.bernoulli("coin", row({0.5, 1.5}), rng),
                           "[bernoulli] element 1 holds the probability 1.5. Use 0 to 1.", Error);
      CHECK_THROWS_AS(d.bernoulli("coin", row({-1e-9}), rng), Error);
      CHECK_THROWS_AS(d.bernoulli("coin", row({nan}), rng), Error);
      CHECK_THROWS_WITH_AS(d.bernoulli("coin", Tensor::zeros({2}, DType::i32, Device::cpu), rng),
                           "[bernoulli] probabilities are i32. They must be floating.", Error);
    }
  }
}

TEST_CASE("enumeration: one run along a path, with the probability that it has now") {
  Rng rng;
  const auto draws = [&](Decisions& d, double p) {
    const double first = d.categorical("draw", row({p, 1.0 - p}), rng).at(0);
    return std::vector<double>{first, d.bernoulli("coin", row({0.3}), rng).at(0)};
  };
  Decisions d = Decisions::enumerator();
  do {
    const std::vector<double> drawn = draws(d, 0.2);
    Decisions again = Decisions::along(d.path(), {}, 10);
    CHECK(draws(again, 0.6) == drawn);
    CHECK(again.weight() == doctest::Approx(drawn[0] == 0.0 ? 3.0 : 0.5));
    CHECK(again.probability() == doctest::Approx(d.probability() * again.weight()));
    CHECK(!again.next_outcome());
  } while (d.next_outcome());

  SUBCASE("which may be impossible, too short or too long") {
    Decisions impossible = Decisions::along({{1, 0.8}, {0, 0.7}}, {}, 10);
    CHECK(draws(impossible, 1.0)[0] == 0.0);
    CHECK(impossible.weight() == 0.0);
    Decisions short_path = Decisions::along({{1, 0.8}}, {}, 10);
    CHECK(draws(short_path, 0.5)[0] == 1.0);
    CHECK(short_path.weight() == doctest::Approx(0.625));
    Decisions long_path = Decisions::along({{1, 0.8}, {0, 0.7}, {1, 0.1}}, {}, 10);
    CHECK(draws(long_path, 0.5) == std::vector<double>{1.0, 0.0});
    CHECK(long_path.weight() == doctest::Approx(0.625));
  }
  SUBCASE("or drawn anew") {
    double ones[2] = {};
    for (std::uint64_t s = 0; s < 10000; ++s) {
      Decisions sample = Decisions::along({}, {s, 0, 0}, 10);
      const std::vector<double> drawn = draws(sample, 0.2);
      ones[0] += drawn[0];
      ones[1] += drawn[1];
    }
    CHECK(std::abs(ones[0] - 8000.0) < 160.0);
    CHECK(std::abs(ones[1] - 3000.0) < 184.0);
  }
}

TEST_CASE("enumeration: the limit of outcomes, hidden state, and the signature of selections") {
  Rng rng;
  Decisions d = Decisions::enumerator(8);
  CHECK(d.enumerates(8.0));
  CHECK(!d.enumerates(9.0));
  d.bernoulli("coin", row({0.5, 0.5}), rng);
  CHECK(d.enumerates(2.0));
  CHECK(!d.enumerates(3.0));
  CHECK(!Decisions().enumerates(1.0));
  CHECK(d.next_outcome());
  CHECK_THROWS_WITH_AS(
      d.bernoulli("coin", row({0.6, 0.5}), rng),
      "[decisions] draw 1 of an enumerated run has other probabilities than in the run before. Is "
      "there hidden state? Draw from the tape's rng() alone.",
      Error);

  const auto signature = [](std::int32_t selected, double value) {
    Decisions of = Decisions::enumerator();
    of.decide("selected", DType::i32, {1},
              [&] { return Tensor::of<std::int32_t>({1}, {selected}); });
    ask(of, "stop_gradient", value);
    return of.signature();
  };
  CHECK(signature(1, 0.5) == signature(1, 0.75));
  CHECK(signature(1, 0.5) != signature(2, 0.5));
}
