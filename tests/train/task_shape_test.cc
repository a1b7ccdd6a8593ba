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
  const TaskShape own{.inputs = 3,
                      .targets = {{.name = "y", .classes = 2, .names = {"no", "yes"}}},
                      .columns = {{.name = "n", .mean = 0.1, .deviation = 1.0 / 3.0},
                                  {.name = "t", .categories = {"a", "b \"c\""}}},
                      .label = 2};
  CHECK(read_shape(to_json(own), "f") == own);
  CHECK(difference(own, own).empty());
  TaskShape other = own;
  other.columns[0].mean = 0.2;
  CHECK(difference(own, other) == "column 'n' has the mean 0.1 there and 0.2 here");
  other = own;
  other.columns[1].categories[0] = "z";
  CHECK(difference(own, other) == "column 't' has other texts");
  other = own;
  other.targets[0].names[0] = "never";
  CHECK(difference(own, other) == "the targets are other ones");
  CHECK(difference(own, shape) == "the columns are 2 there and 0 here");
  CHECK(to_json(shape).find("fields") == std::string::npos);  // as in older checkpoints
  TaskShape with = shape;
  with.fields = {{.name = "user", .values = 5}, {.name = "genres", .values = 6, .several = true}};
  CHECK(read_shape(to_json(with), "f") == with);
  const TaskShape text{.inputs = 5,
                       .ids = true,
                       .targets = {{.name = "piece", .classes = 258}},
                       .pairs = {{116, 104}, {256, 101}}};
  CHECK(read_shape(to_json(text), "f") == text);
  TaskShape others = text;
  others.pairs[1] = {256, 102};
  CHECK(difference(text, others) == "the pieces of text are other ones");
  TaskShape texts = shape;
  texts.vocabulary = 30522;
  CHECK(read_shape(to_json(texts), "f") == texts);
  CHECK(difference(texts, shape) == "the word pieces are 30522 there and 0 here");
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
  const auto names = [&](std::string_view list) {
    return target(fmt::format(
        R"({{"name":"a","kind":"classes","classes":2,"partial":false,"names":{}}})", list));
  };
  for (const char* list : {R"(["a"])", R"(["a","a"])", R"(["a","b","b"])", R"(["a","\u001b"])"}) {
    CHECK(names(list).find("has not a name for each of 2 classes") != std::string::npos);
  }
  CHECK(names("7").find("no list 'names'") != std::string::npos);
  CHECK(names("[1,2]").find("no texts in 'names'") != std::string::npos);
  const auto vocabulary = [&](const char* ids, const char* number) {
    return error(
        fmt::format(R"({{"inputs":2,"ids":{},"targets":[{{"name":"a","kind":"classes","classes":2,)"
                    R"("partial":false}}],"vocabulary":{}}})",
                    ids, number));
  };
  CHECK(vocabulary("false", "5").find("has a 'vocabulary', and no texts") != std::string::npos);
  CHECK(vocabulary("true", "0").find("has no 'vocabulary' from 1 to") != std::string::npos);
  const auto columns = [&](std::string_view list, std::string_view label = "0") {
    return error(fmt::format(
        R"({{"inputs":2,"ids":false,"targets":[{{"name":"a","kind":"classes","classes":2,)"
        R"("partial":false}}],"label":{},"columns":{}}})",
        label, list));
  };
  CHECK(columns("[]").find("has no columns") != std::string::npos);
  CHECK(columns("[1]").find("a column that is no object") != std::string::npos);
  CHECK(columns(R"([{"name":"n","mean":0}])").find("'deviation'") != std::string::npos);
  CHECK(columns(R"([{"name":"n","mean":0,"deviation":0}])").find("not above 0") !=
        std::string::npos);
  CHECK(columns(R"([{"name":"n","mean":0,"deviation":1}])")
            .find("has 2 inputs, and its columns "
                  "are 1") != std::string::npos);
  for (const char* texts : {"[]", R"(["b","a"])", R"(["a","a"])"}) {
    CHECK(columns(fmt::format(R"([{{"name":"t","categories":{}}}])", texts)).find("not sorted") !=
          std::string::npos);
  }
  CHECK(columns(R"([{"name":"t","categories":["a","b"]}])", "2").find("'label' from 0 to 1") !=
        std::string::npos);
  CHECK(columns(R"([{"name":"t","categories":["a","b"]}])", "1") == "no error");
  CHECK(target(R"({"name":7})").find("no text 'name'") != std::string::npos);
  const auto pairs = [&](std::string_view list, int classes = 257) {
    return error(fmt::format(
        R"({{"inputs":4,"ids":true,"targets":[{{"name":"a","kind":"classes","classes":{},)"
        R"("partial":false}}],"pairs":{}}})",
        classes, list));
  };
  CHECK(pairs("[[1,2]]") == "no error");
  CHECK(pairs("7").find("no list of 'pairs'") != std::string::npos);
  for (const char* list : {"[[1]]", "[[1,-2]]", "[[1,1e30]]", "[[1,70000]]", "[[1,\"2\"]]"}) {
    CHECK(pairs(list).find("a pair that is not two pieces") != std::string::npos);
  }
  CHECK(pairs("[[1,2]]", 256).find("has 1 pairs for 256 pieces of text") != std::string::npos);
  CHECK(pairs("[[1,256]]").find("pairs that are none: [byte-pairs] pair 0 is of the piece 256") !=
        std::string::npos);
  const auto fields = [&](std::string_view ids, std::string_view list) {
    return error(fmt::format(
        R"({{"inputs":4,"ids":{},"targets":[{{"name":"a","kind":"binary","classes":0,"partial":false}}],"fields":{}}})",
        ids, list));
  };
  CHECK(fields("true", R"([{"name":"u","values":9,"several":false}])") ==
        "[checkpoint] f: its task has fields of 1 columns for 4 inputs. Is the file damaged?");
  CHECK(fields("true", R"([{"name":"u","values":4,"several":true}])") == "no error");
  CHECK(fields("false", R"([{"name":"u","values":4,"several":true}])").find("'ids' is false") !=
        std::string::npos);
  CHECK(fields("true", "[]").find("has not 1 to 1024 fields") != std::string::npos);
  CHECK(fields("true", "[3]").find("a field that is no object") != std::string::npos);
  CHECK(fields("true", R"([{"name":"u","values":0,"several":true}])").find("'values' from 1") !=
        std::string::npos);
  CHECK(error_of([] { shape_of_task("own", "f"); }) ==
        "[checkpoint] f: its task 'own' says nothing of its data. Is the file damaged?");
}
