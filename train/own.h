#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "train/dataset.h"

namespace moegrad {

inline constexpr std::int64_t kMostCategories = 1000;  // of a column of texts
inline constexpr std::int64_t kMostOwnClasses = 10'000;
inline constexpr std::int64_t kMostColumns = 1 << 18;

// The task own: the rows of a file (train/table.h), to tell the class of. TaskOptions: `label` is the
// column of the labels, by name or number; else that called "label", or the last. The test data are
// round(rows * test_share) rows, 1 at least, the first of a permutation drawn from the seed, in the
// order of the file; or those of test_file. Errors name the row, the column and the value.
//   columns  where more than half of the cells that are not empty are numbers, the column is of
//            numbers: v becomes (v - mean) / deviation, both over the training rows, deviation 1 where
//            all are equal. Pixels are divided by 255. Any other column is of texts: one-hot, in the
//            order of the sorted texts of the training rows, kMostCategories at most.
//   classes  the distinct labels of the file, sorted: by value where all are whole numbers. With
//            options.classes, whole numbers from 0 to classes - 1, or as many distinct texts.
Task load_own(const TaskOptions& options);

struct OwnOptions {
  DType dtype = DType::f32;
  std::string header = "auto";  // as in TaskOptions
  bool labels = true;           // ask for them; else they are not looked at, and 0
};
// The rows of another file as a model of `task` reads them, which has been trained on load_own: columns
// by their names where the file has names, else by their places, with or without the labels.
Dataset read_own(const std::filesystem::path& file, const TaskShape& task,
                 const OwnOptions& options);

}  // namespace moegrad
