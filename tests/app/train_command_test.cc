// Runs the program itself.

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include <fmt/format.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "tests/app/program.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using test::Outcome;
using test::Process;
using test::run;
using test::TemporaryFolder;

std::vector<std::string> small(const fs::path& out, const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments = {
      "train",   "synthetic", "--experts", "4",          "--width",  "16", "--hidden",    "16",
      "--batch", "256",       "--out",     out.string(), "--epochs", "2",  "--log-every", "4"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

std::string checkpoint(const fs::path& out, const std::string& name) {
  return read_file(out / "checkpoints" / name);
}
constexpr auto kFinal = "step-00000064.safetensors";

void check_mistake(const std::vector<std::string>& arguments, const std::string& message) {
  const TemporaryFolder folder;
  const Outcome o = run(folder, arguments);
  CHECK(o.err == "moegrad: " + message + "\n");
  CHECK(o.out.empty());
  CHECK(o.code == 2);
}

TEST_CASE("moegrad train: a run, its text and its files") {
  const TemporaryFolder folder;
  const fs::path out = folder / "run";
  const Outcome o = run(folder, small(out));
  CHECK(o.code == 0);
  CHECK(o.out.starts_with("test accuracy 0."));
  CHECK(o.out.ends_with("written to    " + out.string() + "\n"));
  CHECK(o.err.find("epoch 2/2: test accuracy 0.") != std::string::npos);
  CHECK(o.err.find('\r') == std::string::npos);
  CHECK(o.err.find('\x1b') == std::string::npos);
  for (const char* name : {"config.json", "metrics.jsonl", "result.json"}) {
    CHECK(fs::exists(out / name));
  }
  CHECK(fs::exists(out / "checkpoints" / kFinal));
  CHECK(json::parse(read_file(out / "config.json"))["width"] == 16);
}

TEST_CASE("moegrad train: --json, on standard output or to a file") {
  const TemporaryFolder folder;
  const Outcome o = run(folder, small(folder / "run", {"--json"}));
  REQUIRE(o.code == 0);
  CHECK(json::parse(o.out) == json::parse(read_file(folder / "run" / "result.json")));
  const fs::path file = folder / "result";
  const Outcome quiet = run(folder, small(folder / "run2", {"--json", file.string()}));
  CHECK(quiet.code == 0);
  CHECK(quiet.out.empty());
  const json result = json::parse(read_file(file));
  for (const char* key :
       {"test_accuracy", "test_loss", "train_seconds", "steps", "expert_load", "seed"}) {
    CHECK_MESSAGE(result.contains(key), key);
  }
  CHECK(result["steps"] == 64);
  CHECK(result["maths"] == "exact");
}

TEST_CASE("moegrad train: one and two threads give the same checkpoint") {
  const TemporaryFolder folder;
  for (const char* threads : {"1", "2"}) {
    CHECK(run(folder, small(folder / threads, {"--threads", threads})).code == 0);
  }
  CHECK(checkpoint(folder / "1", kFinal) == checkpoint(folder / "2", kFinal));
}

TEST_CASE("moegrad train: stopped by a signal, then resumed, the same checkpoint") {
  const TemporaryFolder folder;
  for (const int number : {SIGINT, SIGTERM}) {
    const fs::path out = folder / fmt::format("stopped{}", number);
    std::vector<std::string> arguments = small(out, {"--threads", "1"});
    *(std::find(arguments.begin(), arguments.end(), "--epochs") + 1) = "60";
    Process process(folder, arguments);
    const fs::path metrics = out / "metrics.jsonl";
    for (int i = 0; i < 60000; ++i) {
      std::error_code none;
      if (fs::exists(metrics) && fs::file_size(metrics, none) > 1000) break;
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    process.signal(number);
    const Outcome stopped = process.wait();
    CHECK(stopped.code == 128 + number);
    CHECK(stopped.out.empty());
    CHECK(stopped.err.find("stopped after step ") != std::string::npos);
    CHECK(stopped.err.ends_with("go on with: moegrad train --resume --out " + out.string() + "\n"));
    CHECK(!fs::exists(out / "result.json"));
    const Outcome resumed = run(folder, {"train", "--resume", "--out", out.string()});
    CHECK(resumed.code == 0);
    CHECK(resumed.err.starts_with("going on from " + out.string()));
  }
  const fs::path whole = folder / "whole";
  std::vector<std::string> arguments = small(whole);
  *(std::find(arguments.begin(), arguments.end(), "--epochs") + 1) = "60";
  CHECK(run(folder, arguments).code == 0);
  const auto name = "step-00001920.safetensors";
  CHECK(checkpoint(folder / fmt::format("stopped{}", SIGINT), name) == checkpoint(whole, name));
  CHECK(checkpoint(folder / fmt::format("stopped{}", SIGTERM), name) == checkpoint(whole, name));
}

TEST_CASE("moegrad train: a finished run is extended, and told from where on the rate changes") {
  const TemporaryFolder folder;
  const fs::path out = folder / "run";
  CHECK(run(folder, small(out)).code == 0);
  const std::string first = read_file(out / "result.json");
  const Outcome more = run(folder, {"train", "--resume", "--out", out.string(), "--epochs", "4"});
  CHECK(more.code == 0);
  CHECK(more.err.find("extended from 2 to 4 epochs: from step 65 on the learning rate is that of a "
                      "run of 128 steps (cosine, warm-up of 12)\n") != std::string::npos);
  CHECK(json::parse(read_file(out / "result.json"))["steps"] == 128);
  CHECK(read_file(out / "result-step-00000064.json") == first);
  const Outcome fewer = run(folder, {"train", "--resume", "--out", out.string(), "--epochs", "3"});
  CHECK(fewer.code == 2);
  CHECK(fewer.err == "moegrad: [train] --epochs 3 contradicts the run in '" + out.string() +
                         "', which has 4. Leave it out, or start another run with --out.\n");
}

TEST_CASE("moegrad train: killed at any moment, then resumed, the same checkpoint") {
  const TemporaryFolder folder;
  const std::vector<std::string> often = {"--checkpoint-every", "3"};
  CHECK(run(folder, small(folder / "whole", often)).code == 0);
  const fs::path out = folder / "killed";
  for (int i = 0; i < 10; ++i) {
    const std::vector<std::string> arguments =
        fs::exists(out / "config.json")
            ? std::vector<std::string>{"train", "--resume", "--out", out.string()}
            : small(out, often);
    Process process(folder, arguments);
    std::this_thread::sleep_for(std::chrono::milliseconds(20 + 20 * i));
    process.signal(SIGKILL);
    process.wait();
  }
  if (!fs::exists(out / "config.json")) run(folder, small(out, often));
  const Outcome last = run(folder, {"train", "--resume", "--out", out.string()});
  CHECK_MESSAGE(last.code == 0, last.err);
  CHECK(checkpoint(out, kFinal) == checkpoint(folder / "whole", kFinal));
}

TEST_CASE("moegrad train: --config, overridden by flags; and what it leaves") {
  const TemporaryFolder folder;
  write_file_atomic(folder / "run.json",
                    R"({"task": "synthetic", "epochs": 5, "experts": 4, "width": 8, "hidden": 8,
                        "batch": 1024, "options": {"shared": 1}})");
  const fs::path out = folder / "run";
  const Outcome o = run(folder, {"train", "--config", (folder / "run.json").string(), "--epochs",
                                 "1", "--option", "z-loss=0.001", "--out", out.string(), "--json"});
  REQUIRE_MESSAGE(o.code == 0, o.err);
  const json config = json::parse(read_file(out / "config.json"));
  CHECK(config["epochs"] == 1);
  CHECK(config["experts"] == 4);
  CHECK(config["options"] == json{{"shared", "1"}, {"z-loss", "0.001"}});
  // The folder's own configuration is one too.
  const fs::path again = folder / "again";
  CHECK(run(folder, {"train", "--config", (out / "config.json").string(), "--out", again.string()})
            .code == 0);
  CHECK(checkpoint(again, "step-00000008.safetensors") ==
        checkpoint(out, "step-00000008.safetensors"));
}

TEST_CASE("moegrad train: mistakes, each with its message and exit code 2") {
  const TemporaryFolder folder;
  const fs::path out = folder / "run";
  const auto with = [&](std::vector<std::string> more) { return small(out, more); };
  check_mistake(with({"--router", "topk"}), "[router] no router 'topk'. Did you mean 'top-k'?");
  check_mistake(with({"--estimator", "spars"}),
                "[estimator] no estimator 'spars'. Did you mean 'sparse'?");
  check_mistake(with({"--option", "renormalize=true"}),
                "[option] neither router top-k, estimator sparse nor the layer has an option "
                "'renormalize'. Did you "
                "mean 'renormalise'?");
  check_mistake(with({"--option", "renormalise=maybe"}),
                "[option] 'renormalise' of router top-k is 'maybe'. Give true or false.");
  check_mistake(with({"--option", "renormalise"}),
                "[train] --option is 'renormalise'. Give --option name=value.");
  check_mistake(with({"--active", "5"}), "[layer] k is 5 with 4 experts. Use 1 <= k <= 4.");
  check_mistake(with({"--active", "0"}), "[layer] k is 0 with 4 experts. Use 1 <= k <= 4.");
  check_mistake(with({"--router", "moesart", "--active", "1"}),
                "[layer] k is 1, too few for router moesart. Use k >= 2.");
  check_mistake(with({"--router", "switch", "--active", "1", "--option", "capacity=0"}),
                "[option] 'capacity' of router switch is '0'. Give a number from 1e-06 to "
                "1000000.");
  check_mistake(with({"--router", "moesart", "--option", "temperature=0"}),
                "[option] 'temperature' of router moesart is '0'. Give a number from 1e-06 to "
                "1000000.");
  check_mistake(with({"--router", "deepseek-v3", "--active", "3", "--option", "groups=4"}),
                "[deepseek-v3] k is 3 and 1 of 4 groups hold 1 experts. Keep more groups.");
  check_mistake(with({"--estimator", "reinmax"}),
                "[layer] estimator reinmax is for a router that draws one expert with weight 1, "
                "and top-k does not. Use --router categorical.");
  check_mistake(with({"--lr", "fast"}),
                "[option] 'lr' of train is 'fast'. Give a number from 0 to 1000000.");
  check_mistake(with({"--lr", "-1"}),
                "[option] 'lr' of train is '-1'. Give a number from 0 to 1000000.");
  check_mistake(with({"--maths", "fp8"}), "[train] --maths is 'fp8'. Use exact, tf32 or bf16.");
  check_mistake(with({"--maths", "tf32"}),
                "[train] maths is tf32, and the device is cpu. Use the device cuda, or exact.");
  check_mistake(with({"--rooter", "top-k"}),
                "[train] there is no flag '--rooter'. Did you mean '--router'?");
  check_mistake({"trian", "synthetic"},
                "[moegrad] there is no command 'trian'. Did you mean 'train'?");
  check_mistake({"nonsense", "--help"},
                "[moegrad] there is no command 'nonsense'. Did you mean 'train'?");
  check_mistake(
      {"train", "synthetics", "--out", out.string()},
      "[task] there is no task 'synthetics'. Choose one of: vision, synthetic, language, own, "
      "fashion-pairs, movielens, adult, reviews, distil.");
  check_mistake(with({"--router", ""}), "[router] no router ''. Did you mean 'hash'?");
  check_mistake({"train", ""},
                "[train] no task is given. Give one of: vision, synthetic, language, own, "
                "fashion-pairs, movielens, adult, reviews, distil.");
  check_mistake({"train"},
                "[train] no task is given. Give one of: vision, synthetic, language, own, "
                "fashion-pairs, movielens, adult, reviews, distil.");
  check_mistake({"train", "vision", "--data", "nowhere", "--out", out.string()},
                "[vision] there is no folder 'nowhere/fashion-mnist'. Run scripts/data.");
  check_mistake(with({"--resume"}), "[train] there is no run in '" + out.string() +
                                        "' to resume. Start one without --resume.");
  check_mistake(with({"--resume", "--force"}),
                "[train] --resume goes on with a run and --force starts over. Give one of them.");
  check_mistake(with({"--config", "nowhere.json"}),
                "[read] cannot read 'nowhere.json': No such file or directory. Check the path and "
                "its permissions.");
  CHECK(!fs::exists(out));
  CHECK(run(folder, small(out)).code == 0);
  check_mistake(small(out), "[train] '" + out.string() +
                                "' holds a run that was finished already. Go on with --resume, "
                                "start over with --force, or choose another folder with --out.");
  check_mistake({"train", "--resume", "--out", out.string(), "--seed", "2"},
                "[train] --seed 2 contradicts the run in '" + out.string() +
                    "', which has 1. Leave it out, or start another run with --out.");
  check_mistake({"train", "--resume", "--out", out.string(), "--test-examples", "9"},
                "[train] --test-examples 9 contradicts the run in '" + out.string() +
                    "', which has 0. Leave it out, or start another run with --out.");
  // The checkpoint of another shape: its configuration was edited behind the program's back.
  std::string config = read_file(out / "config.json");
  config.replace(config.find("\"hidden\": 16"), 12, "\"hidden\": 17");
  write_file_atomic(out / "config.json", config);
  check_mistake({"train", "--resume", "--out", out.string()},
                "[checkpoint] " + (out / "checkpoints" / kFinal).string() +
                    ": 'hidden' is 16 there and 17 here. Train with what it was made with.");
}

TEST_CASE("moegrad train: a full disk; the old checkpoint survives") {
  const TemporaryFolder folder;
  const fs::path out = folder / "run";
  CHECK(run(folder, small(out, {"--epochs", "2"})).code == 2);  // twice the same flag
  std::vector<std::string> arguments = small(out);
  CHECK(run(folder, arguments).code == 0);
  const std::string before = checkpoint(out, "step-00000032.safetensors");
  fs::remove(out / "checkpoints" / kFinal);
  rlimit old = {};
  ::getrlimit(RLIMIT_FSIZE, &old);
  const rlimit limit{before.size() / 2, old.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &limit);
  const Outcome o = run(folder, {"train", "--resume", "--out", out.string()});
  ::setrlimit(RLIMIT_FSIZE, &old);
  CHECK(o.code == 2);
  CHECK(o.err.ends_with("moegrad: [write] cannot write '" +
                        (out / "checkpoints" / kFinal).string() +
                        "': File too large. Free some space or choose another disk; nothing was "
                        "changed.\n"));
  CHECK(checkpoint(out, "step-00000032.safetensors") == before);
}

TEST_CASE("moegrad: --help with an example, --version") {
  const TemporaryFolder folder;
  for (const std::vector<std::string>& command :
       {std::vector<std::string>{}, std::vector<std::string>{"train"}}) {
    std::vector<std::string> arguments = command;
    arguments.emplace_back("--help");
    const Outcome help = run(folder, arguments);
    CHECK(help.code == 0);
    CHECK(help.out.find("Example:\n  moegrad ") != std::string::npos);
    CHECK(help.err.empty());
    arguments.back() = "--version";
    const Outcome version = run(folder, arguments);
    CHECK(version.code == 0);
    CHECK(version.out.starts_with("moegrad 0."));
  }
  const Outcome nothing = run(folder, {});
  CHECK(nothing.code == 2);
  CHECK(nothing.err == "moegrad: [moegrad] A subcommand is required. See --help.\n");
}

}  // namespace
}  // namespace moegrad
