#include "lab/report.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <csignal>
#include <optional>

#include <fcntl.h>
#include <fmt/format.h>
#include <spawn.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/folders.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail_gnuplot(std::string_view what, int code) {
  fail("plot", "cannot {} gnuplot: {}. Its script and the rows are written.", what,
       system_reason(code));
}

// What a chart says may hold anything: line feeds would end a command of gnuplot.
std::string on_one_line(std::string_view text) {
  std::string out(text);
  std::replace_if(
      out.begin(), out.end(), [](unsigned char c) { return c < ' '; }, ' ');
  return out;
}

// In gnuplot's double quotes, with the number of what would mean something there. (Its single
// quotes lose a quote that a text begins with.)
std::string in_quotes(std::string_view text) {
  constexpr std::string_view kTelling = "\"\\`@$";
  std::string out = "\"";
  for (const char c : on_one_line(text)) {
    out += kTelling.find(c) == std::string_view::npos ? std::string(1, c)
                                                      : fmt::format("\\{:03o}", int{c});
  }
  return out + '"';
}

// A column of data: gnuplot knows no escape there.
std::string as_column(std::string_view text) {
  std::string out = on_one_line(text);
  std::replace(out.begin(), out.end(), '"', '\'');
  return '"' + out + '"';
}

// What can be drawn: no series without a finite value, no chart without a series.
std::vector<Chart> drawable(std::vector<Chart> charts) {
  for (Chart& chart : charts) {
    std::erase_if(chart.series, [](const Series& s) {
      return std::ranges::none_of(s.values, [](double v) { return std::isfinite(v); });
    });
  }
  std::erase_if(charts, [](const Chart& chart) { return chart.series.empty(); });
  return charts;
}

std::string data_block(const Chart& chart, std::size_t number) {
  std::string out = fmt::format("$chart{} << EOD\n", number);
  for (std::size_t row = 0; row < chart.labels.size(); ++row) {
    out += as_column(chart.labels[row]);
    for (const Series& s : chart.series) {
      out += std::isfinite(s.values[row]) ? fmt::format(" {:.9g}", s.values[row]) : " NaN";
    }
    out += "\n";
  }
  return out + "EOD\n";
}

// Writes to standard output: no path is in it.
std::string script(const std::vector<Chart>& charts) {
  std::size_t widest = 0;
  for (const Chart& chart : charts) widest = std::max(widest, chart.labels.size());
  std::string out = fmt::format("set terminal svg size {},{} noenhanced background 'white'\n",
                                std::max<std::size_t>(720, 200 + 28 * widest), 420 * charts.size());
  for (std::size_t i = 0; i < charts.size(); ++i) out += data_block(charts[i], i);
  out += fmt::format("set multiplot layout {},1\nset grid ytics\nset key outside right top\n",
                     charts.size());
  out += "set xtics rotate by -40 noenhanced\nset style fill solid 0.8 border -1\n";
  for (std::size_t i = 0; i < charts.size(); ++i) {
    const Chart& chart = charts[i];
    out += fmt::format("set title {} noenhanced\nset ylabel {} noenhanced\n",
                       in_quotes(chart.title), in_quotes(chart.axis));
    out += chart.lines ? "set style data linespoints\n"
                       : "set yrange [*<0:*]\nset style data histogram\n"
                         "set style histogram clustered gap 1\n";
    out += "plot ";
    for (std::size_t s = 0; s < chart.series.size(); ++s) {
      out += fmt::format("{}$chart{} using {}:xtic(1) title {} noenhanced", s == 0 ? "" : ", ", i,
                         s + 2, in_quotes(chart.series[s].name));
    }
    out += "\n";
  }
  return out + "unset multiplot\n";
}

// A file in memory, for what gnuplot writes.
class MemoryFile {
 public:
  MemoryFile() {
    const int any = ::memfd_create("gnuplot", MFD_CLOEXEC);
    descriptor_ = ::fcntl(any, F_DUPFD_CLOEXEC, 3);  // no standard stream's, which may be closed
    const int code = errno;
    ::close(any);
    if (descriptor_ < 0) fail_gnuplot("make a file for", code);
  }
  ~MemoryFile() { ::close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;

  int descriptor() const { return descriptor_; }
  std::string content() const {
    std::string text;
    std::array<char, 65536> part;
    while (true) {
      const ssize_t got =
          ::pread(descriptor_, part.data(), part.size(), static_cast<off_t>(text.size()));
      if (got <= 0) return text;
      text.append(part.data(), static_cast<std::size_t>(got));
    }
  }

 private:
  int descriptor_;
};

// Runs gnuplot, without a shell, on a script; nothing where it is not installed. What it says is told
// where it fails; where it draws, it only warns of axes that it has chosen.
std::optional<std::string> drawn_by_gnuplot(const fs::path& commands) {
  const MemoryFile svg;
  const MemoryFile messages;
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, commands.c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, svg.descriptor(), STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&actions, messages.descriptor(), STDERR_FILENO);
  // What this program ignores ends gnuplot as it ends any other.
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t default_signals;
  sigemptyset(&default_signals);
  for (const int number : {SIGPIPE, SIGXFSZ}) sigaddset(&default_signals, number);
  posix_spawnattr_setsigdefault(&attributes, &default_signals);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGDEF);
  std::string name = "gnuplot";
  std::string no_settings = "-d";  // no ~/.gnuplot
  std::array<char*, 3> arguments = {name.data(), no_settings.data(), nullptr};
  pid_t child = 0;
  const int code =
      ::posix_spawnp(&child, name.c_str(), &actions, &attributes, arguments.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (code == ENOENT) return std::nullopt;
  if (code != 0) fail_gnuplot("start", code);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (status != 0) {
    std::string said = on_one_line(messages.content());
    while (said.ends_with(' ')) said.pop_back();
    fail("plot", "gnuplot could not draw '{}' ({} {}). It says{}", commands.string(),
         WIFSIGNALED(status) ? "signal" : "exit status",
         WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
         said.empty() ? " nothing." : ": " + said);
  }
  std::string drawn = svg.content();
  if (drawn.empty()) {
    fail("plot", "gnuplot drew nothing of '{}'. Is the program of this name gnuplot?",
         commands.string());
  }
  return drawn;
}

}  // namespace

Plot plot_svg(const fs::path& file, const std::vector<Chart>& charts) {
  fs::path commands = file;
  commands.replace_extension(".gp");
  const std::vector<Chart> with_values = drawable(charts);
  if (with_values.empty()) {
    for (const fs::path& old : {file, commands}) remove_file(old);
    return Plot::nothing_to_draw;
  }
  write_file_atomic(commands, script(with_values));
  std::optional<std::string> svg;
  try {
    svg = drawn_by_gnuplot(commands);
  } catch (const Error&) {
    remove_file(file);  // one of other rows
    throw;
  }
  if (!svg) {
    remove_file(file);
    return Plot::no_gnuplot;
  }
  write_file_atomic(file, *svg);
  return Plot::drawn;
}

}  // namespace moegrad
