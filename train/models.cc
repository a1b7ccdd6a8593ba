// Which model a task and a configuration ask for.

#include "train/classifier.h"
#include "train/config.h"
#include "train/language_model.h"

namespace moegrad {

std::unique_ptr<Model> make_model(const Task& task, const TrainConfig& config) {
  if (task.train.x.dtype() == DType::i32) {
    return std::make_unique<LanguageModel>(
        LanguageModel::Size{
            .layers = config.layers, .heads = config.heads, .context = task.train.x.size(1) - 1},
        config.layer());
  }
  return std::make_unique<Classifier>(task.train.x.size(1), task.targets, config.layer());
}

}  // namespace moegrad
