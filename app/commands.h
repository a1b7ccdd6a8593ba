#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>

#include "app/outcome.h"

namespace moegrad {

// What the commands share.
struct Global {
  int exit_code = kOk;
};

// A subcommand with what every command has: --help that ends with an example, and --version.
CLI::App& add_command(CLI::App& app, const std::string& name, const std::string& summary,
                      std::string_view example);

// `--json [FILE]`: asks for one JSON object, on standard output where no file is named.
struct JsonOutput {
  bool wanted = false;
  std::string file;
  // Before long work: an Error where it could not be written.
  void require() const;
  // Writes where it was asked for; a file is replaced atomically.
  void write(std::string_view text) const;
};
void add_json(CLI::App& command, JsonOutput& output);

// From --option name=value, repeated; an Error for a text without a name or a value.
std::map<std::string, std::string> option_map(std::string_view command,
                                              const std::vector<std::string>& pairs);

// Each adds a subcommand whose callback stores an exit code. One file each: NAME_command.cc.
void add_train(CLI::App& app, Global& global);
void add_gradcheck(CLI::App& app, Global& global);
void add_list(CLI::App& app, Global& global);
void add_layer(CLI::App& app, Global& global);
void add_study(CLI::App& app, Global& global);

}  // namespace moegrad
