#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json_fwd.hpp>

#include "app/outcome.h"
#include "tensor/dtype.h"
#include "tensor/error.h"
#include "tensor/parse.h"

namespace moegrad {

// What the commands share.
struct Global {
  int exit_code = kOk;
};

// A subcommand with what every command has: --help that ends with an example, and --version.
CLI::App& add_command(CLI::App& app, const std::string& name, const std::string& summary,
                      std::string_view example);

// The examples that a study measures on with --quick.
inline constexpr std::int64_t kQuickExamples = 64;

// `--json [FILE]`: asks for one JSON object, on standard output where no file is named.
struct JsonOutput {
  bool wanted = false;
  std::string file;
  // Before long work: an Error where it could not be written.
  void require() const;
  // Writes where it was asked for; a file is replaced atomically.
  void write(std::string_view text) const;
};
// Before the work: an Error where one of the outputs is a file that the command reads or writes
// otherwise (`taken`), lies in a folder of those, or is another output. Empty names are left out.
void require_distinct(std::string_view command, const std::vector<std::string>& taken,
                      const std::vector<std::string>& outputs);
// Indented JSON in ASCII, as a terminal may show it; what is not UTF-8 in it (a path) is replaced.
std::string json_text(const nlohmann::ordered_json& json);
std::string json_text(const nlohmann::json& json);
std::string json_line(const nlohmann::ordered_json& json);  // likewise, on one line
void add_json(CLI::App& command, JsonOutput& output);

// `--device cpu|cuda`: an Error, before the work, where this build or this machine has none.
void add_device(CLI::App& command, Device& device);

// `--header auto|yes|no`, of a file of rows.
void add_header(CLI::App& command, std::string& header);

// The number of a flag, by parse_number: what the command line's own library takes for one (octal,
// hexadecimal, the largest there is in place of a larger one) is an Error here.
template <class T>
T flag_number(std::string_view command, std::string_view flag, const std::string& text, T low,
              T high) {
  if (const auto value = parse_number<T>(text, low, high)) return *value;
  fail(command, "{} is '{}'. Give a {} from {} to {}.", flag, text,
       std::is_integral_v<T> ? "whole number" : "number", low, high);
}
// A flag with a number, or with numbers between commas, each in [low, high].
template <class T>
CLI::Option* add_number(CLI::App& command, const std::string& flag, T& value, T low, T high,
                        const std::string& help) {
  const auto set = [&value, who = command.get_name(), flag, low, high](const std::string& text) {
    value = flag_number<T>(who, flag, text, low, high);
  };
  return command.add_option_function<std::string>(flag, set, help)->type_name("n");
}
template <class T>
CLI::Option* add_numbers(CLI::App& command, const std::string& flag, std::vector<T>& values, T low,
                         T high, const std::string& help) {
  const auto set = [&values, who = command.get_name(), flag, low,
                    high](const std::vector<std::string>& texts) {
    values.clear();
    for (const std::string& text : texts) {
      values.push_back(flag_number<T>(who, flag, text, low, high));
    }
  };
  return command.add_option_function<std::vector<std::string>>(flag, set, help)
      ->delimiter(',')
      ->type_name("LIST");
}

// From --option name=value, repeated; an Error for a text without a name or a value.
std::map<std::string, std::string> option_map(std::string_view command,
                                              const std::vector<std::string>& pairs);

// Each adds a subcommand whose callback stores an exit code. One file each: NAME_command.cc.
void add_train(CLI::App& app, Global& global);
void add_gradcheck(CLI::App& app, Global& global);
void add_list(CLI::App& app, Global& global);
void add_layer(CLI::App& app, Global& global);
void add_predict(CLI::App& app, Global& global);
void add_evaluate(CLI::App& app, Global& global);
void add_report(CLI::App& app, Global& global);
void add_sample(CLI::App& app, Global& global);
void add_study(CLI::App& app, Global& global);
void add_tape(CLI::App& app, Global& global);
void add_study_bias(CLI::App& study, Global& global);
void add_study_compare(CLI::App& study, Global& global);
void add_study_sweep(CLI::App& study, Global& global);
void add_study_scale(CLI::App& study, Global& global);
void add_study_learning_rate(CLI::App& study, Global& global);
void add_study_balance(CLI::App& study, Global& global);
void add_study_closeness(CLI::App& study, Global& global);
void add_study_finetune(CLI::App& study, Global& global);
void add_study_specialise(CLI::App& study, Global& global);
void add_study_inference(CLI::App& study, Global& global);
void add_study_counterfactual(CLI::App& study, Global& global);
void add_study_distil(CLI::App& study, Global& global);
void add_study_fidelity(CLI::App& study, Global& global);

}  // namespace moegrad
