#include "train/task_shape.h"

#include <doctest/doctest.h>

#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

TEST_CASE("the shape of a task goes through its text") {
  const TaskShape shape{.inputs = 7,
                        .ids = true,
                        .targets = {{.name = "a \"b\"", .classes = 3, .partial = true},
                                    {.name = "liked", .kind = Target::Kind::binary},
                                    {.name = "rating", .kind = Target::Kind::number}}};
  CHECK(read_shape(to_json(shape), "f") == shape);
  const Task task = make_synthetic(DType::f32, 1, {.train_size = 1, .test_size = 1});
  CHECK(task.shape() == shape_of_task("synthetic", "f"));
  CHECK(shape_of_task("vision", "f").inputs == 784);
}

TEST_CASE("a text that is no shape is refused with the name of its file") {
  const auto error = [](std::string_view text) { return error_of([&] { read_shape(text, "f"); }); };
  CHECK(error("[") == "[checkpoint] f: its task is no JSON object. Is the file damaged?");
  CHECK(error("{}") ==
        "[checkpoint] f: its task has no 'inputs' from 1 to 16777216. Is the file damaged?");
  CHECK(error(R"({"inputs":1e30,"ids":false})").find("has no 'inputs'") != std::string::npos);
  CHECK(error(R"({"inputs":4,"ids":1})").find("does not say whether 'ids'") != std::string::npos);
  CHECK(error(R"({"inputs":4,"ids":false,"targets":[]})").find("has not 1 to 1024 targets") !=
        std::string::npos);
  const auto target = [&](std::string_view text) {
    return error(fmt::format(R"({{"inputs":4,"ids":false,"targets":[{}]}})", text));
  };
  CHECK(target("3").find("a target that is no object") != std::string::npos);
  CHECK(target(R"({"name":"a","kind":"colour"})").find("the kind 'colour'") != std::string::npos);
  CHECK(target(R"({"name":"a","kind":"classes","classes":0})").find("'classes' from 1") !=
        std::string::npos);
  CHECK(target(R"({"name":7})").find("no text 'name'") != std::string::npos);
  CHECK(error_of([] { shape_of_task("own", "f"); }) ==
        "[checkpoint] f: its task 'own' says nothing of its data. Is the file damaged?");
}
