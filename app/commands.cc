#include "app/commands.h"

#include <fmt/core.h>
#include <nlohmann/json.hpp>

#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/kernels.h"

namespace moegrad {

CLI::App& add_command(CLI::App& app, const std::string& name, const std::string& summary,
                      std::string_view example) {
  CLI::App* command = app.add_subcommand(name, summary);
  command->set_version_flag("--version", std::string("moegrad ") + MOEGRAD_VERSION);
  command->footer(fmt::format("Example:\n  {}", example));
  return *command;
}

std::string json_text(const nlohmann::ordered_json& json) {
  return json.dump(2, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
}
std::string json_line(const nlohmann::ordered_json& json) {
  return json.dump(-1, ' ', true, nlohmann::ordered_json::error_handler_t::replace);
}
std::string json_text(const nlohmann::json& json) {
  return json.dump(2, ' ', true, nlohmann::json::error_handler_t::replace);
}

void add_json(CLI::App& command, JsonOutput& output) {
  command
      .add_option_function<std::string>(
          "--json",
          [&output](const std::string& file) {
            output.wanted = true;
            output.file = file;
          },
          "print one JSON object, to FILE where given, instead of text")
      ->expected(0, 1)
      ->type_name("[FILE]")
      ->trigger_on_parse();
}

std::map<std::string, std::string> option_map(std::string_view command,
                                              const std::vector<std::string>& pairs) {
  std::map<std::string, std::string> map;
  for (const std::string& pair : pairs) {
    const std::size_t equals = pair.find('=');
    if (equals == std::string::npos || equals == 0) {
      fail(command, "--option is '{}'. Give --option name=value.", pair);
    }
    map[pair.substr(0, equals)] = pair.substr(equals + 1);
  }
  return map;
}

void JsonOutput::require() const {
  if (!file.empty()) require_writable(file);
}

void require_distinct(std::string_view command, const std::vector<std::string>& taken,
                      const std::vector<std::string>& outputs) {
  std::vector<std::string> all = taken;
  for (const std::string& output : outputs) {
    if (output.empty()) continue;
    for (const std::string& other : all) {
      if (other.empty() || !lies_in(output, other)) continue;
      fail(command,
           "'{}' would change '{}', which this command reads or writes. Give another file.", output,
           other);
    }
    all.push_back(output);
  }
}

void JsonOutput::write(std::string_view text) const {
  if (file.empty()) {
    put(stdout, "{}\n", text);
  } else {
    write_file_atomic(file, std::string(text) + "\n");
  }
}

void add_header(CLI::App& command, std::string& header) {
  command
      .add_option_function<std::string>(
          "--header",
          [&header, who = command.get_name()](const std::string& value) {
            if (value != "auto" && value != "yes" && value != "no") {
              fail(who, "--header is '{}'. Use auto, yes or no.", value);
            }
            header = value;
          },
          "whether line 1 of a text is names: auto, yes or no [as the run was trained]")
      ->type_name("WHEN");
}

void add_device(CLI::App& command, Device& device) {
  command
      .add_option_function<std::string>(
          "--device",
          [&device, who = command.get_name()](const std::string& name) {
            if (name != "cpu" && name != "cuda") {
              fail(who, "--device is '{}'. Use cpu or cuda.", name);
            }
            device = name == "cuda" ? Device::cuda : Device::cpu;
            (void)kernels(device);
          },
          "where it is computed, cpu or cuda [cpu]")
      ->type_name("NAME");
}

}  // namespace moegrad
