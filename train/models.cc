// Which model a task and a configuration ask for.

#include "train/classifier.h"
#include "train/config.h"
#include "train/image_classifier.h"
#include "train/language_model.h"
#include "train/recommender.h"
#include "train/student.h"

namespace moegrad {

std::unique_ptr<Model> make_model(const TaskShape& task, const TrainConfig& config) {
  if (config.expert == "cnn" && (task.ids || !task.fields.empty())) {
    fail("model",
         "the experts are convolutional, and the task '{}' has no images. Give --expert network.",
         config.task);
  }
  if (!task.fields.empty()) {
    return std::make_unique<Recommender>(task.fields, task.targets, config.layer());
  }
  if (task.vocabulary > 0) {
    return std::make_unique<Student>(EncoderSize{.pieces = task.vocabulary,
                                                 .places = task.inputs,
                                                 .width = config.width,
                                                 .heads = config.heads,
                                                 .layers = config.layers},
                                     Student::Guidance{.kl = config.teacher_kl,
                                                       .features = config.teacher_features,
                                                       .temperature = config.temperature},
                                     task.targets, config.layer());
  }
  if (task.ids) {
    return std::make_unique<LanguageModel>(
        LanguageModel::Size{
            .layers = config.layers, .heads = config.heads, .context = task.inputs - 1},
        config.layer(), BytePairs(task.pairs));
  }
  if (config.expert == "cnn") {
    return std::make_unique<ImageClassifier>(task.inputs, task.targets, config.layer());
  }
  return std::make_unique<Classifier>(task.inputs, task.targets, config.layer());
}

}  // namespace moegrad
