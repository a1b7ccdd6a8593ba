#include "train/run_checks.h"

#include <string>

#include <doctest/doctest.h>

#include "tests/temporary_files.h"

using namespace moegrad;
using moegrad::test::error_of;

namespace {

TrainConfig with(const Settings& settings) {
  TrainConfig config;
  config.task = "synthetic";
  apply_settings(config, settings);
  return config;
}

}  // namespace

TEST_CASE("a run is checked before its data are read") {
  const auto error = [](const Settings& s) { return error_of([&] { check_run(with(s)); }); };
  CHECK(error({}) == "no error");
  CHECK(error({{"norms_of", "ste-dense"}}) == "no error");
  CHECK(error({{"active", "9"}}) != "no error");
  CHECK(error({{"norms_of", "default-ema"}})
            .starts_with("[train] norms_of is default-ema, which keeps "));
  CHECK(error({{"norms_of", "sparsemixer"}}) != "no error");  // top-k is not its router
  CHECK(error({{"norms_of", "none"}}) != "no error");
}

TEST_CASE("what is computed on the host cannot be captured") {
  const auto error = [](const Settings& s, Device device = Device::cuda) {
    return error_of([&] { require_capturable(with(s), device); });
  };
  CHECK(error({}) == "no error");
  CHECK(error({}, Device::cpu) ==
        "[train] the cpu has no graphs to capture steps in. Use cuda, or do not capture.");
  CHECK(
      error({{"expert", "cnn"}}) ==
      "[train] the expert 'cnn' computes how many slots each has on the host, and a captured step "
      "cannot wait for it. Use another, or do not capture.");
  CHECK(error({{"task", "distil"}}).find("the task 'distil' computes where the tokens") !=
        std::string::npos);
}

TEST_CASE("the other estimator takes the place of all parts") {
  const TrainConfig other = with_other_estimator(with({{"estimator", "expert-group"},
                                                       {"router_gradient", "ste-dense"},
                                                       {"norms_of", "ste-dense-router"}}));
  CHECK(other.estimator == "ste-dense-router");
  CHECK(other.router_gradient.empty());
  CHECK(other.expert_gradient.empty());
}
