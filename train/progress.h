#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>

namespace moegrad {

// Where a run stands.
struct ProgressView {
  std::int64_t epoch = 0;  // from 1
  std::int64_t epochs = 0;
  std::int64_t step = 0;
  std::int64_t steps = 0;
  double loss = 0.0;
  double examples_per_second = 0.0;
  double seconds_left = 0.0;
};

// "0:07", "12:34", "1:02:03"
std::string duration_text(double seconds);
// One line without a line feed: for a terminal of so many columns, with a bar where there is room;
// for anything else.
std::string progress_bar(const ProgressView& view, int columns);
std::string progress_line(const ProgressView& view);

// Shows progress on a stream: a bar that is redrawn on a terminal, else a line every ten seconds.
class Progress {
 public:
  enum class Style { silent, lines, bar };
  Progress(std::FILE* out, Style style) : out_(out), style_(style) {}
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  // A bar where the stream is a terminal.
  static Style style_for(std::FILE* out);

  void update(const ProgressView& view);
  // A line of its own.
  void message(std::string_view text);

 private:
  void clear();

  std::FILE* out_;
  Style style_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace moegrad
