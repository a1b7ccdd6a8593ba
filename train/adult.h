#pragma once

#include "train/dataset.h"

namespace moegrad {

// Adult (Becker & Kohavi 1996), persons of a census, from folder/adult/adult.csv; two targets:
//   "income"    1 for more than 50,000 dollars a year
//   "marital"   the marital status, of as many classes as the file has
// x are the other columns but "relationship", which says who is a husband: numbers less their mean by
// their standard deviation, both of the training rows; of each text as many columns as the file has
// values, one of them 1. A fifth of the rows, drawn by the seed, is the test.
Task load_adult(const TaskOptions& options);

}  // namespace moegrad
