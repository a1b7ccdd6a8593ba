// `moegrad train language`, and what reads its runs, on a text of a few lines.

#include <nlohmann/json.hpp>

#include "tensor/folders.h"
#include "tests/app/program.h"

using namespace moegrad::test;

namespace {

std::string text_of(int lines) {
  std::string text;
  for (int i = 0; i < lines; ++i) text += "a line of text, number " + std::to_string(i) + "\n";
  return text;
}

// A trained run in folder/run.
void train(const TemporaryFolder& folder, const std::string& pieces = "256",
           const std::string& layers = "2") {
  const auto domain = folder.path() / "data/language/jargon";
  moegrad::make_folder(domain);
  moegrad::write_file_atomic(domain / "train.txt", text_of(200));
  moegrad::write_file_atomic(domain / "validation.txt", text_of(20));
  const std::vector<std::string> command = {
      "train",     "language",    "--domains",        "jargon", "--data",    folder / "data",
      "--context", "16",          "--width",          "16",     "--heads",   "2",
      "--layers",  layers,        "--activation",     "swiglu", "--experts", "4",
      "--hidden",  "8",           "--steps",          "12",     "--batch",   "8",
      "--pieces",  pieces,        "--evaluate-every", "6",      "--keep",    "9",
      "--out",     folder / "run"};
  const Outcome outcome = run(folder, command);
  CHECK(outcome.code == 0);
  CHECK(outcome.err.find("step 6/12: test accuracy") != std::string::npos);
}

}  // namespace

TEST_CASE("sample: text from a run, the same for the same seed, bytes as they are in a file") {
  const TemporaryFolder folder;
  train(folder);
  const std::string run_folder = folder / "run";
  const std::vector<std::string> command = {"sample",  run_folder, "--prompt", "a line",
                                            "--bytes", "40",       "--seed",   "7"};
  const Outcome first = run(folder, command);
  CHECK(first.code == 0);
  CHECK(first.out.starts_with("a line"));
  CHECK(first.out.size() == 6 + 40 + 1);
  CHECK(run(folder, command).out == first.out);
  std::vector<std::string> to_file = command;
  to_file.insert(to_file.end(), {"--out", folder / "text"});
  CHECK(run(folder, to_file).code == 0);
  CHECK(moegrad::read_file(folder / "text") + "\n" == first.out);
  const Outcome likeliest =
      run(folder, {"sample", run_folder, "--temperature", "0", "--bytes", "3"});
  CHECK(likeliest.code == 0);
  CHECK(likeliest.out.size() == 4);
}

TEST_CASE("study fidelity: of each layer along the checkpoints of a run") {
  const TemporaryFolder folder;
  train(folder, "256", "3");
  const Outcome outcome =
      run(folder, {"study", "fidelity", "--checkpoint", folder / "run", "--data", folder / "data",
                   "--estimators", "sparse,ste-dense,default-ema,attention", "--batch", "4",
                   "--out", folder / "f"});
  CHECK(outcome.code == 0);
  const Outcome twice = run(folder, {"study", "fidelity", "--checkpoint", folder / "run",
                                     "--estimators", "sparse,sparse"});
  CHECK(twice.code == 2);
  CHECK(twice.err == "moegrad: [study] estimator 'sparse' is given twice. Give it once.\n");
  const nlohmann::json report =
      nlohmann::json::parse(moegrad::read_file(folder.path() / "f/report.json"));
  const nlohmann::json& charts = report.at("charts");
  REQUIRE(charts.size() == 4);  // cosine and norm of two mixtures
  for (const nlohmann::json& chart : charts) {
    CHECK(chart.at("labels") == nlohmann::json({"6", "12"}));
    REQUIRE(chart.at("series").size() == 4);
    for (const nlohmann::json& series : chart.at("series")) {
      CHECK(series.at("values").size() == 2);
    }
  }
  CHECK(charts[0].at("title") == "Router gradient: cosine to ste-dense, real dL/dy, layer 0");
  CHECK(charts[3].at("title").get<std::string>().ends_with("layer 1"));
  for (const nlohmann::json& cosine : charts[2].at("series")[1].at("values")) {
    CHECK(cosine.get<double>() == doctest::Approx(1.0));
  }
}

