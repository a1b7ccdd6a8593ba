#include "train/evaluation.h"

#include <cmath>

#include <doctest/doctest.h>

#include "train/classifier.h"
#include "train/language_model.h"
#include "train/measures.h"

namespace moegrad {
namespace {

LayerConfig layer() {
  LayerConfig config;
  config.size = {.model = 4, .hidden = 3, .output = 4, .experts = 3, .active = 1};
  return config;
}

// More rows than a pass of it takes: the measures are those of one pass over all.
TEST_CASE("measures of every target, over the examples where they are known") {
  const std::vector<Target> targets = {
      {.name = "kind", .classes = 3},
      {.name = "liked", .kind = Target::Kind::binary},
      {.name = "rating", .kind = Target::Kind::number, .partial = true}};
  const Classifier model(4, targets, layer());
  const Parameters p = model.initial(1, DType::f64);
  const std::int64_t n = 1100;
  Dataset data{.x = Rng{.seed = 2}.normal({n, 4}, DType::f64),
               .labels = Tensor::empty({n, 3}, DType::i32, Device::cpu)};
  for (std::int64_t i = 0; i < n; ++i) {
    std::int32_t* const row = data.labels.write<std::int32_t>() + 3 * i;
    row[0] = static_cast<std::int32_t>(i % 3);
    row[1] = static_cast<std::int32_t>(i % 5 == 0);
    row[2] = static_cast<std::int32_t>(i % 7) - 1;
  }
  const Evaluation e = evaluate(model, p, data);
  REQUIRE(e.measures.size() == 4);
  Tape tape(Tape::Options{.gradients = false});
  const Pass pass =
      model.forward(tape, {.x = data.x, .labels = data.labels, .ids = {}}, p, {.training = false});
  double loss = 0.0;
  for (std::size_t i = 0; i < 3; ++i) {
    loss += loss_of(targets[i], pass.predictions[i]).value().item();
  }
  CHECK(e.loss == doctest::Approx(loss));
  const std::vector<double> scores = pass.predictions[1].value.value().to_vector();
  const auto liked = pass.predictions[1].labels;
  CHECK(e.measure("liked_auc") ==
        doctest::Approx(area_under_curve(scores, liked.values<std::int32_t>())));
  double squares = 0.0;
  double known = 0.0;
  for (std::int64_t i = 0; i < n; ++i) {
    const double rating = pass.predictions[2].labels.at(i);
    if (rating < 0) continue;
    squares += std::pow(pass.predictions[2].value.value().at(i) - rating, 2);
    known += 1.0;
  }
  CHECK(e.measure("rating_rmse") == doctest::Approx(std::sqrt(squares / known)));
  CHECK(e.measure("kind_accuracy") > 0.0);
  CHECK(std::isnan(e.measure("accuracy")));
  CHECK(text_of(e).starts_with("test kind_accuracy 0."));
  REQUIRE(e.layer_loads.size() == 1);
  CHECK(e.layer_loads[0] == e.expert_load);
}

TEST_CASE("a language model: more windows than a pass takes") {
  LayerConfig config = layer();
  config.activation = Activation::swiglu;
  const LanguageModel model({.layers = 2, .heads = 2, .context = 100}, config);
  CHECK(rows_of_pass(model) == 20);
  CHECK(rows_of_pass(LanguageModel({.layers = 2, .heads = 2, .context = 5000}, config)) == 1);
  const Parameters p = model.initial(1, DType::f64);
  Dataset data{.x = Tensor::empty({45, 101}, DType::i32, Device::cpu),
               .labels = Tensor::zeros({45}, DType::i32, Device::cpu)};
  for (std::int64_t i = 0; i < data.x.numel(); ++i) {
    data.x.write<std::int32_t>()[i] = static_cast<std::int32_t>(i * i % 251);
  }
  Tape tape(Tape::Options{.gradients = false});
  const Pass pass =
      model.forward(tape, {.x = data.x, .labels = data.labels, .ids = {}}, p, {.training = false});
  CHECK(evaluate(model, p, data).loss ==
        doctest::Approx(loss_of(model.targets()[0], pass.predictions[0]).value().item()));
}

TEST_CASE("a language model: nats a byte, and the load of each layer") {
  LayerConfig config = layer();
  config.activation = Activation::swiglu;
  const LanguageModel model({.layers = 3, .heads = 2, .context = 7}, config);
  const Parameters p = model.initial(1, DType::f64);
  const Dataset data{.x = Tensor::full({3, 8}, 65, DType::i32, Device::cpu),
                     .labels = Tensor::zeros({3}, DType::i32, Device::cpu)};
  const Evaluation e = evaluate(model, p, data);
  CHECK(e.loss == doctest::Approx(std::log(256.0)).epsilon(0.05));  // nothing is known yet
  CHECK(e.measure("byte_perplexity") == doctest::Approx(std::exp(e.loss)));
  // The same windows as pieces of two bytes each.
  const LanguageModel pieces({.layers = 3, .heads = 2, .context = 7}, config,
                             BytePairs(std::vector<BytePairs::Pair>{{'A', 'A'}}));
  const Evaluation of_pieces =
      evaluate(pieces, pieces.initial(1, DType::f64),
               {.x = Tensor::full({3, 8}, 256, DType::i32, Device::cpu), .labels = data.labels});
  CHECK(of_pieces.measure("byte_perplexity") == doctest::Approx(std::exp(of_pieces.loss / 2)));
  REQUIRE(e.layer_loads.size() == 2);
  for (std::size_t expert = 0; expert < 3; ++expert) {
    CHECK(e.expert_load[expert] ==
          doctest::Approx((e.layer_loads[0][expert] + e.layer_loads[1][expert]) / 2));
  }
}

}  // namespace
}  // namespace moegrad
