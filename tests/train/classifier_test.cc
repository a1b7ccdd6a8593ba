#include "train/classifier.h"

#include <string>

#include <doctest/doctest.h>

#include "tests/train/parameter_differences.h"

namespace moegrad {
namespace {

LayerConfig small() {
  LayerConfig config;
  config.size = {.model = 6, .hidden = 5, .experts = 3, .active = 2};
  return config;
}

TEST_CASE("f32 and f64 start from the same numbers, other seeds from others") {
  const Classifier model(4, 3, small());
  const Parameters wide = model.initial(7, DType::f64);
  const Parameters narrow = model.initial(7, DType::f32);
  const Parameters other = model.initial(8, DType::f64);
  auto n = narrow.begin();
  auto o = other.begin();
  for (const Parameter& w : wide) {
    CHECK(w.name == n->name);
    CHECK(w.value.to(DType::f32).same_bits(n->value));
    const bool drawn =
        w.name.find("weight") != std::string::npos || w.name.find(".w") != std::string::npos;
    CHECK_MESSAGE(w.value.same_bits(o->value) == !drawn, w.name);
    ++n;
    ++o;
  }
}

// A router with more matrices than another moves no number of what both have.
TEST_CASE("initial values depend on names alone") {
  LayerConfig config = small();
  const Parameters plain = Classifier(4, 3, config).initial(7, DType::f64);
  int shared = 0;
  for (const char* router : {"comet", "x-moe", "sparsemixer-v2", "deepseek-v3", "remoe"}) {
    config.router = router;
    for (const Parameter& p : Classifier(4, 3, config).initial(7, DType::f64)) {
      for (const Parameter& q : plain) {
        if (p.name != q.name || !(p.value.shape() == q.value.shape())) continue;
        CHECK_MESSAGE(p.value.same_bits(q.value), router << " " << p.name);
        ++shared;
      }
    }
  }
  CHECK(shared > 5 * 10);
}

// input, norm, mixture, residual, norm, head: every parameter gets a gradient, and it is right.
TEST_CASE("finite differences of every parameter, with targets of every kind") {
  const std::vector<Target> targets = {
      {.name = "class", .classes = 3},
      {.name = "liked", .kind = Target::Kind::binary},
      {.name = "rating", .kind = Target::Kind::number, .partial = true},
      {.name = "other", .classes = 2, .partial = true}};
  const Classifier model(4, targets, small());
  Parameters p = model.initial(7, DType::f64);
  Rng rng{1, 1, 0};
  const Batch batch{.x = rng.normal({5, 4}, DType::f64),
                    .labels = Tensor::of<std::int32_t>({5, 4}, {0, 1, 3,  -1,  //
                                                                1, 0, -1, 1,   //
                                                                2, 0, 5,  0,   //
                                                                1, 1, -1, -1,  //
                                                                0, 1, 1,  1}),
                    .ids = {}};
  Tape tape;
  const Pass pass = model.forward(tape, batch, p);
  REQUIRE(pass.predictions.size() == 4);
  CHECK(pass.predictions[0].value.shape() == Shape{5, 3});
  CHECK(pass.predictions[1].value.shape() == Shape{5});
  CHECK(pass.predictions[2].labels.same_bits(Tensor::of<std::int32_t>({5}, {3, -1, 5, -1, 1})));
  test::check_differences(p, [&](Tape& t) { return model.losses(t, batch, p).total; });
}

}  // namespace
}  // namespace moegrad
