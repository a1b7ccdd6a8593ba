// --device of every command that has it.
#include <nlohmann/json.hpp>

#include "tests/app/program.h"
#include "tests/devices.h"

using moegrad::Device;
using moegrad::test::json_lines;
using moegrad::test::Outcome;
using moegrad::test::run;
using moegrad::test::TemporaryFolder;

TEST_CASE("a device that does not exist, or is not here, is one error with exit code 2") {
  const TemporaryFolder folder;
  std::string absent;
  try {
    (void)moegrad::kernels(Device::cuda);
  } catch (const moegrad::Error& error) {
    absent = error.what();
  }
  const std::vector<std::vector<std::string>> commands = {
      {"train", "synthetic"}, {"layer"}, {"gradcheck"}, {"study", "bias"}, {"study", "fidelity"}};
  for (std::vector<std::string> command : commands) {
    const std::string name = command.back() == "synthetic" ? "train" : command.back();
    CAPTURE(name);
    command.insert(command.end(), {"--device", "gpu"});
    const Outcome unknown = run(folder, command);
    CHECK(unknown.code == 2);
    CHECK(unknown.out.empty());
    CHECK(unknown.err == "moegrad: [" + name + "] --device is 'gpu'. Use cpu or cuda.\n");
    if (absent.empty()) continue;
    command.back() = "cuda";
    const Outcome missing = run(folder, command);
    CHECK(missing.code == 2);
    CHECK(missing.out.empty());
    CHECK(missing.err == "moegrad: " + absent + "\n");
  }
}

TEST_CASE("study on each device of the build: rows and report name it") {
  for (const Device device : moegrad::test::devices()) {
    if (device == Device::guarded) continue;
    const std::string name(moegrad::name_of(device));
    const TemporaryFolder folder;
    const Outcome bias =
        run(folder, {"study", "bias", "--routers", "top-k", "--experts", "4", "--active", "2",
                     "--scale", "1", "--loss", "linear", "--draws", "1", "--device", name, "--out",
                     (folder / "bias").string()});
    CHECK(bias.code == 0);
    CHECK(bias.out.find("computed on the " + name + " device; written to ") != std::string::npos);
    CHECK(json_lines(folder / "bias/rows.jsonl")[0]["device"] == name);

    const std::string trained = (folder / "run").string();
    REQUIRE(run(folder, {"train", "synthetic", "--epochs", "1", "--experts", "4", "--width", "8",
                         "--hidden", "8", "--batch", "512", "--device", name, "--out", trained})
                .code == 0);
    std::string checkpoint;
    for (const auto& file : std::filesystem::directory_iterator(trained + "/checkpoints")) {
      checkpoint = file.path().string();
    }
    const Outcome fidelity = run(folder, {"study", "fidelity", "--checkpoint", checkpoint,
                                          "--estimators", "sparse", "--batch", "8", "--device",
                                          name, "--json", "--out", (folder / "fidelity").string()});
    CHECK(fidelity.code == 0);
    CHECK(nlohmann::json::parse(fidelity.out)[0]["device"] == name);
  }
}
