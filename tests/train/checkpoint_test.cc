#include "train/checkpoint.h"

#include <memory>
#include <string>

#include <doctest/doctest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "ops/ops.h"
#include "tensor/files.h"
#include "tensor/kernels.h"
#include "tensor/safetensors.h"
#include "tests/temporary_files.h"
#include "tests/train/file_size_limit.h"
#include "tests/train/forged.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::error_of;
using test::FileSizeLimit;
using test::forge;
using test::mutated;
using test::TemporaryFolder;

// Parameters and optimiser, all numbers a function of `start`.
struct Model {
  explicit Model(double start, std::int64_t width = 3, Device device = Device::cpu) {
    parameters.add("a.weight", Tensor::full({2, width}, start, DType::f32, device));
    parameters.add("a.bias", Tensor::full({width}, start + 1, DType::f32, device));
    parameters.add("buffer", Tensor::full({2}, start + 2, DType::f32, device), false);
    optimiser = std::make_unique<AdamWOptimiser>(parameters, AdamWOptimiser::Config{});
    for (const auto& [name, tensor] : optimiser->state()) kernels(device).fill(start + 3, tensor);
    optimiser->set_steps(static_cast<std::int64_t>(start));
  }
  bool same(const Model& other) const {
    auto o = other.parameters.begin();
    for (const Parameter& p : parameters) {
      if (!p.value.same_bits((o++)->value)) return false;
    }
    for (std::size_t i = 0; i < optimiser->state().size(); ++i) {
      if (!optimiser->state()[i].second.same_bits(other.optimiser->state()[i].second)) return false;
    }
    return optimiser->steps() == other.optimiser->steps();
  }
  Parameters parameters;
  std::unique_ptr<Optimiser> optimiser;
};

constexpr std::string_view kConfig = R"({"experts": 8, "router": "top-k"})";
const TrainState kState{.step = 12, .epoch = 1, .batch = 3, .rng = {7, 1ULL << 63U, 5}};

Checkpoints in(const fs::path& folder, std::int64_t keep = 2) {
  return {folder, keep, std::string(kConfig)};
}
fs::path save(const Checkpoints& checkpoints, std::int64_t step, const Model& model) {
  TrainState state = kState;
  state.step = step;
  return checkpoints.save(state, model.parameters, *model.optimiser);
}
std::string load_error(const Checkpoints& checkpoints, const fs::path& file,
                       std::int64_t width = 3) {
  Model model(50, width);
  const Model before(50, width);
  std::string error = error_of(
      [&] { Checkpoints::restore(checkpoints.read(file), model.parameters, *model.optimiser); });
  if (error != "no error") CHECK(model.same(before));  // nothing is half loaded
  return error;
}

TEST_CASE("checkpoint: everything comes back") {
  const TemporaryFolder folder;
  const Checkpoints checkpoints = in(folder.path());
  const Model saved(1);
  const fs::path file = checkpoints.save(kState, saved.parameters, *saved.optimiser);
  CHECK(file.filename() == "step-00000012.safetensors");
  Model loaded(50);
  const Checkpoint read = checkpoints.read(file);
  Checkpoints::restore(read, loaded.parameters, *loaded.optimiser);
  const TrainState& state = read.state;
  CHECK(loaded.same(saved));
  CHECK(state.step == 12);
  CHECK(state.epoch == 1);
  CHECK(state.batch == 3);
  CHECK(state.rng == kState.rng);
}

TEST_CASE("checkpoint: the file tells whose kernels computed it, and is read on any device") {
  const TemporaryFolder folder;
  const Checkpoints checkpoints = in(folder.path());
  const Model here(1);
  const Model there(1, 3, Device::guarded);
  const std::string file = read_file(checkpoints.save(kState, here.parameters, *here.optimiser));
  const fs::path path = checkpoints.save(kState, there.parameters, *there.optimiser);
  CHECK(read_file(path) == file);
  CHECK(checkpoints.read(path).device == "cpu");
  for (const Device device : {Device::cpu, Device::guarded}) {
    Model loaded(50, 3, device);
    Checkpoints::restore(checkpoints.read(path), loaded.parameters, *loaded.optimiser);
    CHECK(loaded.same(here));
    CHECK(loaded.parameters.device() == device);
  }
}

