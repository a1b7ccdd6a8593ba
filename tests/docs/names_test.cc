// A test is named after the source it holds, and every source has one: NAME_test.cc, or
// NAME_aspect_test.cc where it has several. What is otherwise is in the table below, with a reason.
// Headers alone, and routers and estimators, may do without: the registry's checks hold the latter.
#include <algorithm>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>

using namespace std::string_literals;
namespace fs = std::filesystem;

namespace {

const fs::path kRoot = MOEGRAD_SOURCE_DIR;

using Names = std::vector<std::string>;

// Tests, by their path in tests/ without _test.cc, of no source or of several.
struct Exception {
  std::string test;
  Names sources;  // that it holds besides its namesake
  std::string why;
};
const std::vector<Exception> kExceptions = {
    {"app/device", {}, "of every command: --device"},
    {"app/layer_command", {"app/layer_file"}, "the files of that command"},
    {"app/list_command", {"app/gradcheck_command"}, "both print what the registry holds"},
    {"app/outcome", {"app/main", "tensor/put"}, "how every command begins, ends and prints"},
    {"app/predict_command", {"app/evaluate_command"}, "one run that both read"},
    {"app/pairs", {}, "of every command: two processes at once"},
    {"app/paths", {"app/commands"}, "of every command: paths"},
    {"app/signals", {"app/stop_signal"}, "of every command: signals and readers that are gone"},
    {"app/study_compare_command",
     {"lab/runs", "app/training_study"},
     "the processes that it runs; what studies that train share"},
    {"app/study_balance_command",
     {"app/study_learning_rate_command", "app/study_finetune_command",
      "app/study_inference_command", "app/study_closeness_command"},
     "studies that train, each on a small plan"},
    {"app/study_specialise_command",
     {"app/study_counterfactual_command", "app/checkpoint_study"},
     "studies of one trained model"},
    {"app/study_command",
     {"app/study_bias_command", "app/study_fidelity_command"},
     "the studies that it offers"},
    {"app/text", {}, "of every command: foreign text"},
    {"autograd/expectation", {"autograd/expectation_runs"}, "the runs that it averages"},
    {"autograd/gradcheck",
     {"autograd/case_run", "autograd/comparison", "autograd/culprit", "autograd/directions",
      "autograd/gradcheck_report"},
     "the parts of the checker have no meaning of their own"},
    {"cuda/defects", {}, "of all kernels: what others got wrong"},
    {"cuda/gradcheck", {}, "of all of it: `moegrad gradcheck` on the device, a part"},
    {"cuda/graph", {"tensor/captured"}, "a graph is recorded by that alone"},
    {"cuda/schedules", {}, "of all kernels: the order of blocks and threads"},
    {"cuda/training", {}, "of all of it: training"},
    {"docs/names", {}, "of the names of tests"},
    {"docs/quotes", {}, "of the documents"},
    {"gpu/device", {}, "of what nvcc has compiled"},
    {"kernels/digits", {}, "of every kernel that adds"},
    {"kernels/experts", {"tensor/cpu/experts_backward"}, "the way back of what it runs"},
    {"kernels/matmul",
     {"tensor/cpu/product", "tensor/cpu/packed_product"},
     "whatever computes a product, it is the same product"},
    {"lab/bias", {"lab/bias_setting"}, "the layers that it measures"},
    {"lab/fidelity", {"lab/report"}, "its table and its plot"},
    {"moe/capacity_routers",
     {"moe/routers/switch", "moe/routers/gshard", "moe/routers/v_moe", "moe/routers/expert_choice"},
     "one fixture of full experts"},
    {"moe/checks/check_routers",
     {"moe/checks/fixture", "moe/checks/edges", "moe/checks/fields", "moe/checks/variants"},
     "every router goes through them"},
    {"moe/dispatch", {"moe/expert_operations"}, "declared operations, which have their checks"},
    {"moe/estimators/straight_through_and_reinforce",
     {"moe/estimators/reinforce"},
     "one expert drawn from the softmax"},
    {"moe/layer",
     {"moe/estimator", "moe/router", "moe/experts", "moe/noise"},
     "what a layer is made of"},
    {"moe/padding", {"moe/sequences"}, "sequences that have lost their padding"},
    {"moe/routers/balanced",
     {"moe/routers/x_moe", "moe/routers/hash", "moe/routers/deepseek", "moe/routers/loss_free"},
     "routers that differ in how they balance"},
    {"moe/routers/devices", {}, "of every router: devices"},
    {"moe/routers/dselect_k_and_comet", {"moe/routers/comet"}, "the same smooth step"},
    {"moe/routers/soft_moe_and_smear", {"moe/routers/smear"}, "the routers that merge"},
    {"moe/routers/sparsemixer", {"moe/estimators/sparsemixer"}, "a router with its estimator"},
    {"moe/routers/unbiased",
     {"moe/routers/unordered_set", "moe/routers/horvitz_thompson", "moe/routers/priority",
      "moe/routers/categorical"},
     "sums over the same orders and sets"},
    {"ops/list_mutants", {"autograd/mutation"}, "what breaks, and what must find it"},
    {"ops/shape", {"ops/checks"}, "the errors of operations"},
    {"steady/step", {}, "a program that counts its calls of operator new"},
    {"tensor/guarded/memory", {"tensor/guarded/kernels"}, "a device and its memory"},
    {"tensor/kernels", {"cuda/absent"}, "a build without CUDA"},
    {"train/device_bits", {}, "of all kernels: the bits of the device"},
    {"train/idx", {"train/gzip"}, "packed and not"},
    {"train/loop_metrics", {}, "what the log tells"},
    {"train/loop", {"train/stored_model"}, "what it stores"},
    {"train/own", {"train/own_columns"}, "what becomes of its columns"},
    {"train/model", {"train/models"}, "the one that a task asks for"},
};

// The paths below `folder`, without `ending`, of the files that end so.
Names stems(const fs::path& folder, const std::string& ending) {
  Names names;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string path = fs::relative(entry.path(), folder).generic_string();
    if (path.ends_with(ending)) names.push_back(path.substr(0, path.size() - ending.size()));
  }
  return names;
}

