#include "lab/routes.h"

#include <doctest/doctest.h>

#include "tests/temporary_files.h"
#include "train/language.h"
#include "train/language_model.h"
#include "train/model.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

// A language model as it begins.
StoredModel text_model(const std::string& router) {
  StoredModel stored;
  stored.config.task = "language";
  stored.config.domains = "prose,code";
  stored.config.router = router;
  stored.config.width = 8;
  stored.config.hidden = 4;
  stored.config.heads = 2;
  stored.config.layers = 3;
  stored.config.experts = 4;
  stored.task = {.inputs = 5, .ids = true, .targets = {{.name = "byte", .classes = kBytes}}};
  stored.model = make_model(stored.task, stored.config);
  stored.parameters = stored.model->initial(1, DType::f32);
  return stored;
}

Dataset windows() {
  return {.x = Tensor::of<std::int32_t>({2, 5}, {'a', '7', ' ', '!', 'b', 200, 10, 'Z', 0, '0'}),
          .labels = Tensor::of<std::int32_t>({2}, {1, 0})};
}

}  // namespace

TEST_CASE("routes of a language model: every mixture layer, every token that is read") {
  const StoredModel model = text_model("top-k");
  const Dataset data = windows();
  const std::vector<Routes> routes = routes_of(model, data);
  REQUIRE(routes.size() == 2);
  CHECK(routes[0].choices == 2);
  CHECK(routes[1].tokens() == 8);
  Tape tape;
  const Pass pass =
      model.model->forward(tape, Batches(data, 2).get(0), model.parameters, {.training = false});
  const auto want = pass.mixtures[1].out.routing.selected.values<std::int32_t>();
  CHECK(routes[1].experts == std::vector<std::int32_t>(want.begin(), want.end()));
}

TEST_CASE("classes of the tokens of text") {
  const std::vector<TokenClasses> classes = token_classes(text_model("top-k"), windows());
  REQUIRE(classes.size() == 3);
  CHECK(classes[0].names == std::vector<std::string>{"prose", "code"});
  CHECK(classes[0].of_token == std::vector<std::int32_t>{1, 1, 1, 1, 0, 0, 0, 0});
  CHECK(classes[1].of_token == std::vector<std::int32_t>{0, 1, 2, 3, 4, 2, 0, 4});
  CHECK(classes[2].of_token == std::vector<std::int32_t>{'a', '7', ' ', '!', 200, 10, 'Z', 0});
}

TEST_CASE("a piece of several bytes is of the kind of its first one that is no space") {
  StoredModel model = text_model("top-k");
  model.task.pairs = {{' ', '7'}, {' ', ' '}};
  const Dataset data{.x = Tensor::of<std::int32_t>({1, 4}, {256, 257, 'a', 0}),
                     .labels = Tensor::of<std::int32_t>({1}, {0})};
  const std::vector<TokenClasses> classes = token_classes(model, data);
  CHECK(classes[1].of_token == std::vector<std::int32_t>{1, 2, 0});
  CHECK(classes[2].of_token == std::vector<std::int32_t>{256, 257, 'a'});
}

TEST_CASE("a router that mixes tokens has no routes") {
  StoredModel stored;
  stored.config.task = "synthetic";
  stored.config.router = "soft-moe";
  stored.config.width = stored.config.hidden = 8;
  stored.task = {.inputs = 16, .targets = {{.name = "class", .classes = 4}}};
  stored.model = make_model(stored.task, stored.config);
  stored.parameters = stored.model->initial(1, DType::f32);
  const Task task = make_synthetic(DType::f32, 1, {.train_size = 8, .test_size = 8});
  CHECK(error_of([&] { routes_of(stored, task.test); }) ==
        "[study] router soft-moe selects no experts for a token. Give a run of another router.");
  CHECK(token_classes(stored, task.test).front().of_token.size() == 8);
}
