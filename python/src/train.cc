#include "train.h"

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <exception>
#include <optional>
#include <string>

#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "callback.h"
#include "device.h"
#include "train/checkpoint.h"
#include "train/dataset.h"
#include "train/loop.h"
#include "train/run_folder.h"

namespace moegrad::python {
namespace {

using namespace nb::literals;
namespace fs = std::filesystem;

// What follows a step: Python looks at signals, and the callback, if there is one, is called. What
// it throws is kept until the run has ended by `stop`, with a checkpoint.
class AfterStep {
 public:
  AfterStep(const std::optional<nb::callable>& callback, std::atomic<int>& stop)
      : callback_(callback), stop_(stop) {}

  void operator()(const ProgressView& view) {
    using std::chrono_literals::operator""ms;
    const auto now = std::chrono::steady_clock::now();
    if (!callback_ && now - last_ < 20ms) return;
    last_ = now;
    try {
      const bool goes_on =
          calling_python([&] { return !callback_ || !(*callback_)(view).is(nb::bool_(false)); });
      if (!goes_on) stop_ = SIGINT;
    } catch (...) {
      thrown_ = std::current_exception();
      stop_ = SIGINT;
    }
  }
  void rethrow() const {
    if (thrown_) std::rethrow_exception(thrown_);
  }

 private:
  const std::optional<nb::callable>& callback_;
  std::atomic<int>& stop_;
  std::exception_ptr thrown_;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

std::string task_names() {
  std::string names;
  for (const TaskInfo& task : tasks())
    names += (names.empty() ? "" : ", ") + std::string(task.name);
  return names;
}

// Returns the folder of the run.
std::string run_training(const Settings& settings, const std::string& folder, bool resume,
                         bool force, int threads, const std::string& device,
                         const std::string& maths, bool capture, bool shown,
                         const std::optional<nb::callable>& callback) {
  const Device on = device_of(device);
  const Maths by = maths_named(maths);
  TrainConfig config;
  apply_settings(config, settings);
  if (!resume && config.task.empty()) {
    fail("train", "no task is given. Give one of: {}.", task_names());
  }
  std::string out = folder;
  if (out.empty()) {
    out = fmt::format("runs/{}-{}-{}", config.task, config.router, config.estimator);
  }
  if (resume) config = RunFolder(out).resumed(settings);
  std::atomic<int> stop{0};
  AfterStep after_step(callback, stop);
  without_gil([&] {
    Progress progress(stderr, shown ? Progress::style_for(stderr) : Progress::Style::silent);
    const TrainResult result = train(config, {.out = out,
                                              .resume = resume,
                                              .force = force,
                                              .threads = threads,
                                              .device = on,
                                              .capture = capture,
                                              .maths = by,
                                              .stop = &stop,
                                              .progress = &progress,
                                              .after_step = std::ref(after_step)});
    if (result.signal != 0) {
      progress.message(shown_format("stopped after step {}, saved in {}", result.steps,
                                    result.checkpoint.string()));
    }
  });
  after_step.rethrow();
  return out;
}

std::optional<std::string> newest_checkpoint(const std::string& folder) {
  const auto newest = Checkpoints(RunFolder(folder).checkpoints(), 1, "{}").newest();
  return newest ? std::optional(newest->string()) : std::nullopt;
}

}  // namespace

void bind_train(nb::module_& m) {
  nb::class_<ProgressView>(m, "Progress", "Where a run stands.")
      .def_ro("epoch", &ProgressView::epoch, "from 1")
      .def_ro("epochs", &ProgressView::epochs)
      .def_ro("step", &ProgressView::step)
      .def_ro("steps", &ProgressView::steps)
      .def_ro("loss", &ProgressView::loss)
      .def_ro("examples_per_second", &ProgressView::examples_per_second)
      .def_ro("seconds_left", &ProgressView::seconds_left)
      .def("__str__", &progress_line)
      .def("__repr__",
           [](const ProgressView& v) { return "<Progress: " + progress_line(v) + ">"; });
  m.def("train", &run_training, "settings"_a, "out"_a, "resume"_a, "force"_a, "threads"_a,
        "device"_a, "maths"_a, "capture"_a, "shown"_a, "callback"_a.none());
  m.def("newest_checkpoint", &newest_checkpoint, "folder"_a);
}

}  // namespace moegrad::python
