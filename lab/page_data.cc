#include "lab/page_data.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <map>
#include <set>
#include <utility>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "lab/logged_run.h"
#include "lab/study_report.h"
#include "lab/text_routing.h"
#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/folders.h"
#include "train/config.h"
#include "train/dataset.h"
#include "train/run_folder.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using LoggedRuns = std::vector<LoggedRun>;

constexpr int kDigits = 6;
constexpr int kDigitsOfShares = 3;

Json number(double x, int digits) {
  if (!std::isfinite(x)) return nullptr;
  const double rounded = std::strtod(fmt::format("{:.{}g}", x, digits).c_str(), nullptr);
  const bool whole = std::abs(x) < 1e15 && x == std::floor(x);
  return whole ? Json(static_cast<std::int64_t>(x)) : Json(rounded);
}

bool is_run(const fs::path& folder) {
  return folder_exists(folder) && path_exists(RunFolder(folder).config());
}
bool is_study(const fs::path& folder) {
  return folder_exists(folder) && path_exists(study_report_of(folder));
}

// The runs that a study has made, by their names.
std::vector<fs::path> runs_of_study(const fs::path& folder) {
  std::vector<fs::path> runs;
  if (is_run(folder / "run")) runs.push_back(folder / "run");
  if (!folder_exists(folder / "runs")) return runs;
  for (const auto& entry : fs::directory_iterator(folder / "runs")) {
    if (is_run(entry.path())) runs.push_back(entry.path());
  }
  std::ranges::sort(runs);
  return runs;
}

void require_runs(const std::vector<fs::path>& folders) {
  if (folders.empty())
    fail("report", "no run is given. Give folders of moegrad train or moegrad study.");
  std::string without;
  for (const fs::path& folder : folders) {
    if (!path_exists(folder)) {
      fail("report", "there is no folder '{}'. Give folders of moegrad train or moegrad study.",
           folder.string());
    }
    if (is_run(folder) || is_study(folder)) continue;
    without += (without.empty() ? "'" : ", '") + shown(folder.string()) + "'";
  }
  if (!without.empty()) {
    fail("report", "no config.json of a run in {}. Leave out what moegrad train has not made.",
         without);
  }
  for (std::size_t i = 0; i < folders.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (!same_file(folders[i], folders[j])) continue;
      fail("report", "'{}' and '{}' are one folder. Name it once.", folders[j].string(),
           folders[i].string());
    }
  }
}

// Empty where the run has no such setting.
std::string setting(const LoggedRun& run, const std::string& key) {
  const auto found = run.config.find(key);
  return found == run.config.end() ? "" : found->second;
}

// Settings with more than one value, in the order of train_fields(), then options and what this
// version does not know.
std::vector<std::string> differing(const LoggedRuns& runs) {
  std::vector<std::string> order;
  for (const TrainField& field : train_fields()) order.push_back(field.spec.name);
  std::set<std::string> rest;
  for (const LoggedRun& run : runs) {
    for (const auto& [key, value] : run.config) {
      if (std::ranges::find(order, key) == order.end()) rest.insert(key);
    }
  }
  order.insert(order.end(), rest.begin(), rest.end());
  std::erase_if(order, [&](const std::string& key) {
    return std::ranges::all_of(
        runs, [&](const LoggedRun& run) { return setting(run, key) == setting(runs[0], key); });
  });
  return order;
}

// What of a setting tells groups apart. Not the seed, nor what changes no result; of another run that
// it began with, which each seed may have of its own, only that there is one.
std::string value_for_groups(const LoggedRun& run, const std::string& key) {
  const std::string value = setting(run, key);
  if (key == "dropless") return value;  // changes what is measured
  if (key == "from") return value.empty() ? "" : "another run";
  const bool free = std::ranges::any_of(train_fields(), [&](const TrainField& field) {
    return field.spec.name == key && field.result_free;
  });
  return key == "seed" || free ? "" : value;
}

struct Group {
  std::string name;
  std::vector<std::string> values;
  std::vector<std::size_t> runs;
};

