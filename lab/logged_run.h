#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace moegrad {

// Lines of metrics.jsonl of one kind, by rising step. A column has a value for each line: NaN where
// the line has none, or none that is finite.
struct LoggedLines {
  std::vector<std::int64_t> step = {};
  // By their names there; "losses.NAME" of auxiliary losses. Also load_max_mean: the mean over the
  // layers of E times the largest share.
  std::map<std::string, std::vector<double>> columns = {};
  // Of each line [layer][expert], the share of the layer's choices; empty where it has none.
  std::vector<std::vector<std::vector<double>>> loads = {};

  std::size_t size() const { return step.size(); }
};

// What a folder of `moegrad train` tells, finished or not, of this version or another.
struct LoggedRun {
  enum class State { finished, going_on, stopped };  // going on: a process holds the folder

  std::string name;  // its path, as it may be shown
  State state = State::stopped;
  std::map<std::string, std::string> config = {};  // every setting; options as "options.NAME"
  std::vector<std::string> set = {};               // those that are no default
  std::string command = {};                        // makes the same run again
  std::vector<std::pair<std::string, double>> result = {};  // the numbers of result.json
  std::string maths = {}, data = {};  // of the result; data: their checksum, where it has one
  LoggedLines steps = {}, evaluations = {};
  // What this version does not know, what is missing and what could not be read.
  std::vector<std::string> notes = {};

  std::int64_t last_step() const;
};
std::string_view name_of(LoggedRun::State state);

// Text as a word that a shell reads back.
std::string shell_word(std::string_view text);

// An Error where there is no config.json, or it is none.
LoggedRun read_run(const std::filesystem::path& folder);

}  // namespace moegrad
