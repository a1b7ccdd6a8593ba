// Estimators that state what is not so: for each claim and each trait one, which the checks must
// find. Routers: traits_test.cc.

#include <algorithm>

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "moe/dispatch.h"
#include "moe/estimators/surrogate.h"
#include "moe/registry.h"
#include "ops/ops.h"
#include "tests/temporary_files.h"

using namespace moegrad;

namespace {

void expect(const EstimatorEntry& entry, const std::string& reason) {
  const CheckRow row = check_estimator(entry);
  INFO(row.reason);
  CAPTURE(reason);
  CHECK(row.verdict == Verdict::fail);
  CHECK(row.reason.find(reason) != std::string::npos);
}

// One of the registry with a trait changed.
EstimatorEntry stating(const char* name, const std::function<void(EstimatorTraits&)>& change) {
  EstimatorEntry entry = estimator_entry(name);
  change(entry.traits);
  return entry;
}

// One of a test's own; the registry finds it by its name.
class Written : public Estimator {
 public:
  using Body = std::function<Var(const EstimatorInput&, bool fused)>;
  explicit Written(Body body) : body_(std::move(body)) {}
  Combined combine(const EstimatorInput& in) const override {
    return body_(in, fused(in.x.tape()));
  }
  bool weights_alone(bool) const override { return alone; }
  bool alone = true;

 private:
  Body body_;
};

Var sparse_value(const EstimatorInput& in) {
  return in.experts.mixture(in.x, in.routing.weights, in.plan);
}

EstimatorEntry own(const Written::Body& body, EstimatorTraits traits = {}, bool alone = true) {
  static EstimatorEntry current;
  static const bool added = [] {
    EstimatorEntry standing;
    standing.name = "liar-estimator";
    standing.summary = standing.source = standing.formula = "a test";
    current = standing;
    current.make = [](const Options&) {
      return std::make_unique<Written>(
          [](const EstimatorInput& in, bool) { return sparse_value(in); });
    };
    standing.make = [](const Options& o) { return current.make(o); };
    add_estimator(standing);
    return true;
  }();
  static_cast<void>(added);
  current.name = "liar-estimator";
  current.claim = Claim::exact_on_cell;
  current.traits = traits;
  current.make = [body, alone](const Options&) {
    auto made = std::make_unique<Written>(body);
    made->alone = alone;
    return made;
  };
  return current;
}

}  // namespace

TEST_CASE("an honest estimator passes") {
  const CheckRow row =
      check_estimator(own([](const EstimatorInput& in, bool) { return sparse_value(in); }));
  CHECK_MESSAGE(row.verdict == Verdict::pass, row.reason);
}

TEST_CASE("dense and sparse_inference") {
  expect(stating("ste-dense-router", [](EstimatorTraits& t) { t.dense = false; }),
         "dense is stated to be false, and experts that a token did not select matter");
  expect(stating("gumbel-softmax", [](EstimatorTraits& t) { t.dense = false; }),
         "dense is stated to be false, and experts that a token did not select matter");
  expect(stating("expert-group", [](EstimatorTraits& t) { t.dense = true; }),
         "dense is stated to be true, and experts that a token did not select do not matter");
  expect(stating("sparse", [](EstimatorTraits& t) { t.sparse_inference = false; }),
         "sparse_inference is stated to be false, and experts that a token did not select do not");
  const auto all_at_inference = [](const EstimatorInput& in, bool) {
    if (in.training()) return sparse_value(in);
    const std::int64_t experts = in.plan.experts;
    const Plan all = make_plan(every_expert(in.x.size(0), experts, in.x.value().device()), experts);
    return in.experts.mixture(in.x, in.routing.scores, all);
  };
  expect(own(all_at_inference),
         "sparse_inference is stated to be true, and experts that a token did not select matter");
}

