#pragma once

#include <functional>
#include <span>

#include "autograd/operation_check.h"
#include "moe/layer.h"
#include "moe/registry.h"

namespace moegrad {

// The checks of a router and of an estimator: its claim against the claim's oracle for every value
// of every option, in training and at inference; fused against written out; the edge suite.
// `mutation` breaks an operation on purpose.
CheckRow check_router(const RouterEntry& entry, const Mutation* mutation = nullptr,
                      Device device = Device::cpu);
CheckRow check_estimator(const EstimatorEntry& entry, const Mutation* mutation = nullptr,
                         Device device = Device::cpu);

using OptionMap = std::map<std::string, std::string>;

// A layer on fixed numbers: what the checks run.
struct LayerFixture {
  std::string label;
  LayerConfig config;
  bool training = true;
  bool permutable = true;          // no ties: permuting tokens or experts permutes the results
  std::vector<std::string> names;  // "x" first, then the layer's parameters
  std::vector<Tensor> values;      // f64
  std::vector<std::pair<std::string, Tensor>> state = {};  // what is not differentiated
  Tensor ids = {};
  std::int64_t sequence = 1;
  Tensor attention = {};
  Tensor mask = {};
  bool dropless = false;
  Device device = Device::cpu;  // where the layer works; the values here are on the host

  // The layer's input from leaves made of `values` on their tape, on the device; `weights` must
  // outlive it.
  LayerInput input(std::span<const Var> leaves, Weights& weights) const;
};

// Random x [tokens, D], random parameters, logits of deviation about 1.
LayerFixture random_fixture(const LayerConfig& config, std::int64_t tokens, bool training,
                            std::uint64_t seed = 1);
inline LayerFixture on(Device device, LayerFixture fixture) {
  fixture.device = device;
  return fixture;
}

// Whether a layer, or a run of so many tokens, is an Error.
bool is_refused(const LayerConfig& config, std::int64_t tokens);

// The defaults; each option at each other value by itself; all flags that are not the default
// together. The values of a number or integer are its examples; where there are none, the first few
// integers of its range, twice and half a number's default, 0.5 of a coefficient that `losses`
// names, or the bounds. Such a value, if it is refused, is tried with one of another option. An
// option with no value to try is noted. `tokens` are those of the fixtures.
std::vector<OptionMap> variants(const std::vector<OptionSpec>& specs,
                                const std::vector<std::string>& losses, std::int64_t tokens,
                                const std::function<LayerConfig(const OptionMap&)>& config,
                                CheckRow& row);

// The batch of a fixture without a mask with padding in it: row t of the new one is the next token
// where mask i32 [N] is 1, and else `garbage`, with a negative id. Where the fixture's sequences
// have L tokens, each of the new ones has as many of them, or none.
LayerFixture padded(const LayerFixture& fixture, const Tensor& mask, std::int64_t sequence,
                    double garbage);

// The edge suite of a mixture: an empty expert; all tokens on one expert; one token; k = E; k = 1;
// an odd number of choices; ties; a token of zeros; zero gates; logits of +-1e4; each with padding
// too, which must change nothing. The logits of a
// token are the first E columns of x, which the experts do not read: their gradient is that of x
// there.
std::vector<LayerFixture> edge_fixtures(const LayerConfig& config);

// One forward and backward pass of a fixture.
struct LayerPass {
  Tensor y, weights, selected;
  std::vector<Tensor> gradients;  // by input, of <cotangent, y> + auxiliary
  // Of these, by input, what rounding makes of terms that cancel.
  std::vector<double> rounding = {};
  double terms = 0.0;  // of the loss, as CaseRun's
  Tensor logits = {};
  Tensor logit_gradients = {};  // undefined where the logits have none
  Tensor auxiliary = {};        // undefined where there is none
  Updates updates = {};
  std::vector<double> load = {};
  double dropped = 0.0;  // share
};
struct PassOptions {
  Form form = Form::automatic;
  DType dtype = DType::f64;
  // Forced decisions.
  std::vector<std::pair<std::string, Tensor>> given = {};
  Tensor cotangent = {};  // of y; random_cotangent() where not given
  bool auxiliary = true;  // add the auxiliary loss
  const Mutation* mutation = nullptr;
  Decisions* decisions = nullptr;  // in place of live ones
};
LayerPass run_pass(const LayerFixture& fixture, const PassOptions& options = {});
// Random, asymmetric, the same for the same shape.
Tensor random_cotangent(const Shape& shape);

// The draws and noise of a fixture's run, to be given to others.
std::vector<std::pair<std::string, Tensor>> decisions_of(const LayerFixture& fixture);

// Runs the edge suite of a layer and notes what is wrong in the row, by the traits given. With the
// estimator sparse also what the router's traits say it does not keep: it must break somewhere.
void check_edges(const LayerConfig& config, const RouterTraits& router,
                 const EstimatorTraits& estimator, CheckRow& row,
                 const Mutation* mutation = nullptr, Device device = Device::cpu);

// The fields of Routing held against each other.
void check_fields(const LayerFixture& fixture, const std::string& label, CheckRow& row);

// What the traits of a router and of an estimator say, held against what they do; of an estimator
// with any options.
void check_traits(const RouterEntry& entry, const LayerConfig& config, CheckRow& row);
void check_traits(const EstimatorEntry& entry, const LayerConfig& config, CheckRow& row);
// Layer::router_learns against the gradient of the task; of an estimator where the weights are
// constants.
void check_learns(const LayerConfig& config, CheckRow& row);
// What needs no run: the traits of an estimator against its claim and its routers.
void check_entry(const EstimatorEntry& entry, CheckRow& row);
// `state` names each declared parameter that is not trained, and is empty where there is none.
void check_state(const Parameters& declared, std::string_view state, CheckRow& row);

// The mean over all outcomes of an estimator's router gradient against the exact one: equal
// (Claim::unbiased), or equal for losses up to its degree and wrong one above (biased_order).
void check_order(const EstimatorEntry& entry, const std::map<std::string, std::string>& options,
                 CheckRow& row);

// |a - b| <= max(tolerance * largest element of both, rounding) everywhere; NaN is not close to
// anything.
bool close(const Tensor& a, const Tensor& b, double tolerance, double rounding = 0.0);

}  // namespace moegrad
