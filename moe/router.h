#pragma once

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
  std::vector<std::pair<std::string, Var>> list_;
};

// What a router decided for N tokens.
struct Routing {
  Tensor selected;  // i32 [N, k]: the experts of each token; -1 for none
  Var weights;      // [N, k]: their combine weights w, differentiable
  Var scores;       // [N, E]: the full scores p
  Var logits;       // [N, E]: what the scores are the softmax of
  // [N, 1]: where the weights are p renormalised over the selected, the sum that divides them.
  Var normaliser;
  // A scalar added to the loss; undefined where the router has none of its own.
  Var auxiliary;
};

// A router: from tokens to experts and combine weights. One file each in moe/routers/, with the
// formula and the paper on top, and one word in moe/registry.cc.
class Router {
 public:
  virtual ~Router() = default;
  // How many experts a token uses.
  virtual std::int64_t choices(const LayerSize& size) const { return size.active; }
  // Refuses sizes it cannot work with.
  virtual void check(const LayerSize& size) const { static_cast<void>(size); }
  // Adds its parameters, initialised. By default "router.weight" [D, E], normal with deviation
  // D^-1/2 / 10 (small logits: no early favourites), and "router.bias" [E], zero.
  virtual void declare(const LayerSize& size, std::string_view prefix, Parameters& parameters,
                       Rng& rng) const;
  // x [N, D]. Draws and noise only when training, through the tape's Decisions.
  virtual Routing route(const LayerSize& size, Var x, const Weights& weights,
                        bool training) const = 0;
};

// x W + b [N, E] for "router.weight" [D, E] and, where given, "router.bias" [E].
Var router_logits(Var x, const Weights& weights);

}  // namespace moegrad
