// What an estimator's traits say, held against what it does.

#include <cmath>

#include "moe/checks/check.h"
#include "tensor/kernels.h"

namespace moegrad {
namespace {

class EstimatorTraitCheck {
 public:
  EstimatorTraitCheck(const EstimatorEntry& entry, const LayerConfig& config, CheckRow& row)
      : entry_(entry), traits_(entry.traits), config_(config), row_(row) {
    Options options("estimator " + entry.name, entry.options);
    for (const auto& [name, value] : config.options) {
      if (!options.knows(name)) continue;
      options.set(name, value);
      defaults_ = false;
    }
    changes_value_ =
        options.knows("forward") ? options.flag("forward") : !entry.traits.backward_only;
    estimator_ = entry.make(options);
  }

  void run() {
    for (const bool training : {true, false}) {
      unselected_experts(training);
      if (!estimator_->leaks()) leak(training);
    }
    value();
    noise();
    if (traits_.by_parts) by_parts();
    if (traits_.mean_of[0] != '\0') mean_of();
    state();
  }

 private:
  void note(bool ok, const std::string& what) {
    std::string options;
    for (const auto& [name, given] : config_.options) options += ", " + name + "=" + given;
    row_.note(ok, "traits" + options + ": " + what);
  }

  static LayerPass pass_of(const LayerFixture& f, const LayerFixture& decided) {
    PassOptions options;
    options.given = decisions_of(decided);
    options.auxiliary = false;
    return run_pass(f, options);
  }

  // One token: the parameters of the experts that it did not select change nothing, and get no
  // gradient.
  void unselected_experts(bool training) {
    const RouterTraits& router = router_entry(config_.router).traits;
    if (!(training ? router.sparse_training : router.sparse_inference)) return;
    const LayerFixture f = random_fixture(config_, 1, training);
    const LayerPass once = pass_of(f, f);
    std::vector<bool> used(static_cast<std::size_t>(config_.size.experts), false);
    for (const std::int32_t e : once.selected.values<const std::int32_t>()) {
      if (e >= 0) used[static_cast<std::size_t>(e)] = true;
    }
    LayerFixture moved = f;
    bool gradient = false;
    const auto each_unused = [&](const Tensor& t, const auto& visit) {
      const std::int64_t width = t.numel() / config_.size.experts;
      for (std::int64_t i = 0; i < t.numel(); ++i) {
        if (!used[static_cast<std::size_t>(i / width)]) visit(i);
      }
    };
    for (std::size_t i = 0; i < f.names.size(); ++i) {
      if (!f.names[i].starts_with("experts.")) continue;
      const Tensor& g = once.gradients[i];
      each_unused(g, [&](std::int64_t j) { gradient = gradient || g.at(j) != 0.0; });
      moved.values[i] = f.values[i].clone();
      double* const v = moved.values[i].write<double>();
      each_unused(moved.values[i], [&](std::int64_t j) { v[j] = 0.5 - v[j]; });
    }
    const LayerPass other = pass_of(moved, f);
    bool runs = gradient || !close(once.y, other.y, 0.0);
    for (std::size_t i = 0; i < f.names.size(); ++i) {
      if (f.names[i].starts_with("experts.")) continue;
      runs = runs || !close(once.gradients[i], other.gradients[i], 0.0);
    }
    const bool stated = training ? traits_.dense : !traits_.sparse_inference;
    const char* const trait = training ? "dense is" : "sparse_inference is";
    note(!runs || stated,
         fmt::format("{} stated to be {}, and experts that a token did not select matter", trait,
                     !training));
    note(runs || !stated || !defaults_,
         fmt::format("{} stated to be {}, and experts that a token did not select do not matter",
                     trait, training));
  }

  // The last token changes no output of another.
  void leak(bool training) {
    if (!router_entry(config_.router).traits.causal) return;
    const LayerFixture f = random_fixture(config_, 7, training);
    LayerFixture other = f;
    other.values[0] = f.values[0].clone();
    for (double& v : other.values[0].rows(6, 7).write_values<double>()) v = 3.0 - v;
    note(close(pass_of(f, f).y.rows(0, 6), pass_of(other, f).y.rows(0, 6), 1e-14),
         "leaks() is false, and a token changes the output of others");
  }

  // Against the sparse layer: bit by bit the same, or by default, in training, not.
  void value() {
    if (defaults_) {
      note(changes_value_ != traits_.backward_only,
           "backward_only is not what the option forward is by default");
    }
    for (const bool training : {true, false}) {
      const LayerFixture f = random_fixture(config_, 7, training);
      LayerFixture sparse = f;
      sparse.config = parts("", "", "sparse");
      const bool same = pass_of(f, f).y.same_bits(pass_of(sparse, f).y);
      note(changes_value_ || same, "the value is not that of the sparse layer");
      note(!changes_value_ || !same || !training || !defaults_,
           "backward_only is stated to be false, and the value is that of the sparse layer");
    }
  }

