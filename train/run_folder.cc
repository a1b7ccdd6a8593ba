#include "train/run_folder.h"

#include <nlohmann/json.hpp>

#include "tensor/files.h"
#include "tensor/folders.h"
#include "train/checkpoint.h"

namespace moegrad {

namespace fs = std::filesystem;
namespace {

constexpr std::string_view kEarlierResult = "result-step-";

}  // namespace

bool RunFolder::holds_run() const {
  return path_exists(result()) || path_exists(config()) || path_exists(metrics()) ||
         Checkpoints(checkpoints(), 1, "{}").newest();
}

// What could stop the new run comes before the old one is removed: a folder at a file's name, a
// disk that is full.
void RunFolder::start(const TrainConfig& config_of_run, bool force) const {
  make_folder(path_);
  const Checkpoints old(checkpoints(), 1, "{}");
  if (holds_run()) {
    if (!force) {
      fail("train",
           "'{}' holds a run that was {} already. Go on with --resume, start over with --force, or "
           "choose another folder with --out.",
           path_.string(), path_exists(result()) ? "finished" : "started");
    }
    for (const fs::path& file : {result(), config(), metrics()}) require_writable(file);
    for (const fs::path& file : old.list()) {
      if (!folder_exists(file)) continue;
      fail("train", "'{}' is a folder, at the name of a checkpoint. Move it away.", file.string());
    }
  }
  prepare();
  write_file_atomic(config(), to_json(config_of_run) + "\n", [&] {
    for (const fs::path& file : {result(), metrics()}) remove_file(file);
    for (const fs::path& file : earlier_results()) remove_file(file);
    old.remove_all();
  });
}

void RunFolder::prepare() const {
  make_folder(checkpoints());
  for (const fs::path& folder : {path_, checkpoints()}) remove_leftovers(folder);
}

TrainConfig RunFolder::resumed(const Settings& settings) const {
  if (!path_exists(config())) {
    fail("train", "there is no run in '{}' to resume. Start one without --resume.", path_.string());
  }
  const TrainConfig base = stored_run(load_settings(config()));
  TrainConfig wanted = base;
  apply_settings(wanted, settings);
  for (const TrainField& field : train_fields()) {
    const std::string there = field_text(base, field);
    const std::string here = field_text(wanted, field);
    if (field.result_free || there == here) continue;
    if (field.spec.name == "epochs" && wanted.epochs > base.epochs) {
      if (base.steps == 0) continue;
      fail("train",
           "the run in '{}' ends after {} steps, whatever its epochs. Leave --epochs out, or start "
           "another run from it with --from {}.",
           path_.string(), base.steps, path_.string());
    }
    fail("train",
         "{} {} contradicts the run in '{}', which has {}. Leave it out, or start another run with "
         "--out.",
         flag_of(field), here, path_.string(), there);
  }
  for (const auto& [name, value] : wanted.options) {
    const auto found = base.options.find(name);
    if (found != base.options.end() && found->second == value) continue;
    fail("train",
         "--option {}={} contradicts the run in '{}', which has {}. Leave it out, or start another "
         "run with --out.",
         name, value, path_.string(),
         found == base.options.end() ? "no such option" : found->second);
  }
  return wanted;
}

std::vector<fs::path> RunFolder::earlier_results() const {
  std::vector<fs::path> all;
  for (const fs::path& file : files_in(path_)) {
    if (file.filename().string().starts_with(kEarlierResult)) all.push_back(file);
  }
  return all;
}

void RunFolder::extend(std::int64_t epochs) const {
  if (path_exists(result())) {
    const std::string text = read_file(result());
    const nlohmann::json object = nlohmann::json::parse(text, nullptr, false);
    if (!object.is_object() || !object.contains("steps") || !object["steps"].is_number_unsigned()) {
      fail("train", "'{}' is not the result of a run. Move it away.", result().string());
    }
    const auto steps = object["steps"].get<std::uint64_t>();
    write_file_atomic(path_ / fmt::format("{}{:08}.json", kEarlierResult, steps), text);
    remove_file(result());
  }
  TrainConfig config_of_run = resumed({});
  config_of_run.epochs = epochs;
  write_file_atomic(config(), to_json(config_of_run) + "\n");
}

double MetricsLog::keep(const fs::path& file, std::int64_t step) {
  std::string kept;
  double seconds = 0.0;
  if (path_exists(file)) {
    const std::string all = read_file(file);
    std::size_t begin = 0;
    for (std::size_t end = all.find('\n'); end != std::string::npos; end = all.find('\n', begin)) {
      const std::string_view text = std::string_view(all).substr(begin, end - begin);
      begin = end + 1;
      // The JSON library would take a zero byte for the end.
      if (text.find('\0') != std::string_view::npos) continue;
      const nlohmann::json line = nlohmann::json::parse(text, nullptr, false);
      if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer() ||
          line["step"].get<std::int64_t>() > step) {
        continue;
      }
      kept.append(text).push_back('\n');
      if (line.contains("seconds") && line["seconds"].is_number()) {
        seconds = line["seconds"].get<double>();
      }
    }
  }
  write_file_atomic(file, kept);
  return seconds;
}

}  // namespace moegrad
