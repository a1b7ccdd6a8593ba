#include "train/progress.h"

#include <string>

#include <doctest/doctest.h>

namespace moegrad {
namespace {

const ProgressView kView{.epoch = 2,
                         .epochs = 3,
                         .step = 50,
                         .steps = 100,
                         .loss = 0.51239,
                         .examples_per_second = 12345.6,
                         .seconds_left = 75.4};

TEST_CASE("progress: a line") {
  CHECK(progress_line(kView) == "epoch 2/3  step 50/100  loss 0.5124  12346 examples/s  1:15 left");
}

TEST_CASE("progress: a bar that fits any terminal") {
  CHECK(progress_bar(kView, 80) ==
        "epoch 2/3 [#########.........] 50/100  loss 0.5124  12346 examples/s  1:15 left");
  CHECK(progress_bar(kView, 200) ==
        "epoch 2/3 [####################....................] 50/100  loss 0.5124  12346 "
        "examples/s  1:15 left");
  CHECK(progress_bar(kView, 60) == "epoch 2/3 50/100  loss 0.5124  12346 examples/s  1:15 left");
  for (int columns = 1; columns < 200; ++columns) {
    CHECK(static_cast<int>(progress_bar(kView, columns).size()) < columns);
  }
}

TEST_CASE("progress: durations") {
  CHECK(duration_text(0) == "0:00");
  CHECK(duration_text(59.6) == "1:00");
  CHECK(duration_text(754) == "12:34");
  CHECK(duration_text(3723) == "1:02:03");
  CHECK(duration_text(-5) == "0:00");
  CHECK(duration_text(1e300) == "1000:00:00");
}

std::string shown(Progress::Style style) {
  std::FILE* file = std::tmpfile();
  REQUIRE(file != nullptr);
  {
    Progress progress(file, style);
    progress.message("hello");
    progress.update(kView);  // at once: nothing is shown that soon
    progress.message("world");
  }
  std::string text(static_cast<std::size_t>(std::ftell(file)), '\0');
  std::rewind(file);
  CHECK(std::fread(text.data(), 1, text.size(), file) == text.size());
  std::fclose(file);
  return text;
}

TEST_CASE("progress: no control characters where the stream is no terminal") {
  std::FILE* file = std::tmpfile();
  CHECK(Progress::style_for(file) == Progress::Style::lines);
  std::fclose(file);
  CHECK(shown(Progress::Style::lines) == "hello\nworld\n");
  CHECK(shown(Progress::Style::silent).empty());
}

}  // namespace
}  // namespace moegrad
