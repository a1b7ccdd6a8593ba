#pragma once

#include "train/dataset.h"

namespace moegrad {

// MovieLens-100K (Harper & Konstan 2015) from folder/movielens/ml-100k.{inter,user,item}, two targets
// of a user and a film:
//   "rating"   1 to 5, a number; -1 where there is none
//   "watched"  1 for a rating, 0 for a film that stands in
// For each rating of a user stands another row: a film that the user has not rated, drawn without
// replacement; so every method sees the same ones. A fifth of the ratings, drawn over all of them as
// in the five folds u1 to u5 of GroupLens, is the test, each with the film that stands in for it: a
// user is on both sides, and a film may be. Both draws are functions of the seed.
//
// x are the fields user, age (in seven parts), gender, occupation, film, year (in twelve parts, the
// first unknown), genres.
// Errors: what is no number, user or film; a user who rated so many films that too few are left.
Task load_movielens(const TaskOptions& options);

}  // namespace moegrad
