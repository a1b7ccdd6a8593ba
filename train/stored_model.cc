#include "train/stored_model.h"

#include "tensor/folders.h"
#include "train/checkpoint.h"
#include "train/run_folder.h"
#include "train/task_shape.h"

namespace moegrad {

TrainConfig stored_config(const std::filesystem::path& checkpoint) {
  return stored_run(read_checkpoint(checkpoint).settings);
}

std::vector<std::filesystem::path> checkpoints_of(const std::filesystem::path& run) {
  if (!folder_exists(run)) return {run};
  std::vector<std::filesystem::path> all = Checkpoints(RunFolder(run).checkpoints()).list();
  if (all.empty()) {
    fail("model", "'{}' has no checkpoint. Give the folder of a run, or a checkpoint.",
         run.string());
  }
  return all;
}

std::filesystem::path checkpoint_of(const std::filesystem::path& run) {
  return checkpoints_of(run).back();
}

StoredModel load_model(const std::filesystem::path& path, Device device) {
  const Checkpoint checkpoint = read_checkpoint(path);
  StoredModel stored;
  stored.config = stored_run(checkpoint.settings);
  stored.step = checkpoint.state.step;
  stored.task =
      checkpoint.task ? *checkpoint.task : shape_of_task(stored.config.task, path.string());
  stored.model = make_model(stored.task, stored.config);
  require_sizes(checkpoint.file, stored.model->mixture().config(), stored.config.type());
  const pool::Budget budget(budget_of(checkpoint.file));
  stored.parameters =
      stored.model->initial(static_cast<std::uint64_t>(stored.config.seed), stored.config.type());
  for (Parameter& p : stored.parameters) {
    p.value = stored_tensor(checkpoint.file, "parameter." + p.name, p.value).to(device);
  }
  return stored;
}

TrainConfig config_of(const std::filesystem::path& run, const StoredModel& stored) {
  return folder_exists(run) ? RunFolder(run).resumed({}) : stored.config;
}

void require_shape(const StoredModel& model, const TaskShape& data) {
  if (model.task == data) return;
  fail("model",
       "it was trained on {}, and the data are {}. Give data like those it was trained on.",
       to_json(model.task), to_json(data));
}

}  // namespace moegrad
