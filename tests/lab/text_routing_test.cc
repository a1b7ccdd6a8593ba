#include "lab/text_routing.h"

#include <algorithm>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>

#include "tensor/files.h"
#include "tensor/folders.h"
#include "tests/temporary_files.h"
#include "train/loop.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;
using test::error_of;
using test::TemporaryFolder;

void write_domain(const fs::path& data, const std::string& name, const std::string& text) {
  const fs::path folder = data / "language" / name;
  make_folder(folder);
  write_file_atomic(folder / "train.txt", text);
  write_file_atomic(folder / "validation.txt", text);
}

// A run of two domains, one of which has 3 windows and the other 100.
fs::path trained(const TemporaryFolder& folder, const Settings& router) {
  const fs::path data = folder / "data";
  std::string digits;
  for (int i = 0; i < 805; ++i) digits += static_cast<char>('0' + i * i % 10);
  write_domain(data, "prose", "abcdefghijklmnopqrstuvwxyz");
  write_domain(data, "code", digits);
  TrainConfig config;
  apply_settings(config, {{"task", "language"},
                          {"domains", "prose,code"},
                          {"data", data.string()},
                          {"context", "8"},
                          {"width", "8"},
                          {"hidden", "4"},
                          {"heads", "2"},
                          {"layers", "3"},
                          {"experts", "4"},
                          {"activation", "swiglu"},
                          {"steps", "4"},
                          {"batch", "8"}});
  apply_settings(config, router);
  const fs::path out = folder / router[0].second;
  train(config, {.out = out});
  return out;
}

TEST_CASE("text_routing: shares of the domains, and a text of each with its scores") {
  const TemporaryFolder folder;
  const ordered_json t = text_routing(trained(folder, {{"router", "top-k"}}));
  CHECK(t["domains"] == ordered_json{"prose", "code"});
  CHECK(t["windows"] == ordered_json{3, 32});
  REQUIRE(t["shares"].size() == 2);  // mixture layers: the first layer is dense
  for (const ordered_json& layer : t["shares"]) {
    REQUIRE(layer.size() == 2);
    for (const ordered_json& domain : layer) {
      REQUIRE(domain.size() == 4);
      double sum = 0.0;
      for (const double share : domain) sum += share;
      CHECK(sum == doctest::Approx(1.0).epsilon(2e-3));
    }
  }
  REQUIRE(t["texts"].size() == 2);
  for (int i = 0; i < 8; ++i) CHECK(t["texts"][0]["pieces"][i] == std::vector<int>{'a' + i});
  CHECK(t["texts"][1]["pieces"][2] == std::vector<int>{'4'});
  for (const ordered_json& text : t["texts"]) {
    for (std::size_t l = 0; l < 2; ++l) {
      REQUIRE(text["chosen"][l].size() == 8);
      REQUIRE(text["scores"][l].size() == 8);
      for (std::size_t i = 0; i < 8; ++i) {
        // top-k chooses by the scores.
        const auto scores = text["scores"][l][i].get<std::vector<double>>();
        REQUIRE(scores.size() == 4);
        const double best = *std::ranges::max_element(scores);
        CHECK(scores[text["chosen"][l][i].get<std::size_t>()] == best);
      }
    }
  }
}

TEST_CASE("text_routing: pieces of several bytes") {
  const TemporaryFolder folder;
  const fs::path run = trained(folder, {{"router", "top-k"}, {"pieces", "260"}});
  const ordered_json t = text_routing(run);
  std::string text;
  std::size_t longest = 0;
  for (const ordered_json& piece : t["texts"].back()["pieces"]) {
    longest = std::max(longest, piece.size());
    for (const int byte : piece) text += static_cast<char>(byte);
  }
  CHECK(longest > 1);
  const fs::path data = fs::path(folder / "data") / "language" / "code";
  CHECK(read_file(data / "validation.txt").starts_with(text));
  // The pieces are the model's, whatever the texts would teach by now.
  write_file_atomic(data / "train.txt", std::string(100, 'a') + std::string(100, 'b'));
  CHECK(text_routing(run) == t);
}

TEST_CASE("text_routing: a byte that no expert had room for has none") {
  const TemporaryFolder folder;
  const ordered_json t = text_routing(trained(folder, {{"router", "switch"},
                                                       {"active", "1"},
                                                       {"options.eval-capacity", "1e-6"},
                                                       {"options.capacity-min", "1"}}));
  int without = 0;
  int with = 0;
  for (const ordered_json& text : t["texts"]) {
    for (const int chosen : text["chosen"][0]) {
      CHECK((chosen >= -1 && chosen < 4));
      ++(chosen == -1 ? without : with);
    }
  }
  CHECK(without > 0);
  CHECK(with > 0);
}

TEST_CASE("text_routing: mistakes") {
  const TemporaryFolder folder;
  TrainConfig config;
  config.task = "synthetic";
  config.steps = 1;
  const fs::path other = folder / "synthetic";
  train(config, {.out = other});
  CHECK(error_of([&] { (void)text_routing(other); }) ==
        "[report] '" + other.string() +
            "' was trained on the task synthetic, which has no text. Leave --texts out.");
  const fs::path run = trained(folder, {{"router", "top-k"}});
  fs::remove(fs::path(folder / "data") / "language" / "code" / "validation.txt");
  CHECK(error_of([&] { (void)text_routing(run); }).find("Run scripts/data language.") !=
        std::string::npos);
}

}  // namespace
}  // namespace moegrad
