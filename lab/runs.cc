#include "lab/runs.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <string>
#include <thread>

#include <fcntl.h>
#include <nlohmann/json.hpp>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tensor/files.h"
#include "tensor/folders.h"
#include "tensor/maths.h"
#include "tensor/threads.h"
#include "train/optimiser.h"
#include "train/progress.h"
#include "train/run_folder.h"
#include "train/step.h"
#include "train/stored_model.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr auto kPause = std::chrono::milliseconds(20);

// Whether a value changes neither a run nor how it is measured.
bool is_free(const TrainField& field, const TrainConfig& config) {
  const std::string& name = field.spec.name;
  if (name == "data") return config.task != "own";  // the data sets may lie elsewhere
  return name == "log_every" || name == "checkpoint_every" || name == "keep";
}

// "lr is 0.002 there and 0.001 here, seed is ..."; empty where they are the same.
std::string difference(const TrainConfig& there, const TrainConfig& here) {
  std::string all;
  const auto add = [&](const std::string& name, const std::string& a, const std::string& b) {
    if (a != b)
      all += fmt::format("{}{} is '{}' there and '{}' here", all.empty() ? "" : ", ", name, a, b);
  };
  for (const TrainField& field : train_fields()) {
    if (is_free(field, here)) continue;
    add(field.spec.name, field_text(there, field), field_text(here, field));
  }
  std::map<std::string, std::string> options = there.options;
  options.insert(here.options.begin(), here.options.end());
  const auto option = [](const TrainConfig& config, const std::string& name) {
    const auto found = config.options.find(name);
    return found == config.options.end() ? std::string("unset") : found->second;
  };
  for (const auto& [name, unused] : options) {
    add("option " + name, option(there, name), option(here, name));
  }
  return all;
}

// null where it is damaged.
nlohmann::json result_of(const RunFolder& folder) {
  return nlohmann::json::parse(read_file(folder.result()), nullptr, false);
}
std::string text_in(const nlohmann::json& object, const char* key) {
  if (!object.is_object() || !object.contains(key) || !object[key].is_string()) return "";
  return object[key].get<std::string>();
}

// The last line of a log that says something.
std::string last_line(const fs::path& log) {
  const std::string text = path_exists(log) ? read_file(log) : "";
  const std::size_t end = text.find_last_not_of("\r\n ");
  if (end == std::string::npos) return "it wrote nothing";
  const std::size_t begin = text.find_last_of("\r\n", end);
  return text.substr(begin == std::string::npos ? 0 : begin + 1, end - (begin + 1) + 1);
}

// A process of its own group: a signal of the terminal reaches it through this program alone, once.
::pid_t start(const std::vector<std::string>& arguments, const fs::path& log) {
  std::vector<char*> argv;
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  ::posix_spawn_file_actions_t files;
  ::posix_spawn_file_actions_init(&files);
  ::posix_spawn_file_actions_addopen(&files, 0, "/dev/null", O_RDONLY, 0);
  ::posix_spawn_file_actions_addopen(&files, 1, log.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666);
  ::posix_spawn_file_actions_adddup2(&files, 1, 2);
  ::posix_spawnattr_t attributes;
  ::posix_spawnattr_init(&attributes);
  ::posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  ::pid_t process = 0;
  const int error = ::posix_spawn(&process, argv[0], &files, &attributes, argv.data(), environ);
  ::posix_spawn_file_actions_destroy(&files);
  ::posix_spawnattr_destroy(&attributes);
  if (error != 0) fail("study", "cannot run '{}': {}.", arguments[0], std::strerror(error));
  return process;
}

class StudyRuns {
 public:
  StudyRuns(const std::vector<PlannedRun>& runs, const RunsOptions& options)
      : runs_(runs), options_(options), outcomes_(runs.size()) {}
  ~StudyRuns() { end_all(); }
  StudyRuns(const StudyRuns&) = delete;
  StudyRuns& operator=(const StudyRuns&) = delete;

