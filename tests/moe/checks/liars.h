#pragma once

#include <string>

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "moe/registry.h"
#include "moe/sampling.h"
#include "ops/ops.h"

// Routers of a test's own that state what is not so.
namespace moegrad::test {

// top-k by logits o = x W + b, with something changed at the end. `mean` times the mean of all
// squared scores is added to the loss; `memory` is a state that it declares.
using Change = std::function<void(Routing&, const LayerSize&, const LayerInput&)>;
class Changed : public Router {
 public:
  Changed(Change change, double mean, bool memory)
      : change_(std::move(change)), mean_(mean), memory_(memory) {}
  void declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
               const Rng& rng) const override {
    Router::declare(size, prefix, parameters, rng);
    if (!memory_) return;
    parameters.add(std::string(prefix) + "router.memory",
                   Tensor::zeros({1}, DType::f64, Device::cpu), false);
  }
  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.scores = softmax(r.logits);
    r.selected = top_k_indices(r.logits, size.active, "selected");
    r.weights = take_columns(r.scores, r.selected);
    if (mean_ > 0.0) r.add_loss("mean", mean_, mean(square(r.scores)));
    change_(r, size, in);
    return r;
  }

 private:
  Change change_;
  double mean_;
  bool memory_;
};

inline const Change kHonest = [](Routing&, const LayerSize&, const LayerInput&) {};

inline RouterEntry liar(Claim claim, const RouterTraits& traits, const Change& change,
                        bool memory = false) {
  RouterEntry entry;
  entry.name = "liar";
  entry.claim = claim;
  entry.traits = traits;
  entry.draws = {"selected", "noise"};
  entry.options = {
      option::number("mean", "coefficient of a loss").initially("0").from(0.0, 1.0),
      option::number("lengths", "of another, for one test").initially("1").from(0.0, 1.0)};
  entry.make = [change, memory](const Options& o) {
    return std::make_unique<Changed>(change, o.number("mean"), memory);
  };
  return entry;
}

// The registry finds a router by its name: the newest liar stands for "liar", and between two an
// honest one. It has the options of all liars.
inline CheckRow checked(const RouterEntry& entry) {
  static const RouterEntry honest = liar(Claim::exact_on_cell, {}, kHonest);
  static RouterEntry current;
  current = honest;
  static const bool added = [] {
    RouterEntry standing = honest;
    standing.options.push_back(option::number("tau", "").initially("1"));
    standing.options.push_back(option::integer("groups", "").initially("1"));
    standing.options.push_back(option::flag("a", ""));
    standing.options.push_back(option::flag("b", ""));
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

inline void expect_found(const RouterEntry& entry, const std::string& reason) {
  const CheckRow row = checked(entry);
  INFO(row.reason);
  CAPTURE(reason);
  CHECK(row.verdict == Verdict::fail);
  CHECK(row.reason.find(reason) != std::string::npos);
}

inline RouterEntry with(const RouterTraits& traits, const Change& change = kHonest) {
  return liar(Claim::exact_on_cell, traits, change);
}

}  // namespace moegrad::test
