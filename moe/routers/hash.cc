// hash: a fixed random expert for each token id (Roller et al., arXiv:2106.04426).
//
//   expert = table[id], w = 1, no parameters; the same in training and at inference
//
// The ids are those of LayerInput::ids: tokens of a text, users of a recommender. The table has a
// place for every id >= 0: number id of the generator of `hash-seed`, modulo E. scores are 1 at the
// expert and 0 elsewhere, logits 0; neither has a gradient. No capacity, no loss.

#include "moe/registry.h"
#include "moe/values.h"
#include "ops/ops.h"

namespace moegrad {
namespace {

constexpr std::uint64_t kTableStream = 0x68617368;

class HashRouter : public Router {
 public:
  explicit HashRouter(std::uint64_t seed) : table_{seed, kTableStream, 0} {}

  void declare(const LayerSize&, std::string_view, Parameters&, const Rng&) const override {}

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    const std::int64_t tokens = in.x.size(0);
    require_ids(in.ids, tokens);
    Tape& tape = in.x.tape();
    Routing r;
    r.selected = tape.decisions().decide("selected", DType::i32, {tokens, 1}, [&] {
      const Tensor ids = in.ids.to(in.x.value().device());
      Tensor selected = ids.like({tokens, 1});
      kernels(ids.device()).random_integers(table_, ids, size.experts, selected);
      return selected;
    });
    r.weights = constant_like(in.x, {tokens, 1}, 1.0);
    r.scores = put_columns(r.weights, r.selected, size.experts);
    r.logits = constant_like(in.x, {tokens, size.experts}, 0.0);
    return r;
  }

 private:
  static void require_ids(const Tensor& ids, std::int64_t tokens) {
    if (!ids.defined()) {
      fail("hash",
           "the batch of {} tokens has no ids. Give the token or user ids, or choose "
           "another router.",
           tokens);
    }
    if (ids.dtype() != DType::i32 || ids.numel() != tokens) {
      fail("hash", "the ids are {} {} for {} tokens. Give one i32 id for each.",
           name_of(ids.dtype()), ids.shape(), tokens);
    }
  }

  Rng table_;
};

}  // namespace

RouterEntry hash_router() {
  return {.name = "hash",
          .summary = "a fixed random expert for each token or user id",
          .source = "Roller et al. 2021, arXiv:2106.04426",
          .formula = "expert = table[id], w = 1; table fixed at random, no router parameters",
          .claim = Claim::exact,
          .traits = {.linear = false,
                     .picks_largest = false,
                     .constant_aux = "has no parameters",
                     .constant_logits = true},
          .options = {option::integer("hash-seed", "seed of the random table")
                          .initially("0")
                          .from(0, 1e9)
                          .tried({"7"})},
          .make = [](const Options& o) -> std::unique_ptr<Router> {
            return std::make_unique<HashRouter>(static_cast<std::uint64_t>(o.integer("hash-seed")));
          },
          .most_active = 1};
}

}  // namespace moegrad
