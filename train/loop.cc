#include "train/loop.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <utility>

#include <nlohmann/json.hpp>

#include "moe/registry.h"
#include "tensor/files.h"
#include "tensor/folders.h"
#include "tensor/threads.h"
#include "train/begin_from.h"
#include "train/checkpoint.h"
#include "train/optimiser.h"
#include "train/run_checks.h"
#include "train/run_folder.h"
#include "train/schedule.h"
#include "train/step.h"
#include "train/task_shape.h"

namespace moegrad {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::ordered_json;

// Of the draws and the noise of steps: step i uses the stream kStepStream + i.
constexpr std::uint64_t kStepStream = 0x73746570'00000000U;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::unique_ptr<Optimiser> make_optimiser(const TrainConfig& c, const Parameters& parameters) {
  if (c.optimiser == "sgd") {
    return std::make_unique<SgdOptimiser>(
        parameters,
        SgdOptimiser::Config{
            .momentum = c.momentum, .nesterov = c.nesterov, .weight_decay = c.weight_decay});
  }
  return std::make_unique<AdamWOptimiser>(
      parameters,
      AdamWOptimiser::Config{.beta1 = c.beta1, .beta2 = c.beta2, .weight_decay = c.weight_decay});
}

Schedule::Kind kind_of(const std::string& schedule) {
  if (schedule == "cosine") return Schedule::Kind::cosine;
  return schedule == "wsd" ? Schedule::Kind::wsd : Schedule::Kind::constant;
}

// Adds what was measured to a line.
void add_to(Json& line, const Evaluation& e) {
  for (const auto& [name, value] : e.measures) line["test_" + name] = value;
  line["test_loss"] = e.loss;
  line["expert_load"] = e.expert_load;
  if (e.layer_loads.size() > 1) line["layer_loads"] = e.layer_loads;
  line["dropped"] = e.dropped;
}

// Likewise of the mixtures of a step: sums of their losses, means of the rest.
void add_to(Json& line, const std::vector<MixtureReport>& mixtures) {
  std::vector<std::vector<double>> loads;
  Json losses = Json::object();
  double dropped = 0.0;
  for (const MixtureReport& m : mixtures) {
    loads.push_back(m.expert_load);
    dropped += m.dropped / static_cast<double>(mixtures.size());
    for (const auto& [name, value] : m.losses) {
      losses[name] = (losses.contains(name) ? losses[name].get<double>() : 0.0) + value;
    }
  }
  line["losses"] = losses;
  line["expert_load"] = mean_of_lists(loads);
  if (loads.size() > 1) line["layer_loads"] = loads;
  line["dropped"] = dropped;
}

const Task& checked(const Task& task) {
  for (const auto& [name, data] : {std::pair("training", &task.train), {"test", &task.test}}) {
    if (data->x.size(0) == 0) {
      fail("train", "task '{}': the {} data have 0 examples. Give at least one.", task.name, name);
    }
    check_finite(*data, name + std::string(" data"));
  }
  return task;
}

// The model whose norms the gradients get; none where no estimator is named.
std::unique_ptr<Model> other_model(const TaskShape& shape, TrainConfig config, bool capture) {
  if (config.norms_of.empty()) return nullptr;
  if (capture) fail("train", "norms_of is read on the host at each step. Do not capture.");
  return make_model(shape, with_other_estimator(std::move(config)));
}

class TrainingRun {
 public:
  TrainingRun(const TrainConfig& config, const RunOptions& options, const Task& task)
      : config_(config),
        options_(options),
        task_(task),
        test_(evenly(task.test, config.test_examples)),
        data_(checksum_of(task)),
        folder_(options.out),
        model_(make_model(task.shape(), config)),
        norms_of_(other_model(task.shape(), config, options.capture)),
        checkpoints_(folder_.checkpoints(), config.keep, to_json(config, true),
                     to_json(task.shape()), data_) {
    const std::int64_t batches = Batches(task_.train, config.batch).size();
    total_ = config.steps > 0 ? config.steps : config.epochs * batches;
    schedule_ = {.kind = kind_of(config.schedule),
                 .rate = config.lr,
                 .warmup = std::min(config.warmup, total_ / 10),
                 .total = total_,
                 .floor = config.lr_floor};
    state_.rng = {static_cast<std::uint64_t>(config.seed), kStepStream, 0};
    if (options_.resume) return;
    make_parameters();
    begin_from(config_, task_, parameters_, *optimiser_,
               [&](std::string_view text) { message(text); });
  }

