#pragma once

#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "autograd/parameters.h"
#include "autograd/tape.h"

namespace moegrad {

// The sizes of one mixture layer.
struct LayerSize {
  std::int64_t model = 0;    // D
  std::int64_t hidden = 0;   // H
  std::int64_t output = 0;   // Dout
  std::int64_t experts = 0;  // E
  std::int64_t active = 0;   // k
};

// The named Vars of a layer on one tape: "router.weight", "experts.w1", ...
class Weights {
 public:
  void set(std::string name, Var v) { list_.emplace_back(std::move(name), v); }
  // Undefined where there is none.
  Var find(std::string_view name) const {
    for (const auto& [key, v] : list_) {
      if (key == name) return v;
    }
    return {};
  }
  // An Error where there is none.
  Var at(std::string_view name) const {
    const Var v = find(name);
    if (!v.defined()) fail("layer", "no parameter '{}'. Give it with the others.", name);
    return v;
  }
  auto begin() const { return list_.begin(); }
  auto end() const { return list_.end(); }

 private:
  PoolVector<std::pair<std::string, Var>> list_;
};

// What a layer reads for one pass. Its router and its estimator see all of it without the padding:
// x, ids and what they make of them are of the tokens alone.
struct LayerInput {
  Var x;                   // [N, D]
  const Weights& weights;  // parameters, and state (moving averages, biases) as constants
  bool training = true;
  Tensor ids = {};  // i32 [N]: the token (or user) ids from 0 on, for routers that read them
  // L consecutive rows, padding among them, form a sequence; L divides N. Routers ask Sequences
  // (moe/sequences.h), which knows of the padding that was taken out.
  std::int64_t sequence = 1;
  // [N/L, L, L] floating: the scores of the attention before this layer, averaged over its heads,
  // before its causal mask; undefined where there is none.
  Tensor attention = {};
  // i32 [N]: 1 for a token, 0 for padding, which counts nowhere and whose y and gradient are 0;
  // undefined: all rows are tokens. What the layer takes out depends on it: it is read on the host,
  // once a pass.
  Tensor mask = {};
  // i32 [N'], on the host, set by the layer where it took padding out: the row of x that each token
  // had.
  Tensor places = {};
  // At inference no choice is dropped for want of room, whatever the capacity of the router.
  bool dropless = false;
};

// New values of a layer's state, by name without the layer's prefix.
using Updates = std::vector<std::pair<std::string, Tensor>>;

// A loss that is added to that of the task, before it is multiplied by its coefficient.
struct AuxiliaryLoss {
  const char* name;  // in the log of a training
  Var value;         // a scalar
};

// What a router decided for N tokens.
struct Routing {
  Tensor selected;  // i32 [N, k]: the experts of each token; -1 for none
  // How many of them are not -1, at most: a plan has room for so many. Known from sizes alone.
  std::int64_t most = std::numeric_limits<std::int64_t>::max();
  Var weights;  // [N, k]: their combine weights w, differentiable
  Var scores;   // [N, E]: the full scores p
  Var logits;   // [N, E]: what the scores are made of
  // [N, E]: log p, where the p of a token do not sum to 1 over the experts, or the selected p may
  // all be tiny; else undefined. Shares that sum to 1 and ratios of scores are made of it.
  Var log_scores = {};
  // [N, 1]: where the weights are p renormalised over the selected, the log of what divides them.
  Var log_normaliser = {};
  // The choice that balance losses count, i32 [N, k]: before a capacity dropped any of it (-1 in
  // `selected`), or that of the k largest where all experts run; undefined: `selected`.
  Tensor choice = {};
  // A scalar added to the loss; undefined where the router has none of its own.
  Var auxiliary = {};
  PoolVector<AuxiliaryLoss> losses = {};  // what it is made of
  // auxiliary += coefficient * value
  void add_loss(const char* name, double coefficient, Var value);

  // The rest is for routers that exchange more than the choice; undefined where they do not.
  Tensor scale = {};         // [N, k]: a factor s within the weights that no gradient should see
  Tensor noise = {};         // [N, E]: what was added to the logits before the choice
  Var log_probability = {};  // [N, 1]: of the drawn choice
  Var gain = {};             // [Dout]: multiplies y
  // Rows [M, D] that the experts work on instead of x; selected, weights, scores and logits are
  // theirs. y = mix rows', with mix [B, L, M/B] for B sequences, the longest of L tokens.
  Var rows = {};
  Var mix = {};
  Var merge = {};        // [G, E]: the experts are G weighted sums of the layer's; selected < G
  Updates updates = {};  // of the router's state, for the next step
};

// renormalised: one score divided by itself; constant: not made of scores at all.
enum class ConstantWeights { no, renormalised, constant };

// A router: from tokens to experts and combine weights. One file each in moe/routers/, with the
// formula and the paper on top, and one word in moe/registry.cc.
class Router {
 public:
  virtual ~Router() = default;
  // How many experts a token uses at most: the columns of Routing::selected.
  virtual std::int64_t choices(const LayerSize& size) const { return size.active; }
  // Refuses sizes it cannot work with.
  virtual void check(const LayerSize& size) const { static_cast<void>(size); }
  // Whether the combine weights in training are the same numbers whatever its parameters are, and
  // give it no gradient.
  virtual ConstantWeights constant_weights(const LayerSize& size) const {
    static_cast<void>(size);
    return ConstantWeights::no;
  }
  // Adds its parameters, initialised, and its state (not trained). By default "router.weight"
  // [D, E], normal with deviation D^-1/2 / 10 (small logits: no early favourites), and
  // "router.bias" [E], zero.
  virtual void declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
                       const Rng& rng) const;
  // x [N, D]. Draws and noise only when training, through the tape's Decisions.
  virtual Routing route(const LayerSize& size, const LayerInput& in) const = 0;
};

// x W + b [N, E] for "router.weight" [D, E] and, where given, "router.bias" [E].
Var router_logits(Var x, const Weights& weights);

// f64 [rows, columns] whose rows (or, where there are fewer of them, columns) are orthogonal and of
// this length.
Tensor orthogonal(std::int64_t rows, std::int64_t columns, double length, Rng rng);

// i32 [N, E] whose rows are 0 .. E-1: every token uses every expert.
Tensor every_expert(std::int64_t tokens, std::int64_t experts, Device device);

}  // namespace moegrad
