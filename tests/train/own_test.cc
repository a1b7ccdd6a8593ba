#include "train/own.h"

#include <algorithm>
#include <cmath>
#include <fstream>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "tensor/safetensors.h"
#include "tests/temporary_files.h"
#include "train/evaluation.h"
#include "train/loop.h"
#include "train/stored_model.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::TemporaryFolder;

void save(const fs::path& path, const std::map<std::string, Tensor, std::less<>>& tensors) {
  TensorFile file;
  file.tensors = tensors;
  write_safetensors(path, file);
}

struct Fixture {
  TemporaryFolder folder;

  fs::path write(const std::string& bytes, const std::string& name = "f.csv") const {
    std::ofstream(folder / name, std::ios::binary) << bytes;
    return folder / name;
  }
  Task load(const std::string& bytes, TaskOptions o = {}) const {
    o.file = write(bytes);
    o.dtype = DType::f64;
    return load_own(o);
  }
  Dataset read(const std::string& bytes, const TaskShape& task, bool labels = true) const {
    return read_own(write(bytes, "more.csv"), task, {.dtype = DType::f64, .labels = labels});
  }
  // Without the folder's path.
  template <class F>
  std::string error(F&& f) const {
    std::string text = test::error_of(f);
    const std::string path = folder.path().string() + "/";
    for (std::size_t at = text.find(path); at != text.npos; at = text.find(path)) {
      text.erase(at, path.size());
    }
    return text;
  }
  std::string load_error(const std::string& bytes, const TaskOptions& o = {}) const {
    return error([&] { load(bytes, o); });
  }
};

// Ten rows: a number, a text, a constant, a label in the middle.
std::string ten_rows() {
  std::string text = "n,label,t,c\n";
  for (int i = 0; i < 10; ++i) {
    text += fmt::format("{},{},{},3\n", i, i % 2 == 0 ? "no" : "yes", i < 5 ? "b" : "a");
  }
  return text;
}

TEST_CASE("own: columns and classes of a text") {
  const Fixture f;
  const Task task = f.load(ten_rows());
  CHECK(task.train.x.shape() == Shape{8, 4});
  CHECK(task.test.x.shape() == Shape{2, 4});
  CHECK(task.targets ==
        std::vector<Target>{{.name = "label", .classes = 2, .names = {"no", "yes"}}});
  CHECK(task.label == 1);
  REQUIRE(task.columns.size() == 3);
  CHECK(task.columns[1].categories == std::vector<std::string>{"a", "b"});
  CHECK(task.columns[2] == Column{.name = "c", .mean = 3.0, .deviation = 1.0});
  CHECK(task.summary.find("10 rows below the names; 3 columns are 4 inputs, column 'label' has 2 "
                          "classes; 8 rows to train on, 2 to test") != std::string::npos);

  double sum = 0.0;
  double squares = 0.0;
  std::vector<double> numbers;
  for (const Dataset* part : {&task.train, &task.test}) {
    for (std::int64_t r = 0; r < part->x.size(0); ++r) {
      const double z = part->x.at(4 * r);
      if (part == &task.train) {
        sum += z;
        squares += z * z;
      }
      const double n = std::round(z * task.columns[0].deviation + task.columns[0].mean);
      numbers.push_back(n);
      CHECK(part->labels.at(r) == (static_cast<int>(n) % 2 == 0 ? 0 : 1));
      CHECK(part->x.at(4 * r + 1) == (n < 5 ? 0.0 : 1.0));
      CHECK(part->x.at(4 * r + 2) == (n < 5 ? 1.0 : 0.0));
      CHECK(part->x.at(4 * r + 3) == 0.0);
    }
  }
  CHECK(std::abs(sum) < 1e-12);
  CHECK(std::abs(squares / 8.0 - 1.0) < 1e-12);
  std::ranges::sort(numbers);
  for (int i = 0; i < 10; ++i) CHECK(numbers[static_cast<std::size_t>(i)] == i);
}

