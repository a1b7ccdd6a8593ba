// Capacity, and the routers that have one: switch, gshard, v-moe, expert-choice.

#include <algorithm>
#include <map>
#include <string>

#include <doctest/doctest.h>

#include "moe/balance.h"
#include "moe/capacity.h"
#include "ops/ops.h"
#include "tests/moe/router_cases.h"
#include "tests/temporary_files.h"

using namespace moegrad;
using namespace moegrad::test;
using Ids = std::vector<std::int32_t>;

namespace {

Tensor random_logits(std::int64_t tokens, std::int64_t experts, std::uint64_t seed = 4) {
  return Rng{seed, 0, 0}.normal({tokens, experts}, DType::f64, 0.0, 1.5);
}

// Logits of 1 at each token's expert, 0 elsewhere; a second choice with 0.5.
Tensor choosing(const std::vector<std::pair<int, int>>& wanted, std::int64_t experts) {
  const auto tokens = static_cast<std::int64_t>(wanted.size());
  const Tensor o = Tensor::zeros({tokens, experts}, DType::f64, Device::cpu);
  for (std::int64_t t = 0; t < tokens; ++t) {
    const auto [first, second] = wanted[static_cast<std::size_t>(t)];
    o.write<double>()[t * experts + first] = 1.0;
    if (second >= 0) o.write<double>()[t * experts + second] = 0.5;
  }
  return o;
}

}  // namespace

TEST_CASE("capacity: first choices before second ones, tokens in their order or in the queue's") {
  const Tensor selected = Tensor::of<std::int32_t>({4, 2}, {1, 0, 0, 1, 0, 2, 0, 1});
  CHECK(ids_of(drop_over_capacity(selected, 3, 4)) == ids_of(selected));
  // Expert 0: tokens 1, 2 (first choices), so neither 3 nor the second choice of token 0.
  // Expert 1: token 0, then the second choice of token 1.
  const Tensor two = drop_over_capacity(selected, 3, 2);
  CHECK(ids_of(two) == Ids{1, -1, 0, 1, 0, 2, -1, -1});
  const Tensor queue = Tensor::of<std::int32_t>({4}, {3, 2, 1, 0});
  CHECK(ids_of(drop_over_capacity(selected, 3, 2, queue)) == Ids{1, -1, -1, -1, 0, 2, 0, 1});
  CHECK(drop_over_capacity(two, 3, 2, queue).same_bits(two));
  // What was no choice takes no room.
  const Tensor holes = Tensor::of<std::int32_t>({3, 1}, {-1, 0, 0});
  CHECK(ids_of(drop_over_capacity(holes, 1, 1)) == Ids{-1, 0, -1});
}

TEST_CASE("capacity: its size, and refusals") {
  CHECK(capacity_down(1.25, 10, 4) == 3);
  CHECK(capacity_down(1.1, 30, 3) == 11);  // 1.1 * 30 is below 33 in floating point or above
  CHECK(capacity_down(0.01, 10, 4) == 1);
  CHECK(capacity_down(1e6, 10, 4) == 10);
  CHECK(capacity_up(1.05, 80, 4, 4) == 24);
  CHECK(capacity_up(1.05, 80, 4, 1) == 21);
  CHECK(most_within(3, 5) == 15);
  CHECK(most_within(std::int64_t{1} << 40, std::int64_t{1} << 40) == INT64_MAX);
  const Tensor selected = Tensor::of<std::int32_t>({2, 1}, {0, 3});
  CHECK(error_of([&] { drop_over_capacity(selected, 4, 0); }).find("at least one") !=
        std::string::npos);
  CHECK(error_of([&] { drop_over_capacity(selected, 3, 1); }).find("3") != std::string::npos);
  const Tensor queue = Tensor::of<std::int32_t>({2}, {0, 2});
  CHECK(error_of([&] { drop_over_capacity(selected, 4, 1, queue); }) ==
        "[capacity] index 2 at place 1 is outside 0 to 1. Check the indices.");
  CHECK(error_of([&] {
          drop_over_capacity(selected, 4, 1, Tensor::of<std::int32_t>({2}, {0, -1}));
        }) == "[capacity] index -1 at place 1 is outside 0 to 1. Check the indices.");
  CHECK(error_of([&] {
          drop_over_capacity(selected, 4, 1, Tensor::of<std::int32_t>({2}, {1, 1}));
        }) == "[capacity] the queue names token 1 twice. Name each of the 2 once.");
  for (const char* name : {"switch", "gshard", "v-moe", "expert-choice"}) {
    CHECK(error_of([&] {
            router_of(name, {{"capacity", "0"}});
          }).find("capacity") != std::string::npos);
  }
}

