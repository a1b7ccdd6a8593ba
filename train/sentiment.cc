#include "train/sentiment.h"

#include <string_view>

#include "tensor/error.h"
#include "tensor/files.h"
#include "tensor/folders.h"
#include "tensor/parse.h"

namespace moegrad {
namespace {

constexpr std::uint64_t kMostSentimentBytes = 100'000'000;
constexpr std::string_view kSentimentDomains[] = {"film", "editorial", "product", "tweets"};

void read_sentences(const std::filesystem::path& path, std::string_view domain,
                    std::vector<Sentence>& sentences) {
  if (!path_exists(path)) {
    fail("sentiment", "'{}' is missing. Run scripts/data sentiment.", path.string());
  }
  if (const auto size = InputFile(path).size(); size > kMostSentimentBytes) {
    fail("sentiment", "{}: {} bytes, more than {}. Run scripts/data sentiment again.",
         path.string(), size, kMostSentimentBytes);
  }
  const std::string bytes = read_file(path);
  std::string_view left = bytes;
  for (std::size_t number = 1; !left.empty(); ++number) {
    const auto damaged = [&](std::string_view what) {
      fail("sentiment", "{}: line {}: {}. Run scripts/data sentiment again.", path.string(), number,
           what);
    };
    const std::size_t end = left.find('\n');
    std::string_view line = left.substr(0, end);
    left.remove_prefix(end == std::string_view::npos ? left.size() : end + 1);
    if (line.ends_with('\r')) line.remove_suffix(1);
    const std::size_t first = line.find('\t');
    const std::size_t second = first == std::string_view::npos ? first : line.find('\t', first + 1);
    if (second == std::string_view::npos) damaged("it has not three cells with tabs between them");
    const std::string_view cell = line.substr(first + 1, second - first - 1);
    const std::optional<double> rating = parse_number<double>(cell, -4.0, 4.0);
    if (!rating) {
      damaged(shown_format("the rating is '{}', and -4 to 4 was expected", cell));
    }
    if (!is_utf8(line)) damaged("it is not UTF-8");
    const std::string_view id = line.substr(0, first);
    sentences.push_back({.text = std::string(line.substr(second + 1)),
                         .document = fmt::format("{} {}", domain, id.substr(0, id.find('_'))),
                         .rating = *rating});
  }
}

}  // namespace

std::vector<std::filesystem::path> sentiment_files(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  for (const std::string_view domain : kSentimentDomains) {
    files.push_back(folder / "sentiment" / (std::string(domain) + ".txt"));
  }
  return files;
}

std::vector<Sentence> read_sentiment(const std::filesystem::path& folder) {
  std::vector<Sentence> sentences;
  const auto files = sentiment_files(folder);
  for (std::size_t i = 0; i < files.size(); ++i) {
    read_sentences(files[i], kSentimentDomains[i], sentences);
  }
  if (sentences.empty()) {
    fail("sentiment", "{}: no sentence. Run scripts/data sentiment again.", folder.string());
  }
  return sentences;
}

}  // namespace moegrad
