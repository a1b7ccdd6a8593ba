#pragma once

#include "train/dataset.h"

namespace moegrad {

// The reviews of clothing that have a text, each text once, from folder/reviews/reviews.csv; three targets:
//   "rating"        1 to 5, a number
//   "recommended"   1 where the writer recommends the piece
//   "department"    of as many classes as the file has; of a few it is not known
// x is a bag of words: column j is 1 where the text has word j of the kReviewWords that most training
// texts have (of words in as many the first by the alphabet; fewer where there are fewer). A word is a
// run of letters of ASCII, in lower case. A fifth of the reviews, drawn by the seed, is the test.
inline constexpr std::int64_t kReviewWords = 1000;
Task load_reviews(const TaskOptions& options);

}  // namespace moegrad