TEST_CASE("checkpoint: parameters restored between two steps, and under a tape") {
  const TemporaryFolder folder;
  const Checkpoints checkpoints = in(folder.path());
  Model model(1);
  const Checkpoint read =
      checkpoints.read(checkpoints.save(kState, model.parameters, *model.optimiser));
  const Parameter& w = *model.parameters.find("a.weight");
  Tape t;
  const auto record = [&] { return sum(square(t.parameter(w))); };
  t.backward(record());
  Checkpoints::restore(read, model.parameters, *model.optimiser);
  t.clear();
  const Var loss = record();
  CHECK(t.backward(loss, {.retain = true})[w].at(0) == 2.0);
  Checkpoints::restore(read, model.parameters, *model.optimiser);
  CHECK(error_of([&] { t.backward(loss); }).find("(the parameter 'a.weight')") !=
        std::string::npos);
}

TEST_CASE("checkpoint: the last K are kept, the newest is found, other files are left alone") {
  const TemporaryFolder folder;
  const Checkpoints checkpoints = in(folder.path(), 2);
  CHECK(!checkpoints.newest());
  write_file_atomic(folder / "step-notes.txt", "mine");
  write_file_atomic(folder / "step-x.safetensors", "mine");
  for (const std::int64_t step : {5, 10, 99999999, 100000000}) save(checkpoints, step, Model(1));
  REQUIRE(checkpoints.list().size() == 2);
  CHECK(checkpoints.list()[0].filename() == "step-99999999.safetensors");
  CHECK(checkpoints.newest()->filename() == "step-100000000.safetensors");
  CHECK(folder.files() == 4);
  checkpoints.remove_all();
  CHECK(folder.files() == 2);
}

TEST_CASE("checkpoint: another version") {
  const TemporaryFolder folder;
  const Checkpoints checkpoints = in(folder.path());
  const fs::path path = save(checkpoints, 1, Model(1));
  TensorFile file = read_safetensors(path);
  file.metadata["version"] = "2";
  write_safetensors(path, file);
  CHECK(load_error(checkpoints, path) ==
        "[checkpoint] " + path.string() +
            ": format version 2; this program reads version 1. Use the program that wrote it, or "
            "train again.");
  file.metadata["version"] = "one";
  write_safetensors(path, file);
  CHECK(load_error(checkpoints, path) ==
        "[checkpoint] " + path.string() +
            ": 'version' is 'one', no whole number from 0 to 9007199254740991. Is the file "
            "damaged?");
  file.metadata.clear();
  write_safetensors(path, file);
  CHECK(load_error(checkpoints, path) ==
        "[checkpoint] " + path.string() +
            ": no 'version' in its metadata. It was not written by a training run.");
}

TEST_CASE("checkpoint: another model") {
  const TemporaryFolder folder;
  const Checkpoints checkpoints = in(folder.path());
  const fs::path path = save(checkpoints, 1, Model(1));
  CHECK(load_error(checkpoints, path) == "no error");
  CHECK(load_error(checkpoints, path, 4) ==
        "[checkpoint] " + path.string() +
            ": 'parameter.a.weight' is f32 [2, 3] there and f32 [2, 4] here. Train with the sizes "
            "that it was made with.");
  const Checkpoints other(folder.path(), 2, R"({"experts": 4, "router": "top-k"})");
  CHECK(load_error(other, path) ==
        "[checkpoint] " + path.string() +
            ": 'experts' is 8 there and 4 here. Train with what it was made with.");
  // A setting that is newer than the file was as its default is.
  const auto with = [&](const char* share) {
    return Checkpoints(folder.path(), 2,
                       fmt::format(R"({{"experts": 8, "test_share": {}}})", share));
  };
  CHECK(load_error(with("0.2"), path) == "no error");
  CHECK(load_error(with("0.5"), path) ==
        "[checkpoint] " + path.string() +
            ": 'test_share' is 0.2 there and 0.5 here. Train with what it was made with.");
  Model more(1);
  more.parameters.add("extra", Tensor::zeros({1}, DType::f32, Device::cpu));
  CHECK(error_of([&] {
          Checkpoints::restore(checkpoints.read(path), more.parameters, *more.optimiser);
        }) ==
        "[checkpoint] " + path.string() +
            ": no tensor 'parameter.extra', which this model has. Train with the model that it was "
            "made with.");
  const fs::path extra = checkpoints.save(kState, more.parameters, *more.optimiser);
  CHECK(load_error(checkpoints, extra) ==
        "[checkpoint] " + extra.string() +
            ": 10 tensors; this model has 9. Train with the model that it was made with.");
}

