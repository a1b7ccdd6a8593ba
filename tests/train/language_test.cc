#include "train/language.h"

#include <string>

#include <doctest/doctest.h>

#include "tensor/files.h"
#include "tensor/folders.h"
#include "tests/temporary_files.h"

namespace moegrad {
namespace {

using test::error_of;
using test::TemporaryFolder;

void write_domain(const TemporaryFolder& data, const std::string& name, const std::string& train,
                  const std::string& validation) {
  const auto folder = data.path() / "language" / name;
  make_folder(folder);
  write_file_atomic(folder / "train.txt", train);
  write_file_atomic(folder / "validation.txt", validation);
}

std::string window(const Dataset& data, std::int64_t i) {
  std::string text;
  for (const std::int32_t id : data.x.rows(i, i + 1).values<std::int32_t>()) {
    text += static_cast<char>(id);
  }
  return text;
}

TEST_CASE("windows tell each byte but the first once; bytes are bytes") {
  const TemporaryFolder data;
  write_domain(data, "prose", "abcdefghijk", "0123");
  write_domain(data, "code", std::string("\xff\0\x80xyz", 6), "wxyz");
  CHECK(chosen_domains("prose,code") == std::vector<std::string>{"prose", "code"});
  const Dataset both = training_windows(data.path(), "prose,code", 3);
  REQUIRE(both.x.shape() == Shape{4, 4});
  CHECK(window(both, 0) == "abcd");
  CHECK(window(both, 1) == "defg");
  CHECK(window(both, 2) == "ghij");
  CHECK(window(both, 3) == std::string("\xff\0\x80x", 4));
  CHECK(both.x.at(12) == 255.0);
  CHECK(both.labels.same_bits(Tensor::of<std::int32_t>({4}, {0, 0, 0, 1})));
  CHECK(test_windows(data.path(), "prose,code", 3).x.size(0) == 2);
  CHECK(training_windows(data.path(), "code", 3).labels.at(0) == 0.0);
}

TEST_CASE("pieces are learned from the texts to train on") {
  const TemporaryFolder data;
  write_domain(data, "prose", "the then the", "then");
  write_domain(data, "code", "xyxy", "xythe");
  const Task task = load_task(
      "language", {.folder = data.path(), .domains = "prose,code", .context = 1, .pieces = 258});
  CHECK(task.targets[0].name == "piece");
  CHECK(task.shape().pairs == std::vector<BytePairs::Pair>{{'h', 'e'}, {'t', 256}});
  CHECK(task.train.x.to_vector() == std::vector<double>{257, ' ', ' ', 257, 257, 'n', 'n', ' ', ' ',
                                                        257,  // the then the
                                                        'x', 'y', 'y', 'x', 'x', 'y'});
  CHECK(task.test.x.to_vector() == std::vector<double>{257, 'n', 'x', 'y', 'y', 257});
}

TEST_CASE("a long validation text is seen evenly") {
  const TemporaryFolder data;
  std::string text;
  for (int i = 0; i < 4097; ++i) text += static_cast<char>(i % 251);
  write_domain(data, "jargon", "abc", text);
  const Dataset test = test_windows(data.path(), "jargon", 2);
  CHECK(test.x.size(0) == 1024);  // of 2048
  CHECK(test.x.at(3) == 4.0);     // the second window is the third of all
}

TEST_CASE("language: errors") {
  const TemporaryFolder data;
  write_domain(data, "prose", "ab", "0123");
  const auto error = [&](std::string_view domains, std::int64_t context) {
    return error_of([&] { training_windows(data.path(), domains, context); });
  };
  CHECK(error("prose", 2) ==
        "[language] prose/train.txt: 2 pieces of text, fewer than the 3 of a window. Run "
        "scripts/data language again, or give a shorter --context.");
  CHECK(error("prose,verse", 1) ==
        "[language] there is no domain 'verse'. Choose from: prose, shakespeare, glosses, code, "
        "jargon.");
  CHECK(error("", 1).starts_with("[language] there is no domain ''"));
  CHECK(error("prose,prose", 1) == "[language] the domain 'prose' is there twice. Name it once.");
  CHECK(error("code", 1) == "[language] '" +
                                (data.path() / "language" / "code" / "train.txt").string() +
                                "' is missing. Run scripts/data language.");
  CHECK(error("prose", 0) == "[language] a context of 0 pieces of text. Give 1 or more.");
}

TEST_CASE("text in pieces that other texts teach") {
  const TemporaryFolder data;
  write_domain(data, "prose", "the then the", "then");
  write_domain(data, "code", "xyxy", "xythe");
  TaskOptions options{.folder = data.path(), .domains = "code", .context = 1, .pieces = 257};
  CHECK(load_task("language", options).pairs == std::vector<BytePairs::Pair>{{'x', 'y'}});
  options.pieces_from = "prose";
  const Task code = load_task("language", options);
  CHECK(code.pairs == std::vector<BytePairs::Pair>{{'h', 'e'}});
  CHECK(code.train.x.to_vector() == std::vector<double>{'x', 'y', 'y', 'x', 'x', 'y'});
  CHECK(code.test.x.to_vector() == std::vector<double>{'x', 'y', 'y', 't', 't', 256});

  options.pieces_from = "verse";
  options.pieces = 256;  // which nothing teaches
  CHECK(error_of([&] {
          load_task("language", options);
        }).starts_with("[language] there is no domain 'verse'."));
}

TEST_CASE("to test on a text, its training text need not be there") {
  const TemporaryFolder data;
  make_folder(data.path() / "language/code");
  write_file_atomic(data.path() / "language/code/validation.txt", "wxyz");
  CHECK(window(test_windows(data.path(), "code", 3), 0) == "wxyz");
}

}  // namespace
}  // namespace moegrad
