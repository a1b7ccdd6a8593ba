#include "lab/counterfactual.h"

#include <cmath>

#include <doctest/doctest.h>

#include "lab/routes.h"
#include "tests/temporary_files.h"
#include "train/evaluation.h"
#include "train/language.h"
#include "train/model.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

void set(StoredModel& model, const char* name, const std::vector<double>& values) {
  Parameter* const p = model.parameters.find(name);
  REQUIRE(p != nullptr);
  REQUIRE(p->value.numel() == static_cast<std::int64_t>(values.size()));
  p->value = Tensor::of<double>(p->value.shape(), values);
}

// Whatever x is, expert 0 says class 0 and expert 1 class 1, and the router prefers expert 0 by
// `margin`.
StoredModel two_experts(double margin, const std::string& router = "top-k") {
  StoredModel stored;
  stored.config.task = "synthetic";
  stored.config.router = router;
  stored.config.experts = 2;
  stored.config.active = 1;
  stored.config.width = stored.config.hidden = 2;
  stored.config.dtype = "f64";
  stored.task = {.inputs = 3, .targets = {{.name = "class", .classes = 2}}};
  stored.model = make_model(stored.task, stored.config);
  stored.parameters = stored.model->initial(1, DType::f64);
  for (Parameter& p : stored.parameters) {
    p.value = Tensor::zeros(p.value.shape(), DType::f64, Device::cpu);
  }
  set(stored, "norm2.scale", {1, 1});
  set(stored, "mixture.router.bias", {margin, 0});
  set(stored, "mixture.experts.b2", {3, -3, -3, 3});
  set(stored, "head.weight", {2, 0, 0, 2});
  return stored;
}

Dataset four() {
  return {.x = Tensor::zeros({4, 3}, DType::f64, Device::cpu),
          .labels = Tensor::of<std::int32_t>({4}, {0, 1, 0, 1})};
}

}  // namespace

TEST_CASE("a hand-made layer: the other expert is better for half of the tokens") {
  const StoredModel model = two_experts(1.0);
  const CounterfactualOptions options{.routes = 64};
  const std::vector<TokenRoutes> tokens = other_routes(model, four(), 0, options);
  REQUIRE(tokens.size() == 4);
  // The norm makes (1, -1) of (3p, -3p): logits 2 and -2.
  const double right = std::log1p(std::exp(-4.0));
  const double wrong = right + 4.0;
  for (std::size_t i = 0; i < 4; ++i) {
    const bool is_right = i % 2 == 0;
    CHECK(tokens[i].confidence == doctest::Approx(1 / (1 + std::exp(-4.0))).epsilon(1e-3));
    CHECK(tokens[i].loss == doctest::Approx(is_right ? right : wrong).epsilon(1e-3));
    // Gumbel noise chooses expert 1 with the probability softmax gives it, 0.269.
    CHECK(tokens[i].others.size() >= 5);
    CHECK(tokens[i].others.size() <= 35);
    for (const double loss : tokens[i].others) {
      CHECK(loss == doctest::Approx(is_right ? wrong : right).epsilon(1e-3));
    }
  }
  const auto rows = counterfactual("r", model, four(), options, 1);
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].tokens == 4);
  CHECK(rows[0].better_tokens == 0.5);
  CHECK(rows[0].regret == doctest::Approx(2.0).epsilon(1e-3));
  CHECK(rows[1].part == 1);
  CHECK(rows[1].regret == rows[0].regret);
}

TEST_CASE("a temperature of 0: no other route is tried") {
  const auto rows =
      counterfactual("r", two_experts(1.0), four(), {.routes = 4, .temperature = 0.0}, 2);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].better_tokens == 0.0);
  CHECK(rows[0].regret == 0.0);
  CHECK(std::isnan(rows[0].change));
  CHECK(to_json(rows[0]).find("\"change\":null") != std::string::npos);
}

