#include <functional>
#include <memory>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "app/commands.h"
#include "app/table.h"
#include "moe/checks/check.h"

namespace moegrad {
namespace {

using nlohmann::json;

struct Check {
  std::string name;
  std::function<CheckRow()> run;
};

std::vector<Check> all_checks(Device device) {
  std::vector<Check> checks;
  for (const OperationEntry& entry : all_declared_operations()) {
    checks.push_back(
        {std::string(entry.name), [=] { return check_operation(entry, nullptr, device); }});
  }
  for (const RouterEntry& entry : routers()) {
    checks.push_back(
        {entry.name, [&entry, device] { return check_router(entry, nullptr, device); }});
  }
  for (const EstimatorEntry& entry : estimators()) {
    checks.push_back(
        {entry.name, [&entry, device] { return check_estimator(entry, nullptr, device); }});
  }
  return checks;
}

// A name may be an operation's and a router's: then both are checked.
std::vector<Check> chosen_checks(const std::vector<std::string>& names, Device device) {
  std::vector<Check> all = all_checks(device);
  if (names.empty()) return all;
  std::vector<Check> chosen;
  for (const std::string& name : names) {
    const std::size_t before = chosen.size();
    std::vector<std::string> known;
    for (const Check& check : all) {
      if (check.name == name) chosen.push_back(check);
      known.push_back(check.name);
    }
    if (chosen.size() == before) {
      fail("gradcheck", "there is no operation, router or estimator '{}'. Did you mean '{}'?", name,
           nearest(name, known));
    }
  }
  return chosen;
}

json row_json(const CheckRow& row) {
  json object = {{"name", row.name},           {"kind", row.kind},
                 {"claim", row.claim},         {"oracle", row.oracle},
                 {"dtype", row.dtype},         {"cases", row.cases},
                 {"max_error", row.max_error}, {"verdict", name_of(row.verdict)}};
  if (!row.reason.empty()) object["reason"] = row.reason;
  object["dead"] = row.dead;
  object["dead_inputs"] = row.dead_inputs;
  return object;
}

// The oracle; and where the gradient of an input and its differences are zero everywhere.
std::string remarks(const CheckRow& row) {
  if (row.dead == 0) return row.oracle;
  return fmt::format("{}; dead in {} of {} cases: {}", row.oracle, row.dead, row.cases,
                     fmt::join(row.dead_inputs, ", "));
}

int run(const std::vector<std::string>& names, Device device, const JsonOutput& output) {
  json rows = json::array();
  std::vector<CheckRow> bad;
  const std::vector<Check> checks = chosen_checks(names, device);
  output.require();
  const bool text = !output.wanted || !output.file.empty();
  if (text) {
    put(stdout, "{:<21} {:<10} {:<27} {:>5} {:>9}  {:<12} {}\n", "name", "kind", "claim", "cases",
        "max error", "verdict", "oracle");
  }
  for (const Check& check : checks) {
    const CheckRow row = check.run();
    rows.push_back(row_json(row));
    if (row.verdict != Verdict::pass) bad.push_back(row);
    if (!text) continue;
    put(stdout, "{:<21} {:<10} {:<27} {:>5} {:>9.1e}  {:<12} {}\n", row.name, row.kind, row.claim,
        row.cases, row.max_error, name_of(row.verdict), remarks(row));
  }
  if (output.wanted) output.write(json_text(rows));
  for (const CheckRow& row : bad) {
    put(stderr, "\n{} {}: {}\n{}\n", row.kind, row.name, name_of(row.verdict), row.reason);
  }
  if (text) put(stdout, "{} checked, {} not passed\n", rows.size(), bad.size());
  return bad.empty() ? kOk : kCheckFailed;
}

}  // namespace

void add_gradcheck(CLI::App& app, Global& global) {
  struct Arguments {
    std::vector<std::string> names;
    Device device = Device::cpu;
    JsonOutput json;
  };
  const auto arguments = std::make_shared<Arguments>();
  CLI::App& command = add_command(
      app, "gradcheck", "Check the gradients of operations, routers and estimators.",
      "moegrad gradcheck\n  moegrad gradcheck matmul moesart expert-group --json rows.json");
  command.add_option("names", arguments->names, "what to check; everything where none is named")
      ->type_name("NAME");
  add_device(command, arguments->device);
  add_json(command, arguments->json);
  command.callback([arguments, &global] {
    global.exit_code = run(arguments->names, arguments->device, arguments->json);
  });
}

}  // namespace moegrad
