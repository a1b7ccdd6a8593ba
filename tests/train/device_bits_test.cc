// The bits of the device: every operation's cases, and steps of training. Kernels have the same on
// every GPU and in the emulator, which has recorded them in device_bits.txt.
//   MOEGRAD_RECORD=1 records them anew, for kernels that are meant to have others.
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>

#include <doctest/doctest.h>
#include <fmt/format.h>

#include "autograd/operation_check.h"
#include "ops/list.h"
#include "tests/devices.h"
#include "train/classifier.h"
#include "train/step.h"

using namespace moegrad;

namespace {

const std::string kRecord = MOEGRAD_SOURCE_DIR "/tests/train/device_bits.txt";

// FNV-1a (Fowler, Noll, Vo), of what it has been given so far.
struct Digest {
  std::uint64_t hash = 0xcbf29ce484222325U;
  void add(const Tensor& t) {
    const Tensor host = t.to(Device::cpu);
    std::vector<unsigned char> bytes(host.bytes());
    if (!bytes.empty()) std::memcpy(bytes.data(), host.raw(), bytes.size());
    for (const unsigned char byte : bytes) hash = (hash ^ byte) * 0x100000001b3U;
  }
  std::string text() const { return fmt::format("{:016x}", hash); }
};

std::string digest_of(const OperationEntry& entry, DType dtype) {
  Digest digest;
  for (const OperationCase& c : entry.cases()) {
    Decisions decisions = Decisions::recorder();
    Tape tape({.track_cell = true, .decisions = &decisions});
    std::vector<Var> leaves;
    for (const Tensor& input : make_inputs(c, dtype)) {
      leaves.push_back(tape.variable(input.to(Device::cuda)));
    }
    const Var y = c.program(tape, leaves);
    digest.add(y.value());
    if (!y.needs_gradient()) continue;
    const Tensor cotangent = Rng{7, 1, 0}.uniform(y.shape(), y.dtype(), -1.0, 1.5);
    const Gradients g = tape.backward(y, {cotangent.to(y.value().device())});
    for (const Var& leaf : leaves) digest.add(g[leaf]);
  }
  return digest.text();
}

std::string digest_of(const std::string& router, const std::string& estimator, DType dtype) {
  LayerConfig config;
  config.size = {.model = 24, .hidden = 40, .output = 24, .experts = 8, .active = 2};
  config.router = router;
  config.estimator = estimator;
  const Classifier model(30, 5, config);
  Parameters parameters = model.initial(1, dtype);
  for (Parameter& p : parameters) p.value = p.value.to(Device::cuda);
  AdamWOptimiser optimiser(parameters, {});
  TrainingStep step(model, parameters, optimiser, {.max_norm = 1.0});
  for (std::uint64_t i = 0; i < 20; ++i) {
    Rng rng{.seed = i};
    const Tensor labels = Tensor::empty({50}, DType::i32, Device::cpu);
    const Tensor ids = Tensor::empty({50}, DType::i32, Device::cpu);
    for (std::int32_t row = 0; row < 50; ++row) {
      labels.write<std::int32_t>()[row] = row % 5;
      ids.write<std::int32_t>()[row] = row;
    }
    const StepReport report =
        step({rng.normal({50, 30}, dtype), labels, ids}, {.seed = 3, .stream = i}, 1e-2, false);
    REQUIRE(report.failure.empty());
  }
  Digest digest;
  for (const Parameter& p : parameters) digest.add(p.value);
  return digest.text();
}

std::map<std::string, std::string> all_digests() {
  std::map<std::string, std::string> all;
  for (const DType dtype : {DType::f32, DType::f64}) {
    for (const OperationEntry& entry : all_operations()) {
      // The toolkit's own functions.
      if (entry.name == "sin" || entry.name == "cos" || entry.name == "pow" ||
          entry.name == "power") {
        continue;
      }
      all[fmt::format("{} {}", entry.name, name_of(dtype))] = digest_of(entry, dtype);
    }
    for (const auto& [router, estimator] : {std::pair{"top-k", "expert-group"},
                                            {"moesart", "sparse"},
                                            {"deepseek-v3", "ste-dense"}}) {
      all[fmt::format("training-{}-{} {}", router, estimator, name_of(dtype))] =
          digest_of(router, estimator, dtype);
    }
  }
  return all;
}

}  // namespace

TEST_CASE("the device has the bits that were recorded") {
  if (test::devices().back() != Device::cuda) return;
  const std::map<std::string, std::string> got = all_digests();
  if (std::getenv("MOEGRAD_RECORD") != nullptr) {
    std::ofstream file(kRecord);
    for (const auto& [name, digest] : got) file << name << ' ' << digest << '\n';
  }
  std::ifstream file(kRecord);
  std::map<std::string, std::string> want;
  for (std::string line; std::getline(file, line);) {
    const std::size_t space = line.rfind(' ');
    want[line.substr(0, space)] = line.substr(space + 1);
  }
  CHECK(got.size() == want.size());
  for (const auto& entry : got) CHECK_MESSAGE(want[entry.first] == entry.second, entry.first);
}
