#include "train/step.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "tensor/kernels.h"
#include "tensor/maths.h"
#include "train/evaluation.h"

namespace moegrad {
namespace {

Tensor scalar(double value, Device device) { return Tensor::full({}, value, DType::f64, device); }

bool alike(const Tensor& a, const Tensor& b) {
  return a.defined() == b.defined() && a.dtype() == b.dtype() && a.shape() == b.shape();
}

}  // namespace

StepReport TrainingStep::operator()(const Batch& batch, const Rng& rng, double learning_rate,
                                    bool of_mixture) {
  const Device device = parameters_.device();
  StepReport report = report_of(
      captures_ ? replay(batch, rng, learning_rate)
                : compute(batch.to(device), rng, scalar(learning_rate, device), of_mixture),
      of_mixture);
  if (!std::isfinite(report.objective)) {
    const double total = report.objective;
    const char* const value = std::isnan(total) ? "nan" : total > 0 ? "inf" : "-inf";
    report.failure = fmt::format("the loss is {}: {}", value, cause_of_loss(batch.to(device), rng));
  } else if (!std::isfinite(report.gradient_norm)) {
    report.failure = fmt::format("the loss is {}, and the gradient of {} is not finite.",
                                 report.loss, cause_of_norm(batch.to(device), rng));
  }
  return report;
}

TrainingStep::Numbers TrainingStep::compute(const Batch& there, const Rng& rng,
                                            const Tensor& learning_rate, bool of_mixture) {
  tape_.clear();  // of a step that threw
  tape_.rng() = rng;
  const Classifier::Losses l = model_.losses(tape_, there, parameters_);
  // Values are taken before the backward pass, which releases them.
  const LayerOutput& mixture = l.mixture;
  Numbers numbers;
  numbers.auxiliary = mixture.auxiliary.defined();
  std::vector<Tensor> all = {l.task.value(), l.total.value()};
  if (numbers.auxiliary) all.push_back(mixture.auxiliary.value());
  if (of_mixture) {
    for (const AuxiliaryLoss& loss : mixture.losses) {
      numbers.losses.emplace_back(loss.name);
      all.push_back(loss.value.value());
    }
    all.insert(all.end(), {mixture.dropped(), mixture.expert_load()});
  }
  const Gradients gradients = tape_.backward(l.total);
  const Tensor norm =
      optimiser_.step(parameters_, gradients, learning_rate, max_norm_, l.total.value());
  Classifier::update(parameters_, mixture.updates, norm);
  all.push_back(norm);
  numbers.all = concatenated(all);
  tape_.clear();
  return numbers;
}

TrainingStep::Recorded::Recorded(const Batch& there)
    : work(there.x.device()), batch(there), learning_rate(scalar(0.0, there.x.device())) {}

bool TrainingStep::Recorded::is_for(const Batch& other) const {
  return alike(batch.x, other.x) && alike(batch.labels, other.labels) &&
         alike(batch.ids, other.ids);
}

std::vector<std::uint64_t> TrainingStep::fixed_numbers() const {
  std::vector<std::uint64_t> all = {static_cast<std::uint64_t>(maths())};
  for (const Parameter& p : parameters_) {
    all.insert(all.end(), {p.value.place_to_write(), std::bit_cast<std::uint64_t>(p.rate),
                           std::uint64_t{p.decays}, std::uint64_t{p.trained}});
  }
  for (const auto& [name, state] : optimiser_.state()) all.push_back(state.place_to_write());
  return all;
}

const TrainingStep::Numbers& TrainingStep::replay(const Batch& batch, const Rng& rng,
                                                  double learning_rate) {
  std::vector<std::uint64_t> fixed = fixed_numbers();
  if (fixed != fixed_) recorded_.clear();
  fixed_ = std::move(fixed);

  Kernels& device = kernels(parameters_.device());
  const auto found = std::ranges::find_if(recorded_, [&](auto& r) { return r.is_for(batch); });
  Recorded& r =
      found != recorded_.end() ? *found : recorded_.emplace_back(batch.to(parameters_.device()));
  device.upload(batch.x.raw(), r.batch.x);
  device.upload(batch.labels.raw(), r.batch.labels);
  if (batch.ids.defined()) device.upload(batch.ids.raw(), r.batch.ids);
  device.upload(reinterpret_cast<const std::byte*>(&learning_rate), r.learning_rate);
  r.work(rng, [&] {
    r.numbers = {};  // its memory is wanted again
    r.numbers = compute(r.batch, rng, r.learning_rate, true);
  });
  return r.numbers;
}

StepReport TrainingStep::report_of(const Numbers& numbers, bool of_mixture) {
  const std::vector<double> read = numbers.all.to_vector();
  auto next = read.begin();
  StepReport report;
  report.loss = *next++;
  report.objective = *next++;
  if (numbers.auxiliary) report.auxiliary = *next++;
  if (of_mixture) {
    report.mixture.emplace();
    for (const std::string& name : numbers.losses) {
      report.mixture->losses.emplace_back(name, *next++);
    }
    const double dropped = *next++;
    report.mixture->expert_load.assign(next, read.end() - 1);
    report.mixture->dropped = dropped_share(dropped, report.mixture->expert_load);
    report.mixture->expert_load = shares(std::move(report.mixture->expert_load));
  }
  report.gradient_norm = read.back();
  return report;
}

// The same forward pass again, stopping at the operation that makes the first NaN or infinity.
std::string TrainingStep::cause_of_loss(const Batch& there, const Rng& rng) const {
  try {
    Tape tape(Tape::Options{.check_finite = true, .rng = rng});
    model_.losses(tape, there, parameters_);
  } catch (const Error& error) {
    return error.what();
  }
  return "no operation of a second run did it again.";
}

std::string TrainingStep::cause_of_norm(const Batch& there, const Rng& rng) const {
  Tape tape(Tape::Options{.rng = rng});
  const Gradients gradients = tape.backward(model_.losses(tape, there, parameters_).total);
  for (const Parameter& p : parameters_) {
    const Tensor g = gradients.find(p);
    if (p.trained && g.defined() && !kernels(g.device()).all_finite(g)) return "'" + p.name + "'";
  }
  return "all parameters together";
}

}  // namespace moegrad