TEST_CASE("own: the test rows are drawn by the seed, or are those of another file") {
  const Fixture f;
  const Task one = f.load(ten_rows(), {.folder = "", .seed = 1});
  CHECK(f.load(ten_rows(), {.folder = "", .seed = 1}).test.x.same_bits(one.test.x));
  bool other = false;
  for (std::uint64_t seed = 2; seed < 8; ++seed) {
    other = other || f.load(ten_rows(), {.folder = "", .seed = seed}).columns != one.columns;
  }
  CHECK(other);
  CHECK(f.load(ten_rows(), {.folder = "", .test_share = 0.5}).test.x.size(0) == 5);
  CHECK(f.load(ten_rows(), {.folder = "", .test_share = 0.001}).test.x.size(0) == 1);

  const fs::path test = f.write("label,c,n,t\nyes,3,4.5,zzz\n", "test.csv");
  const Task task = f.load(ten_rows(), {.folder = "", .test_file = test});
  CHECK(task.train.x.size(0) == 10);
  CHECK(task.columns[0].mean == 4.5);
  CHECK(task.test.x.to_vector() == std::vector<double>{0, 0, 0, 0});  // an unknown text: zeros
  CHECK(task.test.labels.item() == 1.0);
}

TEST_CASE("own: labels by name, by number, of numbers") {
  const Fixture f;
  CHECK(f.load(ten_rows(), {.folder = "", .label = "t"}).targets[0].names ==
        std::vector<std::string>{"a", "b"});
  CHECK(f.load(ten_rows(), {.folder = "", .label = "3"}).label == 2);
  using Names = std::vector<std::string>;
  const auto names = [&](const std::string& text, std::int64_t classes = 0) {
    return f.load(text, {.folder = "", .classes = classes}).targets[0].names;
  };
  CHECK(names("1,0\n2,2\n3,1\n") == Names{"0", "1", "2"});
  CHECK(names("1,10\n2,9\n3,9.0\n4,010\n") == Names{"9", "10"});
  CHECK(names("1,10\n2,b\n3,9\n") == Names{"10", "9", "b"});
  CHECK(names("1,0\n2,1\n", 4) == Names{"0", "1", "2", "3"});
  CHECK(names("1,x\n2,y\n", 2) == Names{"x", "y"});
  CHECK(f.load("1,10\n2,9\n", {.folder = "", .test_share = 0.5}).test.labels.numel() == 1);
}

