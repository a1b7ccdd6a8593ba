// Paths that the system refuses, and names that a shell would take for commands.

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include <fcntl.h>
#include <fmt/format.h>
#include <grp.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/app/program.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::Outcome;
using test::run;
using test::TemporaryFolder;

std::vector<std::string> small_study(const std::string& out) {
  return {"study", "bias",    "--routers", "top-k",  "--experts", "4",     "--active",
          "2",     "--scale", "1",         "--loss", "linear",    "--out", out};
}

std::vector<std::string> small_training(const std::string& out) {
  return {"train", "synthetic", "--experts", "4",     "--width", "8",        "--hidden",
          "8",     "--batch",   "1024",      "--out", out,       "--epochs", "1"};
}

struct BadPath {
  std::string path, reason;
};

std::vector<BadPath> bad_paths(const TemporaryFolder& folder) {
  write_file_atomic(folder / "file", "text");
  fs::create_symlink("loop", folder / "loop");
  fs::create_symlink("nowhere/else", folder / "dangling");
  REQUIRE(::mkfifo((folder / "fifo").c_str(), 0600) == 0);
  return {{folder / "file/run", "Not a directory"},
          {folder / "loop", "Too many levels of symbolic links"},
          {folder / "loop/run", "Too many levels of symbolic links"},
          {folder / std::string(300, 'n'), "File name too long"},
          {folder / (std::string(300, 'n') + "/run"), "File name too long"},
          {folder / "fifo/run", "Not a directory"},
          {"/dev/full/run", "Not a directory"},
          {"/proc/moegrad/run", "No such file or directory"}};
}

TEST_CASE("paths: one that cannot be used is named with the reason, exit code 2") {
  const TemporaryFolder folder;
  write_file_atomic(folder / "config.json", R"({"task": "synthetic"})");
  for (const auto& [path, reason] : bad_paths(folder)) {
    const auto refused = [&, why = reason, where = path](const std::vector<std::string>& command) {
      const Outcome o = run(folder, command);
      const std::string all = fmt::format("{}: {}", fmt::join(command, " "), o.err);
      CHECK_MESSAGE(o.code == 2, all);
      CHECK_MESSAGE(o.err.starts_with("moegrad: ["), all);
      CHECK_MESSAGE(o.err.find(why) != std::string::npos, all);
      CHECK_MESSAGE(o.err.find(where.substr(0, 200)) != std::string::npos, all);
    };
    refused(small_training(path));
    refused(small_study(path));
    refused({"study", "fidelity", "--along-training", "--task", "synthetic", "--out", path});
    refused({"study", "fidelity", "--checkpoint", path + "/a"});
    refused({"train", "--config", path + "/a", "--out", folder / "run"});
    refused({"gradcheck", "exp", "--json", path + "/a"});
    refused({"layer", "--in", path + "/a", "--out", folder / "out"});
  }
  // Asked whether something is there, a path through a file is an answer: nothing.
  for (const char* name : {"loop", "loop/run"}) {
    const Outcome resumed = run(folder, {"train", "--resume", "--out", folder / name});
    CHECK(resumed.code == 2);
    CHECK(resumed.err.find("Too many levels of symbolic links") != std::string::npos);
    const Outcome data =
        run(folder, {"train", "vision", "--data", folder / name, "--out", folder / "run"});
    CHECK(data.code == 2);
    CHECK(data.err.find("Too many levels of symbolic links") != std::string::npos);
  }
  CHECK(run(folder, {"train", "--resume", "--out", folder / "file/run"}).err ==
        fmt::format("moegrad: [train] there is no run in '{}' to resume. Start one without "
                    "--resume.\n",
                    (folder / "file/run").string()));
  CHECK(!fs::exists(folder / "run"));
}

// The text of an error and the exit code, as a user whom permissions bind; nothing where this
// system has none, or where that user may not run the program.
std::string as_nobody(const TemporaryFolder& folder, std::vector<std::string> arguments) {
  constexpr uid_t kNobody = 65534;
  constexpr int kNotRun = 99;
  arguments.insert(arguments.begin(), MOEGRAD_BINARY);
  std::vector<char*> pointers;
  for (std::string& argument : arguments) pointers.push_back(argument.data());
  pointers.push_back(nullptr);
  const std::string err = folder / "stderr";
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const int to = ::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
    const bool bound = ::geteuid() != 0 || (::setgroups(0, nullptr) == 0 &&
                                            ::setgid(kNobody) == 0 && ::setuid(kNobody) == 0);
    if (bound && ::dup2(to, STDERR_FILENO) >= 0) ::execv(MOEGRAD_BINARY, pointers.data());
    ::_exit(kNotRun);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  if (WIFEXITED(status) && WEXITSTATUS(status) == kNotRun) return "";
  return fmt::format("{} {}", WIFEXITED(status) ? WEXITSTATUS(status) : -1, read_file(err));
}

