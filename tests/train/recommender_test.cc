#include "train/recommender.h"

#include <string>

#include <doctest/doctest.h>

#include "tests/temporary_files.h"
#include "tests/train/parameter_differences.h"
#include "train/optimiser.h"
#include "train/step.h"

namespace moegrad {
namespace {

using test::error_of;

const std::vector<Field> kFields = {{.name = "user", .values = 4},
                                    {.name = "film", .values = 3},
                                    {.name = "genres", .values = 2, .several = true}};
const std::vector<Target> kTargets = {
    {.name = "rating", .kind = Target::Kind::number, .partial = true},
    {.name = "watched", .kind = Target::Kind::binary},
    {.name = "group", .classes = 3}};

LayerConfig layer(const std::string& router = "top-k", const std::string& estimator = "sparse") {
  LayerConfig config;
  config.size = {.model = 8, .hidden = 5, .experts = 4, .active = 2};
  config.router = router;
  config.estimator = estimator;
  return config;
}

// The second row is of no genre; user 2 and film 1 are not there.
Batch examples() {
  return {.x = Tensor::of<std::int32_t>({4, 4}, {0, 0, 1, 1,  //
                                                 1, 2, 0, 0,  //
                                                 3, 2, 0, 1,  //
                                                 3, 0, 1, 1}),
          .labels = Tensor::of<std::int32_t>({4, 3}, {4, 1, 0,   //
                                                      -1, 0, 1,  //
                                                      2, 1, 2,   //
                                                      -1, 0, 0}),
          .ids = {}};
}

TEST_CASE("finite differences of every parameter; the experts are shared, the gates are not") {
  for (const char* options : {"0", "1"}) {
    LayerConfig config = layer();
    config.options = {{"shared", options}, {"aux", "0.1"}};
    const Recommender model(kFields, kTargets, config);
    Parameters p = model.initial(7, DType::f64);
    const Batch batch = examples();
    Tape tape;
    const Pass pass = model.forward(tape, batch, p);
    REQUIRE(pass.mixtures.size() == 3);
    CHECK(pass.mixtures[0].name == "rating.");
    CHECK(pass.mixtures[1].ids.same_bits(Tensor::of<std::int32_t>({4}, {0, 1, 3, 3})));
    REQUIRE(pass.predictions.size() == 3);
    CHECK(pass.predictions[0].value.shape() == Shape{4});
    CHECK(pass.predictions[1].value.shape() == Shape{4});
    CHECK(pass.predictions[2].value.shape() == Shape{4, 3});
    CHECK(pass.predictions[0].labels.same_bits(Tensor::of<std::int32_t>({4}, {4, -1, 2, -1})));
    CHECK(p.find("experts.w1") != nullptr);
    CHECK((p.find("shared.w1") != nullptr) == (options == std::string("1")));
    CHECK(p.find("rating.experts.w1") == nullptr);
    CHECK(p.find("rating.router.weight")->router);
    CHECK(!p.find("rating.router.weight")->value.same_bits(p.find("watched.router.weight")->value));
    test::check_differences(p, [&](Tape& t) { return model.losses(t, batch, p).total; });
  }
}

// Of the parameters that the loss of one target has a gradient of.
TEST_CASE("a target moves its own gate and the common experts, and no other gate") {
  const Recommender model(kFields, kTargets, layer());
  const Parameters p = model.initial(7, DType::f64);
  Tape tape;
  const Pass pass = model.forward(tape, examples(), p);
  const Gradients g = tape.backward(loss_of(kTargets[1], pass.predictions[1]));
  for (const Parameter& parameter : p) {
    const Tensor gradient = g.find(parameter);
    bool moved = false;
    if (gradient.defined()) {
      for (const double v : gradient.values<double>()) moved = moved || v != 0.0;
    }
    const bool others =
        parameter.name.starts_with("rating.") || parameter.name.starts_with("group.");
    CHECK_MESSAGE(moved == !others, parameter.name);
  }
}

// Rows of genres whose mean is the same, and what it is.
TEST_CASE("several values are the mean of their rows; none is zero") {
  const Recommender model(kFields, kTargets, layer());
  const Parameters p = model.initial(7, DType::f64);
  const auto rating = [&](Parameters& parameters, std::int32_t first, std::int32_t second) {
    Tape tape(Tape::Options{.gradients = false});
    const Batch batch{.x = Tensor::of<std::int32_t>({1, 4}, {1, 1, first, second}),
                      .labels = Tensor::zeros({1, 3}, DType::i32, Device::cpu),
                      .ids = {}};
    return model.forward(tape, batch, parameters).predictions[0].value.value().at(0);
  };
  Parameters q = model.initial(7, DType::f64);
  const std::span<double> table = q.find("embedding.genres")->value.write_values<double>();
  REQUIRE(table.size() == 4);
  const double none = rating(q, 0, 0);
  const double both = rating(q, 1, 1);
  for (std::size_t d = 0; d < 2; ++d) table[d] = (table[d] + table[2 + d]) / 2;
  CHECK(rating(q, 1, 0) == doctest::Approx(both).epsilon(1e-12));
  for (double& v : table) v = 0.0;
  CHECK(rating(q, 1, 0) == doctest::Approx(none).epsilon(1e-12));
  CHECK(none != both);
}

TEST_CASE("routers that read ids get the user, and each gate its own state") {
  const Batch batch = examples();
  const Recommender hashed(kFields, kTargets, [] {
    LayerConfig config = layer("hash");
    config.size.active = 1;
    return config;
  }());
  const Parameters h = hashed.initial(1, DType::f64);
  Tape tape;
  const Pass pass = hashed.forward(tape, batch, h);
  const Tensor& selected = pass.mixtures[0].out.routing.selected;
  CHECK(selected.at(2) == selected.at(3));  // of one user

  const Recommender model(kFields, kTargets, layer("loss-free", "default-ema"));
  Parameters p = model.initial(1, DType::f64);
  AdamWOptimiser optimiser(p, AdamWOptimiser::Config{});
  TrainingStep step(model, p, optimiser, StepOptions{});
  CHECK(step(batch, Rng{.seed = 1}, 1e-3, true).mixtures.size() == 3);
  const Parameters before = model.initial(1, DType::f64);
  auto b = before.begin();
  int states = 0;
  for (const Parameter& parameter : p) {
    const Tensor first = (b++)->value;
    if (parameter.trained) continue;
    ++states;
    CHECK_MESSAGE(!parameter.value.same_bits(first), parameter.name);
  }
  CHECK(states >= 6);
}

TEST_CASE("recommender: errors") {
  CHECK(error_of([] { Recommender({}, kTargets, layer()); }) ==
        "[recommender] it has no field. Give one at least.");
  CHECK(error_of([] { Recommender(kFields, {{.name = "experts", .classes = 2}}, layer()); }) ==
        "[recommender] a target is named 'experts', as a part of the model. Give another name.");
  const Recommender model(kFields, kTargets, layer());
  const Parameters p = model.initial(1, DType::f64);
  Batch batch = examples();
  batch.x = Tensor::zeros({4, 5}, DType::i32, Device::cpu);
  Tape tape;
  CHECK(error_of([&] { model.forward(tape, batch, p); }) ==
        "[recommender] x is i32 [4, 5]. It must be i32 [B, 4].");
}

}  // namespace
}  // namespace moegrad
