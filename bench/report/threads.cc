// All threads against one: on a quiet machine, and while a process that spins keeps every processor
// busy. There a step begins after a pause, as in a notebook or a server: workers have gone to sleep
// and must get a processor back from the others.
#include "tensor/threads.h"

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <fmt/format.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/report/cases.h"
#include "bench/report/rows.h"
#include "tensor/error.h"
#include "train/loop.h"

namespace moegrad::bench {
namespace {

namespace fs = std::filesystem;

constexpr double kQuiet = 1.05;  // what all threads may cost of one at most
constexpr double kBusy = 1.5;
constexpr double kBudget = 1.0;  // seconds for a row, nine rounds at least
constexpr std::chrono::milliseconds kPause(50);

// One process for each processor of ours, bound to it, that computes without end.
class Spinners {
 public:
  Spinners() {
    cpu_set_t ours;
    CPU_ZERO(&ours);
    ::sched_getaffinity(0, sizeof ours, &ours);
    for (int processor = 0; processor < CPU_SETSIZE; ++processor) {
      if (CPU_ISSET(processor, &ours)) start(processor);
    }
  }
  ~Spinners() {
    for (const pid_t child : children_) {
      ::kill(child, SIGKILL);
      ::waitpid(child, nullptr, 0);
    }
  }
  Spinners(const Spinners&) = delete;
  Spinners& operator=(const Spinners&) = delete;

 private:
  void start(int processor) {
    const pid_t child = ::fork();
    if (child < 0) fail("report", "a process that spins cannot be started.");
    if (child > 0) {
      children_.push_back(child);
      return;
    }
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor, &one);
    ::sched_setaffinity(0, sizeof one, &one);
    std::atomic<unsigned> count{0};
    while (true) ++count;
  }

  std::vector<pid_t> children_;
};

Program with(int threads, const Program& step) {
  return [threads, step] {
    const ThreadScope scope(threads);
    step();
  };
}

// Seconds of single steps of both, each after a pause, by turns.
SideBySide after_pauses(const Program& a, const Program& b) {
  std::vector<double> of_a, of_b, ratio;
  const double warm = seconds(a, 1) + seconds(b, 1);
  const std::size_t rounds = warm > 0.5 ? 5 : 25;
  const auto timed = [](const Program& program) {
    std::this_thread::sleep_for(kPause);
    return seconds(program, 1);
  };
  while (ratio.size() < rounds) {
    of_a.push_back(timed(a));
    of_b.push_back(timed(b));
    ratio.push_back(of_a.back() / of_b.back());
  }
  return {spread_of(of_a), spread_of(of_b), spread_of(ratio)};
}

struct Case {
  std::string name;
  std::function<Program()> make;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const Size& size : sizes()) {
    all.push_back({size.name(), [size] {
                     return [layer = std::make_shared<BareLayer>(size)] { layer->step(true); };
                   }});
  }
  const auto add_model = [&](const char* name, std::function<std::unique_ptr<Model>()> make) {
    all.push_back({name, [make = std::move(make)] {
                     return [model = std::shared_ptr<Model>(make())] { model->step(); };
                   }});
  };
  add_model("mlp, 256 rows, width 512", [] { return make_mlp(256, 512, 4); });
  add_model("mlp, 8 rows, width 16", [] { return make_mlp(8, 16, 4); });
  add_model("vision, batch 128", make_vision);
  add_model("transformer block", make_transformer);
  return all;
}

// An epoch of `moegrad train vision --aux 0.01`, in a folder that is thrown away.
Program vision_epoch(const fs::path& out) {
  return [out] {
    TrainConfig config;
    config.task = "vision";
    config.aux = 0.01;
    config.epochs = 1;
    train(config, {.out = out, .force = true});
  };
}

}  // namespace

std::vector<Row> thread_rows(int threads, const std::function<void(const std::string&)>& progress) {
  std::vector<Row> rows;
  const auto add = [&](const char* what, const std::string& name, const SideBySide& s,
                       double bound) {
    rows.push_back({what, name, threads, "", s.ratio, at_most(bound)});
    rows.push_back({std::string(what) + ": one thread",
                    name,
                    1,
                    "ms",
                    {s.b.median * 1e3, s.b.min * 1e3, s.b.max * 1e3, s.b.rounds}});
    rows.push_back({std::string(what) + ": all threads",
                    name,
                    threads,
                    "ms",
                    {s.a.median * 1e3, s.a.min * 1e3, s.a.max * 1e3, s.a.rounds}});
  };
  for (const Case& c : cases()) {
    progress(fmt::format("threads: {}", c.name));
    const Program step = c.make();
    const Program all = with(threads, step);
    const Program one = with(1, step);
    add("all threads over one", c.name, side_by_side(all, one, kBudget), kQuiet);
    const Spinners busy;
    add("all threads over one, busy, after pauses", c.name, after_pauses(all, one), kBusy);
  }
  if (fs::exists("data/fashion-mnist")) {
    progress("threads: an epoch of vision");
    const fs::path out = fs::temp_directory_path() / fmt::format("moegrad-report-{}", ::getpid());
    const Program all = with(threads, vision_epoch(out));
    const Program one = with(1, vision_epoch(out));
    add("all threads over one", "an epoch of vision", side_by_side(all, one, kBudget), kQuiet);
    {
      const Spinners busy;
      add("all threads over one, busy", "an epoch of vision", side_by_side(all, one, kBudget),
          kBusy);
    }
    fs::remove_all(out);
  }
  return rows;
}

}  // namespace moegrad::bench