  TrainResult operator()() {
    if (!options_.resume) make_folder(folder_.path());
    lock_.emplace(folder_.path());
    options_.ready();
    if (options_.resume) {
      resume();
    } else {
      folder_.start(config_, options_.force);
    }
    MetricsLog metrics(folder_.metrics(), state_.step);
    seconds_ = metrics.seconds();
    first_step_ = state_.step;
    while (state_.step < total_) {
      epoch(metrics);
      if (signal_ != 0) return result({});
    }
    if (!evaluated_) evaluation_ = evaluate(*model_, parameters_, test_, config_.dropless);
    const TrainResult finished = result(evaluation_);
    lock_->require_held();
    write_file_atomic(folder_.result(), to_json(finished, config_) + "\n");
    return finished;
  }

 private:
  void message(std::string_view text) const {
    if (options_.progress != nullptr) options_.progress->message(text);
  }

  void make_parameters() {
    parameters_ = model_->initial(static_cast<std::uint64_t>(config_.seed), config_.type());
    if (task_.begin) task_.begin(parameters_);
    for (Parameter& p : parameters_) {
      if (p.router) p.rate *= config_.router_lr;
    }
    for (Parameter& p : parameters_) p.value = p.value.to(options_.device);
    optimiser_ = make_optimiser(config_, parameters_);
    step_.emplace(*model_, parameters_, *optimiser_,
                  StepOptions{.max_norm = config_.clip,
                              .parts = config_.parts,
                              .captures = options_.capture,
                              .norms_of = norms_of_.get()});
  }

  void require_same_task(const Checkpoint& checkpoint) const {
    if (!checkpoint.task) return;
    std::string other = difference(*checkpoint.task, task_.shape());
    if (other.empty() && !checkpoint.data.empty() && checkpoint.data != data_) {
      other = fmt::format("their checksum is {} there and {} here", checkpoint.data, data_);
    }
    if (other.empty()) return;
    fail("train", "{}: it was trained on other data: {}. Resume with the data of the run.",
         checkpoint.file.path.string(), other);
  }

  void resume() {
    TrainConfig there = folder_.resumed({});
    const std::int64_t epochs = there.epochs;
    there.epochs = std::max(epochs, config_.epochs);
    if (to_json(there, true) != to_json(config_, true)) {
      fail("train", "the run in '{}' has another configuration. Resume with RunFolder::resumed.",
           folder_.path().string());
    }
    folder_.prepare();
    const auto newest = checkpoints_.newest();
    if (newest) {
      const Checkpoint checkpoint = checkpoints_.read(*newest);
      require_sizes(checkpoint.file, model_->mixture().config(), config_.type());
      require_same_task(checkpoint);
      const pool::Budget budget(budget_of(checkpoint.file));
      make_parameters();
      Checkpoints::restore(checkpoint, parameters_, *optimiser_);
      state_ = checkpoint.state;
      checkpoint_ = *newest;
      message(shown_format("going on from {}", newest->string()));
      if (!checkpoint.device.empty() && checkpoint.device != kernels_of(options_.device)) {
        message(shown_format(
            "it was trained on the {} device so far: from here on, on the {} device, the steps are "
            "those of that device within rounding, not to the bit",
            checkpoint.device, name_of(options_.device)));
      }
    } else {
      make_parameters();
      begin_from(config_, task_, parameters_, *optimiser_,
                 [&](std::string_view text) { message(text); });
      message(shown_format("no checkpoint in {}: starting from the beginning",
                           folder_.checkpoints().string()));
    }
    if (config_.epochs > epochs) {
      folder_.extend(config_.epochs);
      message(fmt::format(
          "extended from {} to {} epochs: from step {} on the learning rate is that of a run of {} "
          "steps ({}, warm-up of {})",
          epochs, config_.epochs, state_.step + 1, total_, config_.schedule, schedule_.warmup));
    } else if (state_.step < total_) {
      remove_file(folder_.result());
    }
  }

