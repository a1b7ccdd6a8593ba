// Which model a task and a configuration ask for.

#include "train/classifier.h"
#include "train/config.h"
#include "train/language_model.h"
#include "train/recommender.h"

namespace moegrad {

std::unique_ptr<Model> make_model(const TaskShape& task, const TrainConfig& config) {
  if (!task.fields.empty()) {
    return std::make_unique<Recommender>(task.fields, task.targets, config.layer());
  }
  if (task.ids) {
    return std::make_unique<LanguageModel>(
        LanguageModel::Size{
            .layers = config.layers, .heads = config.heads, .context = task.inputs - 1},
        config.layer(), BytePairs(task.pairs));
  }
  return std::make_unique<Classifier>(task.inputs, task.targets, config.layer());
}

}  // namespace moegrad
