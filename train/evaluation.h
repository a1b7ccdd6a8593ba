#pragma once

#include <string>
#include <utility>
#include <vector>

#include "train/dataset.h"
#include "train/model.h"

namespace moegrad {

struct Evaluation {
  double loss = 0.0;  // the sum over the targets of their mean losses
  // What the field measures of each target, over the examples where it is known: of classes the
  // accuracy, of text the perplexity a byte too, of a binary one accuracy and auc, of a number rmse. Named alone, "accuracy", where the
  // model has one target; else "TARGET_accuracy".
  std::vector<std::pair<std::string, double>> measures = {};
  // Of each mixture layer, the part of the choices that fell on each expert; sums to 1.
  std::vector<std::vector<double>> layer_loads = {};
  std::vector<double> expert_load = {};  // their mean
  double dropped = 0.0;                  // the part of all choices that found their expert full

  // NaN where there is none of this name.
  double measure(std::string_view name) const;
  double accuracy() const { return measure("accuracy"); }
};

// "test accuracy 0.9000, test loss 0.1000".
std::string text_of(const Evaluation& evaluation);

// So many examples of a data set make a pass of an evaluation. What a router with a capacity, or one
// by which experts choose tokens, does with a token depends on the others of its pass.
std::int64_t rows_of_pass(const Model& model);

// Over a data set, in inference; `dropless`: LayerInput::dropless.
Evaluation evaluate(const Model& model, const Parameters& parameters, const Dataset& data,
                    bool dropless = false);

// Of each row of x, [N, inputs], the chances of the classes, in inference: f64 [N, classes]. An Error
// for a model that does not tell one class.
Tensor probabilities(const Model& model, const Parameters& parameters, const Tensor& x,
                     bool dropless = false);

// Parts of a whole, of numbers that are 0 or more; zeros where all are.
std::vector<double> shares(std::vector<double> numbers);
// Elementwise, of lists of one length.
std::vector<double> mean_of_lists(const std::vector<std::vector<double>>& lists);

}  // namespace moegrad