TEST_CASE("parts by confidence, by hand") {
  const std::vector<TokenRoutes> tokens = {{.confidence = 0.9, .loss = 1.0, .others = {1.5, 2.0}},
                                           {.confidence = 0.2, .loss = 3.0, .others = {2.0, 4.0}},
                                           {.confidence = 0.4, .loss = 2.0, .others = {1.0}},
                                           {.confidence = 0.8, .loss = 1.0, .others = {}}};
  const auto rows = rows_by_confidence(tokens, 2);
  REQUIRE(rows.size() == 3);
  CHECK(rows[0].better_tokens == 0.5);
  CHECK(rows[0].better_routes == doctest::Approx(2.0 / 5));
  CHECK(rows[0].regret == doctest::Approx(0.5));
  CHECK(rows[0].change == doctest::Approx((0.5 + 1.0 - 1.0 + 1.0 - 1.0) / 5));
  CHECK(rows[1].confidence == doctest::Approx(0.3));
  CHECK(rows[1].better_tokens == 1.0);
  CHECK(rows[1].regret == doctest::Approx(1.0));
  CHECK(rows[2].better_tokens == 0.0);
  CHECK(rows[2].loss == 1.0);
  CHECK(rows_by_confidence({}, 2).empty());
}

TEST_CASE("a student tells of texts, not of their tokens") {
  StoredModel stored;
  stored.config.task = "distil";
  stored.config.width = stored.config.hidden = 8;
  stored.config.heads = 2;
  stored.config.layers = 2;
  stored.config.experts = 4;
  stored.task = {
      .inputs = 4, .ids = true, .targets = {{.name = "mood", .classes = 2}}, .vocabulary = 9};
  stored.model = make_model(stored.task, stored.config);
  stored.parameters = stored.model->initial(1, DType::f32);
  const Dataset data{.x = Tensor::of<std::int32_t>({1, 4}, {2, 7, 5, 3}),
                     .labels = Tensor::zeros({1}, DType::i32, Device::cpu)};
  const char* const error =
      "[study] the model tells a class of a text, and routes its tokens. Give a run of another "
      "task.";
  CHECK(error_of([&] { other_routes(stored, data, 0, {}); }) == error);
  CHECK(error_of([&] { token_classes(stored, data); }) == error);
}

TEST_CASE("text: below the last layer one token of each window is replaced") {
  StoredModel stored;
  stored.config.task = "language";
  stored.config.width = 8;
  stored.config.hidden = 4;
  stored.config.heads = 2;
  stored.config.layers = 3;
  stored.config.experts = 4;
  stored.task = {.inputs = 6, .ids = true, .targets = {{.name = "byte", .classes = kBytes}}};
  stored.model = make_model(stored.task, stored.config);
  stored.parameters = stored.model->initial(1, DType::f32);
  Dataset data{.x = Tensor::empty({7, 6}, DType::i32, Device::cpu),
               .labels = Tensor::zeros({7}, DType::i32, Device::cpu)};
  for (std::int64_t i = 0; i < data.x.numel(); ++i) {
    data.x.write<std::int32_t>()[i] = static_cast<std::int32_t>((i * 37) % 256);
  }
  const CounterfactualOptions options{.routes = 8, .temperature = 5.0};
  const auto first = other_routes(stored, data, 0, options);
  CHECK(first.size() == 7);
  const auto last = other_routes(stored, data, 1, options);
  CHECK(last.size() == 35);
  // With its own choices the model is as it is.
  double own = 0.0;
  for (const TokenRoutes& t : last) own += t.loss / 35;
  CHECK(own ==
        doctest::Approx(evaluate(*stored.model, stored.parameters, data).loss).epsilon(1e-6));
  double largest = 0.0;
  for (const auto* tokens : {&first, &last}) {
    for (const TokenRoutes& t : *tokens) {
      for (const double loss : t.others) largest = std::max(largest, std::abs(loss - t.loss));
    }
  }
  CHECK(largest > 0.0);
  const auto again = other_routes(stored, data, 0, options);
  CHECK(again.front().others == first.front().others);
}

TEST_CASE("routers whose choice cannot be replaced, and models that tell no class") {
  StoredModel model = two_experts(1.0, "softmax");
  CHECK(error_of([&] { other_routes(model, four(), 0, {}); }) ==
        "[study] the choice of router softmax is not one decision of a layer, which could be "
        "replaced. Give a run of another router.");
  model.task.targets.front().kind = Target::Kind::number;
  CHECK(error_of([&] { other_routes(model, four(), 0, {}); }) ==
        "[study] the model tells no class, of which there is a probability. Give a run of another "
        "task.");
}