TEST_CASE("backward_only and leaks") {
  expect(stating("sparse", [](EstimatorTraits& t) { t.backward_only = false; }),
         "backward_only is stated to be false, and the value is that of the sparse layer");
  expect(stating("gumbel-softmax", [](EstimatorTraits& t) { t.backward_only = true; }),
         "the value is not that of the sparse layer");
  expect(stating("default-ema", [](EstimatorTraits& t) { t.backward_only = true; }),
         "backward_only is not what the option forward is by default");
  expect(stating("expert-group", [](EstimatorTraits& t) { t.backward_only = false; }),
         "backward_only is not what the option forward is by default");
  const auto leaking = [](const EstimatorInput& in, bool) {
    return sparse_value(in) * (1.0 + mean(mean(in.routing.scores * in.routing.scores, 0)));
  };
  EstimatorEntry leaks = own(leaking, {.backward_only = false});
  leaks.routers = {"moesart"};  // with top-k it is held against the dense layer too
  expect(leaks, "leaks() is false, and a token changes the output of others");
}

TEST_CASE("categorical, continuous and by_parts") {
  expect(stating("sparse", [](EstimatorTraits& t) { t.categorical = true; }),
         "categorical, and it is checked with a router that is not");
  expect(stating("st", [](EstimatorTraits& t) { t.categorical = false; }),
         "categorical is not stated, and it is checked with no other router");
  expect(stating("gumbel-st", [](EstimatorTraits& t) { t.continuous = false; }),
         "it takes random numbers that enumeration does not see, and continuous is not stated");
  expect(stating("st", [](EstimatorTraits& t) { t.continuous = true; }),
         "continuous is stated, and it takes no noise");
  expect(stating("reinforce", [](EstimatorTraits& t) { t.by_parts = true; }),
         "by_parts is stated, and it needs the losses of its samples");
  // The router's weight, read behind the back of the layer: both parts have its gradient.
  const auto behind = [](const EstimatorInput& in, bool) {
    const Var w = in.layer.weights.at("router.weight");
    return sparse_value(in) * (1.0 + mean(mean(w * w, 0)));
  };
  EstimatorEntry twice = own(behind, {.backward_only = false}, false);
  twice.routers = {"moesart"};
  expect(twice, "by_parts is stated, and the gradient of router.weight is not that of the parts");
}

TEST_CASE("order, choice_alone, mean_of and state") {
  expect(stating("sparse", [](EstimatorTraits& t) { t.mean_of = "ste-dense-router"; }),
         "mean_of says ste-dense-router, and the mean gradient of x is another");
  expect(stating("ste-probe", [](EstimatorTraits& t) { t.mean_of = "ste-dense"; }),
         "mean_of says ste-dense, and the mean gradient of x is another");
  expect(stating("sparse", [](EstimatorTraits& t) { t.order = 1; }),
         "order or choice_alone is stated, and the claim is of no order");
  expect(stating("sparse", [](EstimatorTraits& t) { t.choice_alone = true; }),
         "order or choice_alone is stated, and the claim is of no order");
  expect(stating("sparsemixer", [](EstimatorTraits& t) { t.choice_alone = true; }),
         "which is reached by claim");
  expect(stating("sparsemixer-v2", [](EstimatorTraits& t) { t.choice_alone = false; }),
         "which is reached by claim");
  expect(stating("default-ema", [](EstimatorTraits& t) { t.state = "running means"; }),
         "it declares the state estimator.mean, which traits.state does not name");
  expect(stating("sparse", [](EstimatorTraits& t) { t.state = "estimator.mean"; }),
         "traits.state names what it does not declare");
}

TEST_CASE("weights_alone") {
  expect(own([](const EstimatorInput& in, bool) { return sparse_value(in); }, {}, false),
         "the task gives the router no gradient, and constant_weights() and weights_alone()");
}