TEST_CASE("evaluate: of some domains alone, in the pieces of the model") {
  const TemporaryFolder folder;
  SUBCASE("bytes") { train(folder); }
  SUBCASE("pieces of text") { train(folder, "264"); }
  const auto other = folder.path() / "data/language/code";
  moegrad::make_folder(other);
  moegrad::write_file_atomic(other / "train.txt", text_of(20));
  moegrad::write_file_atomic(other / "validation.txt", std::string(200, 'x') + '\0');
  const std::string run_folder = folder / "run";
  const auto loss = [&](const std::vector<std::string>& more) {
    std::vector<std::string> command = {"evaluate", run_folder, "--json"};
    command.insert(command.end(), more.begin(), more.end());
    const Outcome outcome = run(folder, command);
    CHECK(outcome.code == 0);
    return nlohmann::json::parse(outcome.out).at("test_loss").get<double>();
  };
  CHECK(loss({"--domains", "jargon"}) == loss({}));
  CHECK(loss({"--domains", "code"}) != loss({}));
  const Outcome none = run(folder, {"evaluate", run_folder, "--domains", "poems"});
  CHECK(none.code == 2);
  CHECK(none.err.find("poems") != std::string::npos);
}

TEST_CASE("sample: of pieces of text too, and the perplexity is a byte's") {
  const TemporaryFolder folder;
  train(folder, "264");
  const Outcome sampled =
      run(folder, {"sample", folder / "run", "--prompt", "a line of text", "--bytes", "33"});
  CHECK(sampled.code == 0);
  CHECK(sampled.out.starts_with("a line of text"));
  CHECK(sampled.out.size() == 14 + 33 + 1);
  CHECK(moegrad::read_file(folder.path() / "run" / "metrics.jsonl").find("byte_perplexity") !=
        std::string::npos);
}

TEST_CASE("--from: rows of the embedding are not taken for those of other pieces") {
  const TemporaryFolder folder;
  train(folder, "264");
  const auto domain = folder.path() / "data/language/code";
  moegrad::make_folder(domain);
  for (const char* part : {"train.txt", "validation.txt"}) {
    std::string text;
    for (int i = 0; i < 200; ++i) text += "return value of " + std::to_string(7 * i) + "\n";
    moegrad::write_file_atomic(domain / part, text);
  }
  const std::vector<std::string> small = {
      "--data", folder / "data", "--pieces", "264",       "--steps", "1", "--width",
      "16",     "--heads",       "2",        "--context", "16"};
  const auto next = [&](std::vector<std::string> more) {
    more.insert(more.begin(), {"train", "language", "--from", folder / "run", "--out",
                               folder / "next", "--force", "--domains"});
    more.insert(more.end(), small.begin(), small.end());
    return run(folder, more);
  };
  const Outcome other = next({"code"});
  CHECK(other.code == 2);
  CHECK(
      other.err.find("its pieces of text are others, taught by jargon. Give --pieces-from jargon, "
                     "and the same texts.") != std::string::npos);
  CHECK(next({"jargon"}).code == 0);
  // In the model's own pieces it goes on with any text.
  CHECK(next({"code", "--pieces-from", "jargon"}).code == 0);
  const Outcome measured = run(folder, {"evaluate", folder / "next"});
  CHECK(measured.code == 0);

  std::vector<std::string> study = {
      "study",    "finetune",       "--task",  "language",      "--seeds",
      "1",        "--method",       "sparse:", "--set",         "domains=code",
      "--source", "domains=jargon", "--out",   folder / "study"};
  for (std::size_t i = 0; i < small.size(); i += 2) {
    study.insert(study.end(), {"--set", small[i].substr(2) + "=" + small[i + 1]});
  }
  const Outcome tuned = run(folder, study);
  CHECK(tuned.code == 0);
  CHECK(moegrad::read_file(folder / "study/runs/sparse-s1/config.json").find("\"jargon\"") !=
        std::string::npos);
}

TEST_CASE("sample: a reader who is gone ends it, and is not taken for success") {
  const TemporaryFolder folder;
  train(folder);
  for (const std::string out : {"/dev/full", "closed"}) {
    const Outcome o =
        run({out, folder / "stderr"}, {"sample", folder / "run", "--bytes", "100000000"});
    CHECK(o.code == 2);
    CHECK(o.err.find("could not be written") != std::string::npos);
  }
}

TEST_CASE("sample: mistakes") {
  const TemporaryFolder folder;
  CHECK(run(folder, {"train", "synthetic", "--steps", "2", "--out", folder / "run"}).code == 0);
  const auto error = [&](std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), "sample");
    const Outcome outcome = run(folder, arguments);
    CHECK(outcome.code == 2);
    return outcome.err;
  };
  CHECK(error({folder / "run"})
            .find("was trained on the task synthetic, which writes no text. Give "
                  "a run of language.") != std::string::npos);
  CHECK(error({folder / "none"}).find("none") != std::string::npos);
  CHECK(error({folder.path().string()})
            .find("has no checkpoint. Give the folder of a run, or a "
                  "checkpoint.") != std::string::npos);
  CHECK(error({folder / "run", "--top-p", "0"}).find("--top-p is '0'") != std::string::npos);
}
