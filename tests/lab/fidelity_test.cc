#include "lab/fidelity.h"

#include <atomic>
#include <cmath>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tensor/files.h"
#include "tensor/stop.h"
#include "tests/devices.h"
#include "tests/temporary_files.h"
#include "tests/train/forged.h"
#include "train/checkpoint.h"
#include "train/loop.h"
#include "train/run_folder.h"

using namespace moegrad;
using moegrad::test::error_of;
using moegrad::test::forge;
using moegrad::test::TemporaryFolder;

TEST_CASE("the router gradients of a trained model against ste-dense") {
  const TemporaryFolder folder;
  const Task task = make_synthetic(DType::f32, 1, {.train_size = 512, .test_size = 64});
  TrainConfig config;
  config.task = "synthetic";
  config.epochs = 1;
  train(config, {.out = folder / "run", .task = &task});
  const auto checkpoint = Checkpoints(RunFolder(folder / "run").checkpoints(), 1, "{}").newest();
  REQUIRE(checkpoint);

  CHECK(stored_config(*checkpoint).task == "synthetic");
  const StoredModel model = load_model(*checkpoint);
  CHECK(model.step == 4);
  const Batch batch = Batches(task.train, 64).get(0);
  const std::vector<FidelityRow> rows =
      measure_fidelity(model, batch, {"ste-dense", "ste-dense-router", "sparse", "expert-group"});
  REQUIRE(rows.size() == 4);
  for (const std::size_t i : {0, 1}) {
    CHECK(rows[i].cosine_real == doctest::Approx(1.0));
    CHECK(rows[i].norm_ratio_real == doctest::Approx(1.0));
    CHECK(rows[i].cosine_ones == doctest::Approx(1.0));
    CHECK(rows[i].output_error < 1e-6);
  }
  CHECK(rows[2].output_error == doctest::Approx(1.0));  // nothing stands for an unselected expert
  CHECK(rows[2].cosine_real < 0.999);
  {
    const std::atomic<int> stop{2};
    const StopScope scope(&stop);
    CHECK_THROWS_AS(measure_fidelity(model, batch, {"sparse"}), Interruption);
  }
  CHECK(study_fidelity({*checkpoint, *checkpoint}, task, {}, 64).size() ==
        2 * comparable_estimators().size());
  CHECK(rows[3].output_error > 0.0);
  CHECK(rows[3].output_error < 1.5);

  CHECK(error_of([&] {
          Task other = task;
          other.targets[0].classes = 5;
          study_fidelity({*checkpoint}, other, {}, 64);
        }) ==
        "[model] it was trained on {\"inputs\":16,\"ids\":false,\"targets\":[{\"name\":"
        "\"class\",\"kind\":\"classes\",\"classes\":4,\"partial\":false}]}, and the data are "
        "{\"inputs\":16,\"ids\":false,\"targets\":[{\"name\":\"class\",\"kind\":\"classes\","
        "\"classes\":5,\"partial\":false}]}. Give data like those it was trained on.");
  write_file_atomic(folder / "text", "no checkpoint");
  CHECK(error_of([&] { stored_config(folder / "text"); }) != "no error");
}

// Its experts are not named after each layer.
TEST_CASE(
    "a model of one set of experts and a gate for each target: those that it was trained to") {
  const TemporaryFolder folder;
  Task task{.name = "films",
            .targets = {{.name = "rating", .kind = Target::Kind::number},
                        {.name = "watched", .kind = Target::Kind::binary}}};
  task.fields = {{.name = "user", .values = 5}, {.name = "film", .values = 7}};
  task.train = {.x = Tensor::empty({32, 2}, DType::i32, Device::cpu),
                .labels = Tensor::empty({32, 2}, DType::i32, Device::cpu)};
  for (std::int32_t i = 0; i < 32; ++i) {
    task.train.x.write<std::int32_t>()[2 * i] = i % 5;
    task.train.x.write<std::int32_t>()[2 * i + 1] = i % 7;
    task.train.labels.write<std::int32_t>()[2 * i] = i % 3;
    task.train.labels.write<std::int32_t>()[2 * i + 1] = i % 2;
  }
  task.test = task.train;
  TrainConfig config;
  config.task = "films";
  config.dtype = "f64";
  config.epochs = 2;
  config.batch = 16;
  config.width = config.hidden = 8;
  config.experts = 4;
  train(config, {.out = folder / "run", .task = &task});
  StoredModel model = load_model(checkpoint_of(folder / "run"));
  CHECK(model.task == task.shape());
  const Batch batch = Batches(task.train, 16).get(0);
  const auto measure = [&] { return measure_fidelity(model, batch, {"sparse"}); };
  const std::vector<FidelityRow> rows = measure();
  REQUIRE(rows.size() == 2);
  CHECK(rows[0].layer == 0);
  CHECK(rows[1].layer == 1);
  // The input of the mixture and its gates stay as they are.
  for (double& v : model.parameters.find("experts.w2")->value.write_values<double>()) v = v * v;
  const std::vector<FidelityRow> others = measure();
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(std::abs(rows[i].cosine_ones) <= 1.0 + 1e-12);
    CHECK(others[i].cosine_ones != rows[i].cosine_ones);
  }
}

