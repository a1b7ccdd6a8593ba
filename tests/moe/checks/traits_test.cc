// Routers that state what is not so: for each claim and each trait one, which the checks must find.
// Estimators: estimator_traits_test.cc.
#include <cmath>

#include <doctest/doctest.h>

#include "moe/balance.h"
#include "moe/checks/check.h"
#include "moe/estimators/surrogate.h"
#include "moe/registry.h"
#include "moe/sampling.h"
#include "ops/ops.h"
#include "tests/moe/checks/liars.h"

using namespace moegrad;

using namespace moegrad::test;

namespace {

// Normal noise [N, E] by the decision "noise"; in multiples of 1/128, which f32 holds.
Var noise_of(const Routing& r, const LayerInput& in) {
  Tape& tape = in.x.tape();
  const Tensor noise = tape.decisions().decide("noise", DType::f64, r.logits.shape(), [&] {
    Tensor normal = tape.rng().normal(r.logits.shape(), DType::f64);
    for (double& v : normal.write_values<double>()) v = std::round(v * 128.0) / 128.0;
    return normal;
  });
  return tape.constant(noise.to(r.logits.dtype()));
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

TEST_CASE("linear and softmax") {
  const Change hot = [](Routing& r, const LayerSize&, const LayerInput&) {
    r.logits = 2.0 * r.logits;
    r.scores = softmax(r.logits);
    r.weights = take_columns(r.scores, r.selected);
  };
  expect_found(with({}, hot), "linear says logits = x W + b");
  CHECK(checked(with({.linear = false}, hot)).verdict == Verdict::pass);
  expect_found(with({.linear = false}), "logits = x W + b, and linear is stated to be false");
  const Change sigmoids = [](Routing& r, const LayerSize&, const LayerInput&) {
    r.weights = take_columns(sigmoid(r.logits), r.selected);
  };
  expect_found(with({}, sigmoids), "the gradients of a token's logits do not sum to zero");
  CHECK(checked(with({.softmax = false}, sigmoids)).verdict == Verdict::pass);
  expect_found(with({.softmax = false}), "the gradients of all logits sum to zero");
  const Change normed = [](Routing& r, const LayerSize& size, const LayerInput& in) {
    const Var unit = in.x / sqrt(sum(square(in.x), 1, true));
    r.logits = router_logits(unit, in.weights);
    r.scores = softmax(r.logits);
    r.selected = top_k_indices(r.logits, size.active, "selected");
    r.weights = take_columns(r.scores, r.selected);
  };
  expect_found(with({.linear = false, .picks_largest = false}, normed), "a token of zeros");
}

TEST_CASE("samples, continuous and categorical") {
  const Change noisy = [](Routing& r, const LayerSize& size, const LayerInput& in) {
    if (!in.training) return;
    const Var o = r.logits + noise_of(r, in);
    r.selected = top_k_indices(o, size.active, "selected");
    r.weights = take_columns(softmax(o), r.selected);
  };
  expect_found(with({}, noisy), "neither samples nor continuous is stated");
  expect_found(with({.samples = true}, noisy),
               "it takes random numbers that enumeration does not see");
  CHECK(checked(with({.continuous = true}, noisy)).verdict == Verdict::pass);
  CHECK(checked(with({.samples = true, .continuous = true}, noisy)).verdict == Verdict::pass);
  const Change drawn = [](Routing& r, const LayerSize& size, const LayerInput& in) {
    if (!in.training) return;
    r.selected = sample_experts(r.logits, size.active, false);
    r.weights = take_columns(r.scores, r.selected);
  };
  expect_found(with({}, drawn), "neither samples nor continuous is stated");
  CHECK(checked(with({.samples = true}, drawn)).verdict == Verdict::pass);
  expect_found(with({.samples = true, .continuous = true}, drawn),
               "continuous is stated, and all that it draws can be enumerated");
  const Change both = [](Routing& r, const LayerSize& size, const LayerInput& in) {
    if (!in.training) return;
    const Var o = r.logits + noise_of(r, in);
    r.selected = sample_experts(o, size.active, false);
    r.weights = take_columns(softmax(o), r.selected);
  };
  expect_found(with({.continuous = true}, both), "it draws experts, and samples is not stated");
  const Change beside = [](Routing& r, const LayerSize&, const LayerInput& in) {
    if (in.training)
      r.weights = r.weights * (1.0 + 0.25 * take_columns(noise_of(r, in), r.selected));
  };
  expect_found(with({.samples = true, .continuous = true}, beside),
               "samples is stated, and 32 seeds choose the same experts");
  CHECK(checked(with({.continuous = true}, beside)).verdict == Verdict::pass);
  expect_found(with({.samples = true}), "32 seeds give the same routing");

  expect_found(with({.categorical = true}), "categorical, and a token has not one expert");
  const Change one = [](Routing& r, const LayerSize& size, const LayerInput& in) {
    if (in.training) r.selected = sample_experts(r.logits, size.active, false);
    const Var log_p = take_columns(log_softmax(r.logits), r.selected);
    r.weights = 1.0 + (log_p - stop_gradient(log_p));
  };
  const auto surrogate = [&](const RouterTraits& traits, const Change& change) {
    RouterEntry entry = liar(Claim::surrogate, traits, change);
    entry.most_active = 1;
    return entry;
  };
  expect_found(surrogate({.samples = true}, one), "and categorical is not stated");
  const CheckRow row = checked(surrogate({.samples = true, .categorical = true}, one));
  CHECK_MESSAGE(row.verdict == Verdict::pass, row.reason);
  const Change hotter = [](Routing& r, const LayerSize& size, const LayerInput& in) {
    if (in.training) r.selected = sample_experts(2.0 * r.logits, size.active, false);
    const Var log_p = take_columns(log_softmax(r.logits), r.selected);
    r.weights = 1.0 + (log_p - stop_gradient(log_p));
  };
  expect_found(surrogate({.samples = true, .categorical = true}, hotter),
               "categorical, and E[w] is not the softmax of the logits");
}

TEST_CASE("causal, in_order, exchangeable and picks_largest") {
  const Change forward_looking = [](Routing& r, const LayerSize&, const LayerInput&) {
    r.weights = r.weights * (mean(mean(r.scores, 0)) + max(mean(r.scores, 0), 0));
  };
  expect_found(with({}, forward_looking), "a later token changes the routing");
  const Change by_place = [](Routing& r, const LayerSize&, const LayerInput& in) {
    Tensor factor = Tensor::full({r.weights.size(0), 1}, 1.0, DType::f64, Device::cpu);
    for (std::int64_t t = 0; t < factor.numel(); ++t) factor.write<double>()[t] += 0.125 * t;
    r.weights = r.weights * in.x.tape().constant(factor.to(r.weights.dtype()));
  };
  expect_found(with({}, by_place), "permuting the tokens does not permute the output");
  CHECK(checked(with({.in_order = true}, by_place)).verdict == Verdict::pass);
  expect_found(with({.in_order = true}), "in_order is stated, and the order of tokens never");
  const Change by_number = [](Routing& r, const LayerSize&, const LayerInput& in) {
    Tensor factor = Tensor::full(r.selected.shape(), 1.0, DType::f64, Device::cpu);
    for (std::int64_t i = 0; i < factor.numel(); ++i) {
      factor.write<double>()[i] += 0.125 * r.selected.at(i);
    }
    r.weights = r.weights * in.x.tape().constant(factor.to(r.weights.dtype()));
  };
  expect_found(with({}, by_number), "permuting the experts changes the output");
  CHECK(checked(with({.exchangeable = false}, by_number)).verdict == Verdict::pass);
  expect_found(with({.exchangeable = false}), "the order of experts never matters");
  const Change last_of_equals = [](Routing& r, const LayerSize& size, const LayerInput& in) {
    if (in.training) return;
    const Tensor o = r.logits.value().to(DType::f64).clone();
    for (std::int64_t i = 0; i < o.numel(); ++i) {
      o.write<double>()[i] += 1e-9 * static_cast<double>(i % size.experts);
    }
    r.selected = top_k_indices(in.x.tape().constant(o), size.active, "selected");
    r.weights = take_columns(r.scores, r.selected);
  };
  expect_found(with({}, last_of_equals), "of equal scores the lowest expert does not win");
}

TEST_CASE("sparse_training and sparse_inference") {
  const auto all = [](bool training) {
    return [training](Routing& r, const LayerSize& size, const LayerInput& in) {
      if (in.training != training) return;
      r.choice = r.selected;
      r.selected = every_expert(in.x.size(0), size.experts, in.x.value().device());
      r.weights = r.scores;
    };
  };
  expect_found(with({}, all(true)),
               "sparse_training is stated to be true, and a token runs 4 of 4");
  expect_found(with({}, all(false)),
               "sparse_inference is stated to be true, and a token runs 4 of 4");
  CHECK(checked(with({.sparse_training = false}, all(true))).verdict == Verdict::pass);
  CHECK(checked(with({.sparse_inference = false}, all(false))).verdict == Verdict::pass);
  expect_found(with({.sparse_training = false}),
               "sparse_training is stated to be false, and a token runs 2 of 4 experts");
  expect_found(with({.sparse_inference = false}),
               "sparse_inference is stated to be false, and a token runs 2 of 4 experts");
  // All tokens but the first.
  const Change nearly_all = [](Routing& r, const LayerSize& size, const LayerInput& in) {
    if (!in.training) return;
    const Tensor mine = r.selected;
    r.choice = mine;
    r.selected = every_expert(in.x.size(0), size.experts, in.x.value().device());
    for (std::int64_t e = 0; e < size.experts; ++e) {
      std::int32_t& id = r.selected.write<std::int32_t>()[e];
      id = e < mine.size(1) ? mine.data<std::int32_t>()[e] : -1;
    }
    r.weights = take_columns(r.scores, r.selected);
  };
  expect_found(with({.in_order = true}, nearly_all),
               "sparse_training is stated to be true, and a token runs 3.6 of 4");
}

TEST_CASE("state, auxiliary, losses, constant_aux and constant_logits") {
  expect_found(with({.state = "router.memory"}), "traits.state names what it does not declare");
  expect_found(liar(Claim::exact_on_cell, {}, kHonest, true),
               "it declares the state router.memory, which traits.state does not name");
  expect_found(liar(Claim::exact_on_cell, {.state = "router.mean"}, kHonest, true),
               "it declares the state router.memory, which traits.state does not name");
  CHECK(checked(liar(Claim::exact_on_cell, {.state = "router.memory"}, kHonest, true)).verdict ==
        Verdict::pass);

  const Change lossy = [](Routing& r, const LayerSize&, const LayerInput&) {
    r.auxiliary = mean(square(r.scores));
  };
  expect_found(with({}, lossy), "a loss whose coefficient is no option that traits.losses names");
  expect_found(with({.auxiliary = "a mean", .losses = {"mean"}}, lossy),
               "a loss whose coefficient is no option that traits.losses names");
  expect_found(with({.auxiliary = "a mean"}), "traits.auxiliary names a loss, and there is none");
  const Change constant = [](Routing& r, const LayerSize&, const LayerInput& in) {
    r.auxiliary = in.x.tape().constant(Tensor::full({}, 0.5, in.x.dtype(), Device::cpu));
  };
  expect_found(with({.auxiliary = "a mean"}, constant),
               "traits.auxiliary names a loss, and there is none");
  expect_found(with({.losses = {"mean"}}), "which traits.auxiliary does not name");
  const Change none = [](Routing& r, const LayerSize&, const LayerInput&) { r.auxiliary = {}; };
  expect_found(with({.auxiliary = "a mean", .losses = {"mean"}}, none),
               "traits.losses names mean, which is the coefficient of no loss");
  CHECK(checked(with({.auxiliary = "a mean", .losses = {"mean"}})).verdict == Verdict::pass);

  expect_found(with({.constant_aux = "is even"}), "constant_aux is stated, and aux has a gradient");
  const Change even = [](Routing& r, const LayerSize& size, const LayerInput& in) {
    r.choice = every_expert(in.x.size(0), size.experts, in.x.value().device());
  };
  expect_found(with({}, even), "constant_aux is not stated, and aux is a constant");
  CHECK(checked(with({.constant_aux = "is even"}, even)).verdict == Verdict::pass);
  expect_found(with({.constant_logits = true}),
               "constant_logits is stated, and the z-loss has a gradient");
  const Change flat = [](Routing& r, const LayerSize&, const LayerInput& in) {
    r.logits = in.x.tape().constant(Tensor::zeros(r.logits.shape(), r.logits.dtype(), Device::cpu));
  };
  expect_found(with({.linear = false}, flat),
               "constant_logits is not stated, and the z-loss is a constant");
}

// Its weights are constants, and constant_weights() does not say so.
TEST_CASE("constant weights that are not stated") {
  expect_found(with({.softmax = false},
                    [](Routing& r, const LayerSize&, const LayerInput&) {
                      r.weights = r.weights.tape().constant(
                          Tensor::full(r.weights.shape(), 1.0, r.weights.dtype(), Device::cpu));
                    }),
               "the task gives the router no gradient, and constant_weights()");
}

TEST_CASE("a gradient that is wrong only where there is more of something") {
  const auto wrong_where = [](auto large) {
    return with({}, [large](Routing& r, const LayerSize& size, const LayerInput& in) {
      if (large(size, in)) r.weights = r.weights * stop_gradient(r.weights);
    });
  };
  const std::string found = "liar, 9 experts, training: ";
  expect_found(wrong_where([](const LayerSize& s, const LayerInput&) { return s.experts >= 8; }),
               found);
  expect_found(wrong_where([](const LayerSize& s, const LayerInput&) { return s.active > 2; }),
               found);
  expect_found(wrong_where([](const LayerSize&, const LayerInput& in) {
                 return in.x.size(0) > 8 && in.x.size(0) < 96;
               }),
               found);
}

TEST_CASE("a field of Routing that is not set is named") {
  expect_found(liar(Claim::exact_on_cell, {},
                    [](Routing& r, const LayerSize&, const LayerInput&) { r.scores = {}; }),
               "router liar leaves Routing::scores undefined. Set it in route().");
}

// Of the rows in a sequence, some are padding, which the router does not see.
TEST_CASE("a router that takes L for the number of tokens of its sequence") {
  const auto by_sequence = [](bool right) {
    RouterEntry entry = with({.auxiliary = "squared loads (lengths)", .losses = {"lengths"}});
    entry.make = [right](const Options& o) {
      const double coefficient = o.number("lengths");
      return std::make_unique<Changed>(
          [=](Routing& r, const LayerSize& size, const LayerInput& in) {
            const std::int64_t length = right ? Sequences(in).length() : in.sequence;
            const Var loads = sum_over_tokens(r.scores) / static_cast<double>(length);
            r.add_loss("mine", coefficient, sum(square(loads)) / static_cast<double>(size.experts));
          },
          0.0, false);
    };
    return entry;
  };
  const CheckRow right = checked(by_sequence(true));
  CHECK_MESSAGE(right.verdict == Verdict::pass, right.reason);
  expect_found(by_sequence(false), "padding changes the gradient of");
}
