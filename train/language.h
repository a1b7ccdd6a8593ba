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

// The domains of "all", or of names with commas between them. An Error for an unknown one, or one
// that is there twice.
std::vector<std::string> chosen_domains(std::string_view domains);

// The pieces of text that the training texts of the domains teach (BytePairs::learn); the bytes need
// no texts.
BytePairs learned_pairs(const std::filesystem::path& folder, std::string_view domains,
                        std::int64_t pieces);

// Windows of text, [N, context + 1] i32: the pieces that a model sees and, shifted by one, tells.
// They follow each other, so that each piece but the first of a domain is told once; the rest of a
// domain that fills no window is left out. Labels are the place of the domain in chosen_domains().
// Of the texts to test on at most 1024, evenly from the whole. Errors: those of chosen_domains(); a
// file that is missing, or shorter than a window.
Dataset training_windows(const std::filesystem::path& folder, std::string_view domains,
                         std::int64_t context, const BytePairs& pairs = {});
Dataset test_windows(const std::filesystem::path& folder, std::string_view domains,
                     std::int64_t context, const BytePairs& pairs = {});

}  // namespace moegrad