  std::vector<RunOutcome> operator()() {
    for (const PlannedRun& run : runs_) require_same(run);
    for (const fs::path& other : options_.reuse) find_finished(other);
    make_folder(options_.folder);
    std::size_t next = 0;
    while (next < runs_.size() || !processes_.empty()) {
      if (options_.stop != nullptr && options_.stop->load() != 0) {
        end_all();
        break;
      }
      if (next < runs_.size() && static_cast<int>(processes_.size()) < options_.jobs) {
        begin(next++);
        continue;
      }
      if (!collect()) std::this_thread::sleep_for(kPause);
    }
    return outcomes_;
  }

 private:
  fs::path path(const PlannedRun& run, const char* suffix = "") const {
    return options_.folder / (run.name + suffix);
  }

  // As its own config.json gives it back.
  static TrainConfig as_stored(const PlannedRun& run) {
    return stored_run(read_settings(to_json(run.config), run.name));
  }

  void require_same(const PlannedRun& run) const {
    const RunFolder folder(path(run));
    if (!path_exists(folder.config())) return;
    const std::string other = difference(folder.resumed({}), as_stored(run));
    if (other.empty()) return require_same_data(run, folder);
    fail("study",
         "'{}' holds a run of another configuration: {}. Choose another folder with --out, or "
         "remove that one.",
         folder.path().string(), other);
  }

  // Runs begun find out themselves; results of before have no checksum.
  void require_same_data(const PlannedRun& run, const RunFolder& folder) const {
    if (!options_.data || !path_exists(folder.result())) return;
    const std::string there = text_in(result_of(folder), "data");
    if (there.empty()) return;
    const std::string here = options_.data(run.config);
    if (there == here) return;
    fail("study",
         "'{}' holds a run of other data: their checksum is {} there and {} here. Choose another "
         "folder with --out, or remove that one.",
         folder.path().string(), there, here);
  }

  // The finished runs in the folder of another study; those that cannot be used are named.
  void find_finished(const fs::path& other) {
    for (const fs::path& run : files_in(other)) {
      const RunFolder folder(run);
      try {
        if (!path_exists(folder.result())) continue;
        const nlohmann::json result = result_of(folder);
        if (text_in(result, "maths") != name_of(Maths::exact)) continue;  // which studies have
        checkpoint_of(run);
        finished_.push_back({run, folder.resumed({}), text_in(result, "data")});
      } catch (const Error& e) {
        options_.message(fmt::format("'{}' is not used again: {}", run.string(), e.what()));
      }
    }
    std::ranges::sort(finished_, {}, &Finished::run);
  }

  // Makes folder/NAME a link to a finished run elsewhere, where there is one. Not of those that go on
  // from another run: its path does not tell which it was.
  bool link(const PlannedRun& run) const {
    const fs::path here = path(run);
    if (fs::is_symlink(here) && !path_exists(RunFolder(here).result())) remove_file(here);
    if (path_exists(here) || !run.config.from.empty() || !options_.data) return false;
    const TrainConfig config = as_stored(run);
    const auto found = std::ranges::find_if(finished_, [&](const Finished& other) {
      return difference(other.config, config).empty() && other.data == options_.data(run.config);
    });
    if (found == finished_.end()) return false;
    std::error_code error;
    const fs::path from = fs::relative(found->run, options_.folder, error);
    if (!error) fs::create_directory_symlink(from, here, error);
    if (error) {
      fail("study", "cannot link '{}': {}. Check that its folder can be written.", here.string(),
           error.message());
    }
    options_.message(fmt::format("{} is that of {}", run.name, found->run.string()));
    return true;
  }

  void begin(std::size_t i) {
    const PlannedRun& run = runs_[i];
    const RunFolder folder(path(run));
    const bool linked = link(run);
    if (path_exists(folder.result())) {
      outcomes_[i].state = RunState::was_there;
      ++done_;
      if (!linked) options_.message(fmt::format("{} is there already", run.name));
      return;
    }
    // What begins with another run of the study needs the whole of it.
    const fs::path from = run.config.from;
    if (from.parent_path() == options_.folder && !path_exists(RunFolder(from).result())) {
      outcomes_[i] = {RunState::failed, fmt::format("'{}' has not ended", from.string())};
      ++done_;
      options_.message(fmt::format("{} FAILED ({})", run.name, outcomes_[i].why));
      return;
    }
    const fs::path config = path(run, ".json");
    write_file_atomic(config, to_json(run.config) + "\n");
    remove_file(path(run, ".log"));
    std::vector<std::string> arguments = {options_.program.string(),
                                          "train",
                                          "--out",
                                          folder.path().string(),
                                          "--threads",
                                          "1",
                                          "--parent",
                                          std::to_string(::getpid())};
    if (path_exists(folder.config())) {
      arguments.emplace_back("--resume");
    } else {
      arguments.insert(arguments.end(), {"--config", config.string()});
    }
    processes_[start(arguments, path(run, ".log"))] = {i, Clock::now()};
  }

