// One's own data, from training to predictions: runs the program itself.

#include <algorithm>
#include <fstream>
#include <string>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "tests/app/program.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::Outcome;
using test::run;
using test::TemporaryFolder;

std::string flowers(int rows, bool labels = true) {
  std::string text = labels ? "length,colour,kind\n" : "length,colour\n";
  for (int i = 0; i < rows; ++i) {
    const int kind = i % 3;
    text += fmt::format("{}.{},{}", 2 * kind, i % 7, kind == 0 ? "white" : "red");
    text += labels ? fmt::format(",{}\n", kind == 0 ? "\"a, b\"" : kind == 1 ? "c" : "d") : "\n";
  }
  return text;
}

struct Fixture {
  TemporaryFolder folder;

  std::string write(const std::string& name, const std::string& bytes) const {
    std::ofstream(folder / name, std::ios::binary) << bytes;
    return (folder / name).string();
  }
  Outcome train(const std::string& data, const std::vector<std::string>& more = {}) const {
    std::vector<std::string> arguments = {
        "train",     "own", "--data",  data,  "--out",    (folder / "run").string(),
        "--experts", "2",   "--width", "8",   "--hidden", "8",
        "--batch",   "16",  "--lr",    "0.02"};
    arguments.insert(arguments.end(), more.begin(), more.end());
    return run(folder, arguments);
  }
  std::string run_folder() const { return (folder / "run").string(); }
};

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines(1);
  for (const char c : text) {
    if (c == '\n') {
      lines.emplace_back();
    } else {
      lines.back() += c;
    }
  }
  lines.pop_back();
  return lines;
}

TEST_CASE("own data: trained, resumed, predicted, evaluated") {
  const Fixture f;
  const std::string data = f.write("f.csv", flowers(150));
  const Outcome trained = f.train(data, {"--epochs", "20"});
  REQUIRE(trained.code == 0);
  CHECK(trained.err.find("f.csv: 150 rows below the names; 2 columns are 3 inputs, column 'kind' "
                         "has 3 classes; 120 rows to train on, 30 to test\n") != std::string::npos);
  const Outcome resumed =
      run(f.folder, {"train", "--resume", "--out", f.run_folder(), "--epochs", "21"});
  REQUIRE(resumed.code == 0);
  CHECK(resumed.out.starts_with("test accuracy 1.0000"));

  const Outcome evaluated = run(f.folder, {"evaluate", f.run_folder()});
  CHECK(evaluated.code == 0);
  CHECK(evaluated.out.starts_with(resumed.out.substr(0, resumed.out.find(';')) + "; 30 rows\n"));
  const Outcome other = run(f.folder, {"evaluate", f.run_folder(), "--data", data, "--json"});
  REQUIRE(other.code == 0);
  CHECK(json::parse(other.out)["rows"] == 150);
  CHECK(json::parse(other.out)["test_accuracy"] == 1.0);

  // The model knows its data: the file that it was trained on may go.
  const std::string moved = f.write("rows.csv", flowers(6, false));
  fs::remove(data);
  const Outcome predicted = run(f.folder, {"predict", f.run_folder(), "--data", moved});
  REQUIRE(predicted.code == 0);
  CHECK(predicted.err.empty());
  const std::vector<std::string> lines = lines_of(predicted.out);
  REQUIRE(lines.size() == 7);
  CHECK(lines[0] == "predicted,\"a, b\",c,d");
  CHECK(lines[1].starts_with("\"a, b\",0."));
  CHECK(lines[2].starts_with("c,0."));
  CHECK(lines[3].starts_with("d,0."));
  const std::string labelled = f.write("labelled.csv", flowers(6));
  CHECK(run(f.folder, {"predict", f.run_folder(), "--data", labelled}).out == predicted.out);
  const std::string out = (f.folder / "out.csv").string();
  const Outcome filed = run(f.folder, {"predict", f.run_folder(), "--data", moved, "--out", out});
  CHECK(filed.code == 0);
  CHECK(filed.out.empty());
  CHECK(read_file(out) == predicted.out);

  const Outcome as_json = run(f.folder, {"predict", f.run_folder(), "--data", moved, "--json"});
  REQUIRE(as_json.code == 0);
  const json object = json::parse(as_json.out);
  CHECK(object["classes"] == json{"a, b", "c", "d"});
  REQUIRE(object["rows"].size() == 6);
  CHECK(object["rows"][2]["predicted"] == "d");
  double sum = 0.0;
  for (const json& p : object["rows"][2]["probabilities"]) sum += p.get<double>();
  CHECK(std::abs(sum - 1.0) < 1e-6);

  const std::string checkpoint = f.run_folder() + "/checkpoints/step-00000168.safetensors";
  const Outcome studied =
      run(f.folder, {"study", "fidelity", "--checkpoint", checkpoint, "--data", labelled,
                     "--estimators", "sparse", "--out", (f.folder / "study").string()});
  CHECK(studied.code == 0);
  CHECK(studied.out.find("sparse") != std::string::npos);
}

TEST_CASE("own data: mistakes") {
  const Fixture f;
  const auto mistake = [&](const Outcome& o, const std::string& message) {
    CHECK(o.code == 2);
    CHECK(o.out.empty());
    CHECK_MESSAGE(o.err.find(message) != std::string::npos, o.err);
  };
  mistake(run(f.folder, {"train", "own", "--out", f.run_folder()}), "[own] no file is given.");
  std::string bad = flowers(30);
  bad.replace(bad.find("2.1"), 3, "abc");
  mistake(f.train(f.write("bad.csv", bad)), "bad.csv: line 3, column 'length' is 'abc'");
  CHECK(!fs::exists(f.folder / "run"));
  const std::string data = f.write("f.csv", flowers(30));
  mistake(f.train(data, {"--json", data}), "would change");
  CHECK(read_file(data) == flowers(30));
  REQUIRE(f.train(data, {"--epochs", "1"}).code == 0);

  const std::string r = f.run_folder();
  mistake(run(f.folder, {"predict", r, "--data", data, "--out", data}), "would change");
  mistake(run(f.folder, {"predict", r, "--data", data, "--out", "x", "--json"}), "one of them");
  mistake(run(f.folder, {"predict", r, "--data", data, "--header", "maybe"}),
          "[predict] --header is 'maybe'. Use auto, yes or no.");
  mistake(run(f.folder, {"evaluate", r, "--data", f.write("n.csv", flowers(3, false))}),
          "n.csv: there is no column 'kind'.");
  mistake(run(f.folder, {"predict", r, "--data", (f.folder / "none.csv").string()}), "none.csv");

  REQUIRE(run(f.folder, {"train", "synthetic", "--epochs", "1", "--batch", "4096", "--width", "4",
                         "--hidden", "4", "--out", (f.folder / "s").string()})
              .code == 0);
  mistake(run(f.folder, {"predict", (f.folder / "s").string(), "--data", data}),
          "[own] the model was not trained on rows of a file.");
  const Outcome evaluated = run(f.folder, {"evaluate", (f.folder / "s").string()});
  CHECK(evaluated.code == 0);
  CHECK(evaluated.out.find("; 2048 rows\n") != std::string::npos);
  mistake(run(f.folder, {"evaluate", r, "--data", data, "--domains", "prose"}),
          "[evaluate] --domains is of language models, and ");
  mistake(run(f.folder, {"evaluate", (f.folder / "s").string(), "--domains", "prose"}),
          "[evaluate] --domains is of language models, and '" + (f.folder / "s").string() +
              "' was trained on synthetic. Leave it out.");
}

}  // namespace
}  // namespace moegrad
