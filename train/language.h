#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "train/dataset.h"

namespace moegrad {

// Pieces of text, where its vocabulary is the bytes alone.
inline constexpr std::int64_t kBytes = 256;

// The domains that scripts/data puts into folder/language/DOMAIN/{train,validation}.txt: documents,
// each ended by a zero byte.
std::vector<std::string> language_domains();

// Windows of text, [N, context + 1] i32: the pieces that a model sees and, shifted by one, tells.
// They follow each other, so that each piece but the first of a domain is told once; the rest of a
// domain that fills no window is left out. Labels are the place of the domain in `names`.
struct Language {
  std::vector<std::string> names;
  BytePairs pairs;  // what the texts to train on teach, where no others are given
  Dataset train;
  Dataset test;  // at most 1024 windows, evenly from the whole
};

// `domains`: "all", or names with commas between them. Errors: an unknown domain; a file that is
// missing, or shorter than a window; those of BytePairs::learn.
Language load_language(const std::filesystem::path& folder, std::string_view domains,
                       std::int64_t context, std::int64_t pieces = kBytes);
// In the pieces that a model has.
Language load_language(const std::filesystem::path& folder, std::string_view domains,
                       std::int64_t context, const BytePairs& pairs);

}  // namespace moegrad
