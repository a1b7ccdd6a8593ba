#include "train/fashion.h"

#include <cmath>
#include <set>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <fmt/format.h>
#include <zlib.h>

#include "tests/temporary_files.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using test::error_of;
using test::TemporaryFolder;

// Of pairs, as stated.
constexpr double kMean = 0.3043;
constexpr double kDeviation = 0.3640;

// Mean and variance of all elements.
std::pair<double, double> moments(const Tensor& x) {
  double sum = 0.0;
  double squares = 0.0;
  for (const float v : x.values<float>()) {
    sum += static_cast<double>(v);
    squares += static_cast<double>(v) * static_cast<double>(v);
  }
  const auto n = static_cast<double>(x.numel());
  return {sum / n, squares / n};
}

void write_gzip(const fs::path& path, const std::string& bytes) {
  const gzFile file = gzopen(path.c_str(), "wb");
  REQUIRE(file != nullptr);
  CHECK(gzwrite(file, bytes.data(), static_cast<unsigned>(bytes.size())) ==
        static_cast<int>(bytes.size()));
  CHECK(gzclose(file) == Z_OK);
}

// An IDX file of up to 255 on each axis.
std::string idx(const std::vector<int>& sizes, const std::string& values) {
  std::string bytes = {0, 0, 8, static_cast<char>(sizes.size())};
  for (const int size : sizes) bytes += {0, 0, 0, static_cast<char>(size)};
  return bytes + values;
}

// A small Fashion-MNIST: 3 + 2 images of 1 x 2 pixels.
class Fixture {
 public:
  Fixture() {
    fs::create_directory(images());
    write("train-images-idx3", idx({3, 1, 2}, std::string("\0\xff\1\2\3\4", 6)));
    write("train-labels-idx1", idx({3}, std::string("\0\x09\5", 3)));
    write("t10k-images-idx3", idx({2, 1, 2}, std::string("\5\6\7\x08", 4)));
    write("t10k-labels-idx1", idx({2}, std::string("\1\2", 2)));
  }
  void write(std::string_view name, const std::string& bytes) const {
    write_gzip(file(name), bytes);
  }
  fs::path images() const { return folder_ / "fashion-mnist"; }
  fs::path file(std::string_view name) const { return images() / fmt::format("{}-ubyte.gz", name); }
  std::string error() const {
    return error_of([&] { load_vision({.folder = folder_.path()}); });
  }
  const fs::path& folder() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
};

TEST_CASE("vision: images as scaled rows") {
  const Fixture fixture;
  for (const DType dtype : {DType::f32, DType::f64}) {
    const Task task = load_task("vision", {.folder = fixture.folder(), .dtype = dtype});
    CHECK(task.name == "vision");
    CHECK(task.targets[0].classes == 10);
    CHECK(task.train.x.dtype() == dtype);
    CHECK(task.train.x.shape() == Shape{3, 2});
    CHECK(task.train.labels.same_bits(Tensor::of<std::int32_t>({3}, {0, 9, 5})));
    CHECK(task.test.x.shape() == Shape{2, 2});
    CHECK(task.test.labels.same_bits(Tensor::of<std::int32_t>({2}, {1, 2})));
    CHECK(task.train.x.at(0) == doctest::Approx(-0.2860 / 0.3530));
    CHECK(task.train.x.at(1) == doctest::Approx((1.0 - 0.2860) / 0.3530));
    CHECK(task.test.x.at(3) == doctest::Approx((8.0 / 255.0 - 0.2860) / 0.3530));
  }
  CHECK(error_of([&] { load_vision({.folder = fixture.folder(), .dtype = DType::i32}); }) ==
        "[vision] needs f32 or f64, got i32. Convert the tensor first.");
}

TEST_CASE("vision: files that are missing or do not agree") {
  const auto path = [](const Fixture& fixture, std::string_view name) {
    return fixture.file(name).string();
  };
  CHECK(error_of([] { load_vision({.folder = "nowhere"}); }) ==
        "[vision] there is no folder 'nowhere/fashion-mnist'. Run scripts/data.");
  {
    const Fixture fixture;
    fs::remove(fixture.file("t10k-labels-idx1"));
    CHECK(fixture.error() == fmt::format("[vision] '{}' is missing. Run scripts/data.",
                                         path(fixture, "t10k-labels-idx1")));
  }
  {
    const Fixture fixture;
    fixture.write("train-labels-idx1", idx({2}, "\1\2"));
    CHECK(fixture.error() == fmt::format("[vision] {}: 2 labels for 3 images. Run scripts/data.",
                                         path(fixture, "train-labels-idx1")));
  }
  {
    const Fixture fixture;
    fixture.write("train-labels-idx1", idx({3}, "\1\2\x0a"));
    CHECK(fixture.error() ==
          fmt::format("[vision] {}: label 10 of image 2. Labels are 0 to 9; run scripts/data.",
                      path(fixture, "train-labels-idx1")));
  }
  {
    const Fixture fixture;
    fixture.write("t10k-images-idx3", idx({2, 0, 2}, ""));
    CHECK(fixture.error() == fmt::format("[vision] {}: 2 images of 0 x 2. Run scripts/data.",
                                         path(fixture, "t10k-images-idx3")));
  }
  {
    const Fixture fixture;
    fixture.write("t10k-images-idx3", idx({2, 1, 1}, "ab"));
    CHECK(fixture.error() ==
          fmt::format("[vision] {}: images of 2 pixels to train and 1 to test. Run scripts/data.",
                      fixture.images().string()));
  }
  {
    const Fixture fixture;
    fixture.write("train-images-idx3", idx({3}, "abc"));
    CHECK(fixture.error() == fmt::format("[idx] {}: 11 bytes; its header has 16. Fetch it again.",
                                         path(fixture, "train-images-idx3")));
  }
}

