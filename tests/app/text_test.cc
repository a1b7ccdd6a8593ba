// What a user or a file says reaches the terminal on one line, without anything that it obeys.

#include <algorithm>
#include <fstream>

#include <nlohmann/json.hpp>
#include <zlib.h>

#include "tensor/safetensors.h"
#include "tests/app/program.h"
#include "tests/train/forged.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::forge;
using test::Outcome;
using test::run;
using test::TemporaryFolder;

const std::string kHostile =
    "\x1b]0;title\x07\x1b[2J\nmoegrad: all is well\r\xc2\x9b"
    "2J\x7f";
const std::string kTamed = "\\x1b]0;title\\x07\\x1b[2J\\x0amoegrad: all is well\\x0d\\u009b2J\\x7f";

// One line, which says what was hostile, and how.
void check_tame(const Outcome& o, const std::string& shown_part = kTamed) {
  CHECK(o.code == 2);
  CHECK(o.out.empty());
  CHECK(o.err.size() < 4000);
  CHECK(o.err.starts_with("moegrad: ["));
  CHECK(std::count(o.err.begin(), o.err.end(), '\n') == 1);
  CHECK(o.err.ends_with("\n"));
  CHECK_MESSAGE(o.err.find(shown_part) != std::string::npos, o.err);
  for (const char c : o.err) CHECK((c == '\n' || (c >= 0x20 && c < 0x7f)));
}

TEST_CASE("command-line words") {
  const TemporaryFolder folder;
  const std::string file = (folder / "in.safetensors").string();
  write_safetensors(file, {});
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {kHostile},
           {"--" + kHostile},
           {"gradcheck", kHostile},
           {"list", kHostile},
           {"list", "--" + kHostile},
           {"list", "--markdown", kHostile},
           {"train", kHostile},
           {"train", "synthetic", "--router", kHostile},
           {"train", "synthetic", "--lr", kHostile},
           {"train", "synthetic", "--threads", kHostile},
           {"train", "synthetic", "--option", kHostile},
           {"train", "synthetic", "--option", kHostile + "=1", "--out", folder.path().string()},
           {"train", "synthetic", "--config", kHostile},
           {"train", "--resume", "--out", kHostile},
           {"train", "vision", "--data", kHostile},
           {"layer", "--in", kHostile, "--out", "x"},
           {"layer", "--in", file, "--out", "x", "--seed", kHostile},
           {"study", "bias", "--routers", kHostile},
           {"study", "bias", "--draws", kHostile},
           {"study", kHostile},
           {"study", "fidelity", "--checkpoint", kHostile}}) {
    CAPTURE(fmt::format("{}", fmt::join(arguments, " ")));
    check_tame(run(folder, arguments));
  }
  const std::string mega(100'000, 'x');  // the system's limit for one word is 128 kB
  check_tame(run(folder, {"gradcheck", mega}), "...(100000 bytes)...");
  check_tame(run(folder, {"train", "synthetic", "--router", mega}), "...(100000 bytes)...");
}

