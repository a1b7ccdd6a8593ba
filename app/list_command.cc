#include <memory>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/table.h"
#include "moe/registry.h"
#include "train/dataset.h"

namespace moegrad {
namespace {

using nlohmann::json;

json options_json(const std::vector<OptionSpec>& specs) {
  json list = json::array();
  for (const OptionSpec& spec : specs) {
    list.push_back({{"name", spec.name}, {"default", spec.default_value}, {"summary", spec.help}});
  }
  return list;
}

json everything() {
  json all;
  for (const char* kind : {"operations", "routers", "estimators", "tasks"}) {
    all[kind] = json::array();
  }
  for (const OperationEntry& e : all_declared_operations()) {
    all["operations"].push_back({{"name", e.name},
                                 {"summary", e.summary},
                                 {"source", e.source},
                                 {"claim", name_of(e.claim)}});
  }
  for (const RouterEntry& e : routers()) {
    all["routers"].push_back({{"name", e.name},
                              {"summary", e.summary},
                              {"source", e.source},
                              {"claim", name_of(e.claim)},
                              {"samples", e.traits.samples},
                              {"options", options_json(e.options)}});
  }
  for (const EstimatorEntry& e : estimators()) {
    all["estimators"].push_back({{"name", e.name},
                                 {"summary", e.summary},
                                 {"source", e.source},
                                 {"claim", name_of(e.claim)},
                                 {"dense", e.traits.dense},
                                 {"options", options_json(e.options)}});
  }
  for (const TaskInfo& e : tasks()) {
    all["tasks"].push_back({{"name", e.name}, {"summary", e.summary}, {"source", e.source}});
  }
  return all;
}

void print(const json& all) {
  for (const char* kind : {"operations", "routers", "estimators", "tasks"}) {
    fmt::print("{}\n", kind);
    Table table;
    for (const json& entry : all[kind]) {
      table.add({"  " + entry["name"].get<std::string>(), entry["summary"], entry["source"]});
      if (!entry.contains("options")) continue;
      for (const json& option : entry["options"]) {
        table.add({"", fmt::format("  {}={}: {}", option["name"].get<std::string>(),
                                   option["default"].get<std::string>(),
                                   option["summary"].get<std::string>())});
      }
    }
    fmt::print("{}\n", table.text());
  }
}

}  // namespace

void add_list(CLI::App& app, Global& global) {
  const auto output = std::make_shared<JsonOutput>();
  CLI::App& command =
      add_command(app, "list", "List operations, routers, estimators and tasks, with sources.",
                  "moegrad list\n  moegrad list --json everything.json");
  add_json(command, *output);
  command.callback([output, &global] {
    const json all = everything();
    if (output->wanted) {
      output->write(all.dump(2));
    } else {
      print(all);
    }
    global.exit_code = kOk;
  });
}

}  // namespace moegrad