// For a run that goes on from another: moments that were not there have seen no step.
TEST_CASE("checkpoint: what two models have in common, with the steps of its moments") {
  const TemporaryFolder folder;
  const Checkpoints checkpoints = in(folder.path());
  const Model saved(40);
  const Checkpoint there = checkpoints.read(save(checkpoints, 1, saved));
  using Steps = std::map<std::string, std::int64_t>;

  Model more(1);
  more.parameters.add("b.weight", Tensor::full({2}, 7.0, DType::f32, Device::cpu));
  AdamWOptimiser adam(more.parameters, {});
  CHECK(Checkpoints::copy_common(there, more.parameters, adam) ==
        std::vector<std::string>{"b.weight"});
  CHECK(more.parameters.find("a.weight")->value.at(0) == 40.0);
  CHECK(more.parameters.find("b.weight")->value.at(0) == 7.0);
  CHECK(adam.state()[0].second.at(0) == 43.0);
  CHECK(adam.steps() == 40);
  CHECK(adam.fewer_steps() == Steps{{"b.weight", 0}});

  // A bias alone is no model that it begins with.
  Parameters wider;
  wider.add("a.weight", Tensor::zeros({2, 9}, DType::f32, Device::cpu));
  for (const Parameter& p : saved.parameters) {
    if (p.value.rank() == 1) wider.add(p.name, p.value.clone());
  }
  REQUIRE(wider.find("a.bias") != nullptr);
  AdamWOptimiser of_wider(wider, {});
  CHECK(error_of([&] {
          Checkpoints::copy_common(there, wider, of_wider);
        }).find("none of its matrices is one of this model") != std::string::npos);

  // They come back, and go on to a third.
  adam.set_steps(50, {{"b.weight", 10}});
  const fs::path file = checkpoints.save(kState, more.parameters, adam);
  const Checkpoint later = checkpoints.read(file);
  AdamWOptimiser again(more.parameters, {});
  Checkpoints::restore(later, more.parameters, again);
  CHECK(again.steps() == 50);
  CHECK(again.fewer_steps() == Steps{{"b.weight", 10}});
  AdamWOptimiser third(more.parameters, {});
  CHECK(Checkpoints::copy_common(later, more.parameters, third).empty());
  CHECK(third.fewer_steps() == Steps{{"b.weight", 10}});

  // Another optimiser has none of the moments.
  SgdOptimiser sgd(more.parameters, {});
  CHECK(Checkpoints::copy_common(later, more.parameters, sgd).empty());
  CHECK(sgd.steps() == 0);
  CHECK(sgd.fewer_steps().empty());

  for (const char* bad : {"", "[1]", R"({"b.weight": -1})", R"({"b.weight": 1.5})",
                          R"({"b.weight": 9007199254740992})"}) {
    forge(file, "fewer_steps", bad);
    CHECK(error_of([&] { read_checkpoint(file); }) ==
          "[checkpoint] " + file.string() +
              ": 'fewer_steps' is no JSON object of whole numbers. Is the file damaged?");
  }
}

TEST_CASE("checkpoint: a damaged one is refused, and the error names the one before it") {
  const TemporaryFolder folder;
  const Checkpoints checkpoints = in(folder.path());
  save(checkpoints, 1, Model(1));
  const fs::path newest = save(checkpoints, 2, Model(2));
  const std::string good = read_file(newest);

  write_file_atomic(newest, std::string_view(good).substr(0, good.size() - 4));
  const std::string cut = load_error(checkpoints, newest);
  CHECK(cut.find("Was it cut short?") != std::string::npos);
  CHECK(cut.ends_with(" Or delete it to go on from 'step-00000001.safetensors'."));
  write_file_atomic(newest, "");
  CHECK(load_error(checkpoints, newest) ==
        "[safetensors] " + newest.string() +
            ": 0 bytes. A safetensors file has 8 or more. Or delete it to go on from "
            "'step-00000001.safetensors'.");

  std::string flipped = good;
  flipped.back() = static_cast<char>(flipped.back() ^ 1);
  write_file_atomic(newest, flipped);
  CHECK(load_error(checkpoints, newest).find("The file is damaged.") != std::string::npos);

  for (std::uint64_t i = 0; i < 300; ++i) {
    const std::string bytes = mutated(good, 11, i);
    write_file_atomic(newest, bytes);
    const std::string error = load_error(checkpoints, newest);
    CHECK_MESSAGE((bytes == good || error.starts_with("[")), i << ": " << error);
  }
}

