#include "study.h"

#include <atomic>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <nanobind/stl/map.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include "device.h"
#include "interruptible.h"
#include "lab/bias.h"
#include "lab/fidelity.h"
#include "moe/registry.h"

namespace moegrad::python {
namespace {

using namespace nb::literals;
namespace fs = std::filesystem;
using Texts = std::vector<std::string>;

template <class Rows>
Texts json_of(const Rows& rows) {
  Texts texts;
  for (const auto& row : rows) texts.push_back(to_json(row));
  return texts;
}

// The rows, each a JSON object, and why cells were left out. progress(done, total) is called as
// cells are done.
std::pair<Texts, Texts> bias(const BiasGrid& grid, const BiasOptions& options,
                             const std::optional<nb::callable>& progress) {
  const std::vector<BiasCase> cases = bias_cases(grid, options);
  Texts skipped;
  std::atomic<std::size_t> done{0};
  std::size_t told = 0;
  const auto watch = [&] {
    const std::size_t now = done;
    if (!progress || now == told) return;
    told = now;
    (*progress)(now, cases.size());
  };
  const auto rows = interruptible(
      [&] {
        return study_bias(
            cases, options, [&](std::size_t n) { done = n; }, skipped);
      },
      watch);
  if (rows.empty()) fail("study", "nothing to measure: {}", skipped.empty() ? "" : skipped.front());
  return {json_of(rows), skipped};
}

std::pair<Texts, Texts> bind_bias(
    const Texts& routers, const Texts& estimators, const std::vector<std::int64_t>& experts,
    const std::vector<std::int64_t>& active, const std::vector<double>& scales, const Texts& losses,
    const std::map<std::string, std::string>& layer_options, std::int64_t draws, std::uint64_t seed,
    std::int64_t outcomes, std::int64_t samples, std::optional<bool> own, const std::string& device,
    const std::optional<nb::callable>& progress) {
  BiasGrid grid{routers, estimators, experts, active, scales, losses, layer_options};
  if (losses.empty()) grid.losses = bias_losses();
  return bias(grid,
              {.draws = draws,
               .seed = seed,
               .max_outcomes = outcomes,
               .samples = samples,
               .own = own,
               .device = device_of(device)},
              progress);
}

// On the data of the first checkpoint's run, where seed and folder are not given.
Texts fidelity(const Texts& checkpoints, const Texts& estimators, std::int64_t batch,
               std::optional<std::int64_t> seed, const std::optional<std::string>& data,
               const std::string& device) {
  const Device on = device_of(device);
  if (checkpoints.empty()) fail("study", "no checkpoint is given. Give the path of one at least.");
  if (batch < 0) fail("study", "a batch of {} examples. Give 1 at least.", batch);
  for (const std::string& name : estimators) estimator_entry(name);
  const std::vector<fs::path> paths(checkpoints.begin(), checkpoints.end());
  const auto rows = interruptible([&] {
    const TrainConfig config = stored_config(paths.front());
    TrainConfig of_data = config;
    of_data.data = data.value_or(config.data);
    of_data.seed = seed.value_or(config.seed);
    of_data.dtype = "f32";
    const Task task = load_task(of_data);
    return study_fidelity(paths, task, estimators, batch, on);
  });
  return json_of(rows);
}

}  // namespace

void bind_study(nb::module_& m) {
  m.def("study_bias", &bind_bias, "routers"_a, "estimators"_a, "experts"_a, "active"_a, "scales"_a,
        "losses"_a, "options"_a, "draws"_a, "seed"_a, "outcomes"_a, "samples"_a, "own"_a.none(),
        "device"_a, "progress"_a.none());
  m.def("study_fidelity", &fidelity, "checkpoints"_a, "estimators"_a, "batch"_a, "seed"_a.none(),
        "data"_a.none(), "device"_a);
}

}  // namespace moegrad::python
