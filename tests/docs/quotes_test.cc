// The documents say what the code says: quoted code is code of the repository, quoted output is
// what the examples print, commands and their flags exist, links and paths lead somewhere.
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>

#include "tensor/files.h"

using namespace moegrad;
namespace fs = std::filesystem;

namespace {

const fs::path kRoot = MOEGRAD_SOURCE_DIR;

using Lines = std::vector<std::string>;

Lines lines_of(const std::string& text) {
  Lines lines(1);
  for (const char c : text) {
    if (c == '\n') {
      lines.emplace_back();
    } else {
      lines.back() += c;
    }
  }
  if (lines.back().empty()) lines.pop_back();
  return lines;
}

std::string trimmed(const std::string& line) {
  const std::size_t begin = line.find_first_not_of(" \t");
  if (begin == std::string::npos) return {};
  return line.substr(begin, line.find_last_not_of(" \t") - begin + 1);
}

// A fenced block, with the HTML comment before it.
struct Block {
  std::string language;
  std::string comment;
  Lines lines;
};

std::vector<Block> blocks_of(const std::string& text) {
  std::vector<Block> blocks;
  std::string comment;
  bool inside = false;
  for (const std::string& raw : lines_of(text)) {
    const std::string line = trimmed(raw);
    if (line.starts_with("```")) {
      if (!inside) blocks.push_back({line.substr(3), std::exchange(comment, {}), {}});
      inside = !inside;
    } else if (inside) {
      blocks.back().lines.push_back(raw);
    } else if (line.starts_with("<!-- ") && line.ends_with(" -->")) {
      comment = line.substr(5, line.size() - 9);
    } else if (!line.empty()) {
      comment.clear();
    }
  }
  return blocks;
}

// The text outside of fenced blocks.
std::string prose_of(const std::string& text) {
  std::string prose;
  bool inside = false;
  for (const std::string& line : lines_of(text)) {
    if (trimmed(line).starts_with("```")) {
      inside = !inside;
    } else if (!inside) {
      prose += line + "\n";
    }
  }
  return prose;
}

// Whether the lines of `part` follow each other somewhere in `whole`.
bool contains(const Lines& whole, const Lines& part) {
  return std::search(whole.begin(), whole.end(), part.begin(), part.end()) != whole.end();
}

Lines without_indentation(const Lines& lines) {
  Lines out;
  std::transform(lines.begin(), lines.end(), std::back_inserter(out), trimmed);
  return out;
}

// Numbers as one sign and blanks as one blank: what machines and widths change.
Lines without_numbers(const Lines& lines) {
  static const std::regex number("-?[0-9]+(\\.[0-9]+)?(e[-+]?[0-9]+)?");
  static const std::regex blanks("\\s+");
  Lines out;
  for (const std::string& line : lines) {
    out.push_back(trimmed(std::regex_replace(std::regex_replace(line, number, "#"), blanks, " ")));
  }
  return out;
}

struct Output {
  int status = 0;
  std::string text;
};

// Runs a command of this build; remembers what it printed.
const Output& run(const std::string& command) {
  static std::map<std::string, Output> known;
  const auto found = known.find(command);
  if (found != known.end()) return found->second;
  Output output;
  FILE* pipe = ::popen(("cd '" + kRoot.string() + "' && " + command + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  char buffer[4096];
  while (std::fgets(buffer, sizeof buffer, pipe) != nullptr) output.text += buffer;
  output.status = ::pclose(pipe);
  return known.emplace(command, output).first->second;
}

// What is wrong with a block of code or output.
std::vector<std::string> problems_of_quote(const Block& block) {
  const std::string where = "block '" + (block.lines.empty() ? "" : block.lines[0]) + "': ";
  if (block.language == "cpp" || (block.language == "python" && !block.comment.empty())) {
    const fs::path file = kRoot / block.comment;
    if (block.comment.empty() || !fs::is_regular_file(file)) {
      return {where + "no comment names the file that it is from"};
    }
    const Lines source = without_indentation(lines_of(read_file(file)));
    if (contains(source, without_indentation(block.lines))) return {};
    return {where + "not in " + block.comment};
  }
  // What examples in Python print is held to by the tests of the package.
  static const std::regex quoted("(exact )?output of (examples/.*)\\.cc");
  std::smatch words;
  if (block.language == "text" && std::regex_match(block.comment, words, quoted)) {
    const std::string name = fs::path(words[2].str()).filename().string();
    const fs::path program = fs::path(MOEGRAD_BINARY).parent_path() / ("example_" + name);
    const Output& output = run("'" + program.string() + "'");
    if (output.status != 0) return {where + program.string() + " fails"};
    const auto seen = words[1].matched ? without_indentation : without_numbers;
    if (contains(seen(lines_of(output.text)), seen(block.lines))) return {};
    return {where + "not what " + program.string() + " prints"};
  }
  return {};
}

std::vector<std::string> words_of(const std::string& line) {
  static const std::regex word("[^\\s'\"]+");
  const std::string code = line.substr(0, line.find(" #"));
  return {std::sregex_token_iterator(code.begin(), code.end(), word), {}};
}

// What is wrong with a command of a ```sh block: `moegrad SUBCOMMAND --flag`, `scripts/NAME`,
// `--preset NAME`.
std::vector<std::string> problems_of_command(const std::string& line) {
  std::vector<std::string> problems;
  const std::vector<std::string> words = words_of(line);
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (words[i].starts_with("scripts/") && !fs::is_regular_file(kRoot / words[i])) {
      problems.push_back("no " + words[i]);
    }
    if (words[i] == "--preset" && i + 1 < words.size()) {
      const std::string presets = read_file(kRoot / "CMakePresets.json");
      if (presets.find("\"name\": \"" + words[i + 1] + "\"") == std::string::npos) {
        problems.push_back("no preset " + words[i + 1]);
      }
    }
  }
  const auto program = std::find_if(words.begin(), words.end(), [](const std::string& word) {
    return fs::path(word).filename() == "moegrad";
  });
  if (program == words.end()) return problems;
  std::string subcommand;
  auto word = program + 1;
  if (word != words.end() && !word->starts_with("-")) subcommand = *word++;
  // `moegrad study` has commands of its own.
  if (subcommand == "study" && word != words.end()) subcommand += " " + *word++;
  const Output& help = run("'" MOEGRAD_BINARY "' " + subcommand + " --help");
  if (help.status != 0 || help.text.find("moegrad " + subcommand) == std::string::npos) {
    return {"'" + line + "': no command " + subcommand};
  }
  static const std::regex flag("--[a-z][a-z0-9-]*");
  const std::set<std::string> flags{
      std::sregex_token_iterator(help.text.begin(), help.text.end(), flag), {}};
  for (; word != words.end(); ++word) {
    const std::string name = word->substr(0, word->find('='));
    if (name.starts_with("--") && !flags.contains(name)) {
      problems.push_back("'" + line + "': no flag " + name);
    }
  }
  return problems;
}

// Commands of a block, one a line; a line that ends with \ goes on in the next.
Lines commands_of(const Block& block) {
  Lines commands(1);
  for (const std::string& line : block.lines) {
    const bool goes_on = line.ends_with("\\");
    commands.back() += goes_on ? line.substr(0, line.size() - 1) : line;
    if (!goes_on) commands.emplace_back();
  }
  commands.pop_back();
  return commands;
}

// Links, and paths of sources in backquotes, that lead nowhere.
std::vector<std::string> problems_of_prose(const fs::path& folder, const std::string& prose) {
  std::vector<std::string> problems;
  static const std::regex link("\\]\\(([^)#\\s]+)[^)]*\\)");
  static const std::regex path("`([a-z_]+/[a-z0-9_/]+\\.(h|cc|md))`");
  const auto each = [&](const std::regex& pattern, const auto& use) {
    for (std::sregex_iterator m(prose.begin(), prose.end(), pattern), end; m != end; ++m) {
      use((*m)[1].str());
    }
  };
  each(link, [&](const std::string& target) {
    const bool elsewhere = target.find("://") != std::string::npos;
    if (!elsewhere && !fs::exists(folder / target)) problems.push_back("dead link " + target);
  });
  each(path, [&](const std::string& target) {
    if (!fs::exists(kRoot / target)) problems.push_back("no file " + target);
  });
  return problems;
}

std::vector<std::string> problems_of(const fs::path& folder, const std::string& text) {
  std::vector<std::string> problems = problems_of_prose(folder, prose_of(text));
  const auto append = [&](const std::vector<std::string>& more) {
    problems.insert(problems.end(), more.begin(), more.end());
  };
  for (const Block& block : blocks_of(text)) {
    append(problems_of_quote(block));
    if (block.language != "sh") continue;
    for (const std::string& command : commands_of(block)) append(problems_of_command(command));
  }
  return problems;
}

// README.md, CONTRIBUTING.md, all of docs/ and the README.md of each folder.
std::vector<fs::path> documents() {
  std::vector<fs::path> files = {kRoot / "README.md", kRoot / "CONTRIBUTING.md"};
  for (const auto& entry : fs::directory_iterator(kRoot)) {
    if (fs::is_regular_file(entry.path() / "README.md"))
      files.push_back(entry.path() / "README.md");
  }
  for (const auto& entry : fs::recursive_directory_iterator(kRoot / "docs")) {
    if (entry.path().extension() == ".md") files.push_back(entry.path());
  }
  return files;
}

}  // namespace

TEST_CASE("what the documents quote is there") {
  for (const fs::path& file : documents()) {
    CAPTURE(file.string());
    const std::vector<std::string> problems = problems_of(file.parent_path(), read_file(file));
    for (const std::string& problem : problems) FAIL_CHECK(problem);
  }
}

TEST_CASE("the documents that readers are sent to exist and quote something") {
  for (const char* name :
       {"README.md", "CONTRIBUTING.md", "docs/tutorial.md", "docs/gradient-checking.md"}) {
    CAPTURE(name);
    CHECK(!blocks_of(read_file(kRoot / name)).empty());
  }
  CHECK(fs::is_regular_file(kRoot / "docs/design.md"));
}

TEST_CASE("a folder's README has at most 15 lines") {
  for (const fs::path& file : documents()) {
    if (file.filename() != "README.md" || file.parent_path() == kRoot) continue;
    CAPTURE(file.string());
    CHECK(lines_of(read_file(file)).size() <= 15);
  }
}

TEST_CASE("the check finds what is wrong") {
  const auto count = [](const std::string& text) { return problems_of(kRoot, text).size(); };
  const std::string from = "<!-- examples/first_tape.cc -->\n";

  CHECK(count(from + "```cpp\nTape t;\n```\n") == 0);
  CHECK(count(from + "\n```cpp\n    Tape t;\n```\n") == 0);
  CHECK(count("```cpp\nTape t;\n```\n") == 1);
  CHECK(count("<!-- examples/none.cc -->\n```cpp\nTape t;\n```\n") == 1);
  CHECK(count(from + "```cpp\nTape u;\n```\n") == 1);
  CHECK(count(from + "Prose.\n\n```cpp\nTape t;\n```\n") == 1);

  CHECK(count("```sh\nmoegrad train synthetic --epochs 3\n```\n") == 0);
  CHECK(count("```sh\nbuild/release/moegrad train synthetic \\\n  --epoch 3\n```\n") == 1);
  CHECK(count("```sh\nmoegrad tain\n```\n") == 1);
  CHECK(count("```sh\nbash scripts/test  # all of it\nscripts/nothing\n```\n") == 1);
  CHECK(count("```sh\ncmake --preset release\ncmake --preset fast\n```\n") == 1);

  CHECK(count("See [this](CMakeLists.txt), [that](https://example.org) and `moe/plan.h`.\n") == 0);
  CHECK(count("See [this](nowhere.md) and `moe/nothing.h`.\n") == 2);

  const std::string output = "<!-- output of examples/first_tape.cc -->\n";
  CHECK(count(output + "```text\nloss 0.5\n```\n") == 0);
  CHECK(count(output + "```text\nloos 0.5\n```\n") == 1);
  const std::string exact = "<!-- exact output of examples/first_tape.cc -->\n";
  CHECK(count(exact + "```text\nloss 0.736604\n```\n") == 0);
  CHECK(count(exact + "```text\nloss 0.5\n```\n") == 1);
}
