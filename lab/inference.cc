#include "lab/inference.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include <nlohmann/json.hpp>

#include "lab/fidelity.h"
#include "moe/registry.h"
#include "tensor/folders.h"
#include "train/evaluation.h"
#include "train/run_folder.h"

namespace moegrad {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr std::uint64_t kModeStream = 0x6d6f6465'00000000U;

struct Measured {
  std::vector<double> losses;  // by target, of the mean row
  std::vector<double> known;   // by target, the rows whose label is known
  double experts = 0.0;

  double loss() const { return std::accumulate(losses.begin(), losses.end(), 0.0); }
};

// Of each target the mean over the rows of all batches where it is known; of all targets the sum.
class MeanLoss {
 public:
  void add(const Measured& m) {
    sums_.resize(m.losses.size());
    known_.resize(m.losses.size());
    for (std::size_t t = 0; t < sums_.size(); ++t) {
      sums_[t] += m.losses[t] * m.known[t];
      known_[t] += m.known[t];
    }
  }
  double value() const {
    double sum = 0.0;
    for (std::size_t t = 0; t < sums_.size(); ++t) {
      if (known_[t] > 0.0) sum += sums_[t] / known_[t];
    }
    return sum;
  }

 private:
  std::vector<double> sums_;
  std::vector<double> known_;
};

Measured measured(const StoredModel& model, const Batch& batch, bool training, const Rng& rng) {
  Tape tape(Tape::Options{.gradients = false, .rng = rng});
  const Pass pass = model.model->forward(tape, batch, model.parameters,
                                         {.training = training, .dropless = model.config.dropless});
  Measured m;
  for (std::size_t t = 0; t < pass.predictions.size(); ++t) {
    const Target& target = model.model->targets()[t];
    const Prediction& prediction = pass.predictions[t];
    m.losses.push_back(loss_of(target, prediction).value().item());
    const std::span<const std::int32_t> labels = prediction.labels.values<std::int32_t>();
    m.known.push_back(static_cast<double>(std::ranges::count_if(
        labels, [&](std::int32_t label) { return label >= 0 || !target.partial; })));
  }
  for (const MixturePass& mixture : pass.mixtures) {
    m.experts +=
        mixture.out.experts_of_a_token().item() / static_cast<double>(pass.mixtures.size());
  }
  return m;
}

Batch of_model_type(Batch batch, const StoredModel& model) {
  if (is_floating(batch.x.dtype())) batch.x = batch.x.to(model.config.type());
  return batch;
}

// The model with another estimator, which begins with the parameters that both have.
StoredModel with_estimator(const StoredModel& model, const std::string& estimator) {
  StoredModel other;
  other.config = model.config;
  const EstimatorEntry& own = estimator_entry(model.config.estimator);
  if (estimator != own.name) {
    for (const OptionSpec& spec : own.options) other.config.options.erase(spec.name);
  }
  other.config.estimator = estimator;
  other.config.router_gradient.clear();
  other.config.expert_gradient.clear();
  const bool text = model.task.ids && model.task.fields.empty();
  for (const OptionSpec& spec : estimator_entry(estimator).options) {
    if (spec.name == "forward") other.config.options[spec.name] = "false";
    if (spec.name == "causal" && text) other.config.options[spec.name] = "true";
  }
  other.task = model.task;
  other.step = model.step;
  other.model = make_model(model.task, other.config);
  other.parameters = other.model->initial(1, model.config.type());
  for (const Parameter& p : model.parameters) {
    if (Parameter* const mine = other.parameters.find(p.name)) mine->value = p.value;
  }
  return other;
}

std::vector<Tensor> predictions_of(const StoredModel& model, const Batch& batch, bool training) {
  Tape tape(Tape::Options{.gradients = false, .rng = {.seed = 1, .stream = kModeStream}});
  const Pass pass = model.model->forward(tape, batch, model.parameters, {.training = training});
  std::vector<Tensor> values;
  for (const Prediction& p : pass.predictions) values.push_back(p.value.value().clone());
  return values;
}

// The largest difference, and whether all bits are the same.
double difference_of(const std::vector<Tensor>& a, const std::vector<Tensor>& b, bool& same) {
  double largest = 0.0;
  same = true;
  for (std::size_t i = 0; i < a.size(); ++i) {
    same = same && a[i].same_bits(b[i]);
    for (std::int64_t j = 0; j < a[i].numel(); ++j) {
      largest = std::max(largest, std::abs(a[i].at(j) - b[i].at(j)));
    }
  }
  return largest;
}

}  // namespace