TEST_CASE("paths: a folder without permission to search it, and one without permission to write") {
  const TemporaryFolder folder;
  fs::permissions(folder.path(), fs::perms::all);
  const fs::path closed = folder / "closed";
  const fs::path read_only = folder / "read-only";
  for (const fs::path& path : {closed, read_only}) fs::create_directory(path);
  fs::permissions(closed, fs::perms::none);
  fs::permissions(read_only, fs::perms(0555));
  if (as_nobody(folder, {"--version"}).empty()) {
    MESSAGE("skipped: no user whom permissions bind can run the program");
  } else {
    for (const std::vector<std::string>& command :
         {small_training(closed / "run"),
          small_training(read_only),
          small_study(closed / "run"),
          small_study(read_only),
          small_study(read_only / "new"),
          {"train", "--resume", "--out", closed / "run"},
          {"train", "vision", "--data", closed / "data", "--out", folder / "run"},
          {"train", "--config", closed / "config", "--out", folder / "run"},
          {"study", "fidelity", "--checkpoint", closed / "a"},
          {"gradcheck", "exp", "--json", read_only / "rows"},
          {"list", "--json", closed / "rows"}}) {
      const std::string told = as_nobody(folder, command);
      CHECK_MESSAGE(told.starts_with("2 moegrad: ["), told);
      CHECK_MESSAGE(told.find("Permission denied") != std::string::npos, told);
    }
  }
  fs::permissions(closed, fs::perms::owner_all);
  fs::permissions(read_only, fs::perms::owner_all);
}

TEST_CASE("paths: what cannot be written is refused before the work") {
  const TemporaryFolder folder;
  fs::create_directory(folder / "folder");
  // All pairs with all losses: minutes of work.
  const Outcome study = run(folder, {"study", "bias", "--draws", "200", "--out", folder / "study",
                                     "--json", folder / "folder"});
  CHECK(study.code == 2);
  CHECK(study.err == fmt::format("moegrad: [write] '{}' is not a regular file. Choose another "
                                 "path.\n",
                                 (folder / "folder").string()));
  fs::create_directories(folder / "report/rows.jsonl");
  CHECK(run(folder, {"study", "bias", "--draws", "200", "--out", folder / "report"}).err ==
        fmt::format("moegrad: [write] '{}' is not a regular file. Choose another path.\n",
                    (folder / "report/rows.jsonl").string()));
  const Outcome check = run(folder, {"gradcheck", "--json", folder / "folder"});
  CHECK(check.code == 2);
  CHECK(check.out.empty());
  for (const char* name : {"plot.gp", "plot.svg"}) {
    fs::create_directories(folder / "plots" / name);
    CHECK(run(folder, {"study", "bias", "--draws", "200", "--out", folder / "plots"}).err ==
          fmt::format("moegrad: [write] '{}' is not a regular file. Choose another path.\n",
                      (folder / "plots" / name).string()));
    fs::remove(folder / "plots" / name);
  }
  fs::create_directories(folder / "run/json");
  std::vector<std::string> into_folder = small_training(folder / "run");
  into_folder.insert(into_folder.end(), {"--json", folder / "run/json"});
  const Outcome refused = run(folder, into_folder);
  CHECK(refused.code == 2);
  CHECK(refused.err.find("is not a regular file") != std::string::npos);
  CHECK(!fs::exists(folder / "run/config.json"));
  // The folder that a run makes may be meant.
  std::vector<std::string> training = small_training(folder / "new/run");
  training.insert(training.end(), {"--json", folder / "new/run/rows"});
  CHECK(run(folder, training).code == 0);
  CHECK(fs::exists(folder / "new/run/rows"));
}

TEST_CASE("paths: no output is an input, a file of the run, or another output") {
  const TemporaryFolder folder;
  REQUIRE(run(folder, small_training(folder / "run")).code == 0);
  const std::string checkpoint = folder / "run/checkpoints/step-00000008.safetensors";
  const std::string bytes = read_file(checkpoint);
  const auto refused = [&](std::vector<std::string> command, const std::vector<std::string>& more) {
    command.insert(command.end(), more.begin(), more.end());
    const Outcome o = run(folder, command);
    const std::string all = fmt::format("{}: {}", fmt::join(command, " "), o.err);
    CHECK_MESSAGE(o.code == 2, all);
    CHECK_MESSAGE(o.err.find("which this command reads or writes") != std::string::npos, all);
  };
  const std::string fresh = folder / "fresh";
  for (const char* name : {"config.json", "metrics.jsonl", "result.json", "checkpoints",
                           "checkpoints/a", "../fresh/config.json"}) {
    refused(small_training(fresh), {"--json", fresh + "/" + name});
  }
  refused(small_training(fresh), {"--data", folder / "d", "--json", folder / "d/fashion-mnist/a"});
  for (const char* name : {"plot.gp", "plot.svg", "rows.jsonl"}) {
    refused(small_study(fresh), {"--json", fresh + "/" + name});
  }
  write_file_atomic(folder / "c.json", R"({"task": "synthetic"})");
  refused({"train", "--config", folder / "c.json", "--out", fresh}, {"--json", folder / "c.json"});
  const std::vector<std::string> fidelity = {"study", "fidelity", "--checkpoint", checkpoint};
  refused(fidelity, {"--out", fresh, "--json", checkpoint});
  CHECK(!fs::exists(fresh));
  fs::create_directory(fresh);
  fs::create_hard_link(checkpoint, fresh + "/rows.jsonl");
  refused({"study", "fidelity", "--checkpoint", fresh + "/rows.jsonl"}, {"--out", fresh});
  CHECK(read_file(checkpoint) == bytes);
  refused({"study", "fidelity", "--along-training", "--task", "synthetic"},
          {"--out", fresh, "--json", fresh + "/run/a"});
}

