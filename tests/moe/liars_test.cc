// Routers and estimators that state what is not so: for each claim and each trait one, which the
// checks must find.
#include <cmath>

#include <doctest/doctest.h>

#include "moe/balance.h"
#include "moe/check.h"
#include "moe/estimators/surrogate.h"
#include "moe/registry.h"
#include "ops/ops.h"
#include "tests/temporary_files.h"

using namespace moegrad;

namespace {

// top-k by logits o = x W + b, with something changed at the end.
using Change = std::function<void(Routing&, const LayerSize&, const LayerInput&)>;
class Changed : public Router {
 public:
  explicit Changed(Change change) : change_(std::move(change)) {}
  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.scores = softmax(r.logits);
    r.selected = top_k_indices(r.logits, size.active, "selected");
    r.weights = take_columns(r.scores, r.selected);
    change_(r, size, in);
    return r;
  }

 private:
  Change change_;
};

const Change kHonest = [](Routing&, const LayerSize&, const LayerInput&) {};

RouterEntry liar(Claim claim, RouterTraits traits, Change change) {
  RouterEntry entry;
  entry.name = "liar";
  entry.claim = claim;
  entry.traits = traits;
  entry.draws = {"selected", "noise"};
  entry.make = [change](const Options&) { return std::make_unique<Changed>(change); };
  return entry;
}

// The registry finds a router by its name: the newest liar stands for "liar", and between two an
// honest one.
CheckRow checked(const RouterEntry& entry) {
  static const RouterEntry honest = liar(Claim::exact_on_cell, {}, kHonest);
  static RouterEntry current;
  current = honest;
  static const bool added = [] {
    RouterEntry standing = honest;
    standing.summary = standing.source = standing.formula = "a test";
    standing.make = [](const Options& o) { return current.make(o); };
    add_router(standing);
    return true;
  }();
  static_cast<void>(added);
  current = entry;
  const CheckRow row = check_router(entry);
  current = honest;
  return row;
}

void expect_found(const RouterEntry& entry, const std::string& reason) {
  const CheckRow row = checked(entry);
  INFO(row.reason);
  CAPTURE(reason);
  CHECK(row.verdict == Verdict::fail);
  CHECK(row.reason.find(reason) != std::string::npos);
}

}  // namespace

TEST_CASE("an honest router passes") {
  const CheckRow row = checked(liar(Claim::exact_on_cell, {}, kHonest));
  INFO(row.reason);
  CHECK(row.verdict == Verdict::pass);
}

TEST_CASE("claims of routers") {
  const Change stopped = [](Routing& r, const LayerSize&, const LayerInput&) {
    r.weights = r.weights * stop_gradient(r.weights);
  };
  expect_found(liar(Claim::exact, {}, stopped), "router.weight: fail");
  expect_found(liar(Claim::exact_on_cell, {}, stopped), "router.weight: fail");
  // The same by a decision of its own.
  const Change own = [](Routing& r, const LayerSize&, const LayerInput& in) {
    const Tensor held = in.x.tape().decisions().decide("mine", r.weights.dtype(), r.weights.shape(),
                                                       [&] { return r.weights.value(); });
    r.weights = r.weights * in.x.tape().constant(held);
  };
  expect_found(liar(Claim::exact_on_cell, {}, own), "analytic and numeric differ");
  // As a surrogate it is right.
  CHECK(checked(liar(Claim::surrogate, {}, stopped)).verdict == Verdict::pass);
  expect_found(liar(Claim::unbiased, {}, kHonest), "||E[w] - g||_1");
  expect_found(liar(Claim::biased_order, {}, kHonest), "a router cannot claim to be");
  expect_found(liar(Claim::documented, {}, kHonest), "no recorded figures");
}

