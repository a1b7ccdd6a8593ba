#include "train/begin_from.h"

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "tests/temporary_files.h"
#include "train/loop.h"
#include "train/model.h"

namespace moegrad {
namespace {

using test::error_of;
using test::TemporaryFolder;

TrainConfig small(const Settings& settings = {}) {
  TrainConfig config;
  config.task = "synthetic";
  config.experts = 4;
  config.width = 8;
  config.hidden = 4;
  config.steps = 3;
  config.batch = 32;
  apply_settings(config, settings);
  return config;
}

// What a run with these settings takes from `run`, and what is told.
struct Begun {
  Parameters parameters;
  std::vector<std::string> told;
};
Begun begin(const TrainConfig& config) {
  const Task task = load_task(config);
  const auto model = make_model(task.shape(), config);
  Begun begun{.parameters = model->initial(static_cast<std::uint64_t>(config.seed), config.type()),
              .told = {}};
  AdamWOptimiser optimiser(begun.parameters, {});
  begin_from(config, task, begun.parameters, optimiser,
             [&](std::string_view text) { begun.told.emplace_back(text); });
  return begun;
}

}  // namespace

TEST_CASE("begin from a run: what is the same is taken, what is not is named") {
  const TemporaryFolder folder;
  const std::string run = folder / "run";
  const TrainResult trained = train(small(), {.out = run});
  const std::string from = trained.checkpoint.string();

  CHECK(begin(small()).told.empty());
  Begun same = begin(small({{"from", run}}));
  CHECK(same.told == std::vector<std::string>{"beginning with the parameters of " + from});
  Begun fresh = begin(small());
  const Parameter& head = *same.parameters.find("head.weight");
  CHECK(!head.value.same_bits(fresh.parameters.find("head.weight")->value));

  // Another router has a matrix of its own: the rest is the run's.
  Begun other = begin(small({{"from", run}, {"router", "noisy-top-k"}}));
  REQUIRE(other.told.size() == 2);
  CHECK(other.told[1].starts_with("not there, drawn anew: mixture."));
  CHECK(other.parameters.find("head.weight")->value.same_bits(head.value));
}

TEST_CASE("begin from a run of another seed: where the seed draws the data, it is told") {
  const TemporaryFolder folder;
  const std::string run = folder / "run";
  train(small(), {.out = run});
  const Begun other = begin(small({{"from", run}, {"seed", "2"}}));
  REQUIRE(other.told.size() == 2);
  CHECK(other.told[1] ==
        "its data were drawn from the seed 1, and these from 2: what is tested here may have been "
        "trained on there");
}

TEST_CASE("begin from what is no run") {
  const TemporaryFolder folder;
  CHECK(error_of([&] {
          begin(small({{"from", folder / "none"}}));
        }).find("none") != std::string::npos);
}

}  // namespace moegrad
