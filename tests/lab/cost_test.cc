#include "lab/cost.h"

#include <doctest/doctest.h>

#include "train/language.h"

using namespace moegrad;

namespace {

// Classes from 16 numbers.
TaskShape numbers() { return {.inputs = 16, .targets = {{.name = "class", .classes = 4}}}; }

}  // namespace

TEST_CASE("operations of a classifier, by hand") {
  TrainConfig config;
  config.width = 8;
  config.hidden = 32;
  config.experts = 4;
  config.active = 2;
  config.batch = 10;
  // Input 16 x 8, router 8 x 4, head 8 x 4; an expert 8 x 32 and 32 x 8.
  const double always = 3.0 * (128 + 32 + 32);
  const double expert = 512.0;
  const auto operations = [&] { return operations_of_step(config, numbers()) / 20.0; };
  CHECK(operations() == always + 6 * expert);
  config.estimator = "ste-dense-router";
  CHECK(operations() == always + 8 * expert);
  config.estimator = "ste-dense";
  CHECK(operations() == always + 12 * expert);
  config.estimator = "ste-probe";
  CHECK(operations() == always + 7 * expert);
  config.options["probes"] = "2";
  CHECK(operations() == always + 8 * expert);
  config.options.clear();
  config.estimator = "sparse";
  config.router_gradient = "ste-dense-router";
  CHECK(operations() == always + 8 * expert);
  config.router_gradient.clear();
  config.router = "softmax";
  CHECK(operations() == always + 12 * expert);
  config.router = "top-k";
  config.activation = "swiglu";
  CHECK(operations() == always + 9 * expert);
}

TEST_CASE("operations of a language model: attention, its head, every layer") {
  TrainConfig config;
  config.width = 8;
  config.hidden = 4;
  config.layers = 3;
  config.heads = 2;
  config.experts = 4;
  config.active = 2;
  config.batch = 1;
  const TaskShape text{.inputs = 33, .ids = true, .targets = {{.name = "byte", .classes = kBytes}}};
  // Head, attention's four matrices in each layer, the dense network of k hidden columns in layer 0,
  // routers with experts in the others.
  const double always = 256 * 8 + 3 * 4 * 64 + 3 * 8 * 8 + 2 * (8 * 4);
  const double attention = 3.0 * 32 * 8;
  const double experts = 2.0 * (2 * 8 * 4) * 2;
  CHECK(operations_of_step(config, text) == 2.0 * 32 * 3 * (always + attention + experts));
}
