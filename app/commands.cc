#include "app/commands.h"

#include <fmt/core.h>

#include "tensor/files.h"

namespace moegrad {

CLI::App& add_command(CLI::App& app, const std::string& name, const std::string& summary,
                      std::string_view example) {
  CLI::App* command = app.add_subcommand(name, summary);
  command->set_version_flag("--version", std::string("moegrad ") + MOEGRAD_VERSION);
  command->footer(fmt::format("Example:\n  {}", example));
  return *command;
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

void JsonOutput::write(std::string_view text) const {
  if (file.empty()) {
    fmt::print("{}\n", text);
  } else {
    write_file_atomic(file, std::string(text) + "\n");
  }
}

}  // namespace moegrad
