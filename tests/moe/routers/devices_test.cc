// A layer of every router on the other devices, for all its options, in training and at inference:
// the numbers of the CPU, and no wait for the device on the way there, but for what a router says that
// it computes on the host.
#include "tests/devices.h"

#include <doctest/doctest.h>

#include "moe/checks/check.h"
#include "ops/ops.h"

using namespace moegrad;
using test::agrees;
using test::other_devices;

namespace {

using Named = std::vector<std::pair<std::string, Tensor>>;  // on the host

struct Numbers {
  Named fields;
  std::uint64_t waits = 0;  // of forward()
};

Named fields_of(const Routing& r) {
  Named all = {
      {"selected", r.selected}, {"choice", r.choice}, {"scale", r.scale}, {"noise", r.noise}};
  const auto add = [&](const char* name, Var v) {
    all.emplace_back(name, v.defined() ? v.value() : Tensor());
  };
  add("weights", r.weights);
  add("scores", r.scores);
  add("logits", r.logits);
  add("log_scores", r.log_scores);
  add("log_normaliser", r.log_normaliser);
  add("auxiliary", r.auxiliary);
  add("log_probability", r.log_probability);
  add("gain", r.gain);
  add("rows", r.rows);
  add("mix", r.mix);
  add("merge", r.merge);
  for (const AuxiliaryLoss& loss : r.losses) add(loss.name, loss.value);
  all.insert(all.end(), r.updates.begin(), r.updates.end());
  return all;
}

// The sum of y and all else that has a gradient, each element times another number.
Var objective_of(const LayerOutput& out) {
  const Routing& r = out.routing;
  Var loss = out.auxiliary;
  for (const Var v : {out.y, r.weights, r.scores, r.log_scores, r.log_normaliser, r.log_probability,
                      r.rows, r.mix, r.merge}) {
    if (!v.defined()) continue;
    const Tensor factors = random_cotangent(v.shape()).to(v.dtype()).to(v.value().device());
    const Var part = sum(v * v.tape().constant(factors));
    loss = loss.defined() ? loss + part : part;
  }
  return loss;
}

Numbers run_on(Device device, LayerFixture f, DType dtype) {
  f.device = device;
  f.ids = f.ids.to(device);
  const Layer layer(f.config);
  Tape tape({.rng = Rng{11, 3, 0}});
  std::vector<Var> leaves;
  for (const Tensor& value : f.values) leaves.push_back(tape.variable(value.to(dtype)));
  Weights weights;
  const LayerInput in = f.input(leaves, weights);
  const std::uint64_t before = waits_for_devices();
  const LayerOutput out = layer.forward(in);
  Numbers numbers{fields_of(out.routing), waits_for_devices() - before};
  numbers.fields.insert(
      numbers.fields.end(),
      {{"y", out.y.value()}, {"load", out.expert_load()}, {"dropped", out.dropped()}});
  for (const auto& field : numbers.fields) {
    CAPTURE(field.first);
    if (field.second.defined()) CHECK(field.second.device() == device);
  }
  const Gradients g = tape.backward(objective_of(out));
  for (std::size_t i = 0; i < leaves.size(); ++i) {
    numbers.fields.emplace_back("gradient of " + f.names[i], g[leaves[i]]);
  }
  for (auto& [name, value] : numbers.fields) value = value.to(Device::cpu);
  return numbers;
}

void compare(const LayerFixture& f, DType dtype) {
  CAPTURE(name_of(dtype));
  const Numbers here = run_on(Device::cpu, f, dtype);
  for (const Device device : other_devices()) {
    CAPTURE(name_of(device));
    Numbers there;
    try {
      there = run_on(device, f, dtype);
    } catch (const Error& e) {
      FAIL_CHECK(e.what());
      continue;
    }
    const bool waits = f.training && router_entry(f.config.router).traits.on_host[0] != '\0';
    CHECK((there.waits > 0) == waits);
    REQUIRE(there.fields.size() == here.fields.size());
    for (std::size_t i = 0; i < here.fields.size(); ++i) {
      CAPTURE(here.fields[i].first);
      CHECK(agrees(there.fields[i].second, here.fields[i].second, device, dtype));
    }
  }
}

// 6 tokens in three sequences of 4, the last of which are padding.
Tensor three_and_two_and_one() {
  return Tensor::of<std::int32_t>({12}, {1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 0, 0});
}

}  // namespace

TEST_CASE("every router runs on the other devices, with the CPU's numbers and without a wait") {
  for (const RouterEntry& entry : routers()) {
    CAPTURE(entry.name);
    constexpr std::int64_t kExperts = 6;
    constexpr std::int64_t kTokens = 6;
    const auto config = [&](const OptionMap& options) {
      LayerConfig c;
      c.size = {
          5, 4, 3, kExperts,
          std::clamp<std::int64_t>(3, entry.least_active, std::min(entry.most_active, kExperts))};
      c.router = entry.name;
      c.options = options;
      c.options["shared"] = "1";
      return c;
    };
    CheckRow row;
    for (const OptionMap& options :
         variants(entry.options, entry.traits.losses, kTokens, config, row)) {
      std::string label;
      for (const auto& [name, value] : options) label += name + "=" + value + " ";
      CAPTURE(label);
      for (const bool training : {true, false}) {
        CAPTURE(training);
        const LayerFixture f = random_fixture(config(options), kTokens, training);
        compare(f, DType::f64);
        compare(f, DType::f32);
        if (entry.name == "categorical" && !options.empty()) continue;  // copies of a token
        CAPTURE("padded");
        compare(padded(f, three_and_two_and_one(), 4, 1e30), DType::f64);
      }
    }
  }
}
