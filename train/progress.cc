#include "train/progress.h"

#include <algorithm>
#include <cmath>

#include <sys/ioctl.h>
#include <unistd.h>

#include "tensor/put.h"

namespace moegrad {
namespace {

int columns_of(std::FILE* out) {
  winsize size = {};
  const bool known = ::ioctl(::fileno(out), TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : 80;
}

}  // namespace

std::string duration_text(double seconds) {
  const auto s = static_cast<std::int64_t>(std::lround(std::clamp(seconds, 0.0, 3.6e6)));
  if (s < 3600) return fmt::format("{}:{:02}", s / 60, s % 60);
  return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
}

std::string progress_bar(const ProgressView& v, int columns) {
  const std::string left = fmt::format("epoch {}/{} ", v.epoch, v.epochs);
  const std::string right =
      fmt::format(" {}/{}  loss {:.4f}  {:.0f} examples/s  {} left", v.step, v.steps, v.loss,
                  v.examples_per_second, duration_text(v.seconds_left));
  // The last column stays free: some terminals would wrap.
  const int room = columns - 1 - static_cast<int>(left.size() + right.size()) - 2;
  if (room < 5) return (left + right.substr(1)).substr(0, std::max(0, columns - 1));
  const int width = std::min(room, 40);
  const auto done = static_cast<int>(width * v.step / std::max<std::int64_t>(1, v.steps));
  return left + "[" + std::string(done, '#') + std::string(width - done, '.') + "]" + right;
}

std::string progress_line(const ProgressView& v) {
  return fmt::format("epoch {}/{}  step {}/{}  loss {:.4f}  {:.0f} examples/s  {} left", v.epoch,
                     v.epochs, v.step, v.steps, v.loss, v.examples_per_second,
                     duration_text(v.seconds_left));
}

Progress::Style Progress::style_for(std::FILE* out) {
  return ::isatty(::fileno(out)) == 1 ? Style::bar : Style::lines;
}

void Progress::update(const ProgressView& view) {
  if (style_ == Style::silent) return;
  using std::chrono_literals::operator""ms;
  const auto now = std::chrono::steady_clock::now();
  if (now - last_ < (style_ == Style::bar ? 100ms : 10'000ms)) return;
  last_ = now;
  if (style_ == Style::bar) {
    put(out_, "\r{}\x1b[K", progress_bar(view, columns_of(out_)));
    drawn_ = true;
  } else {
    put(out_, "{}\n", progress_line(view));
  }
}

void Progress::message(std::string_view text) {
  if (style_ == Style::silent) return;
  clear();
  put(out_, "{}\n", text);
}

void Progress::clear() {
  if (!drawn_) return;
  put(out_, "\r\x1b[K");
  drawn_ = false;
}

}  // namespace moegrad
