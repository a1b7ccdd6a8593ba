#include "train/run_folder.h"

#include <cerrno>
#include <system_error>

#include <nlohmann/json.hpp>

#include "tensor/files.h"
#include "train/checkpoint.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

std::string error_text(int code) { return std::generic_category().message(code); }

void make_folder(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) {
    fail("train", "cannot make the folder '{}': {}. Choose another one with --out.", path.string(),
         error.message());
  }
}

}  // namespace

void RunFolder::start(const TrainConfig& config_of_run, bool force) const {
  const Checkpoints old(checkpoints(), 1, "{}");
  const bool finished = fs::exists(result());
  if (finished || fs::exists(config()) || fs::exists(metrics()) || old.newest()) {
    if (!force) {
      fail("train",
           "'{}' holds a run that was {} already. Go on with --resume, start over with --force, or "
           "choose another folder with --out.",
           path_.string(), finished ? "finished" : "started");
    }
    for (const fs::path& file : {result(), config(), metrics()}) {
      std::error_code error;
      fs::remove(file, error);
      if (error) {
        fail("train", "cannot remove '{}': {}. Choose another folder with --out.", file.string(),
             error.message());
      }
    }
    old.remove_all();
  }
  make_folder(checkpoints());
  write_file_atomic(config(), to_json(config_of_run) + "\n");
}

TrainConfig RunFolder::resumed(const Settings& settings) const {
  if (!fs::exists(config())) {
    fail("train", "there is no run in '{}' to resume. Start one without --resume.", path_.string());
  }
  TrainConfig base;
  apply_settings(base, load_settings(config()));
  TrainConfig wanted = base;
  apply_settings(wanted, settings);
  for (const TrainField& field : train_fields()) {
    const std::string there = field_text(base, field);
    const std::string here = field_text(wanted, field);
    if (field.result_free || there == here) continue;
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

MetricsLog::MetricsLog(const fs::path& file, std::int64_t step) : path_(file) {
  std::string kept;
  if (fs::exists(file)) {
    const std::string all = read_file(file);
    std::size_t begin = 0;
    for (std::size_t end = all.find('\n'); end != std::string::npos; end = all.find('\n', begin)) {
      const std::string_view text = std::string_view(all).substr(begin, end - begin);
      begin = end + 1;
      const nlohmann::json line = nlohmann::json::parse(text, nullptr, false);
      if (!line.is_object() || !line.contains("step") || !line["step"].is_number_integer() ||
          line["step"].get<std::int64_t>() > step) {
        continue;
      }
      kept.append(text).push_back('\n');
      if (line.contains("seconds") && line["seconds"].is_number()) {
        seconds_ = line["seconds"].get<double>();
      }
    }
  }
  write_file_atomic(file, kept);
  file_ = std::fopen(file.c_str(), "ae");
  if (file_ == nullptr) {
    fail("metrics", "cannot write '{}': {}. Check the folder.", file.string(), error_text(errno));
  }
}

MetricsLog::~MetricsLog() {
  if (file_ != nullptr) std::fclose(file_);
}

void MetricsLog::line(std::string_view json) {
  const std::string text = std::string(json) + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_) != text.size() || std::fflush(file_) != 0) {
    fail("metrics", "cannot write '{}': {}. Free some space or choose another disk.",
         path_.string(), error_text(errno));
  }
}

}  // namespace moegrad
