#include "moe/layer_config.h"

#include <doctest/doctest.h>

#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

template <class Change>
std::string refused(Change change) {
  LayerConfig c;
  c.size = {3, 4, 2, 4, 2};
  change(c);
  return error_of([&] { parts_of(c); });
}

}  // namespace

TEST_CASE("what a configuration is refused for") {
  CHECK(refused([](LayerConfig& c) { c.router = "topk"; }) ==
        "[router] no router 'topk'. Did you mean 'top-k'?");
  CHECK(refused([](LayerConfig& c) { c.estimator = "expert-groups"; }) ==
        "[estimator] no estimator 'expert-groups'. Did you mean 'expert-group'?");
  CHECK(refused([](LayerConfig& c) { c.options["renormalize"] = "true"; }) ==
        "[option] neither router top-k, estimator sparse nor the layer has an option "
        "'renormalize'. Did you mean "
        "'renormalise'?");
  CHECK(refused([](LayerConfig& c) { c.options["renormalise"] = "yes"; }) ==
        "[option] 'renormalise' of router top-k is 'yes'. Give true or false.");
  CHECK(refused([](LayerConfig& c) { c.options["aux"] = "-1"; }) ==
        "[option] 'aux' of layer is '-1'. Give a number from 0 to 1000000.");
  CHECK(refused([](LayerConfig& c) { c.options["shared"] = "1.5"; }) ==
        "[option] 'shared' of layer is '1.5'. Give a whole number from 0 to 64.");
  CHECK(refused([](LayerConfig& c) { c.size.active = 5; }) ==
        "[layer] k is 5 with 4 experts. Use 1 <= k <= 4.");
  CHECK(refused([](LayerConfig& c) { c.size.active = 0; }) ==
        "[layer] k is 0 with 4 experts. Use 1 <= k <= 4.");
  CHECK(refused([](LayerConfig& c) { c.size.hidden = 0; }) ==
        "[layer] the hidden width is 0. It must be at least 1.");
  CHECK(refused([](LayerConfig& c) {
          c.router = "moesart";
          c.size.active = 1;
        }) == "[layer] k is 1, too few for router moesart. Use k >= 2.");
  CHECK(error_of([] { activation_of("swish"); }) ==
        "[experts] no activation 'swish'. Did you mean 'silu'?");
}

TEST_CASE("sizes that i32 cannot number are refused, by name") {
  const auto message = [](auto&& change) {
    LayerConfig config;
    config.size = {2, 2, 2, 4, 1};
    change(config.size);
    return error_of([&] { parts_of(config); });
  };
  CHECK(message([](LayerSize& s) { s.experts = 1'000'000'000'000; }) ==
        "[layer] the number of experts is 1000000000000. Use 2147483646 at most.");
  CHECK(
      message([](LayerSize& s) { s.hidden = INT64_MAX; }).starts_with("[layer] the hidden width"));
  CHECK(
      message([](LayerSize& s) { s.output = INT64_MAX; }).starts_with("[layer] the output width"));
  CHECK(message([](LayerSize& s) { s.model = INT64_MAX; }).starts_with("[layer] the width"));
  CHECK(message([](LayerSize&) {}) == "no error");
}

TEST_CASE("the parts are those of the configuration, with the losses of the router's paper") {
  LayerConfig c;
  c.size = {3, 4, 2, 4, 2};
  c.router = "deepseek-v1";
  const LayerParts published = parts_of(c);
  CHECK(published.auxiliary == 0.01);
  CHECK(published.shared == 1);
  CHECK(published.losses == "aux=0.01");
  c.options = {{"aux", "0"}, {"shared", "2"}, {"z-loss", "0.5"}};
  const LayerParts own = parts_of(c);
  CHECK(own.auxiliary == 0.0);
  CHECK(own.shared == 2);
  CHECK(own.losses == "z-loss=0.5");
  CHECK(own.router->choices(c.size) == 2);
  CHECK(!own.estimator->leaks());
}
