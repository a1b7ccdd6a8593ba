#pragma once

#include <vector>

#include "train/dataset.h"
#include "train/model.h"

namespace moegrad {

struct Evaluation {
  double accuracy = 0.0;
  double loss = 0.0;
  // The part of the choices that fell on each expert; sums to 1.
  std::vector<double> expert_load = {};
  double dropped = 0.0;  // the part of all choices that found their expert full
};

// Accuracy, loss and loads over a data set, in inference; `dropless`: LayerInput::dropless.
Evaluation evaluate(const Classifier& model, const Parameters& parameters, const Dataset& data,
                    bool dropless = false);

// Parts of a whole, of numbers that are 0 or more; zeros where all are.
std::vector<double> shares(std::vector<double> numbers);

}  // namespace moegrad
