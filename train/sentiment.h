#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace moegrad {

// A sentence that 20 persons have rated from -4, very negative, to 4 (Hutto & Gilbert 2014).
struct Sentence {
  std::string text;
  std::string document;  // that it is from: "editorial 12"; a film snippet or a tweet is its own
  double rating = 0.0;
};

// Those of scripts/data, folder/sentiment/{film,editorial,product,tweets}.txt, in the order of the
// files. Errors name file and line: three cells, a rating between -4 and 4, UTF-8.
std::vector<Sentence> read_sentiment(const std::filesystem::path& folder);
std::vector<std::filesystem::path> sentiment_files(const std::filesystem::path& folder);

}  // namespace moegrad
