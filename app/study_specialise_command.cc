#include <memory>

#include "app/checkpoint_study.h"
#include "app/study_report.h"
#include "app/training_study.h"
#include "lab/specialise.h"
#include "train/stored_model.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr std::string_view kSpecialiseExample =
    "moegrad train --config examples/configs/language-xs.json --checkpoint-every 100 --keep 30 "
    "--out runs/language-xs\n  moegrad study specialise runs/language-xs";
constexpr std::string_view kSpecialiseLegend =
    "what the expert of a choice tells of its token, in nats and as a part of all there is to tell "
    "(* no more than by chance)\nalready chosen: of the experts that the last checkpoint chooses";

std::string told_text(const Telling& t) {
  const bool chance = t.information < 2.0 * t.by_chance;
  return fmt::format("{:.4f} ({}){}", t.information,
                     std::isnan(t.share) ? "-" : fmt::format("{:.1f} %", 100.0 * t.share),
                     chance ? " *" : "");
}

Table table_of(const std::vector<SpecialiseRow>& rows) {
  std::vector<std::string> head = {"run", "step", "layer"};
  for (const Telling& t : rows.front().tellings) head.push_back("tells of " + t.of);
  head.insert(head.end(), {"most often together", "already chosen"});
  Table table;
  table.add(head);
  for (const SpecialiseRow& row : rows) {
    std::vector<std::string> cells = {shown(row.run), fmt::format("{}", row.step),
                                      fmt::format("{}", row.layer)};
    for (const Telling& t : row.tellings) cells.push_back(told_text(t));
    cells.push_back(row.together.first < 0
                        ? "-"
                        : fmt::format("{} and {}, {:.2f} x chance", row.together.first,
                                      row.together.second, row.together.lift));
    cells.push_back(
        std::isnan(row.already_chosen) ? "-" : fmt::format("{:.1f} %", 100.0 * row.already_chosen));
    table.add(cells);
  }
  return table;
}

std::vector<Chart> charts_of_specialise(const std::vector<SpecialiseRow>& rows) {
  Chart chosen{.title = "part of the last choice that was made already", .axis = "part"};
  Chart told_of{.title = "what the experts tell of the " + rows.front().tellings.front().of,
                .axis = "part of all"};
  for (const SpecialiseRow& row : rows) {
    if (row.run != rows.front().run) break;
    if (row.layer == 0) chosen.labels.push_back(fmt::format("{}", row.step));
  }
  told_of.labels = chosen.labels;
  chosen.lines = told_of.lines = chosen.labels.size() > 1;
  for (const SpecialiseRow& row : rows) {
    if (row.run != rows.front().run) break;
    const auto layer = static_cast<std::size_t>(row.layer);
    for (Chart* chart : {&chosen, &told_of}) {
      if (layer >= chart->series.size()) {
        chart->series.push_back({fmt::format("layer {}", row.layer), {}});
      }
    }
    chosen.series[layer].values.push_back(row.already_chosen);
    told_of.series[layer].values.push_back(row.tellings.front().share);
  }
  return {chosen, told_of};
}

int run_specialise(const CheckpointStudy& a) {
  for (const std::string& run : a.runs) checkpoint_of(run);  // its errors come first
  const Report report(a.out, a.json, a.runs);
  std::vector<SpecialiseRow> rows;
  std::string data;
  for_each_run(a, [&](const std::string& run) {
    const Task task = task_with_rows(a, run);
    data = data_text(task);
    const std::vector<SpecialiseRow> more = specialise(run, checkpoints_of(run), task.test);
    if (more.empty() || more.front().tellings.empty()) {
      fail("study", "'{}' is of a task without classes. Give a run of another task.", run);
    }
    rows.insert(rows.end(), more.begin(), more.end());
  });
  ordered_json list = ordered_json::array();
  for (const SpecialiseRow& row : rows) list.push_back(ordered_json::parse(to_json(row)));
  report.write(list, charts_of_specialise(rows), {table_of(rows)}, Device::cpu, kSpecialiseLegend,
               data);
  return kOk;
}

}  // namespace

void add_study_specialise(CLI::App& study, Global& global) {
  const auto a = std::make_shared<CheckpointStudy>();
  CLI::App& command = add_checkpoint_study(study, a, "specialise",
                                           "What do experts learn? What choices tell of domains "
                                           "and bytes, along the checkpoints of runs.",
                                           kSpecialiseExample);
  command.callback([a, &global] { global.exit_code = run_specialise(*a); });
}

}  // namespace moegrad