TEST_CASE("kept weights: 0 without gradient where a choice was dropped") {
  Tape tape;
  const Var w = tape.variable(Tensor::of<double>({2, 2}, {0.1, 0.2, 0.3, 0.4}));
  const Var kept = kept_weights(w, Tensor::of<std::int32_t>({2, 2}, {0, -1, 1, 0}));
  CHECK(kept.value().to_vector() == std::vector<double>{0.1, 0.0, 0.3, 0.4});
  CHECK(tape.backward(sum(kept))[w].to_vector() == std::vector<double>{1.0, 0.0, 1.0, 1.0});
}

TEST_CASE("switch: weight, balance loss before dropping, capacity in training and at inference") {
  // 8 tokens, 6 of them at expert 0.
  const Tensor o =
      choosing({{0, -1}, {1, -1}, {0, -1}, {0, -1}, {0, -1}, {0, -1}, {2, -1}, {0, -1}}, 3);
  const std::unique_ptr<Router> router = router_of(
      "switch", {{"jitter", "0"}, {"capacity-min", "1"}, {"capacity", "0.8"}, {"balance", "0.3"}});
  Tape tape;
  const Var x = tape.variable(o);
  const Weights weights = identity_weights(tape, 3);
  const Routing r = router->route(square_size(3, 1), {x, weights, true});
  // C = floor(0.8 * 8/3) = 2
  CHECK(ids_of(r.selected) == Ids{0, 1, 0, -1, -1, -1, 2, -1});
  CHECK(r.most == 6);
  const double g = std::exp(1.0) / (std::exp(1.0) + 2.0);
  CHECK(r.weights.value().at(0) == doctest::Approx(g));
  CHECK(r.weights.value().at(3) == 0.0);
  const double other = (1.0 - g) / 2.0;
  const double f[] = {6.0 / 8, 1.0 / 8, 1.0 / 8};
  double loss = 0.0;
  for (const double fraction : f) {
    loss += 0.3 * 3.0 * fraction * (fraction * g + (1.0 - fraction) * other);
  }
  CHECK(r.auxiliary.value().item() == doctest::Approx(loss).epsilon(1e-12));
  // At inference C = floor(2 * 8/3) = 5.
  const Routing at_inference = router->route(square_size(3, 1), {x, weights, false});
  CHECK(ids_of(at_inference.selected) == Ids{0, 1, 0, 0, 0, 0, 2, -1});
  CHECK(at_inference.most == 15);
  // The published least room is 4.
  const Routing published =
      router_of("switch", {{"capacity", "0.8"}})->route(square_size(3, 1), {x, weights, true});
  CHECK(ids_of(published.selected) == Ids{0, 1, 0, 0, 0, -1, 2, -1});
}

TEST_CASE("dropless: at inference every choice is kept, whatever the capacity; training drops") {
  // All tokens have the same two favourites.
  const Tensor o = choosing(std::vector<std::pair<int, int>>(8, {0, 1}), 4);
  struct Case {
    const char* name;
    std::int64_t active;
    std::map<std::string, std::string> options;
  };
  const std::vector<Case> cases = {
      {"switch",
       1,
       {{"capacity", "0.5"}, {"eval-capacity", "0.5"}, {"capacity-min", "1"}, {"jitter", "0"}}},
      {"gshard", 2, {{"capacity", "0.5"}, {"capacity-min", "1"}, {"second-threshold", "0"}}},
      {"v-moe", 2, {{"capacity", "0.5"}, {"capacity-multiple", "1"}, {"batch-priority", "true"}}}};
  for (const Case& c : cases) {
    const std::int64_t active = c.active;
    CAPTURE(c.name);
    const std::unique_ptr<Router> router = router_of(c.name, c.options);
    Tape tape;
    const Var x = tape.variable(o);
    const Weights weights = identity_weights(tape, 4);
    const auto route = [&](bool training, bool dropless) {
      LayerInput in{x, weights, training};
      in.dropless = dropless;
      return router->route(square_size(4, active), in);
    };
    const Routing paper = route(false, false);
    const Routing all = route(false, true);
    const auto kept = [](const Routing& r) {
      const Ids ids = ids_of(r.selected);
      return std::count_if(ids.begin(), ids.end(), [](std::int32_t e) { return e >= 0; });
    };
    CHECK(kept(paper) < 8 * active);
    CHECK(kept(all) == 8 * active);
    CHECK(all.selected.same_bits(all.choice));
    // A token's choice and weights no longer depend on the others of its batch.
    Tape alone;
    const Var one = alone.variable(o.rows(5, 6));
    const Weights same = identity_weights(alone, 4);
    LayerInput in{one, same, false};
    in.dropless = true;
    const Routing single = router->route(square_size(4, active), in);
    CHECK(single.selected.same_bits(all.selected.rows(5, 6)));
    CHECK(single.weights.value().same_bits(all.weights.value().rows(5, 6)));
    CHECK(kept(route(true, true)) < 8 * active);
  }
}

