// Routers that are wrong where the checks did not look once: on an edge, at a value of an option,
// in a field that nobody reads.

#include "tests/moe/checks/liars.h"

using namespace moegrad;
using namespace moegrad::test;

namespace {

using Place = std::function<bool(const Routing&, const LayerSize&, const LayerInput&)>;

// The gradient of the weights twice as large where `where` says so.
Change twice_where(const Place& where) {
  return [where](Routing& r, const LayerSize& size, const LayerInput& in) {
    const Var w = r.weights;
    if (where(r, size, in)) r.weights = 2.0 * w - stop_gradient(w);
  };
}

// Twice as large where an option says so; `wrong` reads it.
RouterEntry twice_at(std::vector<OptionSpec> specs,
                     const std::function<bool(const Options&)>& wrong) {
  RouterEntry entry = with({});
  entry.options = std::move(specs);
  entry.make = [wrong](const Options& o) {
    const bool twice = wrong(o);
    return std::make_unique<Changed>(
        twice_where([twice](const auto&, const auto&, const auto&) { return twice; }), 0.0, false);
  };
  return entry;
}

OptionSpec number(const char* default_value, double lowest, double highest) {
  return option::number("tau", "").initially(default_value).from(lowest, highest);
}
OptionSpec integer(double lowest, double highest) {
  return option::integer("groups", "").initially("1").from(lowest, highest);
}
OptionSpec flag(const char* name) { return option::flag(name, ""); }

}  // namespace

TEST_CASE("a gradient that is wrong only on an edge") {
  const auto at = [](const Place& where, const std::string& edge) {
    expect_found(with({}, twice_where(where)), "liar, " + edge + ", training: gradcheck: fail");
  };
  at([](const Routing&, const LayerSize& s, const LayerInput&) { return s.active == 1; }, "k = 1");
  at([](const Routing&, const LayerSize& s, const LayerInput&) { return s.active == s.experts; },
     "k = E");
  at([](const Routing&, const LayerSize&, const LayerInput& in) { return in.x.size(0) == 1; },
     "one token");
  at(
      [](const Routing& r, const LayerSize&, const LayerInput&) {
        bool far = false;
        for (const double o : r.logits.value().to_vector()) far = far || o < -5.0;
        return far;
      },
      "an empty expert");
}

TEST_CASE("a gradient that is wrong only at a value of an option without examples") {
  const auto tau = [](const Options& o) { return o.number("tau") != 1.0; };
  expect_found(twice_at({number("1", 1e-3, 10)}, tau), "training, tau=2: gradcheck: fail");
  const auto below = [](const Options& o) { return o.number("tau") < 1.0; };
  expect_found(twice_at({number("1", 1e-3, 10)}, below), "training, tau=0.5: gradcheck: fail");
  const auto bound = [](const Options& o) { return o.number("tau") == 3.0; };
  expect_found(twice_at({number("0", 0, 3)}, bound), "training, tau=3: gradcheck: fail");
  const auto three = [](const Options& o) { return o.integer("groups") == 3; };
  expect_found(twice_at({integer(1, 4)}, three), "training, groups=3: gradcheck: fail");
  const auto never = [](const Options&) { return false; };
  expect_found(twice_at({option::number("tau", "").initially("0")}, never),
               "option tau has no examples");
  expect_found(twice_at({option::integer("groups", "").initially("1")}, never),
               "option groups has no examples");
  const CheckRow right = checked(twice_at({number("1", 1e-3, 10), integer(1, 4)}, never));
  CHECK_MESSAGE(right.verdict == Verdict::pass, right.reason);
  const auto both = [](const Options& o) { return o.flag("a") && o.flag("b"); };
  expect_found(twice_at({flag("a"), flag("b")}, both), "training, a=true, b=true: gradcheck: fail");
}