  void noise() {
    if (router_entry(config_.router).traits.continuous) return;
    const LayerFixture f = random_fixture(config_, 5, true);
    Decisions outcomes = Decisions::enumerator();
    Tape tape({.gradients = false, .rng = Rng{1, 0, 0}, .decisions = &outcomes});
    std::vector<Var> leaves;
    for (const Tensor& v : f.values) leaves.push_back(tape.constant(v));
    Weights weights;
    Layer(config_).forward(f.input(leaves, weights));
    const bool takes = tape.rng().position > 0;
    note(!takes || traits_.continuous,
         "it takes random numbers that enumeration does not see, and continuous is not stated");
    note(takes || !traits_.continuous, "continuous is stated, and it takes no noise");
  }

  // The layer with other estimators, and the options of those alone.
  LayerConfig parts(const std::string& router, const std::string& experts,
                    const std::string& whole) const {
    LayerConfig config = config_;
    config.router_gradient = router;
    config.expert_gradient = experts;
    config.estimator = whole;
    if (router == entry_.name || experts == entry_.name || whole == entry_.name) return config;
    for (const OptionSpec& spec : entry_.options) config.options.erase(spec.name);
    return config;
  }

  // The gradient of the whole is that of its parts, each beside the other part of the sparse layer:
  // whole = (own, sparse) + (sparse, own) - (sparse, sparse).
  void by_parts() {
    note(!estimator_->needs_losses() && estimator_->samples() == 1,
         "by_parts is stated, and it needs the losses of its samples");
    const LayerFixture f = random_fixture(config_, 7, true);
    const auto gradients = [&](const LayerConfig& config) {
      LayerFixture other = f;
      other.config = config;
      return pass_of(other, f).gradients;
    };
    const LayerPass once = pass_of(f, f);
    const std::vector<Tensor>& whole = once.gradients;
    const std::vector<Tensor> router = gradients(parts(entry_.name, "sparse", entry_.name));
    const std::vector<Tensor> experts = gradients(parts("sparse", entry_.name, entry_.name));
    const std::vector<Tensor> sparse = gradients(parts("", "", "sparse"));
    for (std::size_t i = 0; i < f.names.size(); ++i) {
      const Tensor sum = whole[i].clone();
      for (std::int64_t j = 0; j < sum.numel(); ++j) {
        sum.write<double>()[j] = router[i].at(j) + experts[i].at(j) - sparse[i].at(j);
      }
      note(close(whole[i], sum, 1e-12, once.rounding[i]),
           "by_parts is stated, and the gradient of " + f.names[i] + " is not that of the parts");
    }
  }

  // Over all outcomes of its own draws, those of the router held.
  void mean_of() {
    const LayerFixture f = random_fixture(config_, 2, true);
    LayerFixture target = f;
    target.config = parts("", "", traits_.mean_of);
    const LayerPass expected = pass_of(target, target);
    std::vector<Tensor> mean;
    for (const Tensor& value : f.values) {
      mean.push_back(Tensor::zeros(value.shape(), DType::f64, Device::cpu));
    }
    Decisions outcomes = Decisions::enumerator();
    for (const auto& [kind, value] : decisions_of(target)) outcomes.give(kind, value);
    do {
      PassOptions options;
      options.auxiliary = false;
      options.decisions = &outcomes;
      const LayerPass pass = run_pass(f, options);
      for (std::size_t i = 0; i < mean.size(); ++i) {
        kernels(Device::cpu).accumulate(outcomes.probability(), pass.gradients[i], mean[i]);
      }
    } while (outcomes.next_outcome());
    for (std::size_t i = 0; i < mean.size(); ++i) {
      note(close(mean[i], expected.gradients[i], 1e-12, expected.rounding[i]),
           fmt::format("mean_of says {}, and the mean gradient of {} is another", traits_.mean_of,
                       f.names[i]));
    }
  }

  void state() {
    Parameters parameters;
    estimator_->declare(config_.size, "", parameters);
    check_state(parameters, traits_.state, row_);
  }

  const EstimatorEntry& entry_;
  const EstimatorTraits& traits_;
  const LayerConfig& config_;
  CheckRow& row_;
  bool defaults_ = true;  // of the estimator's options
  bool changes_value_ = false;
  std::unique_ptr<Estimator> estimator_;
};

}  // namespace

void check_traits(const EstimatorEntry& entry, const LayerConfig& config, CheckRow& row) {
  ++row.cases;
  EstimatorTraitCheck(entry, config, row).run();
}

void check_entry(const EstimatorEntry& entry, CheckRow& row) {
  const EstimatorTraits& traits = entry.traits;
  const bool ordered = entry.claim == Claim::biased_order;
  row.note(ordered || (traits.order == 0 && !traits.choice_alone),
           "traits: order or choice_alone is stated, and the claim is of no order");
  bool others = false;
  for (const std::string& router : entry.routers) {
    others = others || !router_entry(router).traits.categorical;
  }
  row.note(!others || !traits.categorical,
           "traits: categorical, and it is checked with a router that is not");
  row.note(others || traits.categorical,
           "traits: categorical is not stated, and it is checked with no other router");
}

}  // namespace moegrad