TEST_CASE("switch: the jitter multiplies the router's input, in training only") {
  const Tensor o = random_logits(6, 4);
  const std::unique_ptr<Router> router = router_of("switch", {{"jitter", "0.2"}});
  Decisions decisions = Decisions::recorder();
  Tape tape({.rng = Rng{3, 0, 0}, .decisions = &decisions});
  const Var x = tape.variable(o);
  const Weights weights = identity_weights(tape, 4);
  const Routing r = router->route(square_size(4, 1), {x, weights, true});
  const Tensor u = decisions.recorded("jitter").at(0);
  const Tensor jittered = o.clone();
  for (std::int64_t i = 0; i < o.numel(); ++i) {
    CHECK(std::abs(u.at(i) - 1.0) <= 0.2);
    jittered.write<double>()[i] *= u.at(i);
  }
  for (std::int64_t t = 0; t < 6; ++t) {
    const std::vector<double> g = softmax_row(jittered, t);
    for (std::int64_t e = 0; e < 4; ++e) {
      CHECK(r.scores.value().at(t * 4 + e) ==
            doctest::Approx(g[static_cast<std::size_t>(e)]).epsilon(1e-12));
    }
  }
  // A multiplied zero stays zero: an additive jitter would not leave it there.
  const Var zero = tape.constant(Tensor::zeros({5, 4}, DType::f64, Device::cpu));
  const Tensor even = router->route(square_size(4, 1), {zero, weights, true}).scores.value();
  CHECK(even.to_vector() == std::vector<double>(20, 0.25));
  const Routing clean = router->route(square_size(4, 1), {x, weights, false});
  CHECK(clean.scores.value().at(0) == doctest::Approx(softmax_row(o, 0)[0]).epsilon(1e-13));
}

TEST_CASE("gshard: renormalised weights, first-choice balance loss, second choices queue behind") {
  const Tensor o = choosing({{1, 0}, {0, 1}, {0, 2}, {0, 1}}, 3);
  Tape tape;
  const Var x = tape.variable(o);
  const Weights weights = identity_weights(tape, 3);
  const std::unique_ptr<Router> router = router_of(
      "gshard",
      {{"second-threshold", "0"}, {"capacity", "1.5"}, {"capacity-min", "1"}, {"balance", "0.3"}});
  const Routing r = router->route(square_size(3, 2), {x, weights, true});
  CHECK(ids_of(r.selected) == Ids{1, -1, 0, 1, 0, 2, -1, -1});  // C = 2
  const double w = std::exp(1.0) / (std::exp(1.0) + std::exp(0.5));
  CHECK(r.weights.value().at(0) == doctest::Approx(w));  // stays as it is without its partner
  CHECK(r.weights.value().at(1) == 0.0);
  CHECK(r.weights.value().at(3) == doctest::Approx(1.0 - w));
  double loss = 0.0;
  const double c[] = {3.0 / 4, 1.0 / 4, 0.0};
  for (std::int64_t e = 0; e < 3; ++e) {
    double m = 0.0;
    for (std::int64_t t = 0; t < 4; ++t) m += softmax_row(o, t)[static_cast<std::size_t>(e)] / 4.0;
    loss += 0.3 * 9.0 * (c[e] * m) / 3.0;  // E^2 mean(c m)
  }
  CHECK(r.auxiliary.value().item() == doctest::Approx(loss).epsilon(1e-12));
  const Routing all =
      router_of("gshard", {{"capacity", "1e6"}})->route(square_size(3, 2), {x, weights, false});
  CHECK(ids_of(all.selected) == Ids{1, 0, 0, 1, 0, 2, 0, 1});
}

