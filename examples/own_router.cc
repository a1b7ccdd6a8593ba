// A router of one's own, registered at run time: from then on it is listed, checked, studied and
// trained like those of the library.
//   sharp-top-k: R = TopK(o), w = p^2 / sum_R p^2 = softmax of 2 o over R
#include <filesystem>

#include <fmt/core.h>

#include "moegrad.h"

using namespace moegrad;

namespace {

class SharpTopK : public Router {
 public:
  explicit SharpTopK(double power) : power_(power) {}

  // Of one expert the weight is 1, whatever its logit is.
  ConstantWeights constant_weights(const LayerSize& size) const override {
    return size.active == 1 ? ConstantWeights::renormalised : ConstantWeights::no;
  }

  Routing route(const LayerSize& size, const LayerInput& in) const override {
    Routing r;
    r.logits = router_logits(in.x, in.weights);
    r.scores = softmax(r.logits);
    r.selected = top_k_indices(r.logits, size.active, "selected");
    r.weights = softmax(power_ * take_columns(r.logits, r.selected));
    return r;
  }

 private:
  double power_;
};

}  // namespace

int main() {
  add_router(
      {.name = "sharp-top-k",
       .summary = "the k largest logits, weighted by a power of their scores",
       .source = "an example",
       .formula = "w = p^a / sum over R of p^a",
       .claim = Claim::exact_on_cell,
       .options = {option::number("power", "a").initially("2").from(1e-3, 1e3).tried({"0.5"})},
       .make = [](const Options& o) { return std::make_unique<SharpTopK>(o.number("power")); }});

  const RouterEntry& entry = routers().back();
  fmt::print("listed   {}: {}\n", entry.name, entry.summary);
  const CheckRow row = check_router(entry);
  fmt::print("checked  {} cases, {}: {}\n", row.cases, row.oracle, name_of(row.verdict));
  const BiasRow bias = measure_bias({.router = entry.name});
  fmt::print("studied  cosine {:.3f}, norm ratio {:.3f} to the dense gradient\n", bias.cosine,
             bias.norm_ratio);
  TrainConfig config;
  config.task = "synthetic";
  config.router = entry.name;
  config.options = {{"power", "1.5"}};
  const auto out = std::filesystem::temp_directory_path() / "moegrad-own-router";
  const TrainResult result = train(config, {.out = out, .force = true});
  fmt::print("trained  test accuracy {:.3f}\n", result.test.accuracy());
  return row.verdict == Verdict::pass && result.test.accuracy() > 0.4 ? 0 : 1;
}