TEST_CASE("study_fidelity: on 16 texts where nobody says on how many") {
  const TemporaryFolder folder;
  Task task{.name = "language", .targets = {{.name = "byte", .classes = 256}}};
  task.train = {.x = Tensor::empty({20, 6}, DType::i32, Device::cpu),
                .labels = Tensor::zeros({20}, DType::i32, Device::cpu)};
  for (std::int64_t i = 0; i < task.train.x.numel(); ++i) {
    task.train.x.write<std::int32_t>()[i] = static_cast<std::int32_t>(i * i % 251);
  }
  task.test = task.train;
  TrainConfig config;
  config.task = "language";
  config.steps = 1;
  config.width = config.hidden = 8;
  config.heads = 2;
  config.experts = 4;
  train(config, {.out = folder / "run", .task = &task});
  const auto path = Checkpoints(RunFolder(folder / "run").checkpoints(), 1, "{}").newest().value();
  const auto cosine = [&](std::int64_t batch) {
    return study_fidelity({path}, task, {"sparse"}, batch)[0].cosine_real;
  };
  CHECK(cosine(0) == cosine(16));
  CHECK(cosine(0) != cosine(20));
}

TEST_CASE("on another device: the cpu's rows within rounding") {
  const TemporaryFolder folder;
  const Task task = make_synthetic(DType::f64, 1, {.train_size = 64, .test_size = 16});
  TrainConfig config;
  config.task = "synthetic";
  config.dtype = "f64";
  config.epochs = 1;
  config.batch = 32;
  config.width = config.hidden = 8;
  config.experts = 4;
  train(config, {.out = folder / "run", .task = &task});
  const auto path = Checkpoints(RunFolder(folder / "run").checkpoints(), 1, "{}").newest().value();
  const std::vector<std::string> names = {"sparse", "expert-group", "default-ema"};
  const std::vector<FidelityRow> here = study_fidelity({path}, task, names, 12);
  const Task rounded = make_synthetic(DType::f32, 1, {.train_size = 64, .test_size = 16});
  CHECK(study_fidelity({path}, rounded, names, 12)[0].cosine_real ==
        doctest::Approx(here[0].cosine_real).epsilon(1e-5));
  for (const Device device : test::other_devices()) {
    CAPTURE(name_of(device));
    const std::vector<FidelityRow> there = study_fidelity({path}, task, names, 12, device);
    REQUIRE(there.size() == names.size());
    double apart = 0.0;
    for (std::size_t i = 0; i < names.size(); ++i) {
      CAPTURE(names[i]);
      CHECK(there[i].device == device);
      CHECK(to_json(there[i]).find(fmt::format("\"device\":\"{}\"", name_of(device))) !=
            std::string::npos);
      for (const auto figure :
           {&FidelityRow::cosine_real, &FidelityRow::norm_ratio_real, &FidelityRow::cosine_ones,
            &FidelityRow::norm_ratio_ones, &FidelityRow::output_error}) {
        const double difference = std::abs(there[i].*figure - here[i].*figure);
        CHECK(difference < 1e-12);
        apart = std::fmax(apart, difference);
      }
    }
    CHECK((apart == 0.0) == test::has_cpu_bits(device));
  }
}

TEST_CASE("a checkpoint that is damaged, or asks for more than it holds, is refused") {
  const TemporaryFolder folder;
  const Task task = make_synthetic(DType::f32, 1, {.train_size = 256, .test_size = 64});
  TrainConfig config;
  config.task = "synthetic";
  config.epochs = 1;
  config.width = config.hidden = 8;
  train(config, {.out = folder / "run", .task = &task});
  const auto path = Checkpoints(RunFolder(folder / "run").checkpoints(), 1, "{}").newest().value();
  const std::string good = read_file(path);
  const auto error = [&] { return error_of([&] { load_model(path); }); };
  CHECK(error() == "no error");

  std::string flipped = good;
  flipped[flipped.size() - 40] = static_cast<char>(flipped[flipped.size() - 40] ^ 1);
  write_file_atomic(path, flipped);
  CHECK(error().find("its checksum is ") != std::string::npos);
  CHECK(error_of([&] { stored_config(path); }) == error());

  for (const char* step : {"abc", "123456789012345678901234567890", "-1", "9223372036854775807"}) {
    write_file_atomic(path, good);
    forge(path, "step", step);
    CHECK(error() == fmt::format("[checkpoint] {}: 'step' is '{}', no whole number from 0 to "
                                 "9007199254740991. Is the file damaged?",
                                 path.string(), step));
  }
  const auto with = [&](const std::string& key, const std::string& value) {
    write_file_atomic(path, good);
    nlohmann::json changed = nlohmann::json::parse(to_json(config));
    changed[key] = nlohmann::json::parse(value);
    forge(path, "config", changed.dump());
    pool::release_cached(Device::cpu);
    pool::reset_peak(Device::cpu);
    const std::string text = error();
    CHECK(pool::stats(Device::cpu).peak_bytes_in_use < (std::size_t{64} << 20));
    return text;
  };
  for (const char* key : {"experts", "width", "hidden"}) {
    CHECK(with(key, "65536").find("the experts are f32 [8, 8, 8] there") != std::string::npos);
  }
  CHECK(with("dtype", "\"f64\"").find("asks for f64 [8, 8, 8]") != std::string::npos);
  // Sizes that the experts do not show.
  CHECK(with("options", R"({"shared": 64})").find("no tensor") != std::string::npos);
  write_file_atomic(path, good);
  config.router = "soft-moe";
  CHECK(with("options", R"({"slots": 4096})").starts_with("[storage]"));
  config.router = "x-moe";
  CHECK(with("options", R"({"dimensions": 1000000})").starts_with("[storage]"));
}
