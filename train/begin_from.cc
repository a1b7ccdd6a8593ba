#include "train/begin_from.h"

#include <filesystem>
#include <string>
#include <vector>

#include "train/checkpoint.h"
#include "train/stored_model.h"

namespace moegrad {

void begin_from(const TrainConfig& config, const Task& task, Parameters& parameters,
                Optimiser& optimiser, const std::function<void(std::string_view)>& message) {
  if (config.from.empty()) return;
  const std::filesystem::path path = checkpoint_of(config.from);
  const Checkpoint checkpoint = read_checkpoint(path);
  if (const auto& other = checkpoint.task;
      other && other->pairs.size() == task.pairs.size() && other->pairs != task.pairs) {
    const TrainConfig of = stored_run(checkpoint.settings);
    const std::string& teachers = of.pieces_from.empty() ? of.domains : of.pieces_from;
    fail("train",
         "{}: its pieces of text are others, taught by {}. Give --pieces-from {}, and the same "
         "texts.",
         path.string(), teachers, teachers);
  }
  const std::vector<std::string> missing =
      Checkpoints::copy_common(checkpoint, parameters, optimiser);
  message(shown_format("beginning with the parameters of {}", path.string()));
  if (!missing.empty()) {
    message(shown_format("not there, drawn anew: {}", fmt::join(missing, ", ")));
  }
  const TrainConfig there = stored_run(checkpoint.settings);
  if (there.task != config.task || there.seed == config.seed || !is_drawn(there.task)) return;
  message(
      fmt::format("its data were drawn from the seed {}, and these from {}: what is tested here "
                  "may have been trained on there",
                  there.seed, config.seed));
}

}  // namespace moegrad