std::string group_name(const LoggedRun& run, const std::vector<std::string>& keys) {
  static const std::set<std::string> kByValue = {"task", "router", "estimator"};
  std::vector<std::string> parts;
  for (const std::string& key : keys) {
    const std::string value = value_for_groups(run, key);
    const std::string name = key.starts_with("options.") ? key.substr(8) : key;
    parts.push_back(kByValue.contains(key) ? value : name + " " + (value.empty() ? "-" : value));
  }
  if (parts.empty()) parts = {setting(run, "router"), setting(run, "estimator")};
  return shown(fmt::format("{}", fmt::join(parts, ", ")));
}

// A run that is there twice gets a note.
std::vector<Group> groups_of(LoggedRuns& runs, std::vector<std::string> keys) {
  std::erase_if(keys, [&](const std::string& key) {
    return std::ranges::all_of(runs, [&](const LoggedRun& run) {
      return value_for_groups(run, key) == value_for_groups(runs[0], key);
    });
  });
  std::vector<Group> groups;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    std::vector<std::string> values;
    for (const std::string& key : keys) values.push_back(value_for_groups(runs[i], key));
    auto group = std::ranges::find(groups, values, &Group::values);
    if (group == groups.end()) {
      group = groups.insert(group, {group_name(runs[i], keys), values, {}});
    }
    for (const std::size_t other : group->runs) {
      const auto same = [&](const char* key) {
        return setting(runs[other], key) == setting(runs[i], key);
      };
      if (!same("seed") || !same("from")) continue;
      runs[i].notes.push_back("has the configuration and the seed of " + runs[other].name);
    }
    group->runs.push_back(i);
  }
  return groups;
}

// Which data a run asks for. The files that it finds may be others than those of another run.
std::vector<std::string> data_asked(const LoggedRun& run) {
  const std::string task = setting(run, "task");
  std::vector<std::string> asked = {setting(run, "dtype"),
                                    is_drawn(task) ? setting(run, "seed") : ""};
  for (const TrainField& field : train_fields()) {
    const std::string& name = field.spec.name;
    if (!field.of_data || (field.result_free && task != "own")) continue;  // where the sets lie
    const std::string value = setting(run, name);
    asked.push_back(name == "pieces_from" && value.empty() ? setting(run, "domains") : value);
  }
  return asked;
}

// Of finished runs, whose checksums are known.
void note_other_data(LoggedRuns& runs) {
  std::map<std::vector<std::string>, const LoggedRun*> first;
  for (LoggedRun& run : runs) {
    if (run.data.empty()) continue;
    const LoggedRun& other = *first.emplace(data_asked(run), &run).first->second;
    if (other.data == run.data) continue;
    run.notes.push_back(
        shown_format("has other data than {}: their checksum is {} there and {} here, and losses "
                     "of the two do not compare",
                     other.name, other.data, run.data));
  }
}

// So that the longest run keeps at most so many lines.
std::size_t every(const LoggedRuns& runs, LoggedLines LoggedRun::*lines, std::size_t most) {
  std::size_t longest = 1;
  for (const LoggedRun& run : runs) longest = std::max(longest, (run.*lines).size());
  return (longest + most - 1) / most;
}

Json columns(const LoggedLines& lines, std::size_t every) {
  Json out = {{"step", Json::array()}};
  for (std::size_t i = 0; i < lines.size(); i += every) out["step"].push_back(lines.step[i]);
  for (const auto& [name, column] : lines.columns) {
    if (std::ranges::all_of(column, [](double x) { return std::isnan(x); })) continue;
    for (std::size_t i = 0; i < lines.size(); i += every) {
      out[name].push_back(number(column[i], kDigits));
    }
  }
  return out;
}

// Lines of the layers and experts that the first has.
Json loads(const LoggedLines& lines, std::size_t every) {
  const auto sizes = [](const std::vector<std::vector<double>>& layers) {
    std::vector<std::size_t> all;
    for (const std::vector<double>& layer : layers) all.push_back(layer.size());
    return all;
  };
  Json steps = Json::array();
  Json layers = Json::array();
  std::vector<std::size_t> first;
  for (std::size_t i = 0; i < lines.size(); i += every) {
    const auto& here = lines.loads[i];
    if (first.empty()) {
      first = sizes(here);
      for (const std::size_t experts : first) {
        layers.push_back(std::vector<Json>(experts, Json::array()));
      }
    }
    if (here.empty() || sizes(here) != first) continue;
    steps.push_back(lines.step[i]);
    for (std::size_t l = 0; l < here.size(); ++l) {
      for (std::size_t e = 0; e < here[l].size(); ++e) {
        layers[l][e].push_back(number(here[l][e], kDigitsOfShares));
      }
    }
  }
  return {{"step", steps}, {"layers", layers}};
}