TEST_CASE("a gradient that is wrong only where there are more experts") {
  const auto wrong = [](const EstimatorInput& in, bool) {
    const Var w = in.routing.weights;
    const Tensor twice =
        Tensor::full(w.shape(), in.plan.experts < 8 ? 1.0 : 2.0, w.dtype(), Device::cpu);
    return in.experts.mixture(in.x, scaled_gradient(w, twice), in.plan);
  };
  expect(own(wrong), "top-k, 9 experts, training: ");
  EstimatorEntry surrogate = own([](const EstimatorInput& in, bool fused) {
    const Var w = in.routing.weights;
    const double factor = fused && in.plan.experts >= 8 ? 2.0 : 1.0;
    return in.experts.mixture(
        in.x, scaled_gradient(w, Tensor::full(w.shape(), factor, w.dtype(), Device::cpu)), in.plan);
  });
  surrogate.claim = Claim::surrogate;
  expect(surrogate, "9 experts, training: fused and written out differ in the gradient of");
}

// The gradient of the weights twice as large where `where` says so; exact everywhere else.
EstimatorEntry twice_where(const std::function<bool(const EstimatorInput&)>& where) {
  return own([where](const EstimatorInput& in, bool) {
    const Var w = in.routing.weights;
    const Tensor factor = Tensor::full(w.shape(), where(in) ? 2.0 : 1.0, w.dtype(), Device::cpu);
    return in.experts.mixture(in.x, scaled_gradient(w, factor), in.plan);
  });
}

TEST_CASE("a gradient that is wrong only on an edge") {
  expect(twice_where([](const EstimatorInput& in) { return in.routing.selected.size(1) == 1; }),
         "k = 1, training: gradcheck: fail");
  expect(twice_where([](const EstimatorInput& in) { return in.x.size(0) == 1; }),
         "top-k, one token, training: gradcheck: fail");
  expect(twice_where([](const EstimatorInput& in) {
           std::vector<bool> used(static_cast<std::size_t>(in.plan.experts), false);
           for (const std::int32_t e : in.routing.selected.values<const std::int32_t>()) {
             if (e >= 0) used[static_cast<std::size_t>(e)] = true;
           }
           const bool all = std::find(used.begin(), used.end(), false) == used.end();
           return !all && in.x.size(0) > 4 && in.x.size(0) < 7;
         }),
         "an empty expert, training: gradcheck: fail");
}

TEST_CASE("a gradient that is wrong only where a capacity dropped a choice") {
  const auto dropped = [](const EstimatorInput& in) {
    const auto selected = in.routing.selected.values<const std::int32_t>();
    return std::find(selected.begin(), selected.end(), -1) != selected.end();
  };
  expect(twice_where(dropped), "gshard, dropped choices, training: gradcheck: fail");
}

TEST_CASE("a field of Unselected that is not set is named") {
  Tape t;
  const Plan plan = make_plan(Tensor::of<std::int32_t>({1, 1}, {0}), 1);
  const Var one = t.constant(Tensor::full({1, 1}, 1.0, DType::f64, Device::cpu));
  const auto error = [&](const Unselected& rest) {
    return test::error_of([&] { written_surrogate(one, one, plan, rest); });
  };
  CHECK(error({{}, one, one}) == "[estimator] Unselected::plan is undefined. Set it.");
  CHECK(error({plan, {}, one}) == "[estimator] Unselected::values is undefined. Set it.");
  CHECK(error({plan, one, {}}) == "[estimator] Unselected::scores is undefined. Set it.");
}

TEST_CASE("claims of estimators") {
  const auto claiming = [](const char* name, Claim claim, int order = 0) {
    EstimatorEntry entry = estimator_entry(name);
    entry.claim = claim;
    if (order > 0 || claim != Claim::biased_order) entry.traits.order = order;
    return entry;
  };
  expect(claiming("st", Claim::unbiased), "which is reached by claim");
  expect(claiming("st", Claim::biased_order, 2), "which is reached by claim");
  expect(claiming("reinmax", Claim::biased_order, 1), "which is missed by claim");
  expect(claiming("reinforce", Claim::biased_order, 1), "which is missed by claim");
  expect(claiming("sparse", Claim::documented), "an estimator cannot claim to be");
  expect(claiming("ste-dense", Claim::exact_on_cell), "analytic and numeric differ");
}