  // The rest of the current epoch, or a part of it when the run is to stop.
  void epoch(MetricsLog& metrics) {
    const Batches batches(task_.train, config_.batch,
                          epoch_rng(static_cast<std::uint64_t>(config_.seed),
                                    static_cast<std::uint64_t>(state_.epoch)));
    while (true) {
      const Clock::time_point start = Clock::now();
      const std::int64_t epoch_of_step = state_.epoch;
      const Batch batch = batches.get(state_.batch);
      const double learning_rate = schedule_.at(state_.step);
      const StepReport report = step(batch, learning_rate);
      advance(batches.size());
      seconds_ += seconds_since(start);
      examples_ += batch.x.size(0);
      example_seconds_ += seconds_since(start);
      show(metrics, report, learning_rate, epoch_of_step);
      if (options_.stop != nullptr) signal_ = options_.stop->load();
      const bool whole = state_.batch == 0;  // the epoch
      const bool finished = state_.step == total_;
      const auto every = [&](std::int64_t steps, bool otherwise) {
        return steps > 0 ? state_.step % steps == 0 : otherwise;
      };
      evaluated_ = finished || every(config_.evaluate_every, whole);
      if (evaluated_) evaluate_here(metrics);
      if (evaluated_ || signal_ != 0 || every(config_.checkpoint_every, whole)) save();
      if (finished) signal_ = 0;
      if (finished || whole || signal_ != 0) return;
    }
  }

  void evaluate_here(MetricsLog& metrics) {
    evaluation_ = evaluate(*model_, parameters_, test_, config_.dropless);
    Json line = {{"kind", "evaluation"}, {"step", state_.step}, {"epoch", state_.epoch}};
    add_to(line, evaluation_);
    line["seconds"] = seconds_;
    metrics.line(line.dump());
    const std::string place = state_.batch == 0 ? fmt::format("epoch {}/{}", state_.epoch, epochs())
                                                : fmt::format("step {}/{}", state_.step, total_);
    message(place + ": " + text_of(evaluation_));
  }

  // In which the run ends.
  std::int64_t epochs() const {
    const std::int64_t batches = Batches(task_.train, config_.batch).size();
    return (total_ + batches - 1) / batches;
  }

  void advance(std::int64_t batches) {
    ++state_.step;
    if (++state_.batch == batches) {
      state_.batch = 0;
      ++state_.epoch;
    }
    state_.rng = state_.rng.split(kStepStream + static_cast<std::uint64_t>(state_.step));
  }

  std::string here() const {
    return fmt::format("step {} (epoch {}, batch {})", state_.step + 1, state_.epoch + 1,
                       state_.batch + 1);
  }
  std::string advice() const {
    return "Lower the learning rate. " +
           (checkpoint_.empty()
                ? std::string("There is no checkpoint yet.")
                : fmt::format("The last checkpoint is '{}'.", checkpoint_.string()));
  }

  StepReport step(const Batch& batch, double learning_rate) {
    const bool logged = (state_.step + 1) % config_.log_every == 0;
    StepReport report = (*step_)(batch, state_.rng, learning_rate, logged);
    if (!report.failure.empty()) fail("train", "{}: {} {}", here(), report.failure, advice());
    return report;
  }

  void save() {
    const Clock::time_point start = Clock::now();
    lock_->require_held();
    try {
      checkpoint_ = checkpoints_.save(state_, parameters_, *optimiser_);
    } catch (const Error&) {
      lock_->require_held();  // the better reason
      throw;
    }
    seconds_ += seconds_since(start);
  }

