#include "train/config.h"

#include <ctime>
#include <string>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tensor/files.h"
#include "tests/temporary_files.h"
#include "train/run_folder.h"

namespace moegrad {
namespace {

using test::error_of;
using test::mutated;
using test::TemporaryFolder;

std::string json_error(std::string_view json) {
  return error_of([&] { read_settings(json, "run.json"); });
}

std::string set_error(const std::string& name, const std::string& value) {
  TrainConfig config;
  return error_of([&] { set_field(config, name, value); });
}

TEST_CASE("config: written and read back without loss") {
  TrainConfig config;
  config.task = "synthetic";
  config.router = "moesart";
  config.lr = 0.1 + 0.2;
  config.seed = 9007199254740991;
  config.nesterov = true;
  config.data = "a \"folder\"\n\xc3\xa9";
  config.options = {{"weighting", "large"}, {"shared", "1"}};
  TrainConfig read;
  apply_settings(read, read_settings(to_json(config), "run.json"));
  CHECK(to_json(read) == to_json(config));
  CHECK(read.lr == config.lr);
  CHECK(read.options == config.options);
  const auto results = nlohmann::json::parse(to_json(config, true));
  CHECK(results.contains("lr"));
  CHECK(!results.contains("data"));
  CHECK(!results.contains("keep"));
}

TEST_CASE("config: values as text") {
  TrainConfig config;
  set_field(config, "epochs", "12");
  set_field(config, "lr", "1e-2");
  set_field(config, "nesterov", "true");
  set_field(config, "dtype", "f64");
  CHECK(config.epochs == 12);
  CHECK(config.lr == 0.01);
  CHECK(config.nesterov);
  CHECK(config.type() == DType::f64);
  for (const TrainField& field : train_fields()) {
    TrainConfig copy;
    set_field(copy, field.spec.name, field_text(config, field));
    CHECK(field_text(copy, field) == field_text(config, field));
  }
}

TEST_CASE("config: mistakes in values") {
  CHECK(set_error("epoch", "3") == "[config] there is no setting 'epoch'. Did you mean 'epochs'?");
  CHECK(set_error("epochs", "three") ==
        "[option] 'epochs' of train is 'three'. Give a whole number from 1 to 1000000.");
  CHECK(set_error("epochs", "0") ==
        "[option] 'epochs' of train is '0'. Give a whole number from 1 to 1000000.");
  CHECK(set_error("batch", "2.5") ==
        "[option] 'batch' of train is '2.5'. Give a whole number from 1 to 1000000000.");
  CHECK(set_error("lr", "nan") ==
        "[option] 'lr' of train is 'nan'. Give a number from 0 to 1000000.");
  CHECK(set_error("lr", "-1") ==
        "[option] 'lr' of train is '-1'. Give a number from 0 to 1000000.");
  CHECK(set_error("dtype", "f16") == "[option] 'dtype' of train is 'f16'. Give one of f32, f64.");
  CHECK(set_error("nesterov", "yes") ==
        "[option] 'nesterov' of train is 'yes'. Give true or false.");
}

TEST_CASE("config: a mixture that cannot be") {
  const auto layer_error = [](const Settings& settings) {
    return error_of([&] {
      TrainConfig config;
      apply_settings(config, settings);
      const Layer layer(config.layer());
    });
  };
  CHECK(layer_error({}) == "no error");
  CHECK(layer_error({{"router", "topk"}}) == "[router] no router 'topk'. Did you mean 'top-k'?");
  CHECK(layer_error({{"estimator", "expert-groups"}}) ==
        "[estimator] no estimator 'expert-groups'. Did you mean 'expert-group'?");
  CHECK(layer_error({{"options.renormalize", "true"}}) ==
        "[option] neither router top-k, estimator sparse nor the layer has an option "
        "'renormalize'. Did you mean "
        "'renormalise'?");
  CHECK(layer_error({{"active", "9"}}) == "[layer] k is 9 with 8 experts. Use 1 <= k <= 8.");
  CHECK(layer_error({{"active", "0"}}) == "[layer] k is 0 with 8 experts. Use 1 <= k <= 8.");
  CHECK(layer_error({{"active", "-3"}}) == "[layer] k is -3 with 8 experts. Use 1 <= k <= 8.");
  CHECK(layer_error({{"experts", "0"}}) ==
        "[layer] the number of experts is 0. It must be at least 1.");
  CHECK(layer_error({{"router", "moesart"}, {"active", "1"}}) ==
        "[layer] k is 1, too few for router moesart. Use k >= 2.");
  CHECK(layer_error({{"options.aux", "0.5"}}) ==
        "[config] option 'aux' is a setting of its own. Use --aux 0.5.");
  // All experts are active where the router takes all.
  CHECK(layer_error({{"router", "softmax"}, {"active", "99"}}) == "no error");
}

TEST_CASE("config: aux is the router's own unless it is given, and is stored as what it is") {
  const auto losses = [](const Settings& settings) {
    TrainConfig config;
    apply_settings(config, settings);
    return Layer(config.layer()).losses();
  };
  CHECK(losses({}) == "none");
  CHECK(losses({{"aux", "0.02"}}) == "aux=0.02");
  CHECK(losses({{"router", "loss-free"}}) == "none");
  CHECK(losses({{"router", "deepseek-v1"}}) == "aux=0.01");
  CHECK(losses({{"router", "deepseek-v1"}, {"aux", "0"}}) == "none");
  CHECK(losses({{"router", "switch"}, {"active", "1"}}) == "balance=0.01");
  CHECK(error_of([&] {
          losses({{"router", "softmax"}, {"aux", "0.01"}});
        }) ==
        "[layer] aux is 0.01, and router softmax gives every token to every expert: the loss would "
        "be a constant. Leave it out, or choose another router.");

  TrainConfig config;
  CHECK(to_json(config).find("\"aux\": 0.0,") != std::string::npos);
  config.router = "deepseek-v1";
  CHECK(to_json(config).find("\"aux\": 0.01,") != std::string::npos);
  CHECK(stored_run({{"router", "top-k"}}).aux == 0.01);  // of an earlier version
  CHECK(stored_run({{"router", "top-k"}, {"aux", "0"}}).aux == 0.0);
  CHECK(stored_run({{"router", "deepseek-v1"}}).aux == 0.01);
  CHECK(stored_run({{"router", "deepseek-v3"}}).aux == 0.0);
  CHECK(stored_run({{"router", "softmax"}}).aux == 0.0);
}

TEST_CASE("config: hostile JSON") {
  CHECK(json_error("") == "[config] run.json: line 1, column 0: not JSON. Correct the text there.");
  CHECK(json_error("{\"lr\": 1,\n \"batch\": }") ==
        "[config] run.json: line 2, column 11: not JSON. Correct the text there.");
  CHECK(json_error("[1]") ==
        "[config] run.json: the top level is an array. Give an object, {\"epochs\": 3}.");
  CHECK(json_error("null") ==
        "[config] run.json: the top level is null. Give an object, {\"epochs\": 3}.");
  CHECK(json_error(R"({"rooter": "top-k"})") ==
        "[config] run.json: there is no setting 'rooter'. Did you mean 'router'?");
  CHECK(json_error(R"({"epochs": "3"})") ==
        "[config] run.json: 'epochs' is \"3\". Give a whole number.");
  CHECK(json_error(R"({"epochs": 3.0})") ==
        "[config] run.json: 'epochs' is 3.0. Give a whole number.");
  CHECK(json_error(R"({"lr": true})") == "[config] run.json: 'lr' is true. Give a number.");
  CHECK(json_error(R"({"nesterov": 1})") ==
        "[config] run.json: 'nesterov' is 1. Give true or false.");
  CHECK(json_error(R"({"router": 1})") ==
        "[config] run.json: 'router' is 1. Give a text in quotes.");
  CHECK(json_error(R"({"router": ["top-k"]})") ==
        "[config] run.json: 'router' is an array. Give a text in quotes.");
  CHECK(json_error(R"({"lr": 1e999})") ==
        "[config] run.json: a number is too large. Give one that fits 64 bits.");
  CHECK(json_error(R"({"epochs": 99999999999999999999})") ==
        "[config] run.json: 'epochs' is 1e+20. Give a whole number.");
  CHECK(json_error(R"({"epochs": 18446744073709551615})") ==
        "[option] 'epochs' of train is '18446744073709551615'. Give a whole number from 1 to "
        "1000000.");
  CHECK(json_error(R"({"lr": 1, "lr": 2})") ==
        "[config] run.json: 'lr' is there twice. Remove one of them.");
  CHECK(json_error(R"({"options": {"shared": 1, "shared": 2}})") ==
        "[config] run.json: 'shared' is there twice. Remove one of them.");
  CHECK(json_error(R"({"options": 3})") ==
        "[config] run.json: 'options' is 3. Give an object, {\"shared\": 1}.");
  CHECK(json_error(R"({"options": {"shared": null}})") ==
        "[config] run.json: option 'shared' is null. Give a text, a number, true or false.");
  CHECK(json_error(R"({"options": {"a": {"b": 1}}})") ==
        "[config] run.json: nested more than 2 levels deep. Only 'options' is an object.");
  CHECK(json_error(std::string(500000, '[')) ==
        "[config] run.json: nested more than 2 levels deep. Only 'options' is an object.");
  CHECK(json_error(std::string(2000000, ' ')) ==
        "[config] run.json: 2000000 bytes. A configuration has 1048576 at most.");
  // Nothing of a name reaches the terminal unescaped, and no name is too long for a line.
  CHECK(json_error(R"({"\u001b[2J\u0000": 1})") ==
        "[config] run.json: there is no setting '\\x1b[2J\\x00'. Did you mean 'task'?");
  const std::string name(5000, 'x');
  CHECK(json_error("{\"" + name + "\": 1}") == "[config] run.json: there is no setting '" +
                                                   shown(name) +
                                                   "'. Did you mean 'expert_gradient'?");
  CHECK(json_error(R"({"task": "a\nmoegrad: all is well", "epochs": "\u001b[31m"})") ==
        "[config] run.json: 'epochs' is \"\\x1b[31m\". Give a whole number.");
  CHECK(json_error(R"({"options": {"\u009b": null}})") ==
        "[config] run.json: option '\\u009b' is null. Give a text, a number, true or false.");
  // A key below another setting than 'options', before and behind it.
  CHECK(json_error(R"({"options": {"shared": 1}, "lr": {"a": 1}})") ==
        "[config] run.json: 'lr' is an object. Give a number.");
  CHECK(json_error(R"({"lr": {"shared": 1}, "options": {"shared": 1}})") ==
        "[config] run.json: 'lr' is an object. Give a number.");
  CHECK(json_error(R"([{"lr": 1}])").find("the top level is an array") != std::string::npos);
}

TEST_CASE("config: what JSON cannot hold is no text of a configuration") {
  const std::string bad = "da\xffta";
  const std::string zero("a\0b", 3);
  for (const char* name : {"data", "task", "router", "estimator", "router_gradient",
                           "expert_gradient", "options.shared"}) {
    CAPTURE(name);
    TrainConfig config;
    CHECK(error_of([&] {
            apply_settings(config, {{name, bad}});
          }) ==
          fmt::format("[config] '{}' is 'da\\xffta', which is not UTF-8 or has a zero byte. Give "
                      "another text.",
                      name));
    CHECK(error_of([&] { apply_settings(config, {{name, zero}}); }).starts_with("[config] '"));
    CHECK(to_json(config) == to_json({}));
  }
  TrainConfig config;
  CHECK(error_of([&] {
          apply_settings(config, {{"options." + bad, "1"}});
        }).starts_with("[config]"));
  apply_settings(config, {{"data", "d\u00e4ten"}});
  CHECK(error_of([&] { to_json(config); }) == "no error");
  // Nor is it written.
  config.data = bad;
  CHECK(error_of([&] { to_json(config); }).starts_with("[config] 'data' is 'da\\xffta'"));
  config.data = "data";
  config.options = {{"shared", bad}};
  CHECK(error_of([&] { to_json(config); }).starts_with("[config] 'options.shared' is"));
  CHECK(json_error(R"({"data": "a\u0000b"})").starts_with("[config] 'data' is 'a\\x00b'"));
}

TEST_CASE("config: nothing stands behind a zero byte") {
  using std::string_literals::operator""s;
  CHECK(json_error("{\"task\":\"synthetic\"}\0{"s) ==
        "[config] run.json: byte 20: a zero byte. Correct the text there.");
  CHECK(json_error("{\"task\":\"synthetic\"}\n\0"s).find("byte 21") != std::string::npos);
  CHECK(json_error("\0"s).find("byte 0") != std::string::npos);
}

TEST_CASE("config: as many keys as fit take no longer than their sorting") {
  // In a list, each key compared with all before it, these 107,000 took 11 s.
  const auto seconds = [](std::string_view json) {
    const std::clock_t start = std::clock();  // of the processor: others may be busy
    json_error(json);
    return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  };
  for (const bool options : {false, true}) {
    std::string json = options ? R"({"options": {)" : "{";
    for (int i = 0; json.size() < 1'000'000; ++i) json += fmt::format("\"{:x}\":1,", i);
    json += options ? "\"last\":1}}" : "\"last\":1}";
    CHECK(seconds(json) < 5.0);  // 0.15 s; under sanitizers more
  }
}

TEST_CASE("config: any damage is an error or a configuration, nothing else") {
  TrainConfig config;
  config.task = "vision";
  config.options = {{"shared", "1"}};
  const std::string good = to_json(config);
  int refused = 0;
  for (std::uint64_t i = 0; i < 3000; ++i) {
    const std::string error = json_error(mutated(good, 5, i));
    if (error != "no error") {
      ++refused;
      CHECK_MESSAGE(error.starts_with("["), error);
      CHECK(error.find('\x1b') == std::string::npos);
    }
  }
  CHECK(refused > 1000);
}

TEST_CASE("run folder: starting, starting over, resuming, contradictions") {
  const TemporaryFolder folder;
  const std::string name = (folder / "run").string();
  const RunFolder run(name);
  CHECK(error_of([&] { run.resumed({}); }) ==
        "[train] there is no run in '" + name + "' to resume. Start one without --resume.");
  TrainConfig config;
  config.task = "synthetic";
  config.options = {{"shared", "1"}};
  run.start(config, false);
  CHECK(error_of([&] { run.start(config, false); }) ==
        "[train] '" + name +
            "' holds a run that was started already. Go on with --resume, start over with --force, "
            "or choose another folder with --out.");
  write_file_atomic(run.result(), "{}");
  CHECK(error_of([&] { run.start(config, false); }) ==
        "[train] '" + name +
            "' holds a run that was finished already. Go on with --resume, start over with "
            "--force, or choose another folder with --out.");
  CHECK(to_json(run.resumed({})) == to_json(config));
  CHECK(run.resumed({{"keep", "7"}, {"epochs", "3"}, {"options.shared", "1"}}).keep == 7);
  CHECK(error_of([&] {
          run.resumed({{"weight_decay", "0.5"}});
        }) == "[train] --weight-decay 0.5 contradicts the run in '" + name +
                  "', which has 0.01. Leave it out, or start another run with --out.");
  CHECK(error_of([&] {
          run.resumed({{"options.shared", "2"}});
        }) == "[train] --option shared=2 contradicts the run in '" + name +
                  "', which has 1. Leave it out, or start another run with --out.");
  CHECK(error_of([&] {
          run.resumed({{"options.z-loss", "1"}});
        }) == "[train] --option z-loss=1 contradicts the run in '" + name +
                  "', which has no such option. Leave it out, or start another run with --out.");
  run.start(config, true);
  CHECK(!std::filesystem::exists(run.result()));
}

TEST_CASE("run folder: a path that is a file") {
  const TemporaryFolder folder;
  write_file_atomic(folder / "file", "text");
  const RunFolder run(folder / "file" / "run");
  CHECK(error_of([&] { run.start({}, false); }) == "[write] cannot make the folder '" +
                                                       (folder / "file" / "run").string() +
                                                       "': Not a directory. Choose another path.");
}

TEST_CASE("metrics: cut back to a step, half a line and foreign lines left out") {
  using std::string_literals::operator""s;
  const TemporaryFolder folder;
  const auto path = folder / "metrics.jsonl";
  write_file_atomic(path,
                    "{\"step\":1,\"seconds\":0.5}\n{\"step\":2,\"seconds\":1.5}\nrubbish\n"
                    "{\"step\":2}\0{\n{\"step\":3,\"seconds\":2.5}\n{\"step\":1"s);
  {
    MetricsLog log(path, 2);
    CHECK(log.seconds() == 1.5);
    log.line("{\"step\":4}");
  }
  CHECK(read_file(path) ==
        "{\"step\":1,\"seconds\":0.5}\n{\"step\":2,\"seconds\":1.5}\n{\"step\":4}\n");
}

}  // namespace
}  // namespace moegrad