// The last evaluation alone has the noise of one moment.
Json late(const LoggedLines& evaluations) {
  const std::size_t count = (evaluations.size() + 9) / 10;
  Json out = Json::object();
  for (const auto& [name, column] : evaluations.columns) {
    if (!name.starts_with("test_")) continue;
    double sum = 0.0;
    for (std::size_t i = column.size() - count; i < column.size(); ++i) sum += column[i];
    out[name] = number(sum / static_cast<double>(count), kDigits);
  }
  return out;
}

// In the order of train_fields(), then the rest.
Json config_of(const LoggedRun& run) {
  Json out = Json::object();
  for (const TrainField& field : train_fields()) {
    out[field.spec.name] = setting(run, field.spec.name);
  }
  for (const auto& [key, value] : run.config) out[key] = value;
  return out;
}

Json result_of(const LoggedRun& run) {
  if (run.result.empty()) return nullptr;
  Json out = Json::object();
  for (const auto& [name, value] : run.result) out[name] = number(value, kDigits);
  return out;
}

// By run.
std::vector<Json> texts_of(const LoggedRuns& runs, const std::vector<fs::path>& folders) {
  std::vector<Json> texts(runs.size());
  bool any = false;
  for (std::size_t i = 0; i < runs.size(); ++i) {
    if (setting(runs[i], "task") != "language") continue;
    any = true;
    texts[i] = text_routing(folders[i]);
  }
  if (!any) fail("report", "--texts is given, and no run is of the task language. Leave it out.");
  return texts;
}

}  // namespace

PageData page_data(const std::vector<fs::path>& folders, bool texts) {
  require_runs(folders);
  LoggedRuns runs;
  std::vector<fs::path> paths;  // of the runs
  Json studies = Json::array();
  for (const fs::path& folder : folders) {
    if (!is_study(folder)) {
      paths.push_back(folder);
      continue;
    }
    studies.push_back(Json::parse(to_json(read_study_report(study_report_of(folder)))));
    const std::vector<fs::path> made = runs_of_study(folder);
    paths.insert(paths.end(), made.begin(), made.end());
  }
  for (const fs::path& path : paths) runs.push_back(read_run(path));
  note_other_data(runs);
  const std::vector<std::string> differ = differing(runs);
  const std::vector<Group> groups = groups_of(runs, differ);
  const std::size_t of_steps = every(runs, &LoggedRun::steps, kMostPoints);
  const std::size_t of_evaluations = every(runs, &LoggedRun::evaluations, kMostPoints);
  const std::size_t of_loads = every(runs, &LoggedRun::steps, kMostLoads);

  const std::vector<Json> of_text = texts ? texts_of(runs, paths) : std::vector<Json>(runs.size());

  PageData page{
      .json = {}, .studies = studies.size(), .runs = runs.size(), .groups = groups.size()};
  Json data = {
      {"studies", studies}, {"runs", Json::array()}, {"groups", Json::array()}, {"differ", differ}};
  for (std::size_t i = 0; i < runs.size(); ++i) {
    const LoggedRun& run = runs[i];
    data["runs"].push_back({{"name", run.name},
                            {"state", name_of(run.state)},
                            {"step", run.last_step()},
                            {"config", config_of(run)},
                            {"set", run.set},
                            {"command", run.command},
                            {"result", result_of(run)},
                            {"maths", run.maths},
                            {"late", late(run.evaluations)},
                            {"notes", run.notes},
                            {"steps", columns(run.steps, of_steps)},
                            {"evaluations", columns(run.evaluations, of_evaluations)},
                            {"loads", loads(run.steps, of_loads)},
                            {"texts", of_text[i]}});
    for (const std::string& note : run.notes) page.notes.push_back(run.name + ": " + note);
  }
  for (const Group& group : groups) {
    data["groups"].push_back({{"name", group.name}, {"runs", group.runs}});
  }
  data["every"] = {{"steps", of_steps}, {"evaluations", of_evaluations}, {"loads", of_loads}};
  page.json = data.dump(-1, ' ', true, Json::error_handler_t::replace);
  return page;
}

}  // namespace moegrad