  void show(MetricsLog& metrics, const StepReport& report, double learning_rate,
            std::int64_t epoch_of_step) {
    const double rate = static_cast<double>(examples_) / std::max(1e-9, example_seconds_);
    const double per_step = seconds_since(start_) / static_cast<double>(state_.step - first_step_);
    const ProgressView view = {
        .epoch = epoch_of_step + 1,
        .epochs = epochs(),
        .step = state_.step,
        .steps = total_,
        .loss = report.loss,
        .examples_per_second = rate,
        .seconds_left = per_step * static_cast<double>(total_ - state_.step)};
    if (options_.progress != nullptr) options_.progress->update(view);
    if (options_.after_step) options_.after_step(view);
    if (report.mixtures.empty()) return;
    Json line = {{"kind", "step"},
                 {"step", state_.step},
                 {"epoch", epoch_of_step},
                 {"loss", report.loss},
                 {"auxiliary", report.auxiliary}};
    add_to(line, report.mixtures);
    line["learning_rate"] = learning_rate;
    line["gradient_norm"] = report.gradient_norm;
    line["examples_per_second"] = rate;
    line["seconds"] = seconds_;
    metrics.line(line.dump());
    examples_ = 0;
    example_seconds_ = 0.0;
  }

  TrainResult result(const Evaluation& evaluation) const {
    TrainResult r;
    r.test = evaluation;
    r.train_seconds = seconds_;
    r.steps = state_.step;
    r.seed = config_.seed;
    for (const Parameter& p : parameters_) r.parameters += p.value.numel();
    r.maths = options_.maths;
    r.signal = signal_;
    r.checkpoint = checkpoint_;
    r.data = data_;
    return r;
  }

  const TrainConfig& config_;
  const RunOptions& options_;
  const Task& task_;
  const Dataset test_;  // what evaluations take
  std::string data_;    // its checksum
  RunFolder folder_;
  std::optional<FolderLock> lock_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Model> norms_of_;  // null: the gradients keep their own
  Parameters parameters_;
  std::unique_ptr<Optimiser> optimiser_;
  std::optional<TrainingStep> step_;
  Checkpoints checkpoints_;
  Schedule schedule_;
  TrainState state_;
  std::int64_t total_ = 0;
  std::int64_t first_step_ = 0;
  std::filesystem::path checkpoint_;
  Evaluation evaluation_;
  bool evaluated_ = false;
  int signal_ = 0;
  double seconds_ = 0.0;
  // Since the last line of metrics.
  std::int64_t examples_ = 0;
  double example_seconds_ = 0.0;
  Clock::time_point start_ = Clock::now();
};

}  // namespace

Maths maths_named(const std::string& name) {
  for (const Maths maths : {Maths::exact, Maths::tf32, Maths::bf16}) {
    if (name == name_of(maths)) return maths;
  }
  fail("train", "--maths is '{}'. Use exact, tf32 or bf16.", name);
}

std::string to_json(const TrainResult& r, const TrainConfig& config) {
  Json object = {{"task", config.task},
                 {"router", config.router},
                 {"estimator", config.estimator},
                 {"auxiliary_losses", Layer(config.layer()).losses()},
                 {"interrupted", r.signal != 0},
                 {"steps", r.steps},
                 {"seed", r.seed},
                 {"data", r.data},
                 {"parameters", r.parameters},
                 {"maths", name_of(r.maths)},
                 {"train_seconds", r.train_seconds},
                 {"checkpoint", r.checkpoint.string()}};
  if (r.signal == 0) add_to(object, r.test);
  return object.dump(2, ' ', true, Json::error_handler_t::replace);  // also for a terminal
}

TrainResult train(const TrainConfig& config, const RunOptions& options) {
  if (options.maths != Maths::exact && options.device != Device::cuda) {
    fail("train", "maths is {}, and the device is {}. Use the device cuda, or exact.",
         name_of(options.maths), name_of(options.device));
  }
  if (options.maths != Maths::exact && config.type() != DType::f32) {
    fail("train", "maths is {}, which is for f32, and dtype is {}. Use f32, or exact.",
         name_of(options.maths), config.dtype);
  }
  const MathsScope maths(options.maths);
  const ThreadScope threads(options.threads);
  check_run(config);
  Layer(config.layer()).say_where_silent();
  if (options.capture) require_capturable(config, options.device);
  const Task loaded = options.task != nullptr ? *options.task : load_task(config, [&](auto text) {
    if (options.progress != nullptr) options.progress->message(text);
  });
  if (options.progress != nullptr && !loaded.columns.empty()) {
    options.progress->message(loaded.summary);
  }
  return TrainingRun(config, options, checked(loaded))();
}

}  // namespace moegrad