TEST_CASE("checkpoint: the old ones survive a full disk") {
  const TemporaryFolder folder;
  const Checkpoints checkpoints = in(folder.path(), 1);
  const fs::path old = save(checkpoints, 1, Model(1));
  const fs::path file = folder / "step-00000002.safetensors";
  {
    const FileSizeLimit limit(100);
    CHECK(error_of([&] { save(checkpoints, 2, Model(2)); }) ==
          "[write] cannot write '" + file.string() +
              "': File too large. Free some space or choose another disk; nothing was changed.");
  }
  CHECK(folder.files() == 1);
  CHECK(checkpoints.newest() == old);
  CHECK(load_error(checkpoints, old) == "no error");
}

TEST_CASE("checkpoint: the old ones survive a folder that may only be read") {
  const TemporaryFolder folder;
  const Checkpoints checkpoints = in(folder.path(), 1);
  const fs::path old = save(checkpoints, 1, Model(1));
  const fs::path file = folder / "step-00000002.safetensors";
  const bool root = ::geteuid() == 0;
  REQUIRE(::chmod(folder.path().c_str(), 0555) == 0);
  if (root) REQUIRE(::seteuid(65534) == 0);  // root may write anywhere
  const std::string error = error_of([&] { save(checkpoints, 2, Model(2)); });
  if (root) REQUIRE(::seteuid(0) == 0);
  REQUIRE(::chmod(folder.path().c_str(), 0755) == 0);
  CHECK(error == "[write] cannot write '" + file.string() +
                     "': Permission denied. Choose a folder that you may write to; nothing was "
                     "changed.");
  CHECK(folder.files() == 1);
  CHECK(load_error(checkpoints, old) == "no error");
}

TEST_CASE("checkpoint: numbers that are none, or have no room for one more") {
  const TemporaryFolder folder;
  const Checkpoints checkpoints = in(folder.path());
  const fs::path path = save(checkpoints, 1, Model(1));
  const std::string good = read_file(path);
  for (const char* key : {"step", "epoch", "batch", "optimiser_steps"}) {
    for (const std::string value :
         {"abc", "", "-1", "1.0", "0x10", " 1", "9007199254740992", "9223372036854775807",
          "9223372036854775808", "123456789012345678901234567890", "1\x1b[2J"}) {
      write_file_atomic(path, good);
      forge(path, key, value);
      CHECK(load_error(checkpoints, path) ==
            "[checkpoint] " + path.string() + ": '" + key + "' is '" + shown(value) +
                "', no whole number from 0 to 9007199254740991. Is the file damaged?");
    }
    write_file_atomic(path, good);
    forge(path, key, "9007199254740991");
    CHECK(load_error(checkpoints, path) == "no error");
  }
  for (const char* key : {"rng_seed", "rng_stream", "rng_position"}) {
    write_file_atomic(path, good);
    forge(path, key, "18446744073709551615");
    CHECK(load_error(checkpoints, path) == "no error");
    forge(path, key, "18446744073709551616");
    CHECK(load_error(checkpoints, path).find("no whole number from 0 to 18446744073709551615") !=
          std::string::npos);
  }
}

TEST_CASE("checkpoint: a configuration that is none") {
  const TemporaryFolder folder;
  const Checkpoints checkpoints = in(folder.path());
  const fs::path path = save(checkpoints, 1, Model(1));
  const std::string good = read_file(path);
  const auto error = [&](const std::string& config) {
    write_file_atomic(path, good);
    forge(path, "config", config);
    return load_error(checkpoints, path);
  };
  CHECK(error("[1]").find("the top level is an array") != std::string::npos);
  CHECK(error("{").find("not JSON") != std::string::npos);
  CHECK(error(R"({"experts": 9223372036854775807})").find("from -9007199254740991 to 65536") !=
        std::string::npos);
  CHECK(error(std::string(200'000, '[')).find("nested more than 2 levels") != std::string::npos);
  CHECK(error(std::string(2'000'000, ' ')).find("A configuration has 1048576 at most") !=
        std::string::npos);
  CHECK(error(std::string(kConfig)) == "no error");
}

TEST_CASE("checkpoint: steps beyond what a name may say are no checkpoints") {
  const TemporaryFolder folder;
  const Checkpoints checkpoints = in(folder.path());
  for (const char* name :
       {"step-9223372036854775807.safetensors", "step--1.safetensors", "step-.safetensors",
        "step-1e3.safetensors", "step-+1.safetensors", "step-99999999999999999999.safetensors"}) {
    write_file_atomic(folder / name, "mine");
  }
  CHECK(checkpoints.list().empty());
}

}  // namespace
}  // namespace moegrad
