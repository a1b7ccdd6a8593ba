#include "train/reviews.h"

#include <algorithm>
#include <map>
#include <set>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "tensor/folders.h"
#include "tensor/parse.h"
#include "train/csv.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;

// Of this task: no other part of a program with the same seed draws these numbers.
constexpr std::uint64_t kReviewStream = 0x72657669'65770000U;

constexpr std::size_t kMostDepartments = 100;
constexpr std::string_view kReviewColumns[] = {"Review Text", "Rating", "Recommended IND",
                                               "Department Name"};

std::set<std::string> distinct_words(std::string_view text) {
  std::set<std::string> words;
  std::string word;
  for (const char c : text) {
    const char lower = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    if (lower >= 'a' && lower <= 'z') {
      word += lower;
    } else if (!word.empty()) {
      words.insert(std::exchange(word, {}));
    }
  }
  if (!word.empty()) words.insert(word);
  return words;
}

struct Review {
  std::set<std::string> words;
  std::int32_t rating = 0;
  std::int32_t recommended = 0;
  std::string department;  // empty: not known
};

std::vector<Review> read_reviews(const fs::path& path) {
  if (!path_exists(path)) {
    fail("reviews", "'{}' is missing. Run scripts/data reviews.", path.string());
  }
  const CsvFile file = read_csv(path);
  std::size_t at[std::size(kReviewColumns)];
  for (std::size_t i = 0; i < std::size(kReviewColumns); ++i) {
    at[i] = 0;
    while (at[i] < file.columns && file.cell(0, at[i]) != kReviewColumns[i]) ++at[i];
    if (at[i] < file.columns) continue;
    fail("reviews", "{}: there is no column '{}'. Run scripts/data reviews again.", path.string(),
         kReviewColumns[i]);
  }
  std::vector<Review> reviews;
  std::unordered_set<std::string_view> texts;
  for (std::size_t row = 1; row < file.rows(); ++row) {
    const std::string_view text = file.cell(row, at[0]);
    if (text.empty() || !texts.insert(text).second) continue;
    const auto whole = [&](std::size_t i, std::int32_t least, std::int32_t most) {
      const std::string_view cell = file.cell(row, at[i]);
      const auto number = parse_number<std::int32_t>(cell, least, most);
      if (number) return *number;
      fail("reviews", "{}: line {}: {} '{}' is not from {} to {}. Run scripts/data reviews again.",
           path.string(), file.lines[row], kReviewColumns[i], shown(cell), least, most);
    };
    reviews.push_back({.words = distinct_words(text),
                       .rating = whole(1, 1, 5),
                       .recommended = whole(2, 0, 1),
                       .department = std::string(file.cell(row, at[3]))});
  }
  if (reviews.empty()) {
    fail("reviews", "{}: no review has a text. Run scripts/data reviews again.", path.string());
  }
  return reviews;
}

// The columns of x, by their words.
std::unordered_map<std::string, std::int64_t> vocabulary_of(
    const std::vector<Review>& reviews, const std::vector<std::int32_t>& train) {
  std::map<std::string, std::int64_t> counts;
  for (const std::int32_t i : train) {
    for (const std::string& word : reviews[static_cast<std::size_t>(i)].words) ++counts[word];
  }
  std::vector<std::pair<std::string, std::int64_t>> words(counts.begin(), counts.end());
  std::ranges::stable_sort(words, std::greater<>(), &std::pair<std::string, std::int64_t>::second);
  if (std::ssize(words) > kReviewWords) words.resize(kReviewWords);
  std::unordered_map<std::string, std::int64_t> columns;
  for (const auto& [word, count] : words) columns.emplace(word, std::ssize(columns));
  return columns;
}

}  // namespace

Task load_reviews(const TaskOptions& o) {
  const fs::path path = o.folder / "reviews" / "reviews.csv";
  const std::vector<Review> reviews = read_reviews(path);
  const Split split = split_of(std::ssize(reviews), {o.seed, kReviewStream, 0});
  const auto columns = vocabulary_of(reviews, split.train);
  const std::int64_t width = std::ssize(columns);
  if (width == 0) {
    fail("reviews", "{}: no training text has a word. Run scripts/data reviews again.",
         path.string());
  }
  std::set<std::string> names;
  for (const Review& review : reviews) {
    if (!review.department.empty()) names.insert(review.department);
  }
  if (names.empty() || names.size() > kMostDepartments) {
    fail("reviews", "{}: {} departments, not 1 to {}. Run scripts/data reviews again.",
         path.string(), names.size(), kMostDepartments);
  }
  const std::vector<std::string> departments(names.begin(), names.end());
  const auto part = [&](const std::vector<std::int32_t>& chosen) {
    Dataset data{.x = Tensor::zeros({std::ssize(chosen), width}, DType::i32, Device::cpu),
                 .labels = Tensor::empty({std::ssize(chosen), 3}, DType::i32, Device::cpu)};
    std::int32_t* x = data.x.write<std::int32_t>();
    std::int32_t* label = data.labels.write<std::int32_t>();
    for (const std::int32_t i : chosen) {
      const Review& review = reviews[static_cast<std::size_t>(i)];
      for (const std::string& word : review.words) {
        if (const auto column = columns.find(word); column != columns.end()) x[column->second] = 1;
      }
      x += width;
      *label++ = review.rating;
      *label++ = review.recommended;
      const auto place = std::ranges::find(departments, review.department);
      *label++ =
          place == departments.end() ? -1 : static_cast<std::int32_t>(place - departments.begin());
    }
    return data;
  };
  return {.targets = {{.name = "rating", .kind = Target::Kind::number},
                      {.name = "recommended", .kind = Target::Kind::binary},
                      {.name = "department",
                       .classes = std::ssize(departments),
                       .partial = true,
                       .names = departments}},
          .train = part(split.train),
          .test = part(split.test),
          .fields = {{.name = "word", .values = width, .several = true}}};
}

}  // namespace moegrad