// Where the source is that a test is named after: the kernels' tests run on every device.
std::string source_of(const std::string& test) {
  return test.starts_with("kernels/") ? "tensor/cpu/" + test.substr(8) : test;
}

// What is wrong with the names of these tests beside these sources (with a .cc, or a header alone).
Names problems(const Names& tests, const Names& sources, const Names& headers,
               const std::vector<Exception>& exceptions) {
  Names found;
  std::set<std::string> held;
  std::set<std::string> excepted;
  const std::set<std::string> known_sources(sources.begin(), sources.end());
  const std::set<std::string> known_headers(headers.begin(), headers.end());
  const std::set<std::string> known_tests(tests.begin(), tests.end());
  for (const Exception& e : exceptions) {
    if (!known_tests.contains(e.test)) found.push_back("no test " + e.test);
    excepted.insert(e.test);
    for (const std::string& source : e.sources) {
      if (!known_sources.contains(source)) found.push_back("no source " + source);
      if (!held.insert(source).second) found.push_back("twice in the table: " + source);
    }
  }
  for (const std::string& test : tests) {
    bool named = false;
    // The longest source that it is named after: of experts_backward_nan, experts_backward.
    for (std::string name = source_of(test); !named;) {
      named = known_sources.contains(name) || known_headers.contains(name);
      if (named) held.insert(name);
      const std::size_t cut = name.rfind('_');
      if (cut == std::string::npos || cut < name.rfind('/') + 1) break;
      name.resize(cut);
    }
    if (!named && !excepted.contains(test)) found.push_back("named after no source: " + test);
  }
  for (const std::string& source : sources) {
    if (source.starts_with("moe/routers/") || source.starts_with("moe/estimators/")) continue;
    if (!held.contains(source)) found.push_back("without a test: " + source);
  }
  return found;
}

}  // namespace

TEST_CASE("tests are named after sources, and sources have tests") {
  Names sources;
  Names headers = {"bench/counts/compare"};  // of bench/, the rest is no part of the library
  for (const char* folder : {"tensor", "cuda", "autograd", "ops", "moe", "train", "lab", "app"}) {
    for (const std::string& name : stems(kRoot / folder, ".cc")) {
      if (name.starts_with("emulator/")) continue;  // a library of its own, with its own tests
      sources.push_back(folder + "/"s + name);
    }
    for (const std::string& name : stems(kRoot / folder, ".h")) {
      headers.push_back(folder + "/"s + name);
    }
  }
  const Names tests = stems(kRoot / "tests", "_test.cc");
  CHECK(tests.size() > 100);
  CHECK(sources.size() > 100);
  for (const std::string& problem : problems(tests, sources, headers, kExceptions)) {
    FAIL_CHECK(problem);
  }
  for (const Exception& e : kExceptions) CHECK(!e.why.empty());
}

TEST_CASE("the check of names finds what is wrong") {
  const Names sources = {"moe/plan", "moe/layer", "tensor/cpu/copy"};
  const Names tests = {"moe/plan", "moe/layer_learns", "kernels/copy", "tensor/parse"};
  const Names headers = {"tensor/parse"};
  CHECK(problems(tests, sources, headers, {}).empty());
  CHECK(problems(tests, sources, {}, {}) == Names{"named after no source: tensor/parse"});
  CHECK(problems({"moe/plan", "kernels/copy"}, sources, headers, {}) ==
        Names{"without a test: moe/layer"});
  CHECK(problems({"moe/plan", "kernels/copy"}, sources, headers, {{"moe/plan", {"moe/layer"}, "x"}})
            .empty());
  CHECK(problems(tests, sources, headers, {{"moe/plans", {"moe/layers"}, "x"}}) ==
        Names{"no test moe/plans", "no source moe/layers"});
  CHECK(problems({"moe/plan", "moe/planner"}, {"moe/plan"}, {}, {}) ==
        Names{"named after no source: moe/planner"});
}