TEST_CASE("paths: a study along training starts over its own run, and no other") {
  const TemporaryFolder folder;
  const fs::path out = folder / "study";
  const std::vector<std::string> along = {
      "study", "fidelity",     "--along-training", "--task", "synthetic", "--points",
      "1",     "--estimators", "sparse",           "--out",  out};
  REQUIRE(run(folder, small_training(out / "run")).code == 0);
  const std::string result = read_file(out / "run/result.json");
  const Outcome refused = run(folder, along);
  CHECK(refused.code == 2);
  CHECK(refused.err ==
        fmt::format("moegrad: [study] '{}' holds a run that is not of this study, and it would be "
                    "lost. Choose another folder with --out.\n",
                    (out / "run").string()));
  CHECK(read_file(out / "run/result.json") == result);
  fs::remove_all(out);
  for (const char* seed : {"1", "2"}) {
    std::vector<std::string> command = along;
    command.insert(command.end(), {"--seed", seed});
    const Outcome o = run(folder, command);
    CHECK_MESSAGE(o.code == 0, o.err);
  }
  // Of a user again: another configuration in the study's folder.
  std::vector<std::string> training = small_training(out / "run");
  training.push_back("--force");
  REQUIRE(run(folder, training).code == 0);
  CHECK(run(folder, along).code == 2);
}

TEST_CASE("paths: no name is a command for a shell or for gnuplot") {
  const TemporaryFolder folder;
  const fs::path before = fs::current_path();
  fs::current_path(folder.path());
  for (const std::string name :
       {"`touch pwned`", "$(touch pwned)", "a'; touch pwned; '", "a\"; touch pwned; \"",
        "a\nsystem 'touch pwned'\n!touch pwned\n", "spaces and 'quotes'", "-rf", "a\\b", "@a%s"}) {
    const Outcome o = run(folder, small_study("reports/" + name));
    CHECK_MESSAGE(o.code == 0, o.err);
    CHECK(o.err.empty());
    const std::string svg = read_file(folder.path() / "reports" / name / "plot.svg");
    CHECK(svg.find("<svg") != std::string::npos);
    CHECK(svg.find("</svg>") != std::string::npos);
  }
  fs::current_path(before);
  CHECK(folder.files() == 3);  // the two streams and the reports
  for (const auto& entry : fs::recursive_directory_iterator(folder.path())) {
    CHECK(entry.path().filename() != "pwned");
  }
}

TEST_CASE("paths: without gnuplot a study gives its rows and says so") {
  const TemporaryFolder folder;
  const std::string path = ::getenv("PATH");
  ::setenv("PATH", folder.path().c_str(), 1);
  const Outcome o = run(folder, small_study(folder / "bias"));
  ::setenv("PATH", path.c_str(), 1);
  CHECK(o.code == 0);
  CHECK(o.err == "no plot: gnuplot is not installed (Debian: gnuplot-nox).\n");
  CHECK(o.out.ends_with("rows.jsonl\n"));
  CHECK(!fs::exists(folder / "bias/plot.svg"));
}

TEST_CASE("paths: symbolic links at the names of outputs stay, and what they point to is written") {
  const TemporaryFolder folder;
  fs::create_directories(folder / "run");
  fs::create_directories(folder / "bias");
  for (const char* name : {"run/config.json", "bias/rows.jsonl", "bias/plot.svg", "bias/plot.gp"}) {
    const std::string target = "../" + fs::path(name).filename().string();
    fs::create_symlink(target, folder / name);  // dangling
  }
  // A link of that name is not a run: it points to nothing.
  CHECK(run(folder, small_training(folder / "run")).code == 0);
  CHECK(run(folder, small_study(folder / "bias")).code == 0);
  for (const char* name : {"run/config.json", "bias/rows.jsonl", "bias/plot.svg", "bias/plot.gp"}) {
    CHECK(fs::is_symlink(folder / name));
    CHECK(fs::is_regular_file(folder / fs::path(name).filename().string()));
  }
}

}  // namespace
}  // namespace moegrad