TEST_CASE("vision: the real Fashion-MNIST") {
  const fs::path folder = fs::path(MOEGRAD_SOURCE_DIR) / "data";
  if (!fs::exists(folder / "fashion-mnist")) {
    MESSAGE("skipped, run scripts/data");
    return;
  }
  const Task task = load_vision({.folder = folder});
  CHECK(task.train.x.shape() == Shape{60'000, 784});
  CHECK(task.test.x.shape() == Shape{10'000, 784});
  std::vector<int> per_class(10);
  for (const std::int32_t label : task.train.labels.values<std::int32_t>()) {
    ++per_class[static_cast<std::size_t>(label)];
  }
  CHECK(per_class == std::vector<int>(10, 6000));
  const auto [mean, variance] = moments(task.train.x);
  CHECK(std::abs(mean) < 1e-3);
  CHECK(std::abs(variance - 1.0) < 1e-3);
  check_finite(task.train);
}

// Each image of the fixture is 1 x 2, so that a pair is 9 x 10 and its images do not meet.
TEST_CASE("fashion-pairs: every image once above and once below, with its label") {
  const Fixture fixture;
  const TaskOptions options{.folder = fixture.folder(), .dtype = DType::f64, .seed = 3};
  const Task task = load_task("fashion-pairs", options);
  REQUIRE(task.train.x.shape() == Shape{3, 90});
  CHECK(task.train.labels.shape() == Shape{3, 2});
  CHECK(task.test.x.shape() == Shape{2, 90});
  CHECK(task.targets[0].name == "upper");
  CHECK(task.targets[1].name == "lower");
  const double black = task.train.x.at(50);
  const double white = black + 1.0 / kDeviation;
  // Of the image with a label, the second pixel.
  const auto pixel = [](double label) { return label == 0 ? 255.0 : label == 9 ? 2.0 : 4.0; };
  std::set<double> above;
  std::set<double> below;
  for (std::int64_t i = 0; i < 3; ++i) {
    const double upper = task.train.labels.at(2 * i);
    const double lower = task.train.labels.at(2 * i + 1);
    above.insert(upper);
    below.insert(lower);
    const auto at = [&](std::int64_t row, std::int64_t column) {
      return (task.train.x.at(90 * i + 10 * row + column) - black) / (white - black) * 255.0;
    };
    CHECK(at(0, 1) == doctest::Approx(pixel(upper)));
    CHECK(at(8, 9) == doctest::Approx(pixel(lower)));
    CHECK(at(1, 1) == 0.0);
    CHECK(at(7, 9) == 0.0);
  }
  CHECK(above == std::set<double>{0, 5, 9});
  CHECK(below == std::set<double>{0, 5, 9});
  CHECK(load_fashion_pairs(options).train.x.same_bits(task.train.x));
}

TEST_CASE("fashion-pairs: of two pixels the lighter one") {
  const Fixture fixture;
  // The last pixel of the upper image, of 9 x 9, lies on the first of the lower.
  std::string last(81, '\1');
  last.back() = '\x07';
  std::string first(81, '\1');
  first.front() = '\x09';
  fixture.write("train-images-idx3", idx({1, 9, 9}, last));
  fixture.write("train-labels-idx1", idx({1}, "\1"));
  fixture.write("t10k-images-idx3", idx({1, 9, 9}, first));
  fixture.write("t10k-labels-idx1", idx({1}, "\2"));
  const Task task = load_fashion_pairs({.folder = fixture.folder(), .dtype = DType::f64});
  REQUIRE(task.train.x.shape() == Shape{1, 17 * 17});
  const auto meeting = [](const Dataset& data) { return data.x.at(8 * 17 + 8); };
  const auto scaled = [](double pixel) { return (pixel / 255.0 - kMean) / kDeviation; };
  CHECK(meeting(task.train) == doctest::Approx(scaled(7)));  // upper 7, lower 1
  CHECK(meeting(task.test) == doctest::Approx(scaled(9)));   // upper 1, lower 9
  CHECK(task.train.x.at(17 * 17 - 1) == doctest::Approx(scaled(7)));
  CHECK(task.train.x.at(16) == doctest::Approx(scaled(0)));
}

TEST_CASE("fashion-pairs: the real Fashion-MNIST, by seed") {
  const fs::path folder = fs::path(MOEGRAD_SOURCE_DIR) / "data";
  if (!fs::exists(folder / "fashion-mnist")) {
    MESSAGE("skipped, run scripts/data");
    return;
  }
  const Task task = load_fashion_pairs({.folder = folder, .seed = 1});
  CHECK(task.train.x.shape() == Shape{60'000, 36 * 36});
  CHECK(task.test.x.shape() == Shape{10'000, 36 * 36});
  std::vector<int> count(10);
  for (std::int64_t i = 0; i < 10'000; ++i) {
    ++count[static_cast<std::size_t>(task.test.labels.at(2 * i))];
  }
  CHECK(count == std::vector<int>(10, 1000));
  const auto [mean, variance] = moments(task.train.x);
  CHECK(std::abs(mean) < 1e-3);
  CHECK(std::abs(variance - 1.0) < 2e-3);
  const Task other = load_fashion_pairs({.folder = folder, .seed = 2});
  CHECK(!other.test.labels.same_bits(task.test.labels));
}

}  // namespace
}  // namespace moegrad