TEST_CASE("traits of routers") {
  const auto with = [](const RouterTraits& traits, const Change& change) {
    return liar(Claim::exact_on_cell, traits, change);
  };
  const Change hot = [](Routing& r, const LayerSize&, const LayerInput&) {
    r.logits = 2.0 * r.logits;
    r.scores = softmax(r.logits);
    r.weights = take_columns(r.scores, r.selected);
  };
  expect_found(with({}, hot), "linear says logits = x W + b");
  CHECK(checked(with({.linear = false}, hot)).verdict == Verdict::pass);

  const Change noisy = [](Routing& r, const LayerSize& size, const LayerInput& in) {
    if (!in.training) return;
    Tape& tape = in.x.tape();
    const Tensor noise = tape.decisions().decide("noise", DType::f64, r.logits.shape(), [&] {
      Tensor normal = tape.rng().normal(r.logits.shape(), DType::f64);
      for (double& v : normal.write_values<double>()) v = std::round(v * 128.0) / 128.0;  // for f32
      return normal;
    });
    const Var o = r.logits + tape.constant(noise.to(r.logits.dtype()));
    r.selected = top_k_indices(o, size.active, "selected");
    r.weights = take_columns(softmax(o), r.selected);
  };
  expect_found(with({}, noisy), "neither samples nor continuous is stated");
  expect_found(with({.samples = true}, noisy),
               "it takes random numbers that enumeration does not see");
  CHECK(checked(with({.continuous = true}, noisy)).verdict == Verdict::pass);
  expect_found(with({.samples = true}, kHonest), "32 seeds give the same routing");
  expect_found(with({.categorical = true}, kHonest), "categorical");
  expect_found(with({.state = "router.memory"}, kHonest),
               "traits.state names what it does not declare");

  const Change forward_looking = [](Routing& r, const LayerSize&, const LayerInput&) {
    r.weights = r.weights * (mean(mean(r.scores, 0)) + max(mean(r.scores, 0), 0));
  };
  expect_found(with({}, forward_looking), "a later token changes the routing");
  const Change lossy = [](Routing& r, const LayerSize&, const LayerInput&) {
    r.auxiliary = mean(square(r.scores));
  };
  expect_found(with({}, lossy), "which traits.auxiliary does not name");
  const Change sigmoids = [](Routing& r, const LayerSize&, const LayerInput&) {
    r.weights = take_columns(sigmoid(r.logits), r.selected);
  };
  expect_found(with({}, sigmoids), "the gradients of a token's logits do not sum to zero");
  const Change normed = [](Routing& r, const LayerSize& size, const LayerInput& in) {
    const Var unit = in.x / sqrt(sum(square(in.x), 1, true));
    r.logits = router_logits(unit, in.weights);
    r.scores = softmax(r.logits);
    r.selected = top_k_indices(r.logits, size.active, "selected");
    r.weights = take_columns(r.scores, r.selected);
  };
  expect_found(with({.linear = false, .picks_largest = false}, normed), "a token of zeros");
}

TEST_CASE("a field of Routing that is not set is named") {
  expect_found(liar(Claim::exact_on_cell, {},
                    [](Routing& r, const LayerSize&, const LayerInput&) { r.scores = {}; }),
               "router liar leaves Routing::scores undefined. Set it in route().");
}

TEST_CASE("a field of Rest that is not set is named") {
  Tape t;
  const Plan plan = make_plan(Tensor::of<std::int32_t>({1, 1}, {0}), 1);
  const Var one = t.constant(Tensor::full({1, 1}, 1.0, DType::f64));
  const auto error = [&](const Rest& rest) {
    return test::error_of([&] { written_surrogate(one, one, plan, rest); });
  };
  CHECK(error({{}, one, one}) == "[estimator] Rest::plan is undefined. Set it.");
  CHECK(error({plan, {}, one}) == "[estimator] Rest::values is undefined. Set it.");
  CHECK(error({plan, one, {}}) == "[estimator] Rest::scores is undefined. Set it.");
}

TEST_CASE("claims of estimators") {
  const auto claiming = [](const char* name, Claim claim, int order = 0) {
    EstimatorEntry entry = estimator_entry(name);
    entry.claim = claim;
    if (order > 0) entry.traits.order = order;
    return check_estimator(entry);
  };
  const auto expect = [](const CheckRow& row, const std::string& reason) {
    INFO(row.reason);
    CHECK(row.verdict == Verdict::fail);
    CHECK(row.reason.find(reason) != std::string::npos);
  };
  expect(claiming("st", Claim::unbiased), "which is reached by claim");
  expect(claiming("st", Claim::biased_order, 2), "which is reached by claim");
  expect(claiming("reinmax", Claim::biased_order, 1), "which is missed by claim");
  expect(claiming("reinforce", Claim::biased_order, 1), "which is missed by claim");
  expect(claiming("sparse", Claim::documented), "an estimator cannot claim to be");
  expect(claiming("ste-dense", Claim::exact_on_cell), "analytic and numeric differ");
}

// Of the rows in a sequence, some are padding, which the router does not see.
TEST_CASE("a router that takes L for the number of tokens of its sequence") {
  const auto by_sequence = [](bool right) {
    return [right](Routing& r, const LayerSize& size, const LayerInput& in) {
      const std::int64_t length = right ? Sequences(in).length() : in.sequence;
      r.add_loss("mine", 1.0,
                 sum(square(sum_over_tokens(r.scores) / static_cast<double>(length))) /
                     static_cast<double>(size.experts));
    };
  };
  RouterTraits traits;
  traits.auxiliary = "a mean";
  const CheckRow right = checked(liar(Claim::exact_on_cell, traits, by_sequence(true)));
  INFO(right.reason);
  CHECK(right.verdict == Verdict::pass);
  expect_found(liar(Claim::exact_on_cell, traits, by_sequence(false)),
               "padding changes the gradient of");
}