TEST_CASE("gshard: the second expert is kept with probability min(1, w_2/threshold)") {
  const Tensor o = Tensor::of<double>({1, 3}, {2.0, 0.3, -1.0});
  const double w2 = std::exp(0.3) / (std::exp(2.0) + std::exp(0.3));
  for (const auto& [option, probability] :
       {std::pair<std::string, double>{"0.5", 2.0 * w2}, {"0.2", std::min(1.0, w2 / 0.2)}}) {
    const std::unique_ptr<Router> router = router_of("gshard", {{"second-threshold", option}});
    Decisions decisions = Decisions::enumerator();
    double kept = 0.0;
    do {
      Tape tape({.decisions = &decisions});
      const Routing r =
          router->route(square_size(3, 2), {tape.constant(o), identity_weights(tape, 3), true});
      CHECK(r.selected.at(0) == 0.0);
      if (r.selected.at(1) == 1.0) kept += decisions.probability();
      CHECK((r.selected.at(1) == 1.0 || r.weights.value().at(1) == 0.0));
    } while (decisions.next_outcome());
    CHECK(kept == doctest::Approx(probability).epsilon(1e-9));
  }
}

TEST_CASE("v-moe: noisy scores not renormalised, importance and load losses") {
  constexpr std::int64_t kTokens = 6, kExperts = 4, kActive = 2;
  const Tensor o = random_logits(kTokens, kExperts);
  Decisions decisions = Decisions::recorder();
  Tape tape({.rng = Rng{3, 0, 0}, .decisions = &decisions});
  const Var x = tape.variable(o);
  const Weights weights = identity_weights(tape, kExperts);
  const std::unique_ptr<Router> router =
      router_of("v-moe", {{"balance", "0.6"}, {"capacity", "1e6"}});
  const Routing r = router->route(square_size(kExperts, kActive), {x, weights, true});
  const Tensor noise = decisions.recorded("noise").at(0);
  Tensor noisy = o.clone();
  double squares = 0.0;
  for (std::int64_t i = 0; i < o.numel(); ++i) {
    noisy.write<double>()[i] += noise.at(i);
    squares += noise.at(i) * noise.at(i) / static_cast<double>(o.numel());
  }
  CHECK(std::sqrt(squares) == doctest::Approx(1.0 / kExperts).epsilon(0.5));
  std::vector<double> importance(kExperts, 0.0);
  std::vector<double> load(kExperts, 0.0);
  for (std::int64_t t = 0; t < kTokens; ++t) {
    std::vector<double> row(noisy.data<double>() + t * kExperts,
                            noisy.data<double>() + (t + 1) * kExperts);
    std::sort(row.rbegin(), row.rend());
    const double tau = row[kActive - 1];
    const std::vector<double> clean = softmax_row(o, t);
    const std::vector<double> p = softmax_row(noisy, t);
    for (std::int64_t e = 0; e < kExperts; ++e) {
      const auto at = static_cast<std::size_t>(e);
      importance[at] += clean[at];
      load[at] += 1.0 - cdf((tau - o.at(t * kExperts + e)) * kExperts);
    }
    for (std::int64_t j = 0; j < kActive; ++j) {
      const std::int32_t e = r.selected.data<std::int32_t>()[t * kActive + j];
      CHECK(noisy.at(t * kExperts + e) >= tau);
      CHECK(r.weights.value().at(t * kActive + j) ==
            doctest::Approx(p[static_cast<std::size_t>(e)]).epsilon(1e-12));
    }
  }
  const double loss = 0.3 * (variation(importance, 0.0) + variation(load, 0.0));
  CHECK(r.auxiliary.value().item() == doctest::Approx(loss).epsilon(1e-11));
  const Routing clean = router->route(square_size(kExperts, kActive), {x, weights, false});
  CHECK(clean.auxiliary.value().item() ==
        doctest::Approx(0.3 * variation(importance, 0.0)).epsilon(1e-11));
  CHECK(clean.scores.value().at(0) == doctest::Approx(softmax_row(o, 0)[0]).epsilon(1e-13));
}

