#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <fmt/format.h>

#include "app/commands.h"
#include "lab/page.h"
#include "lab/page_data.h"
#include "tensor/files.h"
#include "tensor/put.h"

namespace moegrad {
namespace {

struct ReportArguments {
  std::vector<std::string> runs;
  std::string out = "report.html";
  bool texts = false;
};

std::string counted(std::size_t n, std::string_view what) {
  return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
}

int run_report(const ReportArguments& a) {
  const PageData data = page_data({a.runs.begin(), a.runs.end()}, a.texts);
  require_distinct("report", a.runs, {a.out});
  const std::string runs = counted(data.runs, "run");
  std::string title = "moegrad: " + runs;
  if (data.studies == 1) title = "moegrad: a study";
  if (data.studies > 1) title = fmt::format("moegrad: {} studies", data.studies);
  const std::string page = page_of(PageOf::runs, title, data.json);
  write_file_atomic(a.out, page);
  for (const std::string& note : data.notes) put(stderr, "{}\n", note);
  put(stdout, "{} in {}, {:.1f} MB, written to {}\n", runs, counted(data.groups, "group"),
      static_cast<double>(page.size()) / 1e6, shown(a.out));
  return kOk;
}

}  // namespace

void add_report(CLI::App& app, Global& global) {
  const auto a = std::make_shared<ReportArguments>();
  CLI::App& command = add_command(
      app, "report",
      "A page of training runs, finished or not, for any browser: results, curves with bands over "
      "seeds, loads of experts, configurations.",
      "moegrad report runs/synthetic-* --out report.html");
  command.add_option("RUNS", a->runs, "folders of moegrad train or moegrad study")
      ->required()
      ->type_name("");
  command.add_option("--out", a->out, "the page, one HTML file [report.html]")->type_name("FILE");
  command.add_flag("--texts", a->texts,
                   "of language runs also where their validation text goes: expert by domain, and "
                   "examples; reads checkpoints and data");
  command.callback([a, &global] { global.exit_code = run_report(*a); });
}

}  // namespace moegrad