ModeGap mode_gap(const StoredModel& model, const Dataset& data, int draws) {
  const Batches batches(data, rows_of_pass(*model.model));
  std::vector<double> training;
  std::vector<double> inference;
  MeanLoss in_training;
  MeanLoss at_inference;
  ModeGap gap;
  for (std::int64_t i = 0; i < batches.size(); ++i) {
    const Batch batch = of_model_type(batches.get(i), model);
    const double weight =
        static_cast<double>(batch.x.size(0)) / static_cast<double>(data.x.size(0));
    const Measured calm = measured(model, batch, false, {.seed = 1, .stream = kModeStream});
    inference.push_back(calm.loss());
    at_inference.add(calm);
    gap.experts_inference += weight * calm.experts;
    double sum = 0.0;
    for (int d = 0; d < draws; ++d) {
      const std::uint64_t stream = kModeStream + static_cast<std::uint64_t>(i * draws + d);
      const Measured m = measured(model, batch, true, {.seed = 1, .stream = stream});
      sum += m.loss() / draws;
      in_training.add(m);
      gap.experts_training += weight * m.experts / draws;
    }
    training.push_back(sum);
  }
  gap.training = in_training.value();
  gap.inference = at_inference.value();
  gap.error = paired_difference(training, inference, 0.0).error;
  return gap;
}

std::vector<GapRow> gaps_of(const StudyPlan& plan, const fs::path& folder,
                            const std::vector<Dataset>& data, int draws) {
  std::vector<GapRow> rows;
  for (const Variant& method : plan.methods) {
    GapRow& row = rows.emplace_back();
    row.method = method.name;
    double squares = 0.0;
    for (int seed = 1; seed <= plan.seeds; ++seed) {
      const fs::path run = folder / run_name(plan.points.front(), method.name, seed);
      if (!path_exists(RunFolder(run).result())) continue;
      const Dataset& of_seed = data.at(static_cast<std::size_t>(seed - 1));
      const ModeGap gap = mode_gap(load_model(checkpoint_of(run)), of_seed, draws);
      ++row.runs;
      row.mean.training += gap.training;
      row.mean.inference += gap.inference;
      row.mean.experts_training += gap.experts_training;
      row.mean.experts_inference += gap.experts_inference;
      squares += gap.error * gap.error;
    }
    const double n = row.runs;
    for (double* const mean : {&row.mean.training, &row.mean.inference, &row.mean.experts_training,
                               &row.mean.experts_inference}) {
      *mean /= n;  // NaN where none has ended
    }
    row.mean.error = std::sqrt(squares) / n;
  }
  return rows;
}

std::string to_json(const GapRow& row) {
  const ModeGap& m = row.mean;
  return Json{{"method", row.method},
              {"runs", row.runs},
              {"training", m.training},
              {"inference", m.inference},
              {"gap", m.training - m.inference},
              {"error", m.error},
              {"experts_training", m.experts_training},
              {"experts_inference", m.experts_inference}}
      .dump();
}

std::vector<BitsRow> bits_of_estimators(const StoredModel& model, const Batch& host) {
  const Batch batch = of_model_type(host, model);
  const StoredModel sparse = with_estimator(model, "sparse");
  const std::vector<Tensor> training = predictions_of(sparse, batch, true);
  const std::vector<Tensor> inference = predictions_of(sparse, batch, false);
  std::vector<BitsRow> rows;
  for (const std::string& name : comparable_estimators()) {
    StoredModel other;
    try {
      other = with_estimator(model, name);
    } catch (const Error&) {
      continue;  // it does not go with the router
    }
    BitsRow& row = rows.emplace_back();
    row.estimator = name;
    const EstimatorEntry& entry = estimator_entry(name);
    row.backward_only = entry.traits.backward_only ||
                        std::ranges::any_of(entry.options, [](const OptionSpec& option) {
                          return option.name == "forward";
                        });
    row.training = difference_of(training, predictions_of(other, batch, true), row.same_training);
    row.inference =
        difference_of(inference, predictions_of(other, batch, false), row.same_inference);
  }
  return rows;
}

std::string to_json(const BitsRow& row) {
  return Json{{"estimator", row.estimator},          {"backward_only", row.backward_only},
              {"same_training", row.same_training},  {"same_inference", row.same_inference},
              {"training_difference", row.training}, {"inference_difference", row.inference}}
      .dump();
}

std::vector<Variant> every_router(const TrainConfig& base, const TaskShape& task,
                                  std::vector<std::string>& left_out) {
  std::vector<Variant> all;
  for (const RouterEntry& entry : routers()) {
    Variant variant{entry.name, {{"router", entry.name}}};
    if (entry.name != "top-k") variant.settings.emplace_back("aux", "-1");  // that of its paper
    const std::int64_t k = std::clamp(base.active, entry.least_active,
                                      std::max(entry.least_active, entry.most_active));
    if (k != base.active) variant.settings.emplace_back("active", std::to_string(k));
    const bool own = std::ranges::any_of(
        estimators(), [&](const EstimatorEntry& e) { return e.name == entry.name; });
    if (own) variant.settings.emplace_back("estimator", entry.name);
    TrainConfig config = base;
    apply_settings(config, variant.settings);
    try {
      make_model(task, config);
      all.push_back(std::move(variant));
    } catch (const Error& error) {
      left_out.push_back(entry.name + ": " + error.what());
    }
  }
  // What others are held against comes first.
  std::stable_partition(all.begin(), all.end(), [](const Variant& v) { return v.name == "top-k"; });
  return all;
}

}  // namespace moegrad
