#include <memory>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/table.h"
#include "moe/layer.h"
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

// null: any number up to E.
json most_json(const RouterEntry& e) {
  return e.most_active == RouterEntry().most_active ? json() : json(e.most_active);
}

// The layer's aux by default; null: refused, it would be a constant.
json aux_json(const RouterEntry& e) {
  return e.traits.constant_aux[0] == '\0' ? json(default_aux(e)) : json();
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
    const RouterTraits& t = e.traits;
    all["routers"].push_back({{"name", e.name},
                              {"summary", e.summary},
                              {"source", e.source},
                              {"formula", e.formula},
                              {"claim", name_of(e.claim)},
                              {"samples", t.samples},
                              {"categorical", t.categorical},
                              {"least_active", e.least_active},
                              {"most_active", most_json(e)},
                              {"sparse_training", t.sparse_training},
                              {"sparse_inference", t.sparse_inference},
                              {"causal", t.causal},
                              {"state", t.state},
                              {"auxiliary", t.auxiliary},
                              {"on_host", t.on_host},
                              {"aux", aux_json(e)},
                              {"options", options_json(e.options)}});
  }
  for (const EstimatorEntry& e : estimators()) {
    const EstimatorTraits& t = e.traits;
    const Options defaults("estimator " + e.name, e.options);
    all["estimators"].push_back({{"name", e.name},
                                 {"summary", e.summary},
                                 {"source", e.source},
                                 {"formula", e.formula},
                                 {"claim", name_of(e.claim)},
                                 {"dense", t.dense},
                                 {"sparse_training", !t.dense},
                                 {"sparse_inference", t.sparse_inference},
                                 {"causal", !e.make(defaults)->leaks()},
                                 {"state", t.state},
                                 {"auxiliary", ""},
                                 {"on_host", t.on_host},
                                 {"routers", e.routers},
                                 {"options", options_json(e.options)}});
  }
  for (const TaskInfo& e : tasks()) {
    all["tasks"].push_back({{"name", e.name}, {"summary", e.summary}, {"source", e.source}});
  }
  return all;
}

// "exact on the cell; sparse in training and at inference; causal; state: ..."
std::string traits_text(const json& entry) {
  const bool training = entry["sparse_training"];
  const bool inference = entry["sparse_inference"];
  std::string out = entry["claim"].get<std::string>();
  out += training && inference ? "; sparse in training and at inference"
         : training            ? "; sparse in training, dense at inference"
         : inference           ? "; dense in training, sparse at inference"
                               : "; dense in training and at inference";
  out += entry["causal"].get<bool>() ? "; causal" : "; not causal";
  const auto add = [&](const char* key, const char* words) {
    const std::string text = entry.value(key, "");
    if (!text.empty()) out += fmt::format("; {}: {}", words, text);
  };
  add("state", "state");
  add("auxiliary", "auxiliary");
  add("on_host", "on the host");
  if (!entry.contains("aux")) return out;
  if (entry["aux"].is_null()) return out + "; aux is refused, it would be a constant";
  const double aux = entry["aux"];
  return out +
         (aux == 0.0 ? "; aux is off by default" : fmt::format("; aux is {} by default", aux));
}

void print(const json& all) {
  for (const char* kind : {"operations", "routers", "estimators", "tasks"}) {
    put(stdout, "{}\n", kind);
    Table table;
    for (const json& entry : all[kind]) {
      table.add({"  " + entry["name"].get<std::string>(), entry["summary"], entry["source"]});
      if (!entry.contains("options")) continue;
      table.add({"", "  " + traits_text(entry)});
      for (const json& option : entry["options"]) {
        table.add({"", fmt::format("  {}={}: {}", option["name"].get<std::string>(),
                                   option["default"].get<std::string>(),
                                   option["summary"].get<std::string>())});
      }
    }
    put(stdout, "{}\n", table.text());
  }
}

// A page of docs/: a table of all, then each with its formula and options.
void print_markdown(const json& all, const std::string& kind) {
  const std::string title = kind == "routers" ? "Routers" : "Gradient estimators";
  put(stdout,
      "# {}\n\nWritten by `moegrad list --markdown {}`; the sources are the files of "
      "`moe/{}/`.\n\n| name | what it does |\n|---|---|\n",
      title, kind, kind);
  for (const json& e : all[kind]) {
    const std::string name = e["name"];
    put(stdout, "| [{}](#{}) | {} |\n", name, name, e["summary"].get<std::string>());
  }
  for (const json& e : all[kind]) {
    put(stdout, "\n## {}\n\n{}\n\n```\n{}\n```\n\n", e["name"].get<std::string>(),
        e["source"].get<std::string>(), e["formula"].get<std::string>());
    put(stdout, "Claim: {}.\n", traits_text(e));
    if (e.contains("routers")) {
      put(stdout, "Checked with: {}.\n",
          fmt::join(e["routers"].get<std::vector<std::string>>(), ", "));
    }
    if (!e["options"].empty()) put(stdout, "\n| option | default | meaning |\n|---|---|---|\n");
    for (const json& o : e["options"]) {
      put(stdout, "| {} | {} | {} |\n", o["name"].get<std::string>(),
          o["default"].get<std::string>(), o["summary"].get<std::string>());
    }
  }
}

}  // namespace

void add_list(CLI::App& app, Global& global) {
  const auto output = std::make_shared<JsonOutput>();
  CLI::App& command =
      add_command(app, "list", "List operations, routers, estimators and tasks, with sources.",
                  "moegrad list\n  moegrad list --json everything.json");
  add_json(command, *output);
  const auto page = std::make_shared<std::string>();
  command.add_option("--markdown", *page, "a page of the documentation: routers or estimators")
      ->type_name("KIND");
  command.callback([output, page, &global] {
    const json all = everything();
    if (!page->empty()) {
      if (*page != "routers" && *page != "estimators") {
        fail("list", "--markdown is '{}'. Give routers or estimators.", *page);
      }
      print_markdown(all, *page);
    } else if (output->wanted) {
      output->write(json_text(all));
    } else {
      print(all);
    }
    global.exit_code = kOk;
  });
}

}  // namespace moegrad