TEST_CASE("names of a safetensors file: tensors, metadata, types") {
  const TemporaryFolder folder;
  const std::string file = (folder / "in.safetensors").string();
  const auto header = [&](const std::string& json) {
    const std::uint64_t size = json.size();
    std::string bytes(reinterpret_cast<const char*>(&size), 8);
    write_file_atomic(file, bytes + json);
    return run(folder, {"layer", "--in", file, "--out", (folder / "out").string()});
  };
  const std::string name = nlohmann::json(kHostile).dump();
  const std::string entry = R"({"dtype":"F32","shape":[0],"data_offsets":[0,0]})";
  check_tame(header("{" + name + ":1}"));
  check_tame(header("{" + name + ":" + entry + "}"));  // the nearest to 'x'
  check_tame(header("{" + name + R"(:{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})"));
  check_tame(header("{" + name + ":{" + name + ":1}}"));
  check_tame(header(R"({"a":{"dtype":)" + name + "}}"));
  check_tame(header(R"({"__metadata__":{)" + name + ":1}}"));
  check_tame(header(R"({"__metadata__":{)" + name + R"(:"a",)" + name + R"(:"b"}})"));
  const std::string mega(1'000'000, 'n');
  check_tame(header("{\"" + mega + "\":1}"), "...(1000000 bytes)...");
  check_tame(header("{\"" + mega + "\":" + entry + "}"), "...(1000000 bytes)...");
  check_tame(header("{\"a\":{\"dtype\":\"F32\",\"shape\":[-1" + std::string(100'000, '1') + "]}}"),
             "...(100002 bytes)...");
}

TEST_CASE("keys and values of a configuration, and of a checkpoint") {
  const TemporaryFolder folder;
  const std::string file = (folder / "run.json").string();
  const auto config = [&](const std::string& json) {
    write_file_atomic(file, json);
    return run(folder, {"train", "synthetic", "--config", file, "--out", (folder / "r").string()});
  };
  const std::string text = nlohmann::json(kHostile).dump();
  check_tame(config("{" + text + ":1}"));
  check_tame(config("{" + text + ":1," + text + ":2}"));
  check_tame(config("{\"lr\":" + text + "}"));
  check_tame(config("{\"router\":" + text + "}"));
  check_tame(config("{\"dtype\":" + text + "}"));
  check_tame(config("{\"options\":{" + text + ":1}}"));
  check_tame(config("{\"options\":{" + text + ":null}}"));
  check_tame(config("{\"options\":{\"renormalise\":" + text + "}}"));
  check_tame(config("{\"options\":{\"aux\":" + text + "}}"));
  const std::string mega(1'000'000, 'k');
  check_tame(config("{\"" + mega + "\":1}"), "...(1000000 bytes)...");
  check_tame(config("{\"router\":\"" + mega + "\"}"), "...(1000000 bytes)...");

  const std::string out = (folder / "run").string();
  REQUIRE(run(folder, {"train", "synthetic", "--epochs", "1", "--batch", "4096", "--width", "4",
                       "--hidden", "4", "--out", out})
              .code == 0);
  const fs::path checkpoint = Checkpoints(fs::path(out) / "checkpoints", 1, "{}").newest().value();
  const std::string good = read_file(checkpoint);
  for (const char* key : {"step", "version", "config"}) {
    write_file_atomic(checkpoint, good);
    forge(checkpoint, key, std::string(key) == "config" ? "{" + text + ":1}" : kHostile);
    const Outcome study = run(folder, {"study", "fidelity", "--checkpoint", checkpoint.string(),
                                       "--out", (folder / "s").string()});
    check_tame(study);
    const Outcome resumed = run(folder, {"train", "--resume", "--out", out});
    check_tame(resumed);
  }
}

TEST_CASE("names of data files") {
  const TemporaryFolder folder;
  const fs::path data = folder / kHostile;
  fs::create_directories(data / "fashion-mnist");
  const auto vision = [&] { return run(folder, {"train", "vision", "--data", data.string()}); };
  check_tame(vision());
  for (const char* name : {"train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"}) {
    std::ofstream(data / "fashion-mnist" / name) << "no gzip";
  }
  check_tame(vision());
}

TEST_CASE("paths in what is said on standard output, and in JSON") {
  const TemporaryFolder folder;
  const std::string out = (folder / "run\x1b[2J\n\xff\xc2\x9b").string();
  const std::vector<std::string> small = {"train",    "synthetic", "--epochs", "1",
                                          "--batch",  "4096",      "--width",  "4",
                                          "--hidden", "4",         "--out",    out};
  const Outcome o = run(folder, small);
  REQUIRE(o.code == 0);
  CHECK(o.out.find("run\\x1b[2J\\x0a\\xff\\u009b") != std::string::npos);
  for (const std::string& text : {o.out, o.err}) CHECK(text.find('\x1b') == std::string::npos);
  std::vector<std::string> resume = {"train", "--resume", "--json", "--out", out};
  const Outcome again = run(folder, resume);
  CHECK(again.code == 0);
  CHECK(nlohmann::json::accept(again.out));
  for (const char c : again.out) CHECK((c == '\n' || (c >= 0x20 && c < 0x7f)));
  CHECK(again.err.find('\x1b') == std::string::npos);
}

}  // namespace
}  // namespace moegrad