TEST_CASE("own: errors name the row of the file") {
  const Fixture f;
  std::string rows = "age,label\n";
  for (int i = 0; i < 30; ++i) rows += fmt::format("{},{}\n", i == 21 ? "abc" : "5", i % 2);
  CHECK(f.load_error(rows) ==
        "[own] f.csv: line 23, column 'age' is 'abc', no finite number. Correct it, or leave the "
        "row out.");
  const auto with = [&](const std::string& cell) {
    return f.load_error("\n1,0\n\n2,1\n" + cell + ",0\n");
  };
  CHECK(with("nan").starts_with("[own] f.csv: line 5, column '1' is 'nan', no finite number."));
  CHECK(with("inf").starts_with("[own] f.csv: line 5, column '1' is 'inf', no finite number."));
  CHECK(with("").starts_with("[own] f.csv: line 5, column '1' is empty, where numbers are."));
  CHECK(f.load_error("1,0\n2,1\n3,\n") ==
        "[own] f.csv: line 3, column '2' is empty. Give the row its label, or leave it out.");
  CHECK(f.load_error("1,0\n2,5\n3,1\n4,7\n", {.folder = "", .classes = 3}) ==
        "[own] f.csv: line 2, column '2' is '5': with 3 classes labels are 0 to 2. Correct it, or "
        "give more --classes.");
  CHECK(f.load_error("1,-1\n2,0\n", {.folder = "", .classes = 3})
            .find("line 1, column '2' is '-1'") != std::string::npos);
  CHECK(
      f.load_error("1,a\n2,b\n3,c\n", {.folder = "", .classes = 2}) ==
      "[own] f.csv: line 3, column '2' is 'c': the label of one class more than 2. Correct it, or "
      "give more --classes.");
  CHECK(f.load_error("1,a\n2,b\n", {.folder = "", .classes = 3}) ==
        "[own] f.csv: column '2' has 2 different labels, and --classes is 3. Give "
        "--classes 2.");
  // A quantity in the last column; its numbers are classes where that is said.
  CHECK(
      f.load_error("1,2\n2,0.5\n3,1\n") ==
      "[own] f.csv: line 2, column '2' is '0.5': labels are classes, and this is a quantity. Name "
      "the column of the labels with --label; if each number is a class, say of how many with "
      "--classes.");
  CHECK(f.load_error("1,2\n2,0.5\n3,1\n", {.folder = "", .classes = 3}) == "no error");
  CHECK(f.load_error("1,2\n2,0.5\n3,n/a\n").find("this is a quantity") != std::string::npos);
  CHECK(f.load_error("1,0.5\n2,a\n3,1\n4,b\n") == "no error");  // as many texts as numbers
  CHECK(f.load_error("1,12345678901234567890\n2,12345678901234567891\n") == "no error");
  CHECK(f.load_error("1,a\n2,a\n") ==
        "[own] f.csv: line 1, column '2' is 'a' in every row. There must be two classes at least.");
  CHECK(f.load_error("1,\"a\nb\"\n2,a\n").find("a class needs a name of one line") !=
        std::string::npos);
  CHECK(f.load_error(ten_rows(), {.folder = "", .label = "lable"}) ==
        "[own] f.csv: there is no column 'lable'. The nearest of its 4 is 'label'.");
  CHECK(f.load_error("a\n1\n2\n").find("it has one column, 'a'") != std::string::npos);
  CHECK(f.load_error("1,a\n").find("There must be two classes") != std::string::npos);
  CHECK(f.load_error("a,,1\nb,,2\n").find("column '2' is empty in every row") != std::string::npos);
  CHECK(f.load_error("1e300,0\n-1e300,1\n2e300,0\n").find("has a mean of") != std::string::npos);
  CHECK(f.error([] { load_own({}); }) == "[own] no file is given. Give one with --data.");
  std::string many = "t,label\n";
  for (int i = 0; i < 1300; ++i) many += fmt::format("t{},{}\n", i, i % 2);
  CHECK(f.load_error(many).find("one text more than 1000, the most of a column") !=
        std::string::npos);
  std::string classes;
  for (int i = 0; i < 10'001; ++i) classes += fmt::format("1,{}\n", i);
  CHECK(
      f.load_error(classes) ==
      "[own] f.csv: line 10001, column '2' is '10000': the label of one class more than 10000. Is "
      "it the column of the labels?");
}

TEST_CASE("own: other files for a model") {
  const Fixture f;
  const TaskShape task = f.load(ten_rows()).shape();
  const std::vector<double> x = f.read("t,n,c,label\nb,2,3,no\n", task).x.to_vector();
  CHECK(x[2] == 1.0);
  CHECK(f.read("extra,t,n,c\nzz,b,2,3\n", task, false).x.to_vector() == x);
  CHECK(f.read("2,?,b,3\n", task, false).x.to_vector() == x);
  CHECK(f.read("2,b,3\n", task, false).x.to_vector() == x);
  CHECK(f.read("2,yes,b,3\n", task).labels.item() == 1.0);
  const auto error = [&](const std::string& text, bool labels = true) {
    return f.error([&] { f.read(text, task, labels); });
  };
  CHECK(error("2,b,3\n") ==
        "[own] more.csv: 3 columns, and the model was trained on 3 and the labels. Give a file of "
        "the same columns.");
  CHECK(error("2,b\n", false).find("2 columns, and the model") != std::string::npos);
  CHECK(error("t,m,c,label\nb,2,3,no\n") ==
        "[own] more.csv: there is no column 'n'. The nearest of its 4 is 't'.");
  CHECK(error("t,n,c\nb,2,3\n").find("there is no column 'label'") != std::string::npos);
  CHECK(error("t,n,c,label\nb,2,3,no\nb,2,3,perhaps\n") ==
        "[own] more.csv: line 3, column 'label' is 'perhaps', none of the 2 classes: no, yes. "
        "Correct it, or leave the row out.");
  CHECK(error("t,n,c\nb,two,3\n", false).find("line 2, column 'n' is 'two', no finite number") !=
        std::string::npos);
  const fs::path far = f.write("t,n,c\nb,1e300,3\n", "far.csv");
  CHECK(f.error([&] {
           read_own(far, task, {.labels = false});
         }).starts_with("[own] far.csv: line 2, column 'n' is '1e300': too far from the mean"));
  CHECK(f.error([&] { f.read("1,2\n", make_synthetic(DType::f32, 1).shape()); }) ==
        "[own] the model was not trained on rows of a file. Give a run of the task own.");
}

TEST_CASE("own: tensors, and pixels divided by 255") {
  const Fixture f;
  const fs::path path = f.folder / "f.safetensors";
  save(path, {{"x", Tensor::of<std::int32_t>({2, 1, 2}, {0, 51, 255, 0})},
              {"labels", Tensor::of<std::int32_t>({2}, {0, 1})}});
  const Task task = load_own({.folder = "", .dtype = DType::f64, .file = path, .test_file = path});
  CHECK(task.train.x.to_vector() == std::vector<double>{0.0, 0.2, 1.0, 0.0});
  CHECK(task.test.x.same_bits(task.train.x));
  CHECK(task.test.labels.to_vector() == std::vector<double>{0, 1});
  save(f.folder / "x.safetensors", {{"x", Tensor::of<std::int32_t>({1, 2}, {255, 51})}});
  CHECK(read_own(f.folder / "x.safetensors", task.shape(), {.dtype = DType::f64, .labels = false})
            .x.to_vector() == std::vector<double>{1.0, 0.2});
  save(path, {{"x", Tensor::of<float>({2, 1}, {1.0F, NAN})},
              {"labels", Tensor::of<std::int32_t>({2}, {0, 1})}});
  CHECK(f.error([&] { load_own({.folder = "", .file = path}); }) ==
        "[own] f.safetensors: row 1, column '0' is 'nan', no finite number. Correct it, or leave "
        "the row out.");
}

TEST_CASE("own: a run goes on with its data alone, and keeps what it knows of them") {
  const Fixture f;
  TrainConfig config;
  config.task = "own";
  config.data = f.write(ten_rows()).string();
  config.width = config.hidden = 8;
  config.experts = 2;
  config.batch = 4;
  config.epochs = 1;
  const fs::path out = f.folder / "run";
  train(config, {.out = out});
  const StoredModel stored = load_model(checkpoint_of(out));
  CHECK(stored.task == load_task(config).shape());
  const Tensor chances = probabilities(*stored.model, stored.parameters,
                                       f.read(ten_rows(), stored.task).x.to(DType::f32));
  CHECK(chances.shape() == Shape{10, 2});
  for (std::int64_t r = 0; r < 10; ++r) {
    CHECK(std::abs(chances.at(2 * r) + chances.at(2 * r + 1) - 1.0) < 1e-6);
  }
  config.epochs = 2;
  f.write("n,label,t,c\n1,no,b,3\n2,yes,a,3\n4,yes,b,3\n6,no,a,3\n");
  CHECK(f.error([&] {
           train(config, {.out = out, .resume = true});
         }).find("it was trained on other data: column 'n' has the mean") != std::string::npos);
  // The same columns and means: labels that are exchanged.
  std::string exchanged = ten_rows();
  exchanged.replace(exchanged.find("2,no"), 4, "2,yes");
  exchanged.replace(exchanged.find("3,yes"), 5, "3,no");
  f.write(exchanged);
  CHECK(f.error([&] {
           train(config, {.out = out, .resume = true});
         }).find("it was trained on other data: their checksum is") != std::string::npos);
  f.write(ten_rows());
  CHECK(train(config, {.out = out, .resume = true}).steps == 4);
}

}  // namespace
}  // namespace moegrad