TEST_CASE("a gradient that is wrong only at an option and 9 experts") {
  RouterEntry entry = with({});
  entry.options = {flag("a")};
  entry.make = [](const Options& o) {
    const bool a = o.flag("a");
    const Change change = twice_where([a](const Routing&, const LayerSize& size,
                                          const LayerInput&) { return a && size.experts > 4; });
    return std::make_unique<Changed>(change, 0.0, false);
  };
  expect_found(entry, "liar, 9 experts, a=true, training: gradcheck: fail");
}

// groups = 2 is refused unless another option permits it.
TEST_CASE("a value that is refused is tried with one of another option") {
  const auto wrong = [](const Options& o) {
    if (o.integer("groups") > 1 && !o.flag("a")) fail("liar", "groups needs a. Give it.");
    return o.integer("groups") == 2;
  };
  expect_found(twice_at({integer(1, 4), flag("a")}, wrong),
               "training, a=true, groups=2: gradcheck: fail");
  const auto all = [](const Options& o) {
    if (o.integer("groups") > 1) fail("liar", "groups is 1. Leave it.");
    return false;
  };
  expect_found(twice_at({integer(1, 4), flag("a")}, all), "option groups has no examples");
}

TEST_CASE("the gradient of a loss that is off by default") {
  RouterEntry entry = with({.auxiliary = "a mean", .losses = {"mean"}});
  entry.make = [](const Options& o) {
    const double coefficient = o.number("mean");
    return std::make_unique<Changed>(
        [coefficient](Routing& r, const LayerSize&, const LayerInput&) {
          const Var loss = mean(square(r.scores));
          if (coefficient > 0.0)
            r.add_loss("mean", coefficient, 1.01 * loss - 0.01 * stop_gradient(loss));
        },
        0.0, false);
  };
  expect_found(entry, "training, mean=0.5, auxiliary loss: gradcheck: fail");
}

TEST_CASE("a gradient that is wrong only where nothing is to be dropped") {
  expect_found(with({}, twice_where([](const Routing&, const LayerSize&, const LayerInput& in) {
                      return in.dropless;
                    })),
               "inference, dropless: gradcheck: fail");
}

TEST_CASE("fields of Routing that do not belong together") {
  const auto wrong = [](const std::function<void(Routing&)>& change, const std::string& reason) {
    expect_found(with({}, [&](Routing& r, const LayerSize&, const LayerInput&) { change(r); }),
                 reason);
  };
  wrong([](Routing& r) { r.log_scores = 2.0 * log_softmax(r.logits); },
        "Routing::log_scores are not the logarithms of the scores");
  wrong(
      [](Routing& r) {
        r.scale = Tensor::full(r.selected.shape(), 3.0, r.logits.dtype(), Device::cpu);
      },
      "Routing::scale is not in the weights");
  wrong([](Routing& r) { r.scores = r.scores * 0.9; },
        "Routing::scores do not sum to 1 for each token");
  wrong([](Routing& r) { r.choice = Tensor::zeros(r.selected.shape(), DType::i32, Device::cpu); },
        "Routing::choice is not that of which selected is made");
  wrong(
      [](Routing& r) {
        const Var total = sum(r.weights, 1, true);
        r.weights = r.weights / total * (1.0 + 0.5 * total);
        r.log_normaliser = log(total);
      },
      "Routing::log_normaliser is not what divides");
}

TEST_CASE("small numbers are compared by their own size") {
  const Tensor small = Tensor::full({2, 2}, 1e-9, DType::f64, Device::cpu);
  const Tensor near = Tensor::full({2, 2}, 1.001e-9, DType::f64, Device::cpu);
  CHECK(close(small, small, 0.0));
  CHECK_FALSE(close(small, near, 1e-4));
  CHECK(close(small, near, 1e-2));
  CHECK(close(small, near, 1e-4, 2e-12));
  CHECK_FALSE(close(small, Tensor::full({4}, 1e-9, DType::f64, Device::cpu), 1.0));
  const Tensor nan = Tensor::full({2, 2}, std::nan(""), DType::f64, Device::cpu);
  CHECK_FALSE(close(nan, nan, 1.0, 1.0));
}
