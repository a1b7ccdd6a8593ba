#include "train/stored_model.h"

#include "train/checkpoint.h"

namespace moegrad {

TrainConfig stored_config(const std::filesystem::path& checkpoint) {
  return stored_run(read_checkpoint(checkpoint).settings);
}

StoredModel load_model(const std::filesystem::path& path, const Task& task, Device device) {
  const Checkpoint checkpoint = read_checkpoint(path);
  StoredModel stored;
  stored.config = stored_run(checkpoint.settings);
  stored.step = checkpoint.state.step;
  stored.model = make_model(task, stored.config);
  require_sizes(checkpoint.file, stored.model->mixture().config(), stored.config.type());
  const pool::Budget budget(budget_of(checkpoint.file));
  stored.parameters =
      stored.model->initial(static_cast<std::uint64_t>(stored.config.seed), stored.config.type());
  for (Parameter& p : stored.parameters) {
    p.value = stored_tensor(checkpoint.file, "parameter." + p.name, p.value).to(device);
  }
  return stored;
}

}  // namespace moegrad