  // Whether a process has ended.
  bool collect() {
    for (const auto& [process, what] : processes_) {
      int status = 0;
      const ::pid_t ended = ::waitpid(process, &status, WNOHANG);
      if (ended == 0 || (ended < 0 && errno == EINTR)) continue;
      finish(what, status);
      processes_.erase(process);
      return true;
    }
    return false;
  }

  struct Process {
    std::size_t run;
    Clock::time_point since;
  };

  void finish(const Process& what, int status) {
    const PlannedRun& run = runs_[what.run];
    RunOutcome& outcome = outcomes_[what.run];
    const double seconds = std::chrono::duration<double>(Clock::now() - what.since).count();
    ++done_;
    seconds_ += seconds;
    ++made_;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
      outcome.state = RunState::made;
    } else if (path_exists(RunFolder(path(run)).result())) {
      outcome.state = RunState::made;
    } else {
      outcome = {RunState::failed, last_line(path(run, ".log"))};
    }
    const double each = seconds_ / static_cast<double>(made_);
    const double left = each * static_cast<double>(runs_.size() - done_) / options_.jobs;
    options_.message(
        fmt::format("{} {} in {}; {} of {} are done, {} left", run.name,
                    outcome.state == RunState::failed ? "FAILED (" + outcome.why + ")" : "is made",
                    duration_text(seconds), done_, runs_.size(), duration_text(left)));
  }

  // Asks what runs to save and end, and waits for it.
  void end_all() {
    for (const auto& [process, what] : processes_) ::kill(process, SIGINT);
    for (const auto& [process, what] : processes_) {
      int status = 0;
      while (::waitpid(process, &status, 0) < 0 && errno == EINTR) {
      }
    }
    processes_.clear();
  }

  struct Finished {
    fs::path run;
    TrainConfig config;
    std::string data;  // its checksum
  };

  const std::vector<PlannedRun>& runs_;
  const RunsOptions& options_;
  std::vector<Finished> finished_;  // in other studies
  std::vector<RunOutcome> outcomes_;
  std::map<::pid_t, Process> processes_;
  std::size_t done_ = 0;
  std::size_t made_ = 0;
  double seconds_ = 0.0;
};

}  // namespace

std::vector<RunOutcome> make_runs(const std::vector<PlannedRun>& runs, const RunsOptions& options) {
  return StudyRuns(runs, options)();
}

std::int64_t steps_of(const TrainConfig& config, const Task& task) {
  if (config.steps > 0) return config.steps;
  return config.epochs * Batches(task.train, config.batch).size();
}

double seconds_of_step(const TrainConfig& config, const Task& task) {
  constexpr int kSteps = 3;
  const ThreadScope threads(1);
  const auto model = make_model(task.shape(), config);
  Parameters parameters = model->initial(static_cast<std::uint64_t>(config.seed), config.type());
  AdamWOptimiser optimiser(parameters, {});
  TrainingStep step(*model, parameters, optimiser, {.max_norm = 1.0, .parts = config.parts});
  const Batch batch = Batches(task.train, config.batch).get(0);
  std::vector<double> seconds;
  for (int i = 0; i <= kSteps; ++i) {
    const Clock::time_point begin = Clock::now();
    step(batch, Rng{.seed = 1, .stream = static_cast<std::uint64_t>(i)}, 1e-4, false);
    if (i > 0) seconds.push_back(std::chrono::duration<double>(Clock::now() - begin).count());
  }
  std::ranges::sort(seconds);
  return seconds[seconds.size() / 2];
}

}  // namespace moegrad