TEST_CASE("v-moe: at perfect balance the importance loss has a zero gradient, not NaN") {
  Tape tape;
  const Var x = tape.variable(Tensor::zeros({3, 4}, DType::f64, Device::cpu));
  const Routing r =
      router_of("v-moe")->route(square_size(4, 2), {x, identity_weights(tape, 4), false});
  CHECK(r.auxiliary.value().item() == 0.0);
  CHECK(tape.backward(r.auxiliary)[x].to_vector() == std::vector<double>(12, 0.0));
}

TEST_CASE("v-moe: capacity, and batch priority") {
  Tensor o = choosing({{0, 1}, {0, 1}, {0, 2}, {0, 1}}, 3);
  o.write<double>()[3 * 3] = 4.0;  // token 3 is the surest, then token 1
  o.write<double>()[1 * 3] = 2.0;
  Tape tape;
  const Var x = tape.constant(o);
  const Weights weights = identity_weights(tape, 3);
  const auto selected = [&](std::map<std::string, std::string> options) {
    options.insert({"capacity-multiple", "1"});
    return ids_of(
        router_of("v-moe", options)->route(square_size(3, 2), {x, weights, false}).selected);
  };
  CHECK(selected({{"capacity", "1e6"}}) == Ids{0, 1, 0, 1, 0, 2, 0, 1});
  // C = ceil(0.75 * 8/3) = 2
  CHECK(selected({{"capacity", "0.75"}}) == Ids{0, 1, 0, 1, -1, 2, -1, -1});
  CHECK(selected({{"capacity", "0.75"}, {"batch-priority", "true"}}) ==
        Ids{-1, -1, 0, 1, -1, 2, 0, 1});
}

TEST_CASE("expert-choice: each expert takes its C largest scores; a zero score is still taken") {
  constexpr std::int64_t kTokens = 6, kExperts = 3;
  const Tensor o = random_logits(kTokens, kExperts);
  for (std::int64_t t = 0; t < kTokens; ++t) o.write<double>()[t * kExperts + 2] = -2e3;
  Tape tape;
  const Var x = tape.variable(o);
  const Weights weights = identity_weights(tape, kExperts);
  for (const auto& [factor, capacity] : {std::pair<std::string, int>{"0.5", 2}, {"1", 4}}) {
    const Routing r = router_of("expert-choice", {{"capacity", factor}})
                          ->route(square_size(kExperts, 2), {x, weights, true});
    for (std::int64_t e = 0; e < kExperts; ++e) {
      std::vector<double> column;
      for (std::int64_t t = 0; t < kTokens; ++t) {
        column.push_back(softmax_row(o, t)[static_cast<std::size_t>(e)]);
      }
      std::vector<double> sorted = column;
      std::sort(sorted.rbegin(), sorted.rend());
      int taken = 0;
      for (std::int64_t t = 0; t < kTokens; ++t) {
        const double g = column[static_cast<std::size_t>(t)];
        const double w = r.weights.value().at(t * kExperts + e);
        if (r.selected.at(t * kExperts + e) < 0.0) {
          CHECK(w == 0.0);
          continue;
        }
        ++taken;
        CHECK(r.selected.at(t * kExperts + e) == static_cast<double>(e));
        CHECK(g >= sorted[static_cast<std::size_t>(capacity - 1)]);
        CHECK(w == doctest::Approx(g).epsilon(1e-12));
      }
      CHECK(taken == capacity);
    }
  }
}

TEST_CASE("expert-choice and routers with queues of choices see the future, and say so") {
  for (const char* name : {"expert-choice", "gshard", "v-moe"}) {
    CHECK_FALSE(router_entry(name).traits.causal);
  }
  // A last token that wants expert 0 more than token 1 does takes its place.
  Tape tape;
  const Weights weights = identity_weights(tape, 2);
  const auto second_token = [&](double last) {
    const Var x = tape.constant(Tensor::of<double>({3, 2}, {3, 0, 2, 0, last, 0}));
    const Routing r = router_of("expert-choice", {{"capacity", "1.34"}})
                          ->route(square_size(2, 1), {x, weights, false});
    return r.selected.at(2);
  };
  CHECK(second_token(-5.0) == 0.0);
  CHECK(second_token(5.0) == -1.0);
}
