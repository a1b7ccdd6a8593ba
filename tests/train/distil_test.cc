#include "train/distil.h"

#include <algorithm>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tests/train/small_teacher.h"
#include "train/evaluation.h"
#include "train/sentiment.h"
#include "train/student.h"
#include "train/teacher.h"

namespace moegrad {
namespace {

using test::error_of;
using test::SmallTeacher;

constexpr std::int64_t kWidth = SmallTeacher::kWidth;

struct Loaded {
  Task task;
  std::vector<std::string> messages;
};
Loaded load(const SmallTeacher& small, DType dtype = DType::f64, std::int64_t context = 6) {
  Loaded l;
  l.task = load_distil(
      {.folder = small.data(), .dtype = dtype, .context = context, .message = [&](auto text) {
         l.messages.emplace_back(text);
       }});
  return l;
}

std::vector<std::int32_t> row_of(const Tensor& x, std::int64_t i) {
  const auto values = x.values<std::int32_t>();
  return {values.begin() + i * x.size(1), values.begin() + (i + 1) * x.size(1)};
}

Student student_of(const Task& task, LayerSize size, std::int64_t layers = 2) {
  LayerConfig config;
  config.size = size;
  config.activation = Activation::gelu;
  return {{.pieces = task.vocabulary, .places = 6, .heads = 1, .layers = layers},
          {},
          task.targets,
          config};
}

}  // namespace

TEST_CASE(
    "distil: half of few sentences are held out, whole documents, and their texts are nowhere "
    "else") {
  const SmallTeacher small;
  const Task task = load(small).task;
  CHECK(task.vocabulary == 12);
  CHECK(task.test.x.shape() == Shape{6, 6});
  const std::vector<Sentence> sentences = read_sentiment(small.data());
  const Teacher teacher(small.data(), DType::f64);
  std::set<std::vector<std::int32_t>> held_out;
  for (std::int64_t i = 0; i < 6; ++i) held_out.insert(row_of(task.test.x, i));
  std::set<std::string> documents;
  for (const Sentence& s : sentences) {
    const std::vector<std::string_view> text = {s.text};
    if (held_out.contains(row_of(teacher.ids(text, 6), 0))) documents.insert(s.document);
  }
  for (std::int64_t i = 0; i < task.train.x.size(0); ++i) {
    CHECK(!held_out.contains(row_of(task.train.x, i)));
  }
  // All of them stand in one of the two, but for what is said on both sides.
  CHECK(task.train.x.size(0) + 6 >= 11);
  CHECK(task.train.x.size(0) + 6 <= 12);
}

TEST_CASE("distil: moods by the ratings, with neutral from -0.5 to 0.5") {
  const SmallTeacher small;
  const Task task = load(small).task;
  const Teacher teacher(small.data(), DType::f64);
  const std::vector<std::pair<std::string, std::int32_t>> known = {
      {"Good film.", 2}, {"Bad film.", 0}, {"A film.", 1}, {"So.", 1},
      {"A b c.", 1},     {"So bad.", 0},   {"Good.", 2},   {"Bad.", 0}};
  int found = 0;
  for (const auto& entry : known) {
    const std::string& text = entry.first;
    const std::vector<std::string_view> texts = {text};
    const auto ids = row_of(teacher.ids(texts, 6), 0);
    for (const Dataset* data : {&task.train, &task.test}) {
      for (std::int64_t i = 0; i < data->x.size(0); ++i) {
        if (row_of(data->x, i) != ids) continue;
        CAPTURE(text);
        CHECK(data->labels.data<std::int32_t>()[i] == entry.second);
        ++found;
      }
    }
  }
  CHECK(found >= 8);
}

TEST_CASE("distil: the guide is kept, and made anew for other texts") {
  const SmallTeacher small;
  const Loaded first = load(small);
  REQUIRE(first.messages.size() == 2);
  CHECK(first.messages[0].find("the teacher reads 12 sentences") == 0);
  CHECK(first.messages[1].find("of 6 texts held out the teacher tells ") == 0);
  const Loaded second = load(small);
  CHECK(second.messages.size() == 1);
  CHECK(second.task.train.guide.same_bits(first.task.train.guide));
  CHECK(second.task.test.guide.same_bits(first.task.test.guide));
  CHECK(load(small, DType::f64, 5).messages.size() == 2);
  CHECK(load(small, DType::f32, 5).messages.size() == 2);
  small.sentences("tweets", "1\t4\tGood good good a.\n2\t2.5\tGood film.\n");
  CHECK(load(small, DType::f32, 5).messages.size() == 2);
  CHECK(load(small, DType::f32, 5).messages.size() == 1);
}

TEST_CASE("distil: a student begins as the teacher, its networks cut into experts") {
  const SmallTeacher small;
  const Task task = load(small).task;
  const Student student = student_of(task, {kWidth, 4, kWidth, 2, 2});
  Parameters parameters = student.initial(1, DType::f64);
  task.begin(parameters);
  for (Parameter& p : parameters) {  // both experts have the weight 1/2
    if (p.router) p.value = Tensor::zeros(p.value.shape(), DType::f64, Device::cpu);
  }
  Tape tape;
  const Batch batch = Batches(task.test, 6).get(0);
  const Tensor logits =
      student.forward(tape, batch, parameters, {.training = false}).predictions[0].value.value();
  for (std::int64_t i = 0; i < 6; ++i) {
    for (std::int64_t c = 0; c < 3; ++c) {
      CHECK(logits.at(i * 3 + c) ==
            doctest::Approx(batch.guide.at(i * (3 + kWidth) + c)).epsilon(1e-9));
    }
  }
  // And in training it has nothing to learn from the teacher.
  const Pass pass = student.forward(tape, batch, parameters);
  CHECK(std::abs(pass.other.value().at(0)) < 1e-12);
}

TEST_CASE("distil: of fewer units the first, and the more of each") {
  const SmallTeacher small;
  const Task task = load(small).task;
  const Teacher teacher(small.data(), DType::f64);
  const auto value = [](const Parameters& all, const std::string& name) {
    for (const Parameter& p : all) {
      if (p.name == name) return p.value;
    }
    return Tensor();
  };
  Parameters parameters = student_of(task, {kWidth, 2, kWidth, 3, 1}).initial(1, DType::f64);
  task.begin(parameters);
  const Tensor w1 = value(parameters, "1.mixture.experts.w1");             // [3, 32, 2]
  const Tensor w2 = value(parameters, "1.mixture.experts.w2");             // [3, 2, 32]
  const Tensor dense1 = value(teacher.parameters(), "1.dense.w1.weight");  // [32, 8]
  const Tensor dense2 = value(teacher.parameters(), "1.dense.w2.weight");  // [8, 32]
  for (std::int64_t e = 0; e < 3; ++e) {
    for (std::int64_t h = 0; h < 2; ++h) {
      for (std::int64_t d = 0; d < kWidth; ++d) {
        CHECK(w1.at((e * kWidth + d) * 2 + h) == dense1.at(d * 8 + e * 2 + h));
        CHECK(w2.at((e * 2 + h) * kWidth + d) == 4.0 * dense2.at((e * 2 + h) * kWidth + d));
      }
    }
  }
  CHECK(value(parameters, "1.mixture.experts.b2")
            .rows(2, 3)
            .reshape({kWidth})
            .same_bits(value(teacher.parameters(), "1.dense.w2.bias")));
}

TEST_CASE("distil: a student of other sizes than the teacher's is an error") {
  const SmallTeacher small;
  const Task task = load(small).task;
  const auto error = [&](const Student& student) {
    Parameters parameters = student.initial(1, DType::f64);
    return error_of([&] { task.begin(parameters); });
  };
  CHECK(
      error(student_of(task, {16, 4, 16, 2, 1})) ==
      "[distil] the student's 'embedding.piece' is [12, 16], and the teacher's [12, 32]. Give the "
      "sizes of examples/configs/distil.json.");
  CHECK(error(student_of(task, {kWidth, 3, kWidth, 3, 1})) ==
        "[distil] 3 experts of 3 hidden units, and the teacher has 8. Give fewer or smaller ones.");
  CHECK(error(student_of(task, {kWidth, 4, kWidth, 2, 1}, 3)).find("Give no more layers") !=
        std::string::npos);
}

}  // namespace moegrad
